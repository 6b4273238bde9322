"""Models, checkpoints and training jobs on an object store: moto's S3 server behind ZenML's own store."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import torch
from zenml.enums import StackComponentType

from materializers.transfer import fetch_directory, put_directory
from ops.checkpoint_mirror import CheckpointMirror
from rlhf.models.directory import MANIFEST
from rlhf.training.ppo.checkpoint import Checkpoint, load_newest, save_checkpoint

pytestmark = pytest.mark.servers

ROOT = Path(__file__).resolve().parents[3]
KILLED_UPLOAD = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.integration.object_store.test_artifact_store import object_store
import materializers.transfer as transfer
put, sent = transfer.put_file, []
def dying(source, target):
    if len(sent) == 2:
        os._exit(9)
    sent.append(source)
    put(source, target)
transfer.put_file = dying
transfer.put_directory(object_store(), Path(sys.argv[2]), sys.argv[3], last=transfer.MANIFEST_NAME)
""".replace("transfer.MANIFEST_NAME", repr(MANIFEST))


def object_store() -> Any:
    """ZenML's store on the bucket; from here on its URLs are known to ZenML's file functions."""
    from zenml.integrations.s3.artifact_stores.s3_artifact_store import S3ArtifactStore
    from zenml.integrations.s3.flavors import S3ArtifactStoreConfig

    now = datetime.now(UTC)
    return S3ArtifactStore(
        name="bucket", id=uuid4(), config=S3ArtifactStoreConfig(path="s3://bucket/artifacts"), flavor="s3",
        type=StackComponentType.ARTIFACT_STORE, user=None, created=now, updated=now, environment={},
        secrets=[],
    )  # fmt: skip


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = os.environ.get("ANNOTATION_SERVERS", ".")
    found = sorted(Path(folder, "s3", "lib").glob("python*/site-packages"))
    if not found:
        pytest.fail("s3 is not installed: run `make test-integration`", pytrace=False)
    monkeypatch.syspath_prepend(found[0])
    made = object_store()
    yield made
    made.cleanup()


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], Path]:
    def made(name: str) -> Path:
        folder = tmp_path / name
        (folder / "components").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"w" * 100_000)
        (folder / "components" / "tokenizer").write_text("t")
        (folder / "z-last-by-name").write_text("z")
        (folder / MANIFEST).write_text("{}")
        return folder

    return made


def test_a_model_is_downloaded_once_for_its_content(
    store: Any, model: Callable[[str], Path], tmp_path: Path
) -> None:
    url = f"s3://bucket/artifacts/{tmp_path.name}/model"
    put_directory(store, model("here"), url, last=MANIFEST)
    there = fetch_directory(store, url, tmp_path / "cache" / "digest", last=MANIFEST)
    assert (there / "model.safetensors").read_bytes() == b"w" * 100_000
    assert (there / "components" / "tokenizer").read_text() == "t"
    store.remove(f"{url}/model.safetensors")
    again = fetch_directory(store, url, tmp_path / "cache" / "digest", last=MANIFEST)
    assert (again / "model.safetensors").stat().st_size == 100_000


def test_an_upload_that_was_killed_is_never_taken_for_a_model(
    store: Any, model: Callable[[str], Path], tmp_path: Path
) -> None:
    url = f"s3://bucket/artifacts/{tmp_path.name}/killed"
    source = model("killed")
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", KILLED_UPLOAD, str(ROOT), str(source), url]
    assert subprocess.run(command, env=variables, timeout=120).returncode == 9
    assert len([name for _, _, names in store.walk(url) for name in names]) == 2
    with pytest.raises(FileNotFoundError):
        fetch_directory(store, url, tmp_path / "cache" / "digest", last=MANIFEST)
    assert not (tmp_path / "cache" / "digest").exists()
    put_directory(store, source, url, last=MANIFEST)  # what was left there does no harm
    assert (fetch_directory(store, url, tmp_path / "cache" / "digest", last=MANIFEST) / MANIFEST).exists()


def _write(folder: Path, update: int) -> None:
    save_checkpoint(folder, Checkpoint(update, {"weights": {"w": torch.ones(2) * update}}, {}), {}, keep=1)


def test_another_machine_goes_on_from_the_last_checkpoint_that_was_uploaded_whole(
    store: Any, bucket: str, tmp_path: Path
) -> None:
    url = f"s3://bucket/artifacts/checkpoints/{tmp_path.name}"
    here = CheckpointMirror(tmp_path / "here", url)
    for update in (1, 2):
        _write(tmp_path / "here", update)
        here.push()
    # of the next one only a part arrives before the machine is lost
    partly = f"{bucket}/artifacts/checkpoints/{tmp_path.name}/update-00000003/weights.safetensors"
    httpx.put(partly, content=b"half of them").raise_for_status()
    CheckpointMirror(tmp_path / "there", url).fetch()
    found = load_newest(tmp_path / "there", {})
    assert found is not None
    assert found.update == 2
    assert torch.equal(found.tensors["weights"]["w"], torch.full((2,), 2.0))
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["update-00000002"]
