"""Whole runs of a few updates: what is delivered, chosen, logged, resumed and refused."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.errors import DataError, TrainingError
from rlhf.models.chat import Prompt
from rlhf.tracking import NullSink, RecordingSink
from rlhf.training.ppo import identity
from rlhf.training.ppo.result import PPOResult
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.trainer import train_ppo

Settings = Callable[..., PPOSettings]
Run = Callable[..., PPOResult]


def short(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """Likes short completions."""
    return [-float(len(c)) for c in completions]


def long(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
    """The opposite of :func:`short`."""
    return [float(len(c)) for c in completions]


class KilledAt(NullSink):
    """Kills the process, as far as training can tell, when it reports an update."""

    def __init__(self, update: int, *, before_checkpoint: bool) -> None:
        self._update, self._before = update, before_checkpoint

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if self._before and step == self._update and "ppo/reward" in metrics:
            raise KeyboardInterrupt

    def progress(self, done: int, total: int, note: str = "") -> None:
        if not self._before and done == self._update:
            raise KeyboardInterrupt


@pytest.fixture
def run(
    policy_path: Path, reward_path: Path, make_settings: Settings, prompts: list[str], tmp_path: Path
) -> Run:
    def start(name: str = "out", /, **options: object) -> PPOResult:
        given = {
            "policy": policy_path,
            "reward": short,
            "prompts": prompts,
            "settings": make_settings(),
            "critic": reward_path,
            "output_dir": tmp_path / name,
            **options,
        }
        return train_ppo(**given)  # type: ignore[arg-type]

    return start


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def test_ppo_raises_the_reward_it_maximises(run: Run, make_settings: Settings, prompts: list[str]) -> None:
    settings = make_settings(updates=8, rollout_batch_size=32, kl_coefficient=0.0)
    found = run(settings=settings, dev_prompts=prompts * 4).evaluations
    assert found[-1].reward > found[0].reward + 2.0


def test_the_delivered_policy_loads_in_the_librarys_own_way(run: Run, policy_path: Path) -> None:
    result = run()
    model = AutoModelForCausalLM.from_pretrained(result.policy_path)
    assert AutoTokenizer.from_pretrained(result.policy_path).eos_token == "</s>"
    before = AutoModelForCausalLM.from_pretrained(policy_path)
    assert not torch.equal(model.lm_head.weight, before.lm_head.weight)
    assert not list(result.policy_path.parent.rglob("*.bin"))
    assert not list(result.policy_path.parent.rglob("*.pt"))


def test_without_dev_prompts_the_last_policy_is_delivered(run: Run, tmp_path: Path) -> None:
    result = run()
    assert result.best_update == result.updates == 4
    assert "no dev prompts" in result.criterion
    last = load_file(tmp_path / "out/checkpoints/update-00000004/policy.safetensors")
    assert all(torch.equal(v, last[k]) for k, v in _weights(result.policy_path).items())


def test_the_checkpoint_is_chosen_by_the_selection_reward_and_not_by_the_proxy(
    run: Run, make_settings: Settings, prompts: list[str], policy_path: Path
) -> None:
    settings = make_settings(updates=8, rollout_batch_size=32, kl_coefficient=0.0)
    result = run(settings=settings, dev_prompts=prompts * 4, selection=long)
    assert result.evaluations[-1].reward > result.evaluations[0].reward
    assert result.best_update == 0
    assert "selection reward" in result.criterion
    start = _weights(policy_path)
    assert all(torch.equal(v, start[k]) for k, v in _weights(result.policy_path).items())


def test_the_criterion_says_when_the_training_reward_had_to_choose(run: Run, prompts: list[str]) -> None:
    assert "no selection reward" in run(dev_prompts=prompts).criterion


def test_the_first_evaluation_is_the_starting_policy_and_every_one_keeps_all_samples(
    run: Run, prompts: list[str]
) -> None:
    found = run(dev_prompts=prompts, selection=long).evaluations
    assert [e.update for e in found] == [0, 2, 4]
    assert found[0].kl == 0.0
    for evaluation in found:
        assert [s.prompt for s in evaluation.samples] == prompts
        assert all(s.reward == -len(s.completion) == -s.selection_reward for s in evaluation.samples)
        assert evaluation.criterion == pytest.approx(evaluation.selection_reward - 0.01 * evaluation.kl)


@pytest.mark.parametrize(
    ("killed_at", "before_checkpoint"), [(1, False), (2, True), (3, False)], ids=["1", "in 2", "3"]
)
@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    run: Run, make_settings: Settings, prompts: list[str], reward_path: Path, tmp_path: Path,
    killed_at: int, before_checkpoint: bool, critic: str,
) -> None:  # fmt: skip
    options = {
        "settings": make_settings(critic=critic, kl_controller="adaptive", kl_horizon=20, ema_decay=0.5),
        "critic": reward_path if critic == "separate" else None,
        "dev_prompts": prompts,
        "selection": long,
    }
    straight = run("straight", **options)
    with pytest.raises(KeyboardInterrupt):
        run("killed", sink=KilledAt(killed_at, before_checkpoint=before_checkpoint), **options)
    resumed = run("killed", resume=True, **options)
    assert resumed.evaluations == straight.evaluations
    assert resumed.metrics == straight.metrics
    assert resumed.best_update == straight.best_update
    last = "checkpoints/update-00000004"
    for file in sorted((tmp_path / "straight" / last).iterdir()):
        assert file.read_bytes() == (tmp_path / "killed" / last / file.name).read_bytes(), file.name
    one, other = _weights(straight.policy_path), _weights(resumed.policy_path)
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_resuming_a_finished_run_delivers_again_without_training(run: Run, prompts: list[str]) -> None:
    first = run(dev_prompts=prompts)
    sink = RecordingSink()
    again = run(dev_prompts=prompts, resume=True, sink=sink)
    assert again == first
    assert not sink.curves


def test_a_checkpoint_of_other_settings_or_prompts_is_refused(
    run: Run, make_settings: Settings, prompts: list[str]
) -> None:
    run()
    with pytest.raises(TrainingError, match=r"other ppo\.learning_rate"):
        run(settings=make_settings(learning_rate=1e-3), resume=True)
    with pytest.raises(TrainingError, match="other prompts"):
        run(prompts=prompts[1:], resume=True)


def test_a_checkpoint_of_other_code_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    present = identity.code_identity()
    monkeypatch.setattr(identity, "code_identity", lambda: {**present, "code": "changed"})
    with pytest.raises(TrainingError, match=r"is of a run with other code; restore"):
        run(resume=True)


def test_the_progress_note_tells_reward_kl_and_speed(run: Run) -> None:
    class Notes(NullSink):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def progress(self, done: int, total: int, note: str = "") -> None:
            self.notes.append(note)

    sink = Notes()
    run(sink=sink)
    assert len(sink.notes) == 4
    for note in sink.notes:
        assert re.fullmatch(r"reward -?\d+\.\d{3}, KL -?\d+\.\d{2}, [\d,]*[1-9][\d,]* tokens/s", note)


def test_an_earlier_runs_checkpoints_are_not_overwritten(run: Run) -> None:
    run()
    with pytest.raises(TrainingError, match="resume it"):
        run()


def test_every_update_is_logged_with_the_promised_metrics(run: Run, prompts: list[str]) -> None:
    sink = RecordingSink()
    run(sink=sink, dev_prompts=prompts)
    promised = (
        "reward kl entropy clip_fraction approx_kl explained_variance response_length truncated_share "
        "value_loss policy_loss kl_coefficient reward_clipped tokens_per_second grad_norm"
    )
    for name in promised.split():
        assert [step for step, _ in sink.curves[f"ppo/{name}"]] == [1, 2, 3, 4], name
    assert [step for step, _ in sink.curves["ppo_eval/selection_reward"]] == [0, 2, 4]


def test_a_reward_that_is_not_finite_names_the_sample(run: Run) -> None:
    def broken(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [0.0, float("nan"), *[0.0] * (len(prompts) - 2)]

    with pytest.raises(TrainingError, match="nan for sample 1"):
        run(reward=broken)


def test_a_loss_that_is_not_finite_stops_with_its_batch_kept(
    run: Run, make_settings: Settings, tmp_path: Path
) -> None:
    settings = make_settings(scale_scores=False, score_clip=None, whiten_advantages=False)

    def enormous(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        return [1e38 * (-1) ** i for i in range(len(prompts))]

    with pytest.raises(TrainingError, match="failed_batch"):
        run(reward=enormous, settings=settings)
    kept = json.loads((tmp_path / "out/failed_batch/rollouts.json").read_text())
    tensors = load_file(tmp_path / "out/failed_batch/experience.safetensors")
    assert len(kept["rollouts"]) == len(tensors["advantages"]) == 4
    assert not (tmp_path / "out/policy").exists()


def test_training_ends_above_the_stop_kl(run: Run, make_settings: Settings, prompts: list[str]) -> None:
    settings = make_settings(updates=20, stop_kl=0.05, evaluate_every=1)
    result = run(settings=settings, dev_prompts=prompts)
    assert result.updates < 20
    assert "stop_kl" in result.stop_reason


def test_training_ends_when_patience_is_over(run: Run, make_settings: Settings, prompts: list[str]) -> None:
    settings = make_settings(updates=20, patience=2, evaluate_every=1)
    result = run(settings=settings, dev_prompts=prompts, selection=lambda p, c: [0.0] * len(p))
    assert result.updates - result.best_update >= 2
    assert "no better checkpoint in 2" in result.stop_reason


def test_prompts_beyond_the_limit_are_left_out_and_counted(
    run: Run, make_settings: Settings, prompts: list[str]
) -> None:
    assert run(settings=make_settings(max_prompt_tokens=3)).prompts_dropped == 2
    with pytest.raises(DataError, match="no prompt to train on"):
        run("other", settings=make_settings(max_prompt_tokens=3), prompts=["a b c d"])


def test_a_prompt_that_leaves_no_room_for_a_completion_is_an_error(run: Run) -> None:
    with pytest.raises(DataError, match="Prompt 0 has 30 tokens"):
        run(prompts=[" ".join("a" * 30)])


def test_ptx_needs_demonstrations_and_logs_its_loss(run: Run, make_settings: Settings) -> None:
    settings = make_settings(ptx_coefficient=0.5)
    with pytest.raises(DataError, match="ptx_coefficient"):
        run(settings=settings)
    sink = RecordingSink()
    run(settings=settings, demonstrations=[("a b", "c d"), ("e", "f")], sink=sink)
    curve = [value for _, value in sink.curves["ppo/ptx_loss"]]
    assert curve[-1] < curve[0]


def test_the_moving_average_is_what_is_evaluated_and_delivered(
    run: Run, make_settings: Settings, tmp_path: Path
) -> None:
    result = run(settings=make_settings(ema_decay=0.9))
    checkpoint = tmp_path / "out/checkpoints/update-00000004"
    average, last = (load_file(checkpoint / f"{n}.safetensors") for n in ("average", "policy"))
    delivered = _weights(result.policy_path)
    assert all(torch.equal(delivered[k], average[k]) for k in delivered)
    assert not torch.equal(delivered["lm_head.weight"], last["lm_head.weight"])
