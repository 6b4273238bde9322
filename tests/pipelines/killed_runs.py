"""Runs as a user starts them, in a process of their own, killed when something has happened."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlflow.tracking import MlflowClient

from ops import environment
from ops.tags import PIPELINE_RUN_TAG

PATIENCE_SECONDS = 180.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def killed_when(
    arguments: Sequence[str],
    variables: Mapping[str, str],
    happened: Callable[[str], bool],
    *,
    number: int = signal.SIGKILL,
    after: float = 0.0,
) -> str:
    """Start ``rlhf run``, wait until ``happened`` says so of what it has printed, and kill it.

    Args:
        after: seconds to wait after that.

    Returns:
        What it printed. It may have ended by itself before the kill.
    """
    command = [sys.executable, "-m", "ops.cli", "run", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, cwd=environment.PROJECT_ROOT, env=dict(variables), stdout=stream, stderr=stream,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if happened(_said(log)):
                time.sleep(after)
                break
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, number)
        process.wait(timeout=PATIENCE_SECONDS)
        return f"{_said(log)}\nexit status {process.returncode}"


def _said(log: Path) -> str:
    """What a process has printed, without the colours or backticks in which ZenML puts names."""
    return _COLOUR.sub("", log.read_text(errors="replace")).replace("`", "")


def curves_of(mlflow: MlflowClient, run: str) -> dict[str, list[tuple[int, float]]]:
    """All points of the one MLflow run of a ZenML run, in the order of their steps."""
    experiment = mlflow.get_experiment_by_name("rlhf_pipeline")
    assert experiment is not None
    [found] = mlflow.search_runs([experiment.experiment_id], f"tags.`{PIPELINE_RUN_TAG}` = '{run}'")
    assert found.info.status == "FINISHED"
    return {
        name: sorted(
            (point.step, point.value) for point in mlflow.get_metric_history(found.info.run_id, name)
        )
        for name in found.data.metrics
    }
