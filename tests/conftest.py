"""Every test session has a state folder of its own: no test reads or changes the checkout's `.rlhf`."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Before ZenML, MLflow or torch are imported: they read the environment once. Variables of an activated shell
# (`eval "$(rlhf env)"`) would lead to the checkout's own state.
for _name in [name for name in os.environ if name.startswith(("ZENML_", "MLFLOW_", "RLHF_"))]:
    del os.environ[_name]
_home = Path(tempfile.mkdtemp(prefix="rlhf-tests-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ["RLHF_HOME"] = str(_home)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest  # noqa: E402

from ops import environment  # noqa: E402

environment.configure()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (`pytest -n 2`) a file's tests stay together, and those of `tests/pipelines`,
    which share one run of the whole pipeline."""
    pipelines = Path(__file__).parent / "pipelines"
    for item in items:
        together = pipelines if item.path.is_relative_to(pipelines) else item.path
        item.add_marker(pytest.mark.xdist_group(str(together)))
