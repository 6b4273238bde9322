"""Settings of the base model, pre-training, supervised fine-tuning and reward-model training.

Light on purpose: configs are validated with these classes alone, before torch or transformers is loaded. What
a setting does to a trainer is decided in ``rlhf.training.arguments``.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf.models.settings_quantization import QuantizationAwareSettings
from rlhf.settings import Settings

Schedule = Literal["linear", "cosine", "constant"]
Precision = Literal["auto", "bf16", "fp32"]
Template = Literal["keep", "chat", "instruction"]


class OptimizerSettings(Settings):
    """AdamW with warmup and decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate, reached at the end of the warmup. Small networks from scratch want 1e-3 to 3e-3."""
    schedule: Schedule = "cosine"
    """Decay after the warmup: to zero in a line or a half cosine, or none."""
    warmup_fraction: float = Field(default=0.03, ge=0, lt=1)
    """Share of all optimizer steps over which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay per step, relative to the learning rate; not applied to biases and norms."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of AdamW's second moment; 0.95 to 0.98 for short runs."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's denominator offset."""
    max_gradient_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm; 0 turns clipping off."""


class LoRASettings(Settings):
    """Low-rank adapters in place of full fine-tuning (Hu et al. 2021, arXiv:2106.09685)."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update of each adapted matrix."""
    alpha: int = Field(default=32, ge=1)
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter, as a probability."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the modules that are adapted; ``all-linear`` takes every linear layer but the output."""
    quantize_4bit: bool = False
    """Hold the frozen base in 4-bit NF4 (QLoRA, arXiv:2305.14314). Needs a CUDA device and bitsandbytes."""
    merge: bool = True
    """Add the trained adapter to the base and write a full model, which every later stage and server can
    load.
    Off: the directory holds the adapter alone, and loading it takes the base as well."""


class TrainerSettings(Settings):
    """What all supervised trainers share."""

    optimizer: OptimizerSettings = OptimizerSettings()
    """Optimizer and learning-rate schedule."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps, whatever ``epochs`` says."""
    batch_size: int = Field(default=32, ge=1)
    """Rows (pairs, for a reward model) per optimizer step, over all processes."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass and process; lower it when memory runs out. Default: all of ``batch_size``."""
    max_length: int = Field(default=1024, ge=8)
    """Longest sequence in tokens, prompt and completion together."""
    length_grouping: bool = True
    """Fill batches with rows of similar length, which saves padding."""
    precision: Precision = "auto"
    """Arithmetic of the matrix products. ``auto``: bf16 where the processor has it natively, else fp32.
    Weights and optimizer state are fp32 in any case."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time for much less memory."""
    logging_steps: int = Field(default=10, ge=1)
    """Optimizer steps between two points of the training curves."""
    evaluations: int = Field(default=4, ge=1)
    """Evaluations on the dev split, evenly spread over training; the last one is at its end."""
    processes: int = Field(default=1, ge=1)
    """Processes that the stage starts on this machine to share each batch: one for each GPU, or a few on CPU.
    ``batch_size`` must be a multiple. A run is the same for any number up to rounding, but for the last batch
    of an epoch, which is filled up from the epoch's first rows until all processes have equally many."""
    sharding: Literal["none", "fsdp"] = "none"
    """With fsdp the processes share weights, gradients and optimizer state, which saves memory and costs
    communication in every pass. For training of all weights."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of one operation on the CPU. Default: by the size of the model."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints that training can be resumed from."""
    keep_checkpoints: int = Field(default=1, ge=1)
    """Newest checkpoints kept; each holds the trained weights and their optimizer state."""

    def rows_per_pass(self, processes: int) -> int:
        """Rows of one forward pass on each of ``processes``.

        Raises:
            ValueError: the batch can't be shared out evenly.
        """
        if self.batch_size % processes:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of the {processes} processes")
        share = self.batch_size // processes
        rows = min(self.micro_batch_size or share, share)
        if share % rows:
            among = "" if processes == 1 else f" times {processes} processes"
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {rows}{among}"
            )
        return rows

    @model_validator(mode="after")
    def _passes_fill_the_batch(self) -> Self:
        self.rows_per_pass(self.processes)
        return self

    @model_validator(mode="after")
    def _whole_weights_are_sharded(self) -> Self:
        for name in ("lora", "quantization_aware"):
            if self.sharding == "fsdp" and getattr(self, name, None) is not None:
                raise ValueError(f"sharding: fsdp does not go with {name}; leave one of them out")
        return self


class BaseModelSettings(Settings):
    """An existing model to start from, in place of pre-training one."""

    model: str = Field(min_length=1)
    """A local directory, or a repository of the Hugging Face hub such as ``HuggingFaceTB/SmolLM2-135M``."""
    revision: str | None = None
    """Commit, tag or branch of a hub repository; pin a commit to get the same weights for ever."""


class ArchitectureSettings(Settings):
    """A small decoder of the Llama family. The defaults make about one million parameters at 1024 tokens of
    vocabulary."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""
    layers: int = Field(default=4, ge=1)
    """Decoder blocks."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; they share the hidden size evenly."""
    key_value_heads: int | None = Field(default=None, ge=1)
    """Heads of keys and values (grouped-query attention). Default: as many as ``heads``."""
    ffn_size: int = Field(default=384, ge=8)
    """Inner width of the gated feed-forward layers."""
    max_positions: int = Field(default=512, ge=16)
    """Longest sequence in tokens."""
    initializer_range: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial weights. 0.02 suits widths from about 512 on; a width of 128 learns
    to copy names and numbers from a prompt sooner from 0.05."""
    tied_embeddings: bool = True
    """Use one matrix as input embedding and output projection."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of twice heads ({self.heads}): "
                "rotary positions turn pairs of dimensions of a head"
            )
        if self.key_value_heads is not None and self.heads % self.key_value_heads:
            raise ValueError(
                f"heads {self.heads} must be a multiple of key_value_heads {self.key_value_heads}"
            )
        return self


class PretrainSettings(TrainerSettings):
    """A tokenizer and a small language model from nothing but text."""

    vocabulary_size: int = Field(default=1024, ge=280)
    """Tokens of the byte-level BPE, special tokens included. Fewer when the text does not hold so many
    merges."""
    architecture: ArchitectureSettings = ArchitectureSettings()
    """Shape of the network."""
    steps: int = Field(default=0, ge=0)
    """Optimizer steps of language modelling. 0 only trains the tokenizer and initialises the network, to be
    taught by supervised fine-tuning."""
    packing: Literal["wrapped", "documents"] = "wrapped"
    """``wrapped``: one stream of tokens cut into full blocks, the fastest. ``documents``: whole texts share a
    block without seeing each other; slow without flash attention."""
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=2e-3, beta2=0.98, weight_decay=0.01)
    """Optimizer and learning-rate schedule."""
    max_length: int = Field(default=256, ge=8)
    """Length of a training block in tokens."""

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.max_length > self.architecture.max_positions:
            raise ValueError(
                f"max_length {self.max_length} exceeds architecture.max_positions "
                f"{self.architecture.max_positions}"
            )
        return self


class SFTSettings(TrainerSettings):
    """Supervised fine-tuning on demonstrations."""

    template: Template = "keep"
    """Chat template: ``keep`` the tokenizer's own, or install ``chat`` (one special token per turn) or
    ``instruction`` (### Instruction / ### Context / ### Response)."""
    completion_only_loss: bool = True
    """Learn the completion alone; off, the prompt counts as well."""
    overlong: Literal["truncate", "drop"] = "truncate"
    """Rows over ``max_length``: cut the end of the completion off, or leave the row out. Both are counted."""
    use_weights: bool = False
    """Weigh each row's loss by its ``weight`` column; weights are scaled to a mean of one, 0 ignores a row.
    Not together with ``packing``."""
    packing: bool = False
    """Put whole rows side by side in one sequence, without seeing each other. Pays with flash attention on
    GPUs; on CPU ``length_grouping`` is faster."""
    lora: LoRASettings | None = None
    """Train an adapter instead of all weights."""
    quantization_aware: QuantizationAwareSettings | None = None
    """Train for an export with integer weights; needs torchao. The saved policy keeps its full precision. Not
    together with ``lora``."""
    pad_token: str | None = None
    """Token for padding, when the tokenizer has none of its own. Default: a token unlike EOS is found or
    added."""

    @model_validator(mode="after")
    def _rows_keep_their_weight(self) -> Self:
        if self.packing and self.use_weights:
            raise ValueError("packing loses the weights of rows; turn packing or use_weights off")
        return self

    @model_validator(mode="after")
    def _all_weights_are_rounded(self) -> Self:
        if self.quantization_aware is not None and self.lora is not None:
            raise ValueError("quantization_aware trains all weights; leave lora or quantization_aware out")
        return self


class RewardModelSettings(TrainerSettings):
    """A scalar reward model: from comparisons by the Bradley-Terry likelihood, or from ratings by least
    squares."""

    objective: Literal["pairwise", "regression"] = "pairwise"
    """What is learnt: ``pairwise``, to prefer the chosen to the rejected answer; ``regression``, the rating
    of a single answer, scaled to mean 0 and standard deviation 1."""
    rating_question: str | None = None
    """Question whose ratings ``regression`` learns. Unset: the only one that was asked."""
    template: Template = "keep"
    """Chat template, as in supervised fine-tuning; ``keep`` when the base is the SFT model."""
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-5)
    """Optimizer and learning-rate schedule."""
    use_weights: bool = False
    """Weigh each pair's loss by its ``weight`` column; weights are scaled to a mean of one, 0 ignores a
    pair. For ``pairwise`` only."""
    use_margins: bool = False
    """Ask for a difference of at least the ``margin`` column (Llama 2, arXiv:2307.09288, eq. 2). For
    ``pairwise`` only."""
    soft_labels: bool = False
    """Take the ``agreement`` column as the probability p that the chosen answer is the better one, and learn
    the expected likelihood −p·log σ(Δ) − (1 − p)·log σ(−Δ) of the difference in reward Δ, which is least at
    Δ = log(p / (1 − p)). For ``pairwise`` only, and not together with ``use_margins``."""
    center_rewards_coefficient: float | None = Field(default=0.01, ge=0)
    """Weight of the squared sum of both rewards, which keeps rewards around zero (Eisenstein et al. 2023,
    arXiv:2312.09244, eq. 2). Without effect on ``regression``, whose targets have mean 0."""
    disable_dropout: bool = True
    """Train without dropout, so that the two sides of a pair are scored by the same network."""
    lora: LoRASettings | None = None
    """Train an adapter and the score head instead of all weights."""
    pad_token: str | None = None
    """Token for padding, when the tokenizer has none of its own. Default: a token unlike EOS is found or
    added."""

    @model_validator(mode="after")
    def _settings_are_of_the_objective(self) -> Self:
        if self.objective == "regression" and (self.use_weights or self.use_margins or self.soft_labels):
            raise ValueError(
                "use_weights, use_margins and soft_labels belong to objective pairwise; leave them out"
            )
        if self.use_margins and self.soft_labels:
            raise ValueError("use_margins and soft_labels both say how far rewards are apart; leave one out")
        if self.objective == "pairwise" and self.rating_question is not None:
            raise ValueError("rating_question belongs to objective regression; leave it out")
        return self


def is_local(model: str) -> bool:
    """Whether a model's name means a directory: it exists, or is written as a path rather than
    ``owner/name``."""
    return Path(model).is_dir() or model.startswith((".", "/", "~")) or model.count("/") > 1
