"""Whole runs of RLOO, GRPO, DPO and KTO: what all four share, proved on each or on one of either family."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file

from rlhf.errors import ConfigError, ModelError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.tracking import NullSink, RecordingSink
from rlhf.training.group_rollouts import train_on_rollouts
from rlhf.training.policy_result import PolicyResult
from rlhf.training.preference import train_on_comparisons
from rlhf.training.settings import LoRASettings, OptimizerSettings
from rlhf.training.settings_policy import DPOSettings, GRPOSettings, KTOSettings, RLOOSettings
from tests.rlhf.training.conftest import question

Run = Callable[..., PolicyResult]
ALGORITHMS = ("rloo", "grpo", "dpo", "kto")
PROMPTS = [question(i) for i in range(20)]
DEV = [question(100 + i) for i in range(8)]
QUICK = {
    "optimizer": OptimizerSettings(learning_rate=1e-2, schedule="cosine", warmup_fraction=0.0),
    "generation": {"max_new_tokens": 8},
    "precision": "fp32",
    "evaluate_every": 2,
    "checkpoint_every": 1,
}
ROLLOUTS = {"updates": 4, "rollout_batch_size": 16, "group_size": 4, "epochs": 2, "mini_batches": 2}
COMPARISONS = {"max_steps": 4, "batch_size": 16, "micro_batch_size": 8, "logging_steps": 1, "fold": None}


def short(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """Likes short completions."""
    return [-float(len(c)) for c in completions]


def long(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """The opposite of :func:`short`."""
    return [float(len(c)) for c in completions]


class KilledAt(NullSink):
    """Kills the process, as far as training can tell, when it reports an update: before its checkpoint is
    written, or after it."""

    def __init__(self, algorithm: str, update: int, *, before_checkpoint: bool) -> None:
        self._name, self._update, self._before = f"{algorithm}/loss", update, before_checkpoint

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        at = self._update if self._before else self._update + 1
        if step == at and self._name in metrics:
            raise KeyboardInterrupt


@pytest.fixture
def run(base: Path, comparisons: DatasetDict, tmp_path: Path) -> Run:
    def start(
        algorithm: str, name: str = "out", /, *, changes: object = None, **options: object
    ) -> PolicyResult:
        given = {"output_dir": tmp_path / name, "dev_prompts": DEV, **options}
        values = {**QUICK, **(changes or {})}  # type: ignore[dict-item]
        if algorithm in ("rloo", "grpo"):
            rollouts = (RLOOSettings if algorithm == "rloo" else GRPOSettings)(**{**ROLLOUTS, **values})
            return train_on_rollouts(
                base, **{"reward": short, "prompts": PROMPTS, "settings": rollouts, **given}
            )
        pairs = (DPOSettings if algorithm == "dpo" else KTOSettings)(**{**COMPARISONS, **values})
        rows = comparisons["train"]
        return train_on_comparisons(
            base, **{"comparisons": rows, "reward": short, "settings": pairs, **given}
        )

    return start


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def _equal(one: Path, other: Path) -> bool:
    first, second = _weights(one), _weights(other)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_delivers_a_changed_policy_without_a_pickle(
    run: Run, base: Path, tmp_path: Path, algorithm: str
) -> None:
    result = run(algorithm, dev_prompts=[])
    assert result.best_update == result.updates == 4
    assert "no dev prompts" in result.criterion
    assert not _equal(result.policy_path, base)
    assert load_tokenizer(result.policy_path).chat_template
    assert not {file.suffix for file in tmp_path.rglob("*")} & {".bin", ".pt", ".pth", ".pkl"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_evaluations_start_at_the_given_policy_and_keep_all_samples(run: Run, algorithm: str) -> None:
    sink = RecordingSink()
    result = run(algorithm, selection=long, sink=sink)
    assert [e.update for e in result.evaluations] == [0, 2, 4]
    assert result.evaluations[0].kl == 0.0
    assert result.evaluations[-1].kl != 0.0
    for evaluation in result.evaluations:
        assert [s.prompt for s in evaluation.samples] == DEV
        assert all(s.reward == -len(s.completion) == -s.selection_reward for s in evaluation.samples)
        assert evaluation.criterion == pytest.approx(evaluation.selection_reward - 0.01 * evaluation.kl)
    assert [step for step, _ in sink.curves[f"{algorithm}_eval/selection_reward"]] == [0, 2, 4]
    assert [step for step, _ in sink.curves[f"{algorithm}/loss"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("algorithm", ["rloo", "dpo"])
def test_the_checkpoint_is_chosen_by_the_selection_reward(run: Run, base: Path, algorithm: str) -> None:
    seen = iter([3.0, 5.0, 4.0])

    def middle(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [next(seen)] * len(prompts) if len(prompts) == len(DEV) else [0.0] * len(prompts)

    result = run(algorithm, selection=middle)
    assert result.best_update == 2
    assert "selection reward" in result.criterion
    assert not _equal(result.policy_path, base)


@pytest.mark.parametrize(
    ("killed_at", "before_checkpoint"), [(1, False), (2, True), (3, False)], ids=["1", "in 2", "3"]
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    run: Run, tmp_path: Path, algorithm: str, killed_at: int, before_checkpoint: bool
) -> None:
    straight = run(algorithm, "straight", selection=long)
    with pytest.raises(KeyboardInterrupt):
        run(
            algorithm, "killed", selection=long,
            sink=KilledAt(algorithm, killed_at, before_checkpoint=before_checkpoint),
        )  # fmt: skip
    resumed = run(algorithm, "killed", selection=long, resume=True)
    assert resumed.evaluations == straight.evaluations
    assert resumed.metrics == straight.metrics
    last = "checkpoints/update-00000004"
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert (tmp_path / "straight" / last / name).read_bytes() == (
            tmp_path / "killed" / last / name
        ).read_bytes()
    assert _equal(straight.policy_path, resumed.policy_path)


@pytest.mark.parametrize("algorithm", ["grpo", "kto"])
def test_an_adapter_with_dropout_resumes_bit_for_bit_and_is_delivered_merged(
    run: Run, base: Path, tmp_path: Path, algorithm: str
) -> None:
    changes = {"lora": LoRASettings(rank=4, alpha=8, dropout=0.2)}
    straight = run(algorithm, "straight", changes=changes, dev_prompts=[])
    with pytest.raises(KeyboardInterrupt):
        run(
            algorithm, "killed", changes=changes, dev_prompts=[],
            sink=KilledAt(algorithm, 2, before_checkpoint=False),
        )  # fmt: skip
    resumed = run(algorithm, "killed", changes=changes, dev_prompts=[], resume=True)
    assert _equal(straight.policy_path, resumed.policy_path)
    kept = load_file(tmp_path / "straight/checkpoints/update-00000004/weights.safetensors")
    assert all("lora_" in name for name in kept)
    before, after = load_policy(base), load_policy(straight.policy_path)
    assert torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before.get_parameter(layer), after.get_parameter(layer))


def test_an_adapters_reference_is_the_model_without_it(run: Run) -> None:
    changes = {"lora": LoRASettings(rank=4, alpha=8)}
    found = run("dpo", changes=changes).evaluations
    assert found[0].kl == 0.0
    assert found[-1].kl != 0.0


def test_resuming_a_finished_run_delivers_again_without_training(run: Run) -> None:
    first = run("rloo")
    sink = RecordingSink()
    assert run("rloo", resume=True, sink=sink) == first
    assert not sink.curves


def test_an_earlier_runs_checkpoints_are_neither_overwritten_nor_taken_for_ones_own(run: Run) -> None:
    run("dpo")
    with pytest.raises(TrainingError, match="resume it"):
        run("dpo")
    with pytest.raises(TrainingError, match=r"other dpo\.beta"):
        run("dpo", changes={"beta": 0.2}, resume=True)
    with pytest.raises(TrainingError, match="other reward, selection reward;"):
        run("dpo", reward=long, selection=short, resume=True)
    with pytest.raises(TrainingError, match="other dev prompts"):
        run("dpo", dev_prompts=DEV[1:], resume=True)


@pytest.mark.parametrize("algorithm", ["grpo", "kto"])
def test_training_ends_above_the_stop_kl_or_when_patience_is_over(run: Run, algorithm: str) -> None:
    early = run(algorithm, "kl", changes={"stop_kl": 1e-9, "evaluate_every": 1})
    assert early.updates < 4
    assert "stop_kl" in early.stop_reason
    tired = run(
        algorithm,
        "patience",
        changes={"patience": 2, "evaluate_every": 1},
        selection=lambda p, c: [0.0] * len(p),
    )
    assert tired.updates < 4 or tired.best_update > 0
    assert "no better checkpoint in 2" in tired.stop_reason


def test_dev_prompts_without_a_reward_are_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="need a reward"):
        run("dpo", reward=None)


def test_a_policy_that_is_not_there_is_named(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the policy to start from"):
        train_on_rollouts(tmp_path / "nowhere", short, PROMPTS, RLOOSettings(), output_dir=tmp_path / "out")
