"""A tokenizer and a small language model from text alone, for a base that belongs to nobody else.

With ``steps: 0`` the network is only initialised: supervised fine-tuning can teach a small one from there.
"""

import itertools
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from rlhf.errors import DataError
from rlhf.models.architecture import count_parameters, new_llama
from rlhf.models.directory import ModelDirectory
from rlhf.models.saving import require_new, save_model
from rlhf.models.tokenizer import train_tokenizer
from rlhf.tracking import MetricSink, NullSink, RecordingSink
from rlhf.training.processes import Processes, joined_processes
from rlhf.training.rows import encode_text, token_loss
from rlhf.training.settings import PretrainSettings
from rlhf.training.sft import fit_language_model
from rlhf.training.supervised_launch import (
    SupervisedJob,
    launch_supervised,
    saved_by_first,
    starts_processes,
)
from rlhf.training.supervised_run import checkpoint_plan

logger = logging.getLogger(__name__)

PREFIX = "pretrain/"
_PACKING = {"wrapped": "wrapped", "documents": "bfd_split"}


class PretrainJob(SupervisedJob):
    """The arguments of :func:`pretrain`."""

    NAME: ClassVar[str] = "Pre-training"
    SECTION: ClassVar[str] = "pretrain"
    MEMORY: ClassVar[str] = "micro_batch_size"

    settings: PretrainSettings
    """Of the training."""

    def run(self, sink: MetricSink | None) -> str:
        """The model's digest."""
        return pretrain(
            self.dataset(),
            self.settings,
            self.output_dir,
            sink=sink,
            seed=self.seed,
            checkpoints=self.checkpoints,
        ).digest


def pretrain(
    texts: DatasetDict,
    settings: PretrainSettings,
    output_dir: Path,
    *,
    sink: MetricSink | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
) -> ModelDirectory:
    """Train a byte-level BPE on ``texts["train"]``, then a Llama of the given shape for ``settings.steps``
    steps; on several processes as :func:`rlhf.training.sft.train_sft`.

    Args:
        texts: a column ``text``; splits ``train``, and ``dev`` where there is one.
        output_dir: where the model is written; absent or empty.
        seed: of initial weights and row order.
        checkpoints: as :func:`rlhf.training.sft.train_sft` has them.

    Returns:
        The sealed base model. Metrics: ``eval/loss`` (nats per token of dev), ``eval/perplexity``,
        ``data/tokens``, ``model/parameters``, and ``train/…`` after training.

    Raises:
        DataError: there is no text, or no ``text`` column.
        ModelError: ``output_dir`` is taken.
        TrainingError: the loss is not finite.
        InterruptedRunError: a stop was requested (``rlhf.training.interruption``).
    """
    require_new(output_dir)
    if "train" not in texts or "text" not in texts["train"].column_names:
        raise DataError("Pre-training needs a train split with a text column; add a text source.")
    if settings.steps and starts_processes(settings):
        return launch_supervised(
            PretrainJob, texts, settings,
            output_dir=output_dir, seed=seed, checkpoints=checkpoints, sink=sink,
        )  # fmt: skip
    with joined_processes() as processes:
        return _train(
            texts, settings, output_dir, sink=sink, seed=seed, checkpoints=checkpoints, processes=processes
        )


def _train(
    texts: DatasetDict,
    settings: PretrainSettings,
    output_dir: Path,
    *,
    sink: MetricSink | None,
    seed: int,
    checkpoints: Path | None,
    processes: Processes,
) -> ModelDirectory:
    tokenizer = train_tokenizer(
        (row["text"] for row in texts["train"]),
        vocabulary_size=settings.vocabulary_size,
        max_length=settings.architecture.max_positions,
    )
    trained: PreTrainedModel = new_llama(settings.architecture, tokenizer, seed=seed)
    recording = RecordingSink((sink if processes.rank == 0 else None) or NullSink())
    record: dict[str, Any] = {"pretrain": settings.model_dump(mode="json"), "seed": seed}
    recording.log_params(
        {"pretrain/seed": seed, **{f"pretrain/{k}": v for k, v in record["pretrain"].items()}}
    )

    def encode(split: str) -> Dataset:
        rows = [encode_text(tokenizer, row["text"]) for row in texts[split]] if split in texts else []
        # Blocks, so that an evaluated text never exceeds the positions of the model.
        pieces = list(itertools.chain.from_iterable(_blocks(ids, settings.max_length) for ids in rows))
        return Dataset.from_dict(
            {"input_ids": pieces, "labels": pieces, "length": [len(piece) for piece in pieces]}
        )

    train, dev = encode("train"), encode("dev")
    metrics: dict[str, float] = {
        "data/texts": float(len(texts["train"])),
        "data/tokens": float(sum(train["length"])),
        "model/vocabulary": float(len(tokenizer)),
        "model/parameters": float(count_parameters(trained)),
    }
    if settings.steps:
        with tempfile.TemporaryDirectory(prefix="pretrain-") as work:
            trained, figures = fit_language_model(
                trained,
                tokenizer,
                train,
                dev,
                settings.model_copy(update={"max_steps": settings.steps}),
                work=Path(work),
                packing=_PACKING[settings.packing],
                processes=processes,
                sink=recording,
                prefix=PREFIX,
                seed=seed,
                plan=checkpoint_plan(checkpoints, settings, __name__, stage="pretrain", seed=seed),
            )
        metrics |= figures
    elif len(dev):
        loss, _ = token_loss(trained.eval(), dev, tokenizer.pad_token_id)
        metrics["eval/loss"] = loss
    logger.info(
        "Base model of %.2f M parameters, %d tokens of vocabulary.",
        count_parameters(trained) / 1e6,
        len(tokenizer),
    )
    return saved_by_first(
        processes,
        lambda: save_model(
            trained, tokenizer, output_dir,
            kind="causal-lm", settings=record, metrics=metrics, curves=recording.curves,
        ),
    )  # fmt: skip


def _blocks(ids: list[int], length: int) -> Iterator[list[int]]:
    return (ids[start : start + length] for start in range(0, len(ids), length))
