"""One run on several processes: who does which rows, and how their results become one.

Every process holds the same networks and, after each phase of PPO, the same rollouts, estimates and figures;
only the heavy work is divided: sampling, scoring, forward and backward passes. So every statistic is computed
from the whole batch by the code that one process runs, and all processes take the same decisions. The
collectives are those of ``torch.distributed``; whoever starts the processes (``launch``, or a user's own
``torchrun`` or ``accelerate launch``) says so in the environment.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhf.errors import ConfigError
from rlhf.training.interruption import request_stop, stop_requested

Item = TypeVar("Item")

_TIMEOUT = timedelta(hours=2)
"""How long a process waits for the others, who may be scoring over a slow endpoint or writing files."""

_REDUCED_AT_ONCE = 64 * 2**20
"""Gradient elements in one all-reduce (256 MB in single precision): large enough to be bound by bandwidth,
small enough that the flattened copy does not matter beside the gradients."""

_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


class Processes(Protocol):
    """The processes of a run, as each of them sees them. Every method that communicates is called by all."""

    rank: int
    """This process, from 0; process 0 writes files and reports metrics."""
    count: int

    def gather(self, items: Sequence[Item], total: int) -> list[Item]:
        """All rows' items in order, on every process, from each one's items for its :func:`own_rows`."""
        ...

    def turns(self, shares: Sequence[Sequence[Sequence[int]]]) -> list[tuple[Sequence[int], bool]]:
        """The batches of rows that this process passes through the networks, and whether each counts.

        Args:
            shares: every process's batches, by rank; every process gives the same. Networks that processes
                share need equally many passes of each, so that some may have to run one that does not count.
        """
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The element-wise sum over the processes of CPU tensors of one shape; the same bits on each."""
        ...

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make each ``.grad`` the sum over the processes; one that no process has stays ``None``."""
        ...

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite every process's tensors by process 0's."""
        ...

    def wait(self) -> None:
        """Return when all processes have come here."""
        ...


class OneProcess:
    """The usual case: nothing is divided, nothing is sent."""

    rank = 0
    count = 1

    def gather(self, items: Sequence[Item], total: int) -> list[Item]:
        return list(items)

    def turns(self, shares: Sequence[Sequence[Sequence[int]]]) -> list[tuple[Sequence[int], bool]]:
        return [(batch, True) for batch in shares[self.rank]]

    def sum(self, values: Tensor) -> Tensor:
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        pass

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        pass

    def wait(self) -> None:
        pass


class ProcessGroup:
    """The processes of the default ``torch.distributed`` group.

    Gradients are summed by one flattened all-reduce for each optimizer step and not by DDP's hooks in every
    backward pass: micro-batches are cut by tokens, so processes have different numbers of them and hooks
    would wait for passes that never come. What is on the CPU goes through gloo, whatever the group's backend.
    """

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._cpu = dist.new_group(backend="gloo", timeout=_TIMEOUT)

    def gather(self, items: Sequence[Item], total: int) -> list[Item]:
        # pickled by torch, but only ever between the processes of one run
        shares: list[Any] = [None] * self.count
        dist.all_gather_object(shares, list(items), group=self._cpu)
        return [shares[row % self.count][row // self.count] for row in range(total)]

    def turns(self, shares: Sequence[Sequence[Sequence[int]]]) -> list[tuple[Sequence[int], bool]]:
        return [(batch, True) for batch in shares[self.rank]]

    def sum(self, values: Tensor) -> Tensor:
        result = values.clone()
        dist.all_reduce(result, group=self._cpu)
        return result

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        every = list(parameters)
        present = self.sum(torch.tensor([p.grad is not None for p in every], dtype=torch.int32))
        gradients = []
        for parameter, holders in zip(every, present.tolist(), strict=True):
            if holders:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor, src=0, group=None if tensor.is_cuda else self._cpu)

    def wait(self) -> None:
        dist.barrier(group=self._cpu)


@contextmanager
def joined_processes(*, rendezvous: Path | None = None) -> Iterator[Processes]:
    """The processes that this one was started with, joined for the block.

    One process unless the environment says otherwise (``WORLD_SIZE``, as ``torchrun`` and ``accelerate
    launch`` set it) or a ``torch.distributed`` group exists already. On GPUs each process takes the one of
    its ``LOCAL_RANK``; load rewards inside the block, so that theirs is the same.

    Args:
        rendezvous: a file, new for this run, through which processes of one machine find each other. Without
            it they do so over the network, where the launcher says (``MASTER_ADDR``): torch's store listens
            there on all interfaces.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine, or the launcher asks for sharding.
    """
    if dist.is_initialized():
        yield ProcessGroup() if dist.get_world_size() > 1 else OneProcess()
        return
    if not is_one_of_several():
        yield OneProcess()
        return
    _refuse_sharding()
    backend = "gloo"
    if torch.cuda.is_available():
        backend, local, here = "nccl", int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= here:
            raise ConfigError(
                f"Process {local} of this machine has no GPU of its own ({here} here); start {here} "
                "processes, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs."
            )
        torch.cuda.set_device(local)
    if rendezvous is None:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    else:
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        store = dist.FileStore(str(rendezvous), count)
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    try:
        yield ProcessGroup()
    finally:
        dist.destroy_process_group()


def is_one_of_several() -> bool:
    """Whether a launcher has started this process together with others."""
    if dist.is_initialized():
        return dist.get_world_size() > 1
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def of_first(processes: Processes, find: Callable[[], Item]) -> Item:
    """What process 0 finds, on every process; the others wait for it."""
    return processes.gather([find()] if processes.rank == 0 else [], 1)[0]


def stop_requested_of_any(processes: Processes) -> bool:
    """Whether training should write a checkpoint and end. All processes are to ask at the same point, and get
    the same answer, though the request may have reached only one of them yet."""
    asked = bool(processes.sum(torch.tensor([int(stop_requested())])).item())
    if asked:
        request_stop()
    return asked


def own_rows(total: int, processes: Processes) -> range:
    """The rows of ``total`` that this process works on; the shares differ by one at most."""
    return shares_of_rows(total, processes)[processes.rank]


def shares_of_rows(total: int, processes: Processes) -> list[range]:
    """Every process's :func:`own_rows`, by rank."""
    return [range(rank, total, processes.count) for rank in range(processes.count)]


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive gradients of one type and device, of about ``_REDUCED_AT_ONCE`` elements together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        fits = sum(g.numel() for g in bucket) + gradient.numel() <= _REDUCED_AT_ONCE
        if bucket and (not fits or gradient.dtype != bucket[0].dtype or gradient.device != bucket[0].device):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _refuse_sharding() -> None:
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "false").lower() in {"true", "1"}:
            raise ConfigError(
                f"Training does not run under a launcher's {name}: sharded weights need equal numbers of "
                "passes on all processes, and a launcher cannot see to that; launch with --multi_gpu, and "
                "set the stage's sharding: fsdp to share the weights."
            )
