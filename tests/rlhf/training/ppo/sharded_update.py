"""Run on two processes that share the networks, and by a test on one that holds them whole: the same updates.

RANK=... WORLD_SIZE=2 python sharded_update.py POLICY REWARD TIED OUT
"""

import shutil
import sys
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from shared_update import SETTINGS, fixed_update, spoiled_update, two_updates
from torch import Tensor
from torch.distributed.tensor import DTensor

from rlhf.training.ppo.actor_critic import load_networks
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.processes import Processes, joined_processes

Sharding = Literal["none", "fsdp"]


def settings(sharding: Sharding, **changes: object) -> PPOSettings:
    values = {"sharding": sharding, "checkpoint_every": 1, "keep_checkpoints": 2, **changes}
    return SETTINGS.model_copy(update=values)


def updates(
    policy: Path, reward: Path, tied: Path, output: Path, processes: Processes | None, sharding: Sharding
) -> dict[str, Tensor]:
    """A fixed update and a run with a separate critic, and with one on the trunk of a policy whose head is
    its embedding; that trunk is frozen in the run's first update."""
    found = fixed_update(policy, reward, processes, settings=settings(sharding))
    found |= two_updates(policy, reward, output, processes, settings=settings(sharding))
    shared = settings(sharding, critic="shared", gradient_checkpointing=True, critic_warmup_updates=1)
    other = fixed_update(tied, None, processes, settings=shared)
    other |= two_updates(tied, reward, output.with_name(f"{output.name}-shared"), processes, settings=shared)
    return found | {f"shared {name}": tensor for name, tensor in other.items()}


def held_share(policy: Path, reward: Path) -> float:
    """Of the weights of all networks, how much this process holds."""
    models, _ = load_networks(policy, reward, settings("fsdp"))
    assert models.critic is not None
    models.shard()
    with models.reference_policy() as reference:
        weights = [p for model in (models.policy, models.critic, reference) for p in model.parameters()]
    assert all(isinstance(w, DTensor) for w in weights)
    return sum(w.to_local().numel() for w in weights) / sum(w.numel() for w in weights)


if __name__ == "__main__":
    policy, reward, tied, out = map(Path, sys.argv[1:])
    with joined_processes(rendezvous=out / "rendezvous") as joined:
        outcome = updates(policy, reward, tied, out / "run", joined, "fsdp")
        outcome["held share"] = torch.tensor([held_share(policy, reward)])
        if joined.rank == 0:
            shutil.rmtree(out / "run/checkpoints/update-00000002")
        joined.wait()
        again = two_updates(policy, reward, out / "run", joined, settings=settings("fsdp"), resume=True)
        outcome |= {f"resumed {name}": tensor for name, tensor in again.items()}
        for sharding in ("none", "fsdp"):
            halved = fixed_update(policy, reward, joined, settings=settings(sharding, precision="bf16"))
            outcome |= {f"{sharding} bf16 {name}": tensor for name, tensor in halved.items()}
        error = spoiled_update(policy, reward, out / "spoiled", joined, settings=settings("fsdp"))
        (out / f"rank{joined.rank}.error").write_text(error)
        save_file(outcome, out / f"rank{joined.rank}.safetensors")
