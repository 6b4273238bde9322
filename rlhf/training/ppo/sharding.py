"""Networks whose weights, gradients and optimizer states are spread over the processes (FSDP: Zhao et al.
2023, arXiv:2304.11277).

A sharded network gathers a layer's weights from all processes whenever it runs it, and scatters its gradients
in the backward pass. So all processes must run equally many passes: those with fewer micro-batches repeat a
row of theirs and make its gradient 0. Sampling would need equal lengths as well and is done by an unsharded
copy.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rlhf.errors import ConfigError
from rlhf.training.ppo.activation_checkpointing import recomputable_layers
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.processes import Processes, ProcessGroup


class ShardedProcesses(ProcessGroup):
    """The processes of a run that share its networks."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        pass  # every backward pass has scattered the sums already

    def turns(self, shares: Sequence[Sequence[Sequence[int]]]) -> list[tuple[Sequence[int], bool]]:
        return equal_turns(shares, self.rank)


def equal_turns(shares: Sequence[Sequence[Sequence[int]]], rank: int) -> list[tuple[Sequence[int], bool]]:
    """A process's batches, which count, and as many that don't as make it as many as the longest share has.

    What does not count is a single row, another process's where this one has none.
    """
    own = [(batch, True) for batch in shares[rank]]
    repeated = next(batch[:1] for share in (shares[rank], *shares) for batch in share)
    return own + [(repeated, False)] * (max(map(len, shares)) - len(own))


def sharing_processes(settings: PPOSettings, processes: Processes) -> Processes:
    """The processes as ``ppo.sharding`` asks for them.

    Raises:
        ConfigError: there is nobody to share the weights with.
    """
    if settings.sharding == "none":
        return processes
    if processes.count == 1:
        raise ConfigError(
            "ppo.sharding: fsdp spreads the weights over several processes and this is one; raise "
            "ppo.processes (or launch several), or set ppo.sharding to none."
        )
    return ShardedProcesses()


def process_mesh(device: torch.device) -> DeviceMesh:
    """All processes of the default group in a row."""
    return init_device_mesh(device.type, (torch.distributed.get_world_size(),))


def shard(mesh: DeviceMesh, network: nn.Module, *, divide_by: float = 1.0) -> None:
    """Leave this process its share of a network's weights, in place: each layer a unit, the rest another.

    The network is moved to the mesh's devices unit by unit, and must from now on be called as a whole.

    Args:
        divide_by: gradients are sums over the processes, divided by this. PPO's losses are already divided by
            the tokens of all.
    """
    for module in (*recomputable_layers(network), network):
        # gathered weights are never kept, the outermost unit's neither: they would outlive optimizer steps
        unit = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(divide_by)
        unit.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sums


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; a sharded one is gathered, so all processes must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(value: Tensor, model: Tensor) -> Tensor:
    """A tensor, which all processes have, on the device of another and in its shards; one of another shape
    stays whole."""
    if not isinstance(model, DTensor) or isinstance(value, DTensor) or value.shape != model.shape:
        return value.to(model.device)
    return distribute_tensor(value.to(model.device), model.device_mesh, model.placements, src_data_rank=None)


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Tensors by name, the sharded ones whole and on the CPU, so that the device holds one of them at a time.

    Args:
        keep: whether this process wants them; all must take part in any case. If not, nothing is returned.
    """
    found = {}
    for name, tensor in tensors.items():
        complete = whole(tensor.detach()).cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            found[name] = complete
    return found


@torch.no_grad()
def refresh(target: nn.Module, source: nn.Module) -> None:
    """Copy a sharded network's weights into an unsharded one of the same architecture."""
    for into, sharded in zip(target.parameters(), source.parameters(), strict=True):
        into.copy_(whole(sharded))
