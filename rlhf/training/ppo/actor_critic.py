"""The networks of PPO: the policy, its frozen reference, and a critic that is a model of its own or a value
head.

Loading, precision, and the forward pass that all phases share. Losses and optimizers are elsewhere.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import ConfigError, ModelError
from rlhf.models.causal_attention import attend_short_causal
from rlhf.models.log_probs import (
    CompletionBatch,
    head_logits,
    predicting_states,
    token_entropy,
    token_log_probs,
)
from rlhf.training.ppo.settings import PPOSettings

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


class ActorCritic:
    """Policy, reference and critic on one device, without dropout.

    Args:
        policy: the actor, trained in place.
        critic: a sequence classifier with one output (separate), or ``None`` for a value head on the
        policy's trunk,
            which starts at 0.
        bf16: run passes in bfloat16; weights and heads' outputs stay in single precision.
        temperature: of the rollouts; all log-probabilities are of that policy.
    """

    def __init__(
        self, policy: PreTrainedModel, critic: PreTrainedModel | None, *, bf16: bool, temperature: float
    ) -> None:
        if bf16:
            for model in (policy, critic):
                if model is not None:
                    attend_short_causal(model)
        self.policy = policy.eval()
        self.reference = copy.deepcopy(policy).eval().requires_grad_(False)
        self.critic = None if critic is None else critic.eval().to(policy.device)
        if critic is None:
            self.head: nn.Module = nn.Linear(policy.config.hidden_size, 1).to(policy.device)
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)
        else:
            self.head = critic.get_submodule("score")
        self.bf16 = bf16
        self.temperature = temperature

    @property
    def device(self) -> torch.device:
        """Where all networks are."""
        return self.policy.device

    def value_parameters(self) -> dict[str, nn.Parameter]:
        """The separate critic's parameters, or the value head's, by name."""
        owner = self.head if self.critic is None else self.critic
        return dict(owner.named_parameters())

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
        with self.autocast():
            if actor or (values and self.critic is None):
                with torch.set_grad_enabled(torch.is_grad_enabled() and not freeze_trunk):
                    states, logits = predicting_states(self.policy, batch)
                if actor:
                    logits = self._tempered(head_logits(self.policy, states) if logits is None else logits)
                    log_probs = token_log_probs(logits, batch.targets)
                    if entropy:
                        found_entropy = token_entropy(logits)
            if values and self.critic is not None:
                hidden = self.critic.base_model(input_ids=batch.ids, use_cache=False).last_hidden_state
                states = hidden[batch.predicts]
        if values:
            assert states is not None
            found_values = self.head(states.float())[:, 0]  # bfloat16 would leave values three digits
        return Predictions(log_probs, found_values, found_entropy)

    def reference_log_probs(self, batch: CompletionBatch) -> Tensor:
        """Log-probabilities [N] under the policy that training started from."""
        with self.autocast():
            states, logits = predicting_states(self.reference, batch)
            logits = self._tempered(head_logits(self.reference, states) if logits is None else logits)
            return token_log_probs(logits, batch.targets)

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 where it is on."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _tempered(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        return logits if self.temperature == 1.0 else logits / self.temperature


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
            target.copy_(source)
        return self._copy


class MovingAverage:
    """Exponential moving average of the policy's weights, updated once after each PPO update.

    After n updates a weight is d^n w0 + (1 - d) sum_i d^(n - i) wi.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        for name, parameter in self._model.named_parameters():
            self.weights[name].lerp_(parameter, 1.0 - self._decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged weights in the model; its own are back afterwards."""
        parameters = dict(self._model.named_parameters())
        own = {name: p.detach().clone() for name, p in parameters.items()}
        try:
            copy_into(parameters, self.weights)
            yield
        finally:
            copy_into(parameters, own)


@torch.no_grad()
def copy_into(parameters: dict[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Set parameters from tensors of the same names; the names must agree exactly."""
    if parameters.keys() != values.keys():
        odd = sorted(parameters.keys() ^ values.keys())
        raise ModelError(f"Weights do not fit the model: {', '.join(odd[:5])} on one side only.")
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def load_networks(
    policy_path: Path | str, critic_path: Path | None, settings: PPOSettings
) -> tuple[ActorCritic, PreTrainedTokenizerBase]:
    """Load the policy, its tokenizer and a critic, on the GPU if there is one.

    A separate critic without a model of its own starts from the policy's trunk with a head at 0. Adapters
    are not handled here: merge them before.

    Raises:
        ModelError: a model is absent or of the wrong kind.
        ConfigError: the critic's tokenizer is not the policy's.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = _tokenizer(policy_path)
    try:
        policy: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            policy_path, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"No policy could be loaded from {policy_path} ({error}); run supervised fine-tuning or correct "
            "the path."
        ) from error
    if settings.critic == "shared":
        if critic_path is not None:
            raise ConfigError(
                "A shared critic starts from the policy; leave the critic's directory out or set ppo.critic "
                "to 'separate'."
            )
        critic = None
    else:
        critic = _separate_critic(policy_path, critic_path, tokenizer)
    nn.Module.to(policy, device)
    bf16 = uses_bf16(settings.precision, policy)
    return ActorCritic(policy, critic, bf16=bf16, temperature=settings.generation.temperature), tokenizer


def uses_bf16(precision: str, model: PreTrainedModel) -> bool:
    """Whether passes run in bfloat16: as told, or where the hardware computes in it and the model is large
    enough."""
    if precision != "auto":
        return precision == "bf16"
    if model.device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return bool(native) and model.num_parameters() >= _SMALLEST_BF16_MODEL


def _separate_critic(
    policy_path: Path | str, critic_path: Path | None, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    source = policy_path if critic_path is None else critic_path
    try:
        critic = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=torch.float32, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"No critic could be loaded from {source} ({error}); give a reward model's directory, or none."
        ) from error
    if not hasattr(critic, "score"):
        raise ModelError(
            f"The critic {source} is not a decoder, so it has no value for each token; give a decoder's "
            "reward model, or none."
        )
    if critic_path is None:
        nn.init.zeros_(critic.get_parameter("score.weight"))
    elif _tokenizer(critic_path).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"The critic {critic_path} has another vocabulary than the policy; give a reward model trained "
            "from the same base, or none."
        )
    return critic


def _tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"No tokenizer could be loaded from {path} ({error}); save it beside the weights."
        ) from error
