"""Which steps of a run would come from the cache, found out with ZenML's own cache keys and without running
anything.

What the uncached steps will put out is not known beforehand: their latest outputs stand in, so the answer
holds for feedback and a champion that are as they were in the latest run.
"""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import StepRunResponse
from zenml.orchestrators.cache_utils import generate_cache_key, get_cached_step_run

from ops.retraining import TRAINING_PIPELINE
from ops.startup import shorten_startup


def compiled_steps(config: Path) -> Mapping[str, Any]:
    """The steps of a run of a config, as ZenML would carry them out, in order.

    Args:
        config: a YAML file that holds ZenML's keys alone.
    """
    from pipelines.rlhf_pipeline import rlhf_pipeline

    shorten_startup()
    wired = rlhf_pipeline.with_options(config_path=str(config))
    wired.prepare()
    snapshot, _, _ = wired._compile(config_path=str(config))  # the public way also registers and runs it
    # As a run reads them: parameters in their stored form, which is what the cache keys are made from.
    return {
        name: type(step).model_validate(step.model_dump(mode="json"))
        for name, step in snapshot.step_configurations.items()
    }


def cached_steps(steps: Mapping[str, Any]) -> dict[str, StepRunResponse]:
    """The step runs whose outputs would be taken, by step."""
    client = Client()
    store, project = client.active_stack.artifact_store, client.active_project.id
    latest = _latest_steps()
    cached: dict[str, StepRunResponse] = {}
    sources: dict[str, StepRunResponse] = {}
    for name, step in steps.items():
        inputs: dict[str, list[Any]] = {}
        for key, spec in step.spec.inputs.items():
            producers = spec if isinstance(spec, list) else [spec]
            known = [sources.get(one.step_name) for one in producers]
            if any(run is None for run in known):
                break
            inputs[key] = [
                _input(run.outputs[one.output_name][0])
                for run, one in zip(known, producers, strict=True)
                if run is not None
            ]
        else:
            if step.config.enable_cache is False:
                if name in latest:
                    sources[name] = latest[name]
                continue
            found = get_cached_step_run(generate_cache_key(step, inputs, store, project))
            if found is not None:
                cached[name] = sources[name] = found
    return cached


def earlier_runs_of(name: str, parameters: Mapping[str, Any]) -> list[StepRunResponse]:
    """Completed runs of a step with the same parameters, newest first."""
    found = Client().list_run_steps(
        name=name, status=ExecutionStatus.COMPLETED, sort_by="desc:created", size=20, hydrate=True
    )
    return [run for run in found.items if run.name == name and run.config.parameters == dict(parameters)]


def _latest_steps() -> Mapping[str, StepRunResponse]:
    found = Client().list_pipeline_runs(
        pipeline=TRAINING_PIPELINE, status="completed", sort_by="desc:created", size=1
    )
    return found.items[0].steps if found.items else {}


def _input(artifact: Any) -> Any:
    """What ZenML's key reads of an input."""
    return SimpleNamespace(content_hash=artifact.content_hash, id=artifact.id, chunk_index=None)
