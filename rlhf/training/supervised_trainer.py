"""What the trainers of pre-training, supervised fine-tuning and reward models have in common on several
processes: one order of rows, figures of the whole batch, and weights that may be shared."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from accelerate.utils import AutocastKwargs
from datasets import Dataset
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from rlhf.errors import ConfigError
from rlhf.training.ppo.actor_critic import training_device
from rlhf.training.ppo.sharding import process_mesh, shard, whole
from rlhf.training.processes import OneProcess, Processes
from rlhf.training.resumable import ResumableTrainer


class SupervisedTrainer(ResumableTrainer):
    """A resumable trainer whose processes share each batch as one process would have it. To be mixed into
    TRL's."""

    processes: Processes = OneProcess()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        sampler: Sampler[int] | None = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler) and self.processes.count > 1:
            sampler.batch_size *= self.processes.count  # transformers counts this process's rows
            return SharedOrder(sampler, len(sampler), self.processes)
        return sampler

    def _run_epoch(self, *arguments: Any, **named: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed after the last step, amid an epoch
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **named)

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        # transformers' own asks the model's config how `from_pretrained` has sharded it
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def mean_of_processes(self, value: Tensor) -> float:
        """The mean over the processes of a figure of equally many rows each."""
        return float(self.accelerator.gather(value.detach().float()).mean())

    def sum_of_processes(self, value: Tensor) -> int:
        """The sum over the processes of a count."""
        return int(self.accelerator.gather(value.detach()).sum())


class SharedOrder(Sampler[int]):
    """Rows in the order that process 0 draws: the others' random numbers may have gone another way since
    dropout takes as many as a batch is long."""

    def __init__(self, sampler: Sampler[int], length: int, processes: Processes) -> None:
        self._sampler, self._length, self._processes = sampler, length, processes

    def __iter__(self) -> Iterator[int]:
        order = torch.tensor(list(self._sampler))
        self._processes.broadcast([order])
        return iter(order.tolist())

    def __len__(self) -> int:
        return self._length


def sharing_rows(processes: Processes, sharding: Literal["none", "fsdp"]) -> Processes:
    """Who shares the rows of an evaluation. Shared weights need equally many passes, which shares of rows
    would not be, so that each process then takes all rows."""
    return OneProcess() if sharding == "fsdp" else processes


class SharedWeights:
    """A model whose weights are spread over the processes (FSDP) before its trainer gets it, and on process
    0 a whole copy that is saved in the end.

    The trainers of transformers take such a model for one that was sharded when it was loaded, and wrap
    nothing around it.

    Raises:
        ConfigError: there is nobody to share the weights with.
    """

    def __init__(self, model: PreTrainedModel, processes: Processes, section: str) -> None:
        if processes.count == 1:
            raise ConfigError(
                f"{section}.sharding: fsdp spreads the weights over several processes and this is one; raise "
                f"{section}.processes (or launch several), or set {section}.sharding to none."
            )
        self._whole = copy.deepcopy(model) if processes.rank == 0 else None
        self._shared = model
        # a mean, as losses of a process are scaled for one
        shard(process_mesh(training_device()), model, divide_by=processes.count)
        model._is_distributed_loading_by_transformers = True  # as `from_pretrained` leaves one that it shards

    def prepare(self, trainer: Trainer) -> None:
        """To be called before training: autocast must not hold all layers' casts beyond their turn."""
        trainer.accelerator.autocast_handler = AutocastKwargs(cache_enabled=False)

    @torch.no_grad()
    def gathered(self) -> PreTrainedModel:
        """The whole model with the trained weights on process 0, which saves it; all processes at once. On
        the others the shared one."""
        targets = None if self._whole is None else list(self._whole.parameters())
        for index, parameter in enumerate(self._shared.parameters()):
            complete = whole(parameter.detach())
            if targets is not None:
                targets[index].copy_(complete)
        return self._shared if self._whole is None else self._whole
