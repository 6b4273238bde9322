"""The policy stage with adapters: what is sealed can be loaded as what was trained."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import AutoConfig, LlamaForSequenceClassification

from rlhf.errors import ModelError
from rlhf.models.directory import open_directory
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.log_probs import completion_log_probs
from rlhf.models.saving import merge_adapter
from rlhf.tracking import NullSink
from rlhf.training.policy import TrainedPolicy, train_policy
from rlhf.training.ppo.settings import PPOSettings

PAIRS = [([5, 6, 7], [8, 9, 2]), ([8], [9, 10, 11])]


@pytest.fixture(scope="module")
def reward_model(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward")
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(base)
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(path)
    load_tokenizer(base).save_pretrained(path)
    return path


def _train(
    base: Path, reward_model: Path, demonstrations: DatasetDict, out: Path, *, merge: bool
) -> TrainedPolicy:
    prompts = DatasetDict(
        {split: Dataset.from_dict({"prompt": rows["prompt"][:8]}) for split, rows in demonstrations.items()}
    )
    settings = PPOSettings(
        updates=6,
        rollout_batch_size=8,
        generation={"max_new_tokens": 6},
        lora={"rank": 4, "alpha": 8, "merge": merge},
        learning_rate=1e-2,
        evaluate_every=1,
        kl_coefficient=0.0,
        missing_eos_penalty=None,  # hardly an answer ends within six tokens
        selection_kl_coefficient=0.0,
        precision="fp32",
    )
    return train_policy(
        base,
        proxy=reward_model,
        selection=reward_model,
        prompts=prompts,
        settings=settings,
        output_dir=out / "policy",
        work_dir=out,
        seed=0,
        sink=NullSink(),
    )


def test_an_adapter_is_sealed_alone_with_its_base_named_and_merges_to_what_merging_at_once_gives(
    base: Path, reward_model: Path, demonstrations: DatasetDict, tmp_path: Path
) -> None:
    whole = _train(base, reward_model, demonstrations, tmp_path / "merged", merge=True).policy
    alone = _train(base, reward_model, demonstrations, tmp_path / "alone", merge=False).policy
    assert (whole.kind, alone.kind) == ("causal-lm", "adapter")
    assert alone.training["base"] == {"digest": open_directory(base).digest}
    assert not (alone.path / "model.safetensors").exists()
    assert whole.metrics["ppo/best_update"] > 0  # the start would merge to itself in any case
    expected = torch.cat(completion_log_probs(load_policy(whole), PAIRS))
    merged = merge_adapter(alone, base, tmp_path / "later")
    for policy in (load_policy(alone, base=base), load_policy(merged)):
        torch.testing.assert_close(torch.cat(completion_log_probs(policy, PAIRS)), expected)
    with pytest.raises(ModelError, match="give the model it was trained on"):
        load_policy(alone, base=whole)
