"""Checkpoints that training resumes from bit for bit: safetensors and JSON, never pickle.

A checkpoint is written under a temporary name, its manifest last, and then renamed: a directory with the
final name is complete. No random state is stored, for every random number is a function of seed, update and
row (``batching``).
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import CheckpointError
from rlhf.feedback.rows import canonical_json
from rlhf.models.directory import MANIFEST
from rlhf.models.saving import save_adapter
from rlhf.training.policy_result import PolicyEvaluation
from rlhf.training.ppo.adapters import carries_adapter
from rlhf.training.ppo.sharding import placed_like

_STATE = "state.json"
_PREFIX = "update-"
_BEST_PREFIX = "best-"
_TENSORS = ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training changes, after ``update`` updates."""

    update: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Files of named tensors: ``policy``, ``critic``, an optimizer state each, ``average``."""
    state: Mapping[str, Any]
    """JSON-able: KL coefficient, score moments, evaluations, counters."""


def save_checkpoint(root: Path, checkpoint: Checkpoint, identity: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint atomically and remove all but the newest ``keep``.

    Args:
        identity: what a run must share with this one to continue it (``identity``).
    """
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"{_PREFIX}{checkpoint.update:08d}"
    partial = root / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, tensors in checkpoint.tensors.items():
        save_file(
            {key: t.detach().cpu().contiguous() for key, t in tensors.items()}, partial / f"{name}{_TENSORS}"
        )
    (partial / _STATE).write_text(canonical_json(checkpoint.state))
    manifest = {
        "update": checkpoint.update,
        "identity": identity,
        "files": {f.name: _file_digest(f) for f in sorted(partial.iterdir())},
    }
    (partial / MANIFEST).write_text(canonical_json(manifest))
    _replace_directory(partial, final)
    for old in _complete(root)[:-keep]:
        shutil.rmtree(old)
    return final


def load_newest(root: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The newest complete checkpoint, or ``None`` if there is none.

    Raises:
        CheckpointError: it is of a run with other code, settings, models, rewards or prompts, or was damaged.
    """
    found = _complete(root)
    if not found:
        return None
    path = found[-1]
    manifest = json.loads((path / MANIFEST).read_text())
    here = json.loads(canonical_json(identity))
    odd = sorted(
        key
        for key in here.keys() | manifest["identity"].keys()
        if here.get(key) != manifest["identity"].get(key)
    )
    if odd:
        raise CheckpointError(
            f"The checkpoint {path} is of a run with other {', '.join(odd)}; restore them, or start without "
            "resuming in an empty directory."
        )
    damaged = [name for name, digest in manifest["files"].items() if _file_digest(path / name) != digest]
    if damaged:
        raise CheckpointError(
            f"The checkpoint {path} is damaged ({', '.join(damaged)}); delete it to resume from an older one."
        )
    return Checkpoint(
        update=manifest["update"],
        tensors={f.name.removesuffix(_TENSORS): load_file(f) for f in sorted(path.glob(f"*{_TENSORS}"))},
        state=json.loads((path / _STATE).read_text()),
    )


def has_checkpoint(root: Path) -> bool:
    """Whether a complete checkpoint is there."""
    return bool(_complete(root))


def remove_checkpoints(root: Path) -> None:
    """Remove all checkpoints, and leave what else is there."""
    for path in (*root.glob(f"{_PREFIX}*"), *root.glob(f".{_PREFIX}*")):
        shutil.rmtree(path)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """An optimizer's state as named tensors, counters as integers. Learning rates are left out: they follow
    from settings and update."""
    return {
        # 8-bit AdamW's tables are one tensor for all parameters, which safetensors does not write
        f"{name}|{key}": value.clone() if key.startswith("qmap") else torch.as_tensor(value)
        for name, parameter in names.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of :func:`optimizer_tensors`, for a fresh optimizer."""
    for label, value in tensors.items():
        name, _, key = label.rpartition("|")
        parameter = names[name]
        counter = value.ndim == 0 and not value.is_floating_point()  # as 8-bit AdamW counts its steps
        optimizer.state[parameter][key] = int(value) if counter else placed_like(value, parameter)


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a policy in the library's own layout, atomically; what was at ``path`` is replaced.

    Of a policy with an adapter, the adapter alone.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if carries_adapter(model):
        save_adapter(model, partial)
    else:
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _replace_directory(partial, path)


def copy_policy(source: Path, target: Path) -> None:
    """Copy a policy directory, atomically."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    _replace_directory(partial, target)


def best_policy_path(root: Path, best: PolicyEvaluation) -> Path:
    """Where the best policy so far is kept, beside the checkpoints."""
    return root / f"{_BEST_PREFIX}{best.update:08d}"


def keep_best_policy(root: Path, best: PolicyEvaluation | None) -> None:
    """Remove the policies that were the best once."""
    kept = None if best is None else best_policy_path(root, best)
    for path in root.glob(f"{_BEST_PREFIX}*"):
        if path != kept:
            shutil.rmtree(path)


def _complete(root: Path) -> list[Path]:
    return sorted(p.parent for p in root.glob(f"{_PREFIX}*/{MANIFEST}"))


def _replace_directory(partial: Path, final: Path) -> None:
    # a directory cannot be renamed onto another: only a leftover of the same deterministic content is
    # removed here
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def _file_digest(path: Path) -> str:
    if not path.exists():
        return "absent"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
