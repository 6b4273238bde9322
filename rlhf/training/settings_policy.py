"""Settings of the algorithms beside PPO: RLOO and GRPO, which learn from rollouts, DPO and KTO, which learn
from comparisons.

Light on purpose: configs are validated here without loading torch. Defaults are those for full fine-tuning of
a pretrained model; a small network trained from nothing wants learning rates two to three orders higher.
PPO's are in ``rlhf.training.ppo.settings``; what means the same has the same name there.
"""

from abc import ABC, abstractmethod
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.models.settings_generation import GenerationSettings
from rlhf.settings import Settings
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.settings import LoRASettings, OptimizerSettings, Precision

Algorithm = Literal["ppo", "rloo", "grpo", "dpo", "kto"]


class _PolicySettings(Settings):
    """What these algorithms share."""

    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-6, schedule="linear")
    """Optimizer and learning-rate schedule (the learning rate is TRL's default of all four)."""
    lora: LoRASettings | None = None
    """Train an adapter instead of all weights; the reference is then the same model without it."""
    precision: Precision = "auto"
    """Arithmetic of the matrix products. ``auto``: bf16 where the processor has it natively, else fp32.
    Weights and optimizer state are fp32 in any case."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time for much less memory."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of one operation on the CPU. Default: by the size of the model."""

    generation: GenerationSettings = GenerationSettings()
    """How completions are sampled: in rollouts, and of every algorithm for the dev prompts."""
    generation_batch_size: int = Field(default=128, ge=1)
    """Completions decoded at once; memory and speed only."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Prompts longer than this are left out, and counted. Unset: a prompt that is too long is an error."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in one forward pass of an evaluation; memory and speed only."""

    selection_kl_coefficient: float = Field(default=0.01, ge=0)
    """Selection takes the checkpoint with the highest mean selection reward minus this times the KL in nats
    per completion."""
    stop_kl: float | None = Field(default=None, gt=0)
    """End training at the first evaluation above this KL, in nats per completion. Unset: off."""
    patience: int | None = Field(default=None, ge=1)
    """End training after this many evaluations in a row without a better one. Unset: off."""
    keep_checkpoints: int = Field(default=1, ge=1)
    """Newest checkpoints kept; each holds the trained weights and their optimizer state."""
    seed: int = 0
    """Every random number is a function of this, the step and the row."""

    @field_validator("lora")
    @classmethod
    def _merged(cls, lora: LoRASettings | None) -> LoRASettings | None:
        if lora is not None and not lora.merge:
            raise ValueError("the policy is delivered as a full model; set merge to true")
        return lora


class _RolloutSettings(_PolicySettings, ABC):
    """What the algorithms share that compare several completions of one prompt in place of a critic."""

    updates: int = Field(default=100, ge=1)
    """Number of rollout-and-update rounds."""
    rollout_batch_size: int = Field(default=64, ge=2)
    """Completions sampled, scored and learned from in each update."""
    epochs: int = Field(default=1, ge=1)
    """Passes over each update's rollouts."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer steps in each epoch: the rollouts are split into this many mini-batches."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Completions in one forward and backward pass; lower it when memory runs out. Default: a whole
    mini-batch."""
    clip_range: float = Field(default=0.2, gt=0)
    """The probability ratio is clipped below at 1 minus this (and above at 1 plus this); it acts from the
    second optimizer step of an update on."""
    clip_range_upper: float | None = Field(default=None, gt=0)
    """Another upper bound than clip_range, so that improbable tokens can rise faster (DAPO: 0.28)."""
    missing_eos_penalty: float | None = Field(default=1.0)
    """Subtracted from the score of a completion without EOS, in the reward's own unit. Unset: it keeps its
    score."""
    evaluate_every: int = Field(default=5, ge=1)
    """Updates between evaluations on the dev prompts; update 0 and the last are always evaluated."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Updates between checkpoints that training can be resumed from."""

    @property
    def prompts_per_update(self) -> int:
        """Prompts answered in each update."""
        return self.rollout_batch_size // self._group()

    @abstractmethod
    def _group(self) -> int:
        """Completions of one prompt."""

    @model_validator(mode="after")
    def _batches_hold_whole_groups(self) -> Self:
        if self.rollout_batch_size % self._group():
            raise ValueError(
                f"rollout_batch_size ({self.rollout_batch_size}) is not a multiple of group_size "
                f"({self._group()}); a group is compared with itself and cannot be split"
            )
        if self.rollout_batch_size % self.mini_batches:
            raise ValueError(
                f"rollout_batch_size ({self.rollout_batch_size}) is not a multiple of mini_batches "
                f"({self.mini_batches})"
            )
        mini_batch = self.rollout_batch_size // self.mini_batches
        if self.micro_batch_size is not None and mini_batch % self.micro_batch_size:
            raise ValueError(
                f"a mini-batch of {mini_batch} completions is not a multiple of micro_batch_size "
                f"({self.micro_batch_size})"
            )
        sampling = self.generation
        if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1:
            raise ValueError(
                "generation must sample from the policy itself; set temperature above 0, top_k to 0 and "
                "top_p to 1"
            )
        return self


class RLOOSettings(_RolloutSettings):
    """REINFORCE leave-one-out (Ahmadian et al. 2024, arXiv:2402.14740): each completion's baseline is the
    mean reward of the prompt's other completions."""

    group_size: int = Field(default=4, ge=2)
    """Completions of each prompt (the paper compares 2 and 4)."""
    kl_coefficient: float = Field(default=0.05, ge=0)
    """Weight of the KL of a completion in its reward, in reward per nat (TRL's default). 0 saves the
    reference model's pass."""
    normalize_advantages: bool = False
    """Give the advantages of an update mean 0 and standard deviation 1."""
    score_clip: float | None = Field(default=None, gt=0)
    """Scores are clipped to plus/minus this, in the reward's own unit. Unset: off."""

    def _group(self) -> int:
        return self.group_size


class GRPOSettings(_RolloutSettings):
    """Group relative policy optimisation (Shao et al. 2024, arXiv:2402.03300): advantages are the rewards of
    a prompt's completions, centred and scaled within the group."""

    group_size: int = Field(default=8, ge=2)
    """Completions of each prompt (TRL's default; the paper takes 64)."""
    kl_coefficient: float = Field(default=0.04, ge=0)
    """Weight of the KL estimate (k3) per token in the loss (the paper's). 0 saves the reference model's
    pass."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Divide advantages by the standard deviation of the group's rewards (the paper), of the whole batch's
    (arXiv:2508.08221), or by nothing (Dr. GRPO, arXiv:2503.20783)."""
    loss_mean: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """How token losses are averaged: within each completion first (``grpo``, which favours short good ones),
    over all tokens of the step (``dapo``, arXiv:2503.14476), or divided by a constant (``dr_grpo``)."""

    def _group(self) -> int:
        return self.group_size


class _ComparisonSettings(_PolicySettings):
    """What the algorithms share that learn from comparisons alone."""

    epochs: float = Field(default=1.0, gt=0)
    """Passes over the training rows."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after this many optimizer steps, whatever ``epochs`` says."""
    batch_size: int = Field(default=64, ge=2)
    """Rows per optimizer step: pairs, or for KTO single completions."""
    micro_batch_size: int | None = Field(default=None, ge=1)
    """Rows per forward pass; lower it when memory runs out. Default: all of ``batch_size``."""
    max_length: int | None = Field(default=None, ge=8)
    """Longest sequence in tokens, prompt and completion together; longer rows are left out and counted.
    Default: 1024, or the model's positions if they are fewer."""
    fold: int | None = Field(default=0, ge=0)
    """Comparisons of this fold are learnt from. 0 is the proxy's: folds 1 and 2 train the selection model
    and the judge, which must not judge what was taught from their own pairs. Unset: all folds."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the tie to the reference, as the inverse of reward per nat (Rafailov et al. 2023)."""
    logging_steps: int = Field(default=10, ge=1)
    """Optimizer steps between two points of the training curves."""
    evaluate_every: int = Field(default=50, ge=1)
    """Optimizer steps between evaluations on the dev prompts; step 0 and the last are always evaluated."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Optimizer steps between checkpoints that training can be resumed from."""

    @model_validator(mode="after")
    def _micro_batches_fill_the_batch(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class DPOSettings(_ComparisonSettings):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = "sigmoid"
    """The paper's logistic loss, IPO's squared one (arXiv:2310.12036), a hinge (SLiC, arXiv:2305.10425), or
    the logistic one made unbiased for label noise (rDPO, arXiv:2403.00409)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of comparisons taken to be wrong; for the losses ``sigmoid`` and ``robust``."""
    use_weights: bool = False
    """Weigh each pair's loss by its ``weight`` column; weights are scaled to a mean of one, 0 ignores a
    pair. For the loss ``sigmoid``."""
    soft_labels: bool = False
    """Take the ``agreement`` column as the probability p that the chosen answer is the better one, and learn
    the expected loss −p·log σ(Δ) − (1 − p)·log σ(−Δ) of the difference in implicit reward Δ. For the loss
    ``sigmoid``, without ``label_smoothing``."""

    @model_validator(mode="after")
    def _annotators_have_a_loss(self) -> Self:
        told = self.use_weights or self.soft_labels
        if told and (self.loss != "sigmoid" or self.label_smoothing):
            raise ValueError(
                "use_weights and soft_labels belong to the loss sigmoid without label_smoothing; change one"
            )
        return self

    @model_validator(mode="after")
    def _smoothing_has_a_loss(self) -> Self:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing has no effect on the loss {self.loss}; set it to 0")
        return self


class KTOSettings(_ComparisonSettings):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv:2402.01306): good and bad completions,
    which need not be paired."""

    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    """The paper's loss, or APO-zero's without the KL term (arXiv:2408.06266)."""
    desirable_weight: float = Field(default=1.0, ge=0)
    """Weight of good completions."""
    undesirable_weight: float = Field(default=1.0, ge=0)
    """Weight of bad completions; the paper wants the two weighted sides within a third of each other."""

    @model_validator(mode="after")
    def _micro_batches_have_mismatched_pairs(self) -> Self:
        if self.loss == "kto" and self.micro_batch_size == 1:
            raise ValueError(
                "micro_batch_size must be 2 or more: the KL is estimated from each prompt with another row's "
                "completion"
            )
        return self


RolloutSettings = RLOOSettings | GRPOSettings
ComparisonSettings = DPOSettings | KTOSettings
PolicySettings = PPOSettings | RLOOSettings | GRPOSettings | DPOSettings | KTOSettings


def algorithm_of(settings: PolicySettings) -> Algorithm:
    """The name of the algorithm that the settings belong to."""
    match settings:
        case PPOSettings():
            return "ppo"
        case RLOOSettings():
            return "rloo"
        case GRPOSettings():
            return "grpo"
        case DPOSettings():
            return "dpo"
        case KTOSettings():
            return "kto"
