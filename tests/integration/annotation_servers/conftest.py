"""The real servers, started once for the session. `make test-integration` installs them and says where."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .argilla_stack import ArgillaStack
from .label_studio_stack import LabelStudioStack


def _python(server: str) -> Path:
    folder = os.environ.get("ANNOTATION_SERVERS")
    python = Path(folder or ".", server, "bin", "python")
    if folder is None or not python.exists():
        pytest.fail(f"{server} is not installed: run `make test-integration`", pytrace=False)
    return python.absolute()


@pytest.fixture(scope="session")
def argilla_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArgillaStack]:
    with ArgillaStack(_python("argilla"), tmp_path_factory.mktemp("argilla")) as stack:
        yield stack


@pytest.fixture(scope="session")
def label_studio_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioStack]:
    with LabelStudioStack(_python("label_studio"), tmp_path_factory.mktemp("label_studio")) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "argilla_stack" in request.fixturenames:
        monkeypatch.setenv("ARGILLA_API_KEY", request.getfixturevalue("argilla_stack").key)
    if "label_studio_stack" in request.fixturenames:
        monkeypatch.setenv("LABEL_STUDIO_TOKEN", request.getfixturevalue("label_studio_stack").token)
