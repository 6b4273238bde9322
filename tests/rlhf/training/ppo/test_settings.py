"""PPO's settings: defaults as documented, contradictions refused, and no heavy import."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from rlhf.training.ppo.settings import PPOSettings, VLLMSettings


def test_the_defaults_are_those_of_the_published_recipes() -> None:
    settings = PPOSettings()
    assert (settings.discount, settings.gae_lambda, settings.epochs) == (1.0, 0.95, 4)
    assert (settings.clip_range, settings.value_clip_range, settings.score_clip) == (0.2, 0.2, 10.0)
    assert (settings.learning_rate, settings.critic_learning_rate) == (1e-6, 9e-6)
    assert (settings.kl_target, settings.kl_horizon, settings.importance_cap) == (6.0, 10_000, 2.0)
    assert settings.dual_clip is settings.clip_range_upper is settings.target_kl is settings.ema_decay is None
    assert settings.entropy_coefficient == settings.ptx_coefficient == 0.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mini_batches": 65}, "mini_batches"),
        ({"mini_batches": 8, "processes": 9}, "processes"),
        ({"generation": {"top_k": 5}}, "top_k"),
        ({"generation": {"temperature": 0}}, "temperature"),
        ({"kl_loss_coefficient": 0.1}, "kl_loss"),
        ({"updates": 3, "critic_warmup_updates": 3}, "critic_warmup_updates"),
        ({"learning_rat": 1e-5}, "learning_rat"),
        ({"lora": {"dropout": 0.1}}, r"lora\.dropout"),
        ({"lora": {"quantize_4bit": True}}, r"lora\.quantize_4bit"),
        ({"optimizer": "adamw_4bit"}, "adamw_8bit"),
    ],
)
def test_contradictions_and_unknown_keys_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PPOSettings.model_validate(wrong)


def test_every_setting_has_its_help() -> None:
    assert [n for n, f in PPOSettings.model_fields.items() if not f.description] == []


def test_settings_are_validated_without_loading_torch() -> None:
    code = (
        "import sys, rlhf.training.ppo.settings, rlhf.models.settings_rewards; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_vllm_server_on_another_machine_needs_encryption_or_a_setting_that_does_without() -> None:
    url = "http://10.0.0.5:8000"
    with pytest.raises(ValidationError, match=r"server_url .* is not encrypted"):
        VLLMSettings(mode="server", server_url=url)
    assert VLLMSettings(mode="server", server_url=url, allow_plain_http=True).server_url == url
    assert VLLMSettings(mode="server", server_url="https://10.0.0.5:8000").mode == "server"
