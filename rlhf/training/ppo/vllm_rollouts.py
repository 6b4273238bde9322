"""Rollouts from vLLM, through TRL's trainer-independent ``VLLMGeneration``. vLLM itself is an extra."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl.import_utils import is_vllm_available

from rlhf.errors import ConfigError, TrainingError
from rlhf.models.chat import decode_completion
from rlhf.models.generation import Completion, stop_token_ids
from rlhf.models.settings_generation import GenerationSettings
from rlhf.training.ppo.actor_critic import copy_into
from rlhf.training.ppo.adapters import carries_adapter, merged_weights, require_mergeable
from rlhf.training.ppo.settings import PPOSettings
from rlhf.training.processes import Processes


class VLLMEngine:
    """vLLM beside the trainer on its GPU (``colocate``), or a ``vllm serve`` of its own (``server``).

    vLLM batches by its own clock and draws from random streams of its own, so the seed is not used: rollouts
    are not repeatable, and a resumed run is a valid continuation but not the same bits. A policy with an
    adapter is merged into a bfloat16 copy at each sync.

    Raises:
        ConfigError: vLLM is not installed, the processes would have unequal shares of the prompts, or the
            policy's adapter is of a kind that cannot be merged.
    """

    other_numerics = True

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: PPOSettings,
        processes: Processes,
    ) -> None:
        if not is_vllm_available():
            raise ConfigError(
                "ppo.rollout_engine is 'vllm', but vLLM is not installed; install the extra (pip install "
                "'rlhf-pipeline[vllm]'), or set it to 'own'."
            )
        if settings.rollout_batch_size % processes.count:
            raise ConfigError(
                f"vLLM deals prompts to processes in equal shares; make ppo.rollout_batch_size "
                f"({settings.rollout_batch_size}) a multiple of {processes.count}."
            )
        require_mergeable(policy)
        from trl.generation.vllm_generation import VLLMGeneration  # needs vLLM's own modules

        vllm = settings.vllm
        # vLLM knows the architecture's own modules only
        self._merged = _without_weights(policy) if carries_adapter(policy) else None
        self._stop = stop_token_ids(policy, tokenizer)
        self._tokenizer = tokenizer
        self._generation = VLLMGeneration(
            policy if self._merged is None else self._merged,
            Accelerator(),
            tokenizer,
            mode=vllm.mode,
            server_base_url=vllm.server_url,
            gpu_memory_utilization=vllm.gpu_memory_utilization,
            enable_sleep_mode=vllm.sleep,
            temperature=settings.generation.temperature,
            max_completion_length=settings.generation.max_new_tokens,
            generation_kwargs={"stop_token_ids": sorted(self._stop)},
        )

    def sync(self, policy: PreTrainedModel) -> None:
        if self._merged is not None:
            copy_into(dict(self._merged.named_parameters()), merged_weights(policy))
        self._generation.sync_weights()

    def generate(
        self,
        prompt_ids: Sequence[Sequence[int]],
        settings: GenerationSettings,
        *,
        seed: int,
        rows: Sequence[int],
    ) -> list[Completion]:
        _, tokens, log_probs, _ = self._generation.generate(
            [list(ids) for ids in prompt_ids], images=None, num_generations=1
        )
        return [
            self._completion(prompt, ids, chosen)
            for prompt, ids, chosen in zip(prompt_ids, tokens, log_probs, strict=True)
        ]

    def _completion(
        self, prompt: Sequence[int], ids: Sequence[int], log_probs: Sequence[Sequence[float | None]]
    ) -> Completion:
        """Of each token's log-probabilities the only one is the sampled token's (``logprobs=0``)."""
        known = [value for (value,) in log_probs if value is not None]
        if not ids or len(known) != len(ids):
            raise TrainingError(
                f"vLLM gave {len(known)} log-probabilities for {len(ids)} tokens; check the server's version "
                "and its --logprobs-mode, or set ppo.rollout_engine to 'own'."
            )
        return Completion(
            prompt_ids=tuple(prompt),
            token_ids=tuple(ids),
            text=decode_completion(self._tokenizer, list(ids)),
            log_probs=tuple(known),
            finished=ids[-1] in self._stop,
        )


def _without_weights(policy: PreTrainedModel) -> PreTrainedModel:
    """A bfloat16 model of the policy's shape without adapter modules; its weights come at each sync."""
    plain: PreTrainedModel = AutoModelForCausalLM.from_config(policy.config, dtype=torch.bfloat16)
    plain.name_or_path = policy.name_or_path
    return plain.to(policy.device).requires_grad_(False)  # type: ignore[arg-type]
