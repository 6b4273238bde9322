"""An S3 server of moto's for the session, with a bucket. `make test-integration` installs it."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.integration.annotation_servers.processes import ServerProcess, free_port

_UP_SECONDS = 60


@pytest.fixture(scope="session")
def _object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = Path(os.environ.get("ANNOTATION_SERVERS", "."), "moto", "bin", "python").absolute()
    if not python.exists():
        pytest.fail("moto is not installed: run `make test-integration`", pytrace=False)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    argv = [str(python), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = ServerProcess("moto", argv, tmp_path_factory.mktemp("moto"), {})
    server.start()
    try:
        server.wait_for(f"{url}/moto-api/", _UP_SECONDS)
        httpx.put(f"{url}/bucket").raise_for_status()
        yield url
    finally:
        server.stop()


@pytest.fixture
def bucket(_object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its HTTP address; the environment leads ``s3://bucket`` there, for subprocesses as well."""
    for name, value in {
        "AWS_ENDPOINT_URL": _object_store,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "only-for-tests",
        "AWS_SECRET_ACCESS_KEY": "only-for-tests",
    }.items():
        monkeypatch.setenv(name, value)
    return f"{_object_store}/bucket"
