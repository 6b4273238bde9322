"""PPO's knobs, each with its default and where that comes from.

Light on purpose: configs are validated here without loading torch. The defaults are those for full fine-
tuning of a pretrained model; a small network trained from nothing wants learning rates two to three orders
higher.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from rlhf.models.endpoints import require_safe_url
from rlhf.models.settings_generation import GenerationSettings
from rlhf.settings import Settings
from rlhf.training.settings import LoRASettings


class VLLMSettings(Settings):
    """How vLLM is reached when it samples the rollouts."""

    mode: Literal["colocate", "server"] = "colocate"
    """In the training process on its GPU, or a server of its own, started with ``vllm serve``."""
    server_url: str = "http://127.0.0.1:8000"
    """Base URL of the server; used in server mode only. https, or http on this very machine; no user names or
    keys in it."""
    allow_plain_http: bool = False
    """Send prompts and weights unencrypted to another machine."""
    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1)
    """Share of the GPU's memory that a colocated vLLM reserves for weights and cache."""
    sleep: bool = False
    """Let a colocated vLLM give its memory back between rollouts, at the price of waking it for each."""

    @model_validator(mode="after")
    def _server_url_is_safe(self) -> Self:
        require_safe_url(self.server_url, key="server_url", allow_plain_http=self.allow_plain_http)
        return self


class PPOSettings(Settings):
    """Proximal policy optimisation (Schulman et al. 2017) as used for RLHF (Ziegler et al. 2019)."""

    updates: int = Field(default=100, ge=1)
    """Number of rollout-and-update rounds."""
    rollout_batch_size: int = Field(default=64, ge=1)
    """Completions sampled, scored and learned from in each update."""
    epochs: int = Field(default=4, ge=1)
    """Passes over each update's rollouts."""
    mini_batches: int = Field(default=1, ge=1)
    """Optimizer steps in each epoch: the rollouts are split into this many mini-batches."""
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in one forward and backward pass; memory and speed only, the gradient does not depend
    on it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third more time in the learn phase for much less
    memory; the gradient does not change."""
    generation: GenerationSettings = GenerationSettings()
    """How completions are sampled. Truncated sampling (top_k, top_p) would not be the policy that is
    trained."""
    generation_batch_size: int = Field(default=128, ge=1)
    """Completions decoded at once; memory and speed only."""
    rollout_engine: Literal["own", "vllm"] = "own"
    """What samples the rollouts: this project's own decoding loop, or vLLM (an extra, for GPUs). vLLM's
    rollouts are not repeatable; importance weights correct for its other numerics."""
    vllm: VLLMSettings = VLLMSettings()
    """How vLLM is reached; unused by the own loop."""
    processes: int = Field(default=1, ge=1)
    """Processes that the training stage starts on this machine to share the work: one for each GPU, or a few
    on CPU. A run is the same for any number up to rounding."""
    sharding: Literal["none", "fsdp"] = "none"
    """With fsdp the processes share weights, gradients and optimizer states of all networks, which saves
    memory and costs communication in every pass; each still holds one whole copy of the policy to sample
    from. For full fine-tuning by adamw with the own rollouts. A run is the same up to rounding."""
    max_prompt_tokens: int | None = Field(default=None, ge=1)
    """Prompts longer than this are left out, and counted. Unset: a prompt that is too long is an error."""

    lora: LoRASettings | None = None
    """Train a low-rank adapter on the policy, and another on a separate critic, in place of all weights. The
    reference is then the policy with its adapter switched off. Adapters want learning rates one to two
    orders higher than full fine-tuning. Dropout and quantize_4bit must stay off."""
    learning_rate: float = Field(default=1e-6, ge=0)
    """The actor's learning rate (OpenRLHF's, for full fine-tuning)."""
    critic_learning_rate: float = Field(default=9e-6, ge=0)
    """The critic's learning rate (OpenRLHF's, for full fine-tuning); with a shared critic, its head's."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit holds Adam's moments in 8 bits by blocks (Dettmers et al. 2022, arXiv:2110.02861), a quarter
    of the memory; it needs a CUDA device and bitsandbytes."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How both learning rates fall to zero over the updates, if they do."""
    warmup_updates: int = Field(default=0, ge=0)
    """Updates over which both learning rates rise linearly from zero."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    """Decay of Adam's first and second moments."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Adam's denominator offset."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay (AdamW)."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; actor and separate critic each by their own."""

    critic: Literal["separate", "shared"] = "separate"
    """A value model of its own (started from a reward model if one is given), or a value head on the
    policy's trunk, which saves a model and about 40 % of the time."""
    value_coefficient: float = Field(default=0.1, ge=0)
    """Weight of the value loss beside the policy loss when the trunk is shared; a separate critic ignores
    it."""
    critic_warmup_updates: int = Field(default=0, ge=0)
    """First updates in which only the critic (or the value head) learns."""

    discount: float = Field(default=1.0, gt=0, le=1)
    """Discount per token, gamma."""
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """Decay of generalised advantage estimation: 1 = returns minus values, 0 = one-step errors."""
    whiten_advantages: bool = True
    """Give the advantages of each update's rollouts mean 0 and standard deviation 1 over all their tokens."""
    clip_range: float = Field(default=0.2, gt=0)
    """The probability ratio is clipped below at 1 minus this (and above at 1 plus this)."""
    clip_range_upper: float | None = Field(default=None, gt=0)
    """Another upper bound than clip_range, so that improbable tokens can rise faster (DAPO: 0.28)."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound on the loss of tokens with negative advantage, as a multiple of it (Ye et al. 2020: 3). Unset:
    off."""
    value_clip_range: float | None = Field(default=0.2, gt=0)
    """Largest change of a value estimate that the value loss rewards. Unset: off."""
    target_kl: float | None = Field(default=None, gt=0)
    """End an update before the first optimizer step whose mini-batch has moved further than this from the
    rollout policy, in nats per token. Unset: off."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Cap of the importance weights that correct for rollouts from another engine or precision than
    training's."""

    kl_coefficient: float = Field(default=0.05, ge=0)
    """Weight of the KL penalty per token in the reward, in (scaled) reward per nat."""
    kl_controller: Literal["fixed", "adaptive"] = "fixed"
    """Keep the coefficient, or steer it towards kl_target."""
    kl_target: float = Field(default=6.0, gt=0)
    """KL that the adaptive controller aims at, in nats per completion."""
    kl_horizon: int = Field(default=10_000, ge=1)
    """Completions over which the adaptive controller acts."""
    kl_loss: Literal["k2", "k3"] | None = None
    """Also put a KL estimate in the loss: k2 follows the gradient of KL(policy, reference), k3 that of
    KL(reference, policy). Unset: off."""
    kl_loss_coefficient: float = Field(default=0.0, ge=0)
    """Weight of kl_loss."""

    scale_scores: bool = True
    """Divide scores by the running standard deviation of all scores so far (no shift of the mean)."""
    score_clip: float | None = Field(default=10.0, gt=0)
    """Scaled scores are clipped to plus/minus this. Unset: off."""
    missing_eos_penalty: float | None = Field(default=1.0)
    """A completion without EOS is rewarded with minus this (in scaled units) in place of its score. Unset:
    it keeps its score."""

    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus in the loss; entropy is logged in any case."""
    ptx_coefficient: float = Field(default=0.0, ge=0)
    """Weight of a language-modelling loss on demonstrations mixed into every step (InstructGPT's PPO-ptx).
    Large values keep PPO from converging: DeepSpeed-Chat reports so for InstructGPT's 27.8."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Decay per update of an exponential moving average of the actor (OpenRLHF: 0.992); it is then what is
    evaluated and delivered. Unset: off."""

    evaluate_every: int = Field(default=5, ge=1)
    """Updates between evaluations on the dev prompts; update 0 and the last are always evaluated."""
    selection_kl_coefficient: float = Field(default=0.01, ge=0)
    """Selection takes the checkpoint with the highest mean selection reward minus this times the KL in nats
    per completion."""
    stop_kl: float | None = Field(default=None, gt=0)
    """End training at the first evaluation above this KL, in nats per completion. Unset: off."""
    patience: int | None = Field(default=None, ge=1)
    """End training after this many evaluations in a row without a better one. Unset: off."""

    checkpoint_every: int = Field(default=10, ge=1)
    """Updates between checkpoints that training can be resumed from."""
    keep_checkpoints: int = Field(default=1, ge=1)
    """Newest checkpoints kept; each holds actor, critic and their optimizer states."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: passes run in bfloat16 (weights stay in single precision) and rollouts come from a bfloat16
    copy. auto: bf16 on hardware that computes in it and for models large enough to gain."""
    seed: int = 0
    """Every random number is a function of this, the update and the row."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mini_batches > self.rollout_batch_size:
            raise ValueError(
                f"mini_batches ({self.mini_batches}) exceeds rollout_batch_size ({self.rollout_batch_size}); "
                "a mini-batch needs at least one completion"
            )
        if self.mini_batches * self.processes > self.rollout_batch_size:
            raise ValueError(
                f"processes ({self.processes}) x mini_batches ({self.mini_batches}) exceeds "
                f"rollout_batch_size ({self.rollout_batch_size}); each process needs a completion of each "
                "mini-batch"
            )
        sampling = self.generation
        if sampling.temperature == 0 or sampling.top_k or sampling.top_p < 1:
            raise ValueError(
                "generation must sample from the policy itself; set temperature above 0, top_k to 0 and "
                "top_p to 1"
            )
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                "lora.dropout would make the ratio of policies a matter of chance; set it to 0 for PPO"
            )
        if self.lora is not None and self.lora.quantize_4bit:
            raise ValueError(
                "lora.quantize_4bit is for the supervised stages, PPO does not train on a 4-bit base; set it "
                "to false"
            )
        if self.sharding == "fsdp":
            self._shardable()
        if self.kl_loss_coefficient > 0 and self.kl_loss is None:
            raise ValueError("kl_loss_coefficient is set but kl_loss is not; choose k2 or k3")
        if self.critic_warmup_updates >= self.updates:
            raise ValueError(
                f"critic_warmup_updates ({self.critic_warmup_updates}) leaves none of the {self.updates} "
                "updates to the policy; lower it"
            )
        return self

    def _shardable(self) -> None:
        refused = {
            "lora": self.lora is not None,
            "optimizer: adamw_8bit": self.optimizer == "adamw_8bit",
            "rollout_engine: vllm": self.rollout_engine == "vllm",
        }
        for what, chosen in refused.items():
            if chosen:
                raise ValueError(f"sharding: fsdp does not go with {what}; leave one of them out")
