"""The networks of PPO: the policy, its frozen reference, and a critic that is a model of its own or a value
head.

Loading, precision, and the forward pass that all phases share. Losses and optimizers are elsewhere.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import ConfigError, ModelError
from rlhf.models.causal_attention import attend_short_causal
from rlhf.models.loading import load_policy, load_reward_model, load_tokenizer
from rlhf.models.log_probs import CompletionBatch, predicting_states, score_completions
from rlhf.training.ppo.activation_checkpointing import activation_checkpointing, require_recomputable
from rlhf.training.ppo.adapters import (
    adapter_off,
    attach_adapter,
    carries_adapter,
    trained_parameters,
    trunk_copy,
)
from rlhf.training.ppo.batching import derived_seed
from rlhf.training.ppo.optimizers import require_optimizer
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.ppo.sharding import placed_like, process_mesh, refresh, shard

_SMALLEST_BF16_MODEL = 500_000
"""Parameters below which the casts of bfloat16 autocast cost more on CPU than its products save."""


@dataclass(frozen=True)
class Predictions:
    """One forward pass over N completion tokens; what was not asked for is ``None``."""

    log_probs: Tensor | None
    """[N] of the sampled tokens, in nats."""
    values: Tensor | None
    """[N] estimates before each token."""
    entropy: Tensor | None
    """[N] in nats."""


class CompletionPass(nn.Module):
    """A policy's pass over a batch as one module: trunk and head may share a weight, so they are sharded
    together."""

    def __init__(self, policy: PreTrainedModel) -> None:
        super().__init__()
        self.policy = policy

    def forward(
        self, batch: CompletionBatch, *, actor: bool, entropy: bool, temperature: float, sharded: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """States [N, D] that predict the completion tokens, and for the actor their tokens' log-probabilities
        [N] and if asked for the entropies [N]."""
        if not actor:
            return predicting_states(self.policy, batch)[0], None, None
        # a sharded head is whole during this call only: its logits cannot be computed again
        log_probs, entropies, states = score_completions(
            self.policy, batch, temperature=temperature, entropy=entropy, keep_logits=sharded
        )
        return states, log_probs, entropies


class ActorCritic:
    """Policy, reference and critic on one device, without dropout.

    Args:
        policy: the actor, trained in place; if it carries an adapter, the reference is the policy without it.
        critic: a sequence classifier with one output (separate), or ``None`` for a value head on the
        policy's trunk,
            which starts at 0.
        bf16: run passes in bfloat16; weights and heads' outputs stay in single precision.
        temperature: of the rollouts; all log-probabilities are of that policy.
        recompute: keep no activations inside of layers for the backward pass (``activation_checkpointing``).
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        critic: PreTrainedModel | None,
        *,
        bf16: bool,
        temperature: float,
        recompute: bool = False,
    ) -> None:
        if bf16:
            for model in (policy, critic):
                if model is not None:
                    attend_short_causal(model)
        self.policy = policy.eval()
        self._reference = (
            None if carries_adapter(policy) else copy.deepcopy(policy).eval().requires_grad_(False)
        )
        self.critic = None if critic is None else critic.eval().to(policy.device)
        if critic is None:
            self.head: nn.Module = nn.Linear(policy.config.hidden_size, 1).to(policy.device)
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)
        else:
            self.head = critic.get_submodule("score")
        self._pass = CompletionPass(self.policy)
        self._reference_pass = self._pass if self._reference is None else CompletionPass(self._reference)
        self._whole_policy: PreTrainedModel | None = None
        self.bf16 = bf16
        self.temperature = temperature
        self._recompute = recompute

    @property
    def device(self) -> torch.device:
        """Where all networks are."""
        return self.policy.device

    @property
    def sampler(self) -> PreTrainedModel:
        """The network that answers prompts and is delivered: the policy, or where that is sharded a whole
        copy with the weights of the last :meth:`refresh_sampler`."""
        return self.policy if self._whole_policy is None else self._whole_policy

    def shard(self) -> None:
        """Move all networks to the processes' devices and leave each process its share of them, with a whole
        copy of the policy to sample from. Not with adapters."""
        device = training_device()
        self._whole_policy = copy.deepcopy(self.policy).to(device)
        mesh = process_mesh(device)
        trunk = None if self.critic is None else self.critic.base_model
        for network in (self._pass, self._reference_pass, trunk, self.head):
            if network is not None:
                shard(mesh, network)

    def refresh_sampler(self) -> None:
        """Give :attr:`sampler` the policy's present weights; all processes at once."""
        if self._whole_policy is not None:
            refresh(self._whole_policy, self.policy)

    def policy_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the policy, by name: all of it, or its adapter."""
        return trained_parameters(self.policy)

    def value_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the separate critic, or the value head, by name."""
        return trained_parameters(self.head if self.critic is None else self.critic)

    def predict(
        self,
        batch: CompletionBatch,
        *,
        actor: bool = True,
        values: bool = True,
        entropy: bool = False,
        freeze_trunk: bool = False,
    ) -> Predictions:
        """Run actor and critic on a batch.

        Args:
            freeze_trunk: let no gradient reach a trunk that actor and critic share.
        """
        log_probs = found_values = found_entropy = states = None
        with self.autocast(), self._recomputing():
            if actor or (values and self.critic is None):
                with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_trunk):
                    states, log_probs, found_entropy = self._scored(self._pass, batch, actor, entropy)
            if values and self.critic is not None:
                hidden = self.critic.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
                states = hidden[batch.predicts]
        if values:
            assert states is not None
            found_values = self.head(states.float())[:, 0]  # bfloat16 would leave values three digits
        return Predictions(log_probs, found_values, found_entropy)

    def log_probs_and_entropy(self, batch: CompletionBatch) -> tuple[Tensor, Tensor]:
        """The actor's log-probabilities [N] and entropies [N], in nats."""
        predicted = self.predict(batch, values=False, entropy=True)
        assert predicted.log_probs is not None
        assert predicted.entropy is not None
        return predicted.log_probs, predicted.entropy

    def reference_log_probs(self, batch: CompletionBatch) -> Tensor:
        """Log-probabilities [N] under the policy that training started from."""
        with self.reference_policy(), self.autocast():
            _, log_probs, _ = self._scored(self._reference_pass, batch)
            assert log_probs is not None
            return log_probs

    @contextmanager
    def reference_policy(self) -> Iterator[PreTrainedModel]:
        """The policy that training started from; with an adapter the policy itself, which is not to be used
        inside."""
        if self._reference is not None:
            yield self._reference
        else:
            with adapter_off(self.policy):
                yield self.policy

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 where it is on."""
        return torch.autocast(
            self.device.type,
            dtype=torch.bfloat16,
            enabled=self.bf16,
            cache_enabled=self._whole_policy is None,  # it would hold all layers' casts beyond their turn
        )

    def _recomputing(self) -> AbstractContextManager[None]:
        if not (self._recompute and torch.is_grad_enabled()):
            return nullcontext()
        return activation_checkpointing(*(m for m in (self.policy, self.critic) if m is not None))

    def _scored(
        self, network: CompletionPass, batch: CompletionBatch, actor: bool = True, entropy: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        sharded = self._whole_policy is not None
        found: tuple[Tensor, Tensor | None, Tensor | None] = network(
            batch, actor=actor, entropy=entropy, temperature=self.temperature, sharded=sharded
        )
        return found


class RolloutPolicy:
    """The network that samples: the policy itself, or a bfloat16 copy of it that is refreshed before use."""

    def __init__(self, policy: PreTrainedModel, *, bf16: bool) -> None:
        self._policy = policy
        self._copy = copy.deepcopy(policy).bfloat16().requires_grad_(False) if bf16 else None

    @property
    def is_copy(self) -> bool:
        """Whether rollouts come from other numerics than training's, and need importance weights."""
        return self._copy is not None

    @torch.no_grad()
    def current(self) -> PreTrainedModel:
        """The network with the policy's present weights."""
        if self._copy is None:
            return self._policy
        for target, source in zip(self._copy.parameters(), self._policy.parameters(), strict=True):
            if source.requires_grad:
                target.copy_(source)
        return self._copy


class MovingAverage:
    """Exponential moving average of the policy's trained weights, updated once after each PPO update.

    After n updates a weight is d^n w0 + (1 - d) sum_i d^(n - i) wi.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        for name, parameter in self._parameters.items():
            self.weights[name].lerp_(parameter, 1.0 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged weights in the model; its own are back afterwards."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            copy_into(self._parameters, self.weights)
            yield
        finally:
            copy_into(self._parameters, own)


@torch.no_grad()
def copy_into(parameters: dict[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Set parameters from tensors of the same names; the names must agree exactly."""
    if parameters.keys() != values.keys():
        odd = sorted(parameters.keys() ^ values.keys())
        raise ModelError(f"Weights do not fit the model: {', '.join(odd[:5])} on one side only.")
    for name, parameter in parameters.items():
        parameter.copy_(placed_like(values[name], parameter))


def load_networks(
    policy_path: Path | str,
    critic_path: Path | None,
    settings: PPOSettings,
    *,
    policy_base: Path | str | None = None,
) -> tuple[ActorCritic, PreTrainedTokenizerBase]:
    """Load the policy, its tokenizer and a critic, on the GPU if there is one, but those to be sharded on the
    CPU: a GPU need never hold them whole.

    A separate critic without a model of its own starts from the policy's trunk with a head at 0; with
    ``ppo.lora`` both then hold the frozen weights once. A policy that is an unmerged adapter is merged with
    ``policy_base`` in memory.

    Raises:
        ModelError: a model is absent or of the wrong kind.
        ConfigError: the critic's tokenizer is not the policy's, or the settings ask for what this machine or
            model cannot do.
    """
    require_optimizer(settings)
    policy = load_policy(policy_path, base=policy_base, key="policy")
    policy.requires_grad_(True)  # merging an adapter leaves its base frozen
    tokenizer = load_tokenizer(policy_path, key="policy")
    if settings.critic == "shared":
        if critic_path is not None:
            raise ConfigError(
                "A shared critic starts from the policy; leave the critic's directory out or set ppo.critic "
                "to 'separate'."
            )
        critic = None
    elif critic_path is None:
        critic = _critic_from_policy(policy, share=settings.lora is not None)
    else:
        critic = _critic_from_reward_model(critic_path, tokenizer)
    if settings.gradient_checkpointing:
        for model in (policy, critic):
            if model is not None:
                require_recomputable(model)
    if settings.lora is not None:
        attach_adapter(policy, settings.lora, "policy", seed=derived_seed(settings.seed, "adapters", 0))
        if critic is not None:
            attach_adapter(critic, settings.lora, "critic", seed=derived_seed(settings.seed, "adapters", 1))
    if settings.sharding == "none":
        nn.Module.to(policy, training_device())
    models = ActorCritic(
        policy,
        critic,
        bf16=uses_bf16(settings.precision, policy),
        temperature=settings.generation.temperature,
        recompute=settings.gradient_checkpointing,
    )
    return models, tokenizer


def training_device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def uses_bf16(precision: str, model: PreTrainedModel) -> bool:
    """Whether passes run in bfloat16: as told, or where the hardware computes in it and the model is large
    enough."""
    if precision != "auto":
        return precision == "bf16"
    if training_device().type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return bool(native) and model.num_parameters() >= _SMALLEST_BF16_MODEL


def _critic_from_policy(policy: PreTrainedModel, *, share: bool) -> PreTrainedModel:
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    try:
        with torch.device("meta"):  # its weights are the policy's
            critic: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise ModelError(
            f"The policy, a {type(policy).__name__}, has no form with a score head to start a critic from; "
            "give a reward model's directory, or set ppo.critic to 'shared'."
        ) from error
    _require_token_values(critic, "that starts from the policy")
    setattr(critic, critic.base_model_prefix, trunk_copy(policy, critic.config, share=share))
    critic.score = nn.Linear(config.get_text_config().hidden_size, 1, bias=False)
    nn.init.zeros_(critic.score.weight)
    return critic


def _critic_from_reward_model(path: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    critic = load_reward_model(path, key="critic")
    _require_token_values(critic, str(path))
    if load_tokenizer(path, key="critic").get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"The critic {path} has another vocabulary than the policy; give a reward model trained "
            "from the same base, or none."
        )
    return critic


def _require_token_values(critic: PreTrainedModel, which: str) -> None:
    if not hasattr(critic, "score"):
        raise ModelError(
            f"The critic {which} is not a decoder, so it has no value for each token; give a decoder's "
            "reward model, or none."
        )
