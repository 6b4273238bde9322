"""Retention on real runs: what a champion comes from stays whole, the rest goes with its bytes."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from uuid import uuid4

import pytest
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment, launch
from ops import prune as retention
from ops.approval import OpenRequest
from ops.registries import policy_registry
from rlhf.errors import PromotionError
from rlhf.models.directory import open_directory
from rlhf.registry.journal import Journal
from rlhf.registry.transaction import appoint
from tests.pipelines.conftest import TINY, finished

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rejected(first_run: PipelineRunResponse) -> PipelineRunResponse:
    """A run whose policy the gate turned down; everything before training is the first run's."""
    gate = 'promotion.criteria=[{"metric": "eval/kl", "maximum": -1000.0}]'
    return finished(launch.run(str(TINY), ["algorithm=dpo", "dpo.beta=0.3", gate]))


@pytest.fixture(scope="module")
def another(rejected: PipelineRunResponse) -> PipelineRunResponse:
    """A later rejected run, which takes the place of the candidate."""
    gate = 'promotion.criteria=[{"metric": "eval/kl", "maximum": -1000.0}]'
    return finished(launch.run(str(TINY), ["algorithm=dpo", "dpo.beta=0.4", gate]))


def _policy(run: PipelineRunResponse) -> Path:
    return Path(run.steps["train_policy"].outputs["policy"][0].uri)


def test_young_runs_are_kept(another: PipelineRunResponse) -> None:
    found = retention.prunable(30)
    assert not found.runs
    assert not found.artifacts


def test_nothing_is_planned_while_a_move_is_open(another: PipelineRunResponse) -> None:
    registry = policy_registry()
    assert registry.begin(Journal(action="promotion", by="bob", why="w", place="elsewhere"))
    try:
        with pytest.raises(PromotionError, match="promotion by bob on elsewhere is open"):
            retention.prunable(0)
    finally:
        registry.end()


def test_an_open_approval_keeps_its_policy(
    rejected: PipelineRunResponse, another: PipelineRunResponse, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = OpenRequest(
        artifact=uuid4(),
        run="later",
        run_id="later",
        candidate=str(rejected.steps["train_policy"].outputs["policy"][0].content_hash),
        champion=None,
        expires_at=datetime.now(UTC),
    )
    monkeypatch.setattr(retention, "open_requests", lambda: [request])
    assert str(rejected.id) not in {run.id for run in retention.prunable(0).runs}


def test_what_nothing_needs_goes_and_what_the_champion_comes_from_stays(
    first_run: PipelineRunResponse, rejected: PipelineRunResponse, another: PipelineRunResponse
) -> None:
    registry = policy_registry()
    champion = registry.champion()
    assert champion is not None
    found = retention.prunable(0)
    assert str(rejected.id) in {run.id for run in found.runs}
    assert not {str(first_run.id), str(another.id)} & {run.id for run in found.runs}
    files = _policy(rejected)  # looked up now: ZenML loads a run's steps when they are asked for
    assert files.exists()  # planning deletes nothing
    promoted = replace(found.artifacts[0], id=champion.tags["zenml.artifact_version_id"])
    with pytest.raises(PromotionError, match="became policy@champion meanwhile"):
        retention.delete(replace(found, artifacts=(promoted, *found.artifacts)), by="ann")
    assert Client().get_pipeline_run(rejected.id)
    held = sum(file.stat().st_size for file in environment.artifact_store().rglob("*") if file.is_file())

    freed = retention.delete(found, by="ann")

    left = sum(file.stat().st_size for file in environment.artifact_store().rglob("*") if file.is_file())
    assert freed == held - left > 0
    assert not files.exists()
    assert open_directory(Path(champion.path), verify=True).digest == champion.digest
    for run in (first_run, another):
        for step in Client().get_pipeline_run(run.id).steps.values():
            for outputs in step.outputs.values():
                assert all(Path(output.uri).exists() for output in outputs)
    with pytest.raises(KeyError):
        Client().get_pipeline_run(rejected.id)
    gone = next(v for v in registry.versions("policy") if v.tags["zenml.run_name"] == rejected.name)
    assert gone.pruned
    with pytest.raises(PromotionError, match=r"files of version .* are gone"):
        appoint(registry, gone.version, by="eve", why="w")
    # and the next run with the same settings trains anew instead of reading what is gone from the cache
    gate = 'promotion.criteria=[{"metric": "eval/kl", "maximum": -1000.0}]'
    again = finished(launch.run(str(TINY), ["algorithm=dpo", "dpo.beta=0.3", gate]))
    assert again.steps["train_policy"].status.value == "completed"


def test_a_place_outside_the_artifact_store_is_never_inside() -> None:
    store = Client().active_stack.artifact_store
    root = Path(store.path)
    assert retention._inside(store, str(root / "policy" / "1"))
    for place in (root, root.parent, root / ".." / "mlflow", Path(f"{root}-other") / "x"):
        assert not retention._inside(store, str(place)), place


def test_a_place_around_or_inside_a_kept_one_is_not_deleted() -> None:
    kept = {PurePosixPath("store/policy/1")}
    above = {folder for place in kept for folder in place.parents}
    touched = {
        place: retention._touches(PurePosixPath(place), kept, above)
        for place in ("store/policy/1", "store/policy", "store/policy/1/model", "store/policy/10", "store/x")
    }
    assert [place for place, hit in touched.items() if not hit] == ["store/policy/10", "store/x"]
