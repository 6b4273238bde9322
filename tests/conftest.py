"""Every test session has a state folder of its own: no test reads or changes the checkout's `.rlhf`."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Before ZenML, MLflow or torch are imported: they read the environment once. Variables of an activated shell
# (`eval "$(rlhf env)"`) would lead to the checkout's own state, and those that a worker of `pytest -n 2`
# inherits to the state of the process that started it.
for _name in [n for n in os.environ if n.startswith(("ZENML_", "MLFLOW_", "RLHF_", "HF_", "MPLCONFIGDIR"))]:
    del os.environ[_name]
_home = Path(tempfile.mkdtemp(prefix="rlhf-tests-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["RLHF_HOME"] = str(_home)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest  # noqa: E402

from ops import environment  # noqa: E402

environment.configure()


@pytest.fixture
def lead_mlflow_to() -> Iterator[Callable[[str], None]]:
    """Lead MLflow's functions without a client to a server, for one test: MLflow names it in the environment
    too, where the processes of later tests would find it."""
    import mlflow

    def lead(uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)

    yield lead
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    mlflow.set_registry_uri(None)  # type: ignore[arg-type]
    os.environ.pop("MLFLOW_REGISTRY_URI", None)  # unset by no function of MLflow
