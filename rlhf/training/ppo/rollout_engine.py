"""What samples the rollouts: the interface, this project's own decoding loop, and the choice of an engine."""

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.models.generation import Completion, generate_from_ids
from rlhf.models.settings_generation import GenerationSettings
from rlhf.training.ppo.actor_critic import ActorCritic, RolloutPolicy
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.processes import Processes


class RolloutEngine(Protocol):
    """Samples completions from the policy's present weights."""

    other_numerics: bool
    """Whether it samples by other numerics than those of training, so that importance weights are needed."""

    def sync(self, policy: PreTrainedModel) -> None:
        """Take the policy's weights over. Called by all processes, before each update's rollouts."""
        ...

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        seed: int,
        rows: Sequence[int],
    ) -> list[Completion]:
        """One completion for each prompt, with its tokens' log-probabilities as the engine computed them.

        Args:
            rows: each prompt's index among the update's prompts, of which another process may have others.
        """
        ...


class OwnEngine:
    """The decoding loop of ``rlhf.models.generation``, in the training process and on its device.

    Each row's random numbers follow from seed and index alone, so that resumed runs repeat their rollouts.
    """

    def __init__(
        self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, bf16: bool, batch_size: int
    ) -> None:
        self._sampler = RolloutPolicy(policy, bf16=bf16)
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._model = policy
        self.other_numerics = self._sampler.is_copy

    def sync(self, policy: PreTrainedModel) -> None:
        self._model = self._sampler.current()

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        seed: int,
        rows: Sequence[int],
    ) -> list[Completion]:
        return generate_from_ids(
            self._model,
            self._tokenizer,
            prompt_ids,
            settings,
            seed=seed,
            batch_size=self._batch_size,
            rows=rows,
        )


def rollout_engine(
    models: ActorCritic, tokenizer: PreTrainedTokenizerBase, settings: PPOSettings, processes: Processes
) -> RolloutEngine:
    """The engine that the settings name.

    Raises:
        ConfigError: it is not installed, or cannot serve this run.
    """
    if settings.rollout_engine == "vllm":
        # imported here: the engine is an extra
        from rlhf.training.ppo.vllm_rollouts import VLLMEngine

        return VLLMEngine(models.sampler, tokenizer, settings, processes)
    return OwnEngine(models.sampler, tokenizer, bf16=models.bf16, batch_size=settings.generation_batch_size)
