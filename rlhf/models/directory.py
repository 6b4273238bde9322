"""A model as a directory: safetensors, tokenizer, settings and curves, valid once its manifest is there.

The digest names the content (weights, tokenizer, configuration and training settings) and nothing else: not
the path, not the time, not the curves, which hold throughput. It is taken before the directory is moved
anywhere.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.errors import ModelError
from rlhf.feedback.rows import canonical_json

ModelKind = Literal["causal-lm", "reward-model", "adapter", "encoder"]
Curves = Mapping[str, list[tuple[int, float]]]

MANIFEST = "manifest.json"
CURVES = "curves.json"
TRAINING = "training.json"
# MLflow leaves the last of them in the registered directory itself when somebody loads a model by its name.
_OUTSIDE_THE_DIGEST = {MANIFEST, CURVES, "registered_model_meta"}
_REFUSED_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


@dataclass(frozen=True)
class ModelDirectory:
    """A finished model on local disk. Read-only: train into a new directory instead of changing this one."""

    path: Path
    kind: ModelKind
    digest: str
    """SHA-256 over the names and bytes of the files."""
    metrics: Mapping[str, float]
    """Final figures of the training, such as ``{"eval/accuracy": 0.87}``."""

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Training curves by metric name, each a list of (step, value)."""
        file = self.path / CURVES
        if not file.exists():
            return {}
        return {
            k: [(int(s), float(v)) for s, v in points] for k, points in json.loads(file.read_text()).items()
        }

    @property
    def training(self) -> dict[str, Any]:
        """The settings it was trained with."""
        file = self.path / TRAINING
        return json.loads(file.read_text()) if file.exists() else {}


def directory_digest(path: Path) -> str:
    """SHA-256 over relative names and bytes of every file that counts as content, in name order."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        if name in _OUTSIDE_THE_DIGEST:
            continue
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{name}\0{content}\n".encode())
    return total.hexdigest()


def seal(
    path: Path,
    *,
    kind: ModelKind,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: Curves | None = None,
) -> ModelDirectory:
    """Finish a directory that holds weights and tokenizer: add settings and curves, then the manifest, last.

    Raises:
        ModelError: if the directory holds a pickle-based file or no safetensors.
    """
    unsafe = sorted(p.name for p in path.rglob("*") if p.suffix in _REFUSED_SUFFIXES)
    if unsafe:
        raise ModelError(
            f"{path} holds pickle-based files ({', '.join(unsafe)}); save weights as safetensors."
        )
    if not any(path.rglob("*.safetensors")):
        raise ModelError(f"{path} holds no *.safetensors; save the model there before sealing it.")
    (path / TRAINING).write_text(canonical_json(dict(settings)))
    (path / CURVES).write_text(canonical_json({k: list(map(list, v)) for k, v in (curves or {}).items()}))
    manifest = {"kind": kind, "digest": directory_digest(path), "metrics": dict(metrics)}
    partial = path / (MANIFEST + ".partial")
    partial.write_text(canonical_json(manifest))
    partial.replace(path / MANIFEST)
    return open_directory(path)


def open_directory(path: Path, *, verify: bool = False) -> ModelDirectory:
    """Open a sealed directory without copying it.

    Args:
        verify: also hash the files and compare with the manifest.

    Raises:
        ModelError: if the manifest is absent (an interrupted write) or the content is not what it says.
    """
    file = path / MANIFEST
    if not file.exists():
        raise ModelError(
            f"{path} is not a finished model directory (no {MANIFEST}); run the step that writes it."
        )
    manifest = json.loads(file.read_text())
    if verify and (actual := directory_digest(path)) != manifest["digest"]:
        raise ModelError(
            f"{path} was changed after it was sealed (digest {actual[:12]}, not {manifest['digest'][:12]})."
        )
    return ModelDirectory(path, manifest["kind"], manifest["digest"], manifest["metrics"])


def model_identity(path: Path | str) -> str:
    """What names a model whatever its place: its content digest, or the name of one that is not a
    directory."""
    directory = Path(path)
    if not directory.is_dir():
        return str(path)
    try:
        return open_directory(directory).digest
    except ModelError:
        return directory_digest(directory)
