"""A model under examination: what it makes of a text, and what it answers."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.errors import EvaluationError
from rlhf.evaluation.evidence import Role
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt, encode_prompt
from rlhf.models.generation import generate
from rlhf.models.loading import load_policy, load_tokenizer
from rlhf.models.log_probs import completion_log_probs
from rlhf.models.settings_generation import GenerationSettings
from rlhf.models.threads import choose_threads, intra_op_threads

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Respondent:
    """A loaded model with its tokenizer, and how it is asked."""

    role: Role
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generation: GenerationSettings
    seed: int
    batch_size: int
    token_budget: int

    def question(self, text: str) -> Prompt:
        """A text as something to answer: a user's turn for models with a chat template, otherwise as it
        is."""
        return text if self.tokenizer.chat_template is None else [Message(role="user", content=text)]

    def log_likelihoods(self, texts: Sequence[str]) -> list[float | None]:
        """Log-probability of each text as a whole, nats; ``None`` for texts longer than the positions.

        What comes before the first token is BOS, or EOS in tokenizers without one, as in EleutherAI's
        harness.
        """
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        return self._sums([([start], self._ids(text)) for text in texts])

    def continuation_log_likelihoods(
        self, questions: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> list[list[float] | None]:
        """Log-probability of each of the answers to each question, nats; ``None`` where one is too long."""
        pairs: list[tuple[list[int], list[int]]] = []
        for question, options in zip(questions, answers, strict=True):
            prompt = self.question(question)
            ids = encode_prompt(self.tokenizer, prompt)
            space = " " if isinstance(prompt, str) else ""
            pairs += [(ids, self._ids(space + option)) for option in options]
        flat = iter(self._sums(pairs))
        found: list[list[float] | None] = []
        for options in answers:
            values = [next(flat) for _ in options]
            whole = [value for value in values if value is not None]
            found.append(whole if len(whole) == len(values) else None)
        return found

    def answers(self, prompts: Sequence[Prompt]) -> list[str | None]:
        """One sampled answer to each prompt; ``None`` to prompts that leave no room for one. Equal rows of
        different models share their random numbers."""
        limit = self._positions
        lengths = [len(encode_prompt(self.tokenizer, prompt)) for prompt in prompts]
        fitting = [i for i, n in enumerate(lengths) if 0 < n <= limit - self.generation.max_new_tokens]
        found: list[str | None] = [None] * len(prompts)
        if fitting:
            completions = generate(
                self.model,
                self.tokenizer,
                [prompts[i] for i in fitting],
                self.generation,
                seed=self.seed,
                batch_size=self.batch_size,
            )
            for i, completion in zip(fitting, completions, strict=True):
                found[i] = completion.text
        return found

    @property
    def _positions(self) -> int:
        return getattr(self.model.config, "max_position_embeddings", None) or 1_000_000_000

    def _ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise EvaluationError(
                f"The tokenizer of the {self.role} model has no token for {text[:80]!r}; leave out the suite "
                "or use a model that can write it."
            )
        return ids

    def _sums(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float | None]:
        fitting = [i for i, (p, c) in enumerate(pairs) if len(p) + len(c) <= self._positions]
        values = completion_log_probs(self.model, [pairs[i] for i in fitting], token_budget=self.token_budget)
        found: list[float | None] = [None] * len(pairs)
        for i, tokens in zip(fitting, values, strict=True):
            found[i] = float(tokens.double().sum())
        return found


@contextmanager
def respondent(
    role: Role,
    path: Path,
    *,
    base: Path,
    generation: GenerationSettings,
    seed: int,
    batch_size: int,
    token_budget: int,
) -> Iterator[Respondent]:
    """Load a model for as long as it is asked.

    Args:
        base: what the policy was trained from, where it is an adapter.

    Raises:
        ModelError: there is no model at ``path``.
    """
    key = f"evaluation: {role}"
    tokenizer = load_tokenizer(path, key=key)
    model = load_policy(
        path,
        base=base if role == "policy" else None,
        key=key,
        device_map="cuda" if torch.cuda.is_available() else None,
    )
    logger.info("The suites ask %s (%s).", role, path.name)
    with intra_op_threads(choose_threads(model.num_parameters())):
        yield Respondent(role, model, tokenizer, generation, seed, batch_size, token_budget)
