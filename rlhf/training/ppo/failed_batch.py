"""The batch on which training stopped, kept for a look: safetensors and JSON. Not a checkpoint."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from rlhf.training.ppo.rollout import Experience, Rollouts


def save_failed_batch(
    path: Path, rollouts: Rollouts, experience: Experience, rows: Sequence[int], what: str
) -> Path:
    """Write ``experience.safetensors`` and ``rollouts.json`` for some rows into ``path``.

    Args:
        what: what was not finite.
    """
    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: t[list(rows)].contiguous() for name, t in experience.tensors().items()}
    save_file(tensors, path / "experience.safetensors")
    record = {
        "what": what,
        "rollouts": [
            {
                "prompt": rollouts.prompts[i],
                "completion": rollouts.completions[i].text,
                "prompt_ids": rollouts.completions[i].prompt_ids,
                "token_ids": rollouts.completions[i].token_ids,
            }
            for i in rows
        ],
    }
    (path / "rollouts.json").write_text(json.dumps(record, ensure_ascii=False, indent=1))
    return path
