"""Supervised fine-tuning: demonstrations in, a policy directory out, on TRL's ``SFTTrainer``.

Tokenising, the chat template and the length report are ours, the optimisation is TRL's.
"""

import logging
import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import SFTConfig, SFTTrainer, pack_dataset
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from rlhf.errors import DataError
from rlhf.models.directory import ModelDirectory
from rlhf.models.loading import load_policy, load_tokenizer, require_base
from rlhf.models.log_probs import LINEAR_HEAD_ARCHITECTURES
from rlhf.models.quantization import fake_quantize, require_torchao, unwrap_fake_quantized
from rlhf.models.saving import merge_adapter, require_new, save_model
from rlhf.models.templates import install_template
from rlhf.models.tokenizer import ensure_pad_token, fit_model
from rlhf.tracking import MetricSink, NullSink, RecordingSink
from rlhf.training.arguments import (
    autocast_like,
    base_record,
    check_length,
    choose_attention,
    quantization_options,
    refuse_added_tokens,
    trained_model,
    training_arguments,
)
from rlhf.training.callbacks import DevEvaluation, SinkCallback
from rlhf.training.lora import lora_config
from rlhf.training.processes import Processes, joined_processes
from rlhf.training.quantization_aware import FakeQuantizationCallback
from rlhf.training.rows import IGNORED, EncodedRows, encode_demonstrations, token_loss
from rlhf.training.settings import SFTSettings, TrainerSettings
from rlhf.training.supervised_launch import (
    SupervisedJob,
    launch_supervised,
    saved_by_first,
    starts_processes,
)
from rlhf.training.supervised_run import CheckpointPlan, checkpoint_plan, run_trainer
from rlhf.training.supervised_trainer import SharedWeights, SupervisedTrainer, sharing_rows

logger = logging.getLogger(__name__)

PREFIX = "sft/"


class SFTJob(SupervisedJob):
    """The arguments of :func:`train_sft`."""

    NAME: ClassVar[str] = "SFT"
    SECTION: ClassVar[str] = "sft"
    MEMORY: ClassVar[str] = "micro_batch_size"

    settings: SFTSettings
    """Of the training."""
    base: Path
    """Directory of the model to start from."""

    def run(self, sink: MetricSink | None) -> str:
        """The policy's digest."""
        return train_sft(
            self.base,
            self.dataset(),
            self.settings,
            self.output_dir,
            sink=sink,
            seed=self.seed,
            checkpoints=self.checkpoints,
        ).digest


def train_sft(
    base: Path,
    demonstrations: DatasetDict,
    settings: SFTSettings,
    output_dir: Path,
    *,
    sink: MetricSink | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
) -> ModelDirectory:
    """Teach a language model to answer like the demonstrations.

    With ``settings.processes`` over 1 it starts processes of its own; started by ``torchrun`` or ``accelerate
    launch``, the processes share the work. Both folders must then be the same for all.

    Args:
        base: directory of a full model with its tokenizer.
        demonstrations: split ``train``, and ``dev`` where there is one; columns ``prompt`` and ``completion``
            (chat turns or text), or ``text``; ``weight`` where it is used.
        output_dir: where the policy is written; absent or empty.
        seed: of row order, dropout and new weights. The same seed, data and machine give the same digest.
        checkpoints: folder for checkpoints; training continues from one that is there, to the same weights.
            One of other code, settings or data is removed with a warning. Without a folder none are written.

    Returns:
        The sealed policy, or the adapter when ``settings.lora.merge`` is off. Metrics: ``eval/loss`` (nats
        per learnt token of dev), ``eval/perplexity``, ``train/…``, ``data/…``.

    Raises:
        ConfigError: settings that contradict the base model or the machine.
        DataError: nothing to train on, or rows of another shape.
        ModelError: the base is absent or an adapter, or ``output_dir`` is taken.
        TrainingError: the loss is not finite.
        InterruptedRunError: a stop was requested (``rlhf.training.interruption``).
    """
    require_new(output_dir)
    base = require_base(base, "sft base model")
    if settings.quantization_aware is not None:
        require_torchao("sft.quantization_aware")
    if starts_processes(settings):
        return launch_supervised(
            SFTJob, demonstrations, settings,
            base=base, output_dir=output_dir, seed=seed, checkpoints=checkpoints, sink=sink,
        )  # fmt: skip
    with joined_processes() as processes:
        return _train(
            base, demonstrations, settings, output_dir,
            sink=sink, seed=seed, checkpoints=checkpoints, processes=processes,
        )  # fmt: skip


def _train(
    base: Path,
    demonstrations: DatasetDict,
    settings: SFTSettings,
    output_dir: Path,
    *,
    sink: MetricSink | None,
    seed: int,
    checkpoints: Path | None,
    processes: Processes,
) -> ModelDirectory:
    options = quantization_options(settings.lora)
    tokenizer = load_tokenizer(base)
    added = install_template(tokenizer, settings.template) + ensure_pad_token(tokenizer, settings.pad_token)
    refuse_added_tokens(added, settings.lora, "sft")
    set_seed(seed)
    model = load_policy(base, **options)
    fit_model(model, tokenizer)
    check_length(settings.max_length, model.config, "sft")

    def encode(split: str, *, weights: bool = False) -> EncodedRows | None:
        if split not in demonstrations or not len(demonstrations[split]):
            return None
        return encode_demonstrations(
            demonstrations[split],
            tokenizer,
            max_length=settings.max_length,
            completion_only=settings.completion_only_loss,
            drop_overlong=settings.overlong == "drop",
            weights=weights,
        )

    train = encode("train", weights=settings.use_weights)
    if train is None or not len(train.dataset):
        lost = f" ({train.dropped} rows are longer than sft.max_length)" if train else ""
        raise DataError(f"There are no demonstrations to train on{lost}; add a source of demonstrations.")
    if settings.use_weights and not any(train.dataset["weight"]):
        raise DataError(
            "All demonstrations have weight 0; set sft.use_weights to false or check the weights."
        )
    dev = encode("dev")
    if train.overlong:
        logger.warning(
            "%d of %d demonstrations exceed sft.max_length %d; %d were dropped.",
            train.overlong, len(demonstrations["train"]), settings.max_length, train.dropped,
        )  # fmt: skip

    recording = RecordingSink((sink if processes.rank == 0 else None) or NullSink())
    record: dict[str, Any] = {
        "sft": settings.model_dump(mode="json"),
        "seed": seed,
        "base": base_record(base),
    }
    recording.log_params({"sft/seed": seed, **{f"sft/{k}": v for k, v in record["sft"].items()}})
    with tempfile.TemporaryDirectory(prefix="sft-") as work:
        trained, metrics = fit_language_model(
            model,
            tokenizer,
            train.dataset,
            dev.dataset if dev else None,
            settings,
            work=Path(work),
            packing="bfd" if settings.packing else None,
            processes=processes,
            sink=recording,
            prefix=PREFIX,
            seed=seed,
            plan=checkpoint_plan(
                checkpoints, settings, __name__, stage="sft", seed=seed, base=record["base"]
            ),
        )
        metrics |= train.counts

        def save() -> ModelDirectory:
            if settings.lora is None:
                return save_model(
                    trained, tokenizer, output_dir,
                    kind="causal-lm", settings=record, metrics=metrics, curves=recording.curves,
                )  # fmt: skip
            adapter = save_model(
                trained, tokenizer, Path(work) / "adapter" if settings.lora.merge else output_dir,
                kind="adapter", settings=record, metrics=metrics, curves=recording.curves,
            )  # fmt: skip
            return merge_adapter(adapter, base, output_dir) if settings.lora.merge else adapter

        return saved_by_first(processes, save)


def fit_language_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    dev: Dataset | None,
    settings: TrainerSettings,
    *,
    work: Path,
    packing: str | None,
    processes: Processes,
    sink: MetricSink,
    prefix: str,
    seed: int,
    plan: CheckpointPlan | None = None,
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Optimise a language model on tokenised rows; shared by fine-tuning and pre-training.

    Args:
        train: columns ``input_ids``, ``labels``, ``length``, and ``weight`` where rows count unequally.
        packing: a strategy of ``trl.pack_dataset``. ``bfd`` keeps rows from seeing each other; that is exact
        only
            because TRL passes ``use_cache=False``, without which the mask of packed rows is not built.
        processes: that share each batch.
        plan: where checkpoints are kept and continued from; without it there are none.

    Returns:
        The trained model (wrapped by PEFT for an adapter), which of shared weights is whole on process 0
        only, and the closing figures.
    """
    arguments = training_arguments(
        SFTConfig,
        settings if packing is None else settings.model_copy(update={"length_grouping": False}),
        work=work,
        seed=seed,
        model=model,
        max_length=settings.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        packing=packing is not None,
        packing_strategy=packing or "bfd",
    )
    if packing is not None:
        train = _packed(train.select_columns(["input_ids", "labels"]), settings.max_length, packing)
    choose_attention(model, arguments, settings.max_length)
    callbacks: list[SinkCallback | DevEvaluation] = []
    evaluation = None
    judging = sharing_rows(processes, settings.sharding)
    if dev is not None and len(dev):

        def evaluate(current: PreTrainedModel) -> dict[str, float]:
            with autocast_like(arguments):
                loss, _ = token_loss(current, dev, tokenizer.pad_token_id, processes=judging)
            return {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 700.0))}

        evaluation = DevEvaluation(evaluate, times=settings.evaluations, sink=sink, prefix=prefix)
        callbacks.append(evaluation)
    lora = getattr(settings, "lora", None)
    aware = getattr(settings, "quantization_aware", None)
    rounding: list[FakeQuantizationCallback] = []
    if aware is not None:
        logger.info("%d linear layers train for %s.", fake_quantize(model, aware.scheme), aware.scheme)
        rounding.append(FakeQuantizationCallback(aware.delay_steps))
    shared = SharedWeights(model, processes, prefix.rstrip("/")) if settings.sharding == "fsdp" else None
    trainer = PolicyTrainer(
        model,
        arguments,
        train_dataset=train,
        processing_class=tokenizer,
        data_collator=(
            WeightedCollator(pad_token_id=tokenizer.pad_token_id) if "weight" in train.column_names else None
        ),
        # Progress first, then the evaluation of the same step.
        callbacks=[*rounding, SinkCallback(sink, prefix), *callbacks],
        peft_config=lora_config(lora, "policy") if lora is not None else None,
    )
    if shared is not None:
        shared.prepare(trainer)
    metrics = run_trainer(
        trainer,
        settings,
        plan.of_rows(train) if plan else None,
        processes=processes,
        sink=sink,
        evaluation=evaluation,
    )
    if aware is not None:
        unwrap_fake_quantized(trained_model(trainer))
    trained = trained_model(trainer) if shared is None else shared.gathered()
    return trained, metrics | (evaluation.latest if evaluation else {})


class WeightedCollator(DataCollatorForLanguageModeling):
    """TRL's collator with a weight for each row."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        batch["weight"] = torch.tensor([example["weight"] for example in examples], dtype=torch.float)
        return batch


class PolicyTrainer(SupervisedTrainer, SFTTrainer):
    """``SFTTrainer`` with weights of rows, and a cheaper loss for small models on one CPU process.

    With weights the loss is the weighted sum over the learnt tokens by their number; weights of one change
    nothing. TRL projects every position to the vocabulary, in tiles and twice, to save memory on GPUs; for a
    million parameters that is half of the time. Here only the learnt positions are projected, once. Loss and
    gradients are the same.
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if "weight" in inputs:
            return self._weighted_loss(model, inputs, return_outputs, num_items_in_batch)
        # Other families scale or cap their logits; a wrapped model must be called as a whole.
        simple = _has_linear_head(model) and self.args.use_cpu and self.accelerator.num_processes == 1
        if return_outputs or not simple:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        language_model = cast(PreTrainedModel, model)
        decoder, head = language_model.base_model, cast(nn.Module, language_model.get_output_embeddings())
        labels = inputs["labels"][:, 1:]
        learnt = labels != IGNORED
        # The trainer's own autocast sits on the forward of the whole model.
        with self.accelerator.autocast():
            hidden = decoder(
                input_ids=inputs["input_ids"],
                attention_mask=inputs.get("attention_mask"),
                position_ids=inputs.get("position_ids"),
                use_cache=False,
            ).last_hidden_state[:, :-1]
            logits = head(hidden[learnt]).float()
        wanted = labels[learnt]
        loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        count = wanted.numel() if num_items_in_batch is None else num_items_in_batch
        figures = self._metrics["train" if model.training else "eval"]
        with torch.no_grad():
            self._total_train_tokens += int(
                inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).sum()
            )
            figures["num_tokens"] = [self._total_train_tokens]
            figures["mean_token_accuracy"].append((logits.argmax(-1) == wanted).float().mean().item())
        return loss / max(1, int(count))

    def _set_signature_columns_if_needed(self) -> None:
        # TRL's, and the weight; columns that a dataset lacks do no harm.
        columns = ["input_ids", "labels", "seq_lengths", "weight"]
        self._signature_columns = columns  # type: ignore[assignment]

    def _weighted_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> Any:
        outputs = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        )
        labels = inputs["labels"][:, 1:]
        learnt = labels != IGNORED
        logits, wanted = outputs.logits[:, :-1][learnt].float(), labels[learnt]
        weights = inputs["weight"][:, None].expand_as(labels)[learnt]
        loss = (torch.nn.functional.cross_entropy(logits, wanted, reduction="none") * weights).sum()
        loss = loss / max(1, int(wanted.numel() if num_items_in_batch is None else num_items_in_batch))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The number is that of all processes, whose gradients are averaged afterwards.
            loss = loss * self.accelerator.num_processes
        with torch.no_grad():
            figures = self._metrics["train" if model.training else "eval"]
            self._total_train_tokens += self.sum_of_processes(inputs["attention_mask"].sum())
            figures["num_tokens"] = [self._total_train_tokens]
            right = self.sum_of_processes((logits.argmax(-1) == wanted).sum())
            learnt_tokens = self.sum_of_processes(learnt.sum())
            figures["mean_token_accuracy"].append(right / max(1, learnt_tokens))
        return (loss, outputs) if return_outputs else loss


def _has_linear_head(model: nn.Module) -> bool:
    return isinstance(model, PreTrainedModel) and model.config.model_type in LINEAR_HEAD_ARCHITECTURES


def _packed(rows: Dataset, length: int, strategy: str) -> Dataset:
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return pack_dataset(rows, length, strategy)
    finally:
        if shown:
            datasets.enable_progress_bars()
