"""Rollouts from another engine, with a stand-in that has the signature of TRL's ``VLLMGeneration``."""

import copy
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.generation.vllm_generation
from transformers import PreTrainedModel

from rlhf.errors import ConfigError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.tracking import NullSink, RecordingSink
from rlhf.training.ppo import vllm_rollouts
from rlhf.training.ppo.rollout_engine import OwnEngine
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import PPOTrainer, train_ppo
from rlhf.training.processes import OneProcess
from rlhf.training.settings import LoRASettings

Settings = Callable[..., PPOSettings]
REAL = trl.generation.vllm_generation.VLLMGeneration


class StandIn:
    """Samples with ``generate`` from its own half-precision copy of the weights, as vLLM would."""

    made: "list[StandIn]" = []  # noqa: RUF012
    unknown = False
    """Whether the log-probabilities are left out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(REAL.__init__).bind(self, *args, **kwargs)
        given.apply_defaults()
        self.options = given.arguments
        self.source: PreTrainedModel = self.options["model"]
        self.copy = copy.deepcopy(self.source).bfloat16()
        self.synced = 0
        StandIn.made.append(self)

    def sync_weights(self) -> None:
        self.copy = copy.deepcopy(self.source).bfloat16()
        self.synced += 1

    def generate(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        given = inspect.signature(REAL.generate).bind(self, *args, **kwargs).arguments
        assert given["num_generations"] == 1
        completions, log_probs = [], []
        for ids in given["prompts"]:
            out = self.copy.generate(
                torch.tensor([ids]), do_sample=True, temperature=self.options["temperature"], top_k=0,
                max_new_tokens=self.options["max_completion_length"], return_dict_in_generate=True,
                output_logits=True, eos_token_id=self.options["generation_kwargs"]["stop_token_ids"],
            )  # fmt: skip
            tokens = out.sequences[0, len(ids) :].tolist()
            chosen = zip(out.logits, tokens, strict=True)
            scores = [float(logits[0].float().log_softmax(-1)[t]) for logits, t in chosen]
            completions.append(tokens)
            log_probs.append([[None if self.unknown else s] for s in scores])
        return given["prompts"], completions, log_probs, [[[t] for t in c] for c in completions]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(vllm_rollouts, "is_vllm_available", lambda: True)
    monkeypatch.setattr(trl.generation.vllm_generation, "VLLMGeneration", StandIn)
    monkeypatch.setattr(StandIn, "made", [])
    return StandIn


def short(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    return [-float(len(c)) for c in completions]


def _trainer(policy: Path, prompts: list[str], settings: PPOSettings, folder: Path) -> PPOTrainer:
    trainer = PPOTrainer(policy, short, prompts, settings, output_dir=folder, sink=NullSink())
    trainer.update = 1
    return trainer


def test_ppo_learns_from_vllms_rollouts_with_the_weights_of_each_update(
    engine: type[StandIn], policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    settings = make_settings(rollout_engine="vllm", updates=8, rollout_batch_size=32, kl_coefficient=0.0)
    sink = RecordingSink()
    train_ppo(policy_path, short, prompts, settings, output_dir=tmp_path / "out", sink=sink)
    rewards = [value for _, value in sink.curves["ppo/reward"]]
    assert sum(rewards[-2:]) > sum(rewards[:2])
    assert [e.synced for e in engine.made] == [8]
    assert engine.made[0].options["max_completion_length"] == settings.generation.max_new_tokens
    assert engine.made[0].options["logprobs"] == 0


def test_its_rollouts_carry_capped_importance_weights(
    engine: type[StandIn], policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    settings = make_settings(rollout_engine="vllm", importance_cap=1.001)
    trainer = _trainer(policy_path, prompts, settings, tmp_path)
    rollouts = trainer.generate()
    experience = trainer.advantages(rollouts, [0.0] * len(rollouts.completions))
    weights = experience.weights[experience.mask]
    assert not torch.equal(weights, torch.ones_like(weights))
    assert float(weights.max()) == pytest.approx(1.001)
    assert float(weights.min()) > 0.8  # half precision moves probabilities by little


def test_a_completion_knows_its_end_and_its_prompt(
    engine: type[StandIn], policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    rollouts = _trainer(policy_path, prompts, make_settings(rollout_engine="vllm"), tmp_path).generate()
    lengths = {len(c.token_ids) for c in rollouts.completions}
    assert len(lengths) > 1
    for completion in rollouts.completions:
        assert completion.finished == (completion.token_ids[-1] == 2)
        assert completion.finished or len(completion.token_ids) == 8
        assert "</s>" not in completion.text


def test_an_answer_without_log_probabilities_is_refused(
    engine: type[StandIn], policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(engine, "unknown", True)
    with pytest.raises(TrainingError, match="0 log-probabilities for"):
        _trainer(policy_path, prompts, make_settings(rollout_engine="vllm"), tmp_path).generate()


def test_without_vllm_the_error_names_the_extra(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(vllm_rollouts, "is_vllm_available", lambda: False)
    with pytest.raises(ConfigError, match=r"rlhf-pipeline\[vllm\]"):
        _trainer(policy_path, prompts, make_settings(rollout_engine="vllm"), tmp_path)


def test_processes_need_equal_shares_of_the_prompts(
    engine: type[StandIn], policy_path: Path, make_settings: Settings, tmp_path: Path
) -> None:
    class OneOfTwo(OneProcess):
        count = 2

    settings = make_settings(rollout_engine="vllm", rollout_batch_size=9)
    with pytest.raises(ConfigError, match="a multiple of 2"):
        PPOTrainer(
            policy_path, short, ["a"], settings, output_dir=tmp_path, sink=NullSink(), processes=OneOfTwo()
        )


def test_the_own_loop_needs_importance_weights_only_for_its_half_precision_copy(
    policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    for precision, expected in (("fp32", False), ("bf16", True)):
        trainer = _trainer(policy_path, prompts, make_settings(precision=precision), tmp_path)
        own = OwnEngine(trainer.models.policy, trainer._tokenizer, bf16=trainer.models.bf16, batch_size=4)
        assert own.other_numerics is expected


@torch.no_grad()
def test_a_policy_with_an_adapter_is_handed_over_merged_and_keeps_its_base(
    engine: type[StandIn], policy_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> None:
    settings = make_settings(rollout_engine="vllm", lora=LoRASettings(rank=2), critic="shared")
    trainer = _trainer(policy_path, prompts, settings, tmp_path)
    torch.manual_seed(0)
    for name, parameter in trainer.models.policy_parameters().items():
        if "lora_B" in name:  # as if trained: a fresh adapter changes nothing
            parameter.normal_(std=0.3)
    before = {name: p.clone() for name, p in trainer.models.policy.named_parameters()}
    trainer.generate()
    ids = torch.tensor([[3, 4, 5, 6]])
    merged = engine.made[0].source.float()(ids).logits
    torch.testing.assert_close(merged, trainer.models.policy(ids).logits, rtol=0.05, atol=0.05)
    with trainer.models.reference_policy() as reference:
        assert float((merged - reference(ids).logits).abs().max()) > 0.2
    assert all(torch.equal(p, before[name]) for name, p in trainer.models.policy.named_parameters())
