"""What can be said of answers as language, whatever they are worth: variety, repetition, and whether they are
in the language of their prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.language import language_of
from rlhf.models.chat import Prompt


def distinct_n(token_ids: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams over all n-grams of all sequences (Li et al., *A Diversity-Promoting Objective
    Function for Neural Conversation Models*, 2016); 0 where there is none. Depends on how much text there is:
    compare on the same prompts only."""
    grams = [gram for ids in token_ids for gram in _grams(ids, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(token_ids: Sequence[int], n: int = 4) -> float:
    """Share of a sequence's n-grams that stood in it before (seq-rep-n of Welleck et al., *Neural Text
    Generation with Unlikelihood Training*, 2020); 0 for sequences shorter than n."""
    grams = _grams(token_ids, n)
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class LanguageMatch:
    """How many answers are in the language of their prompt."""

    alike: int
    decided: int
    """Answers whose language is known, as is their prompt's."""


def language_match(prompts: Sequence[Prompt], answers: Sequence[str]) -> LanguageMatch:
    """Compare each answer's language with that of the last turn of its prompt."""
    asked = {text: language_of(text) for text in {_question(prompt) for prompt in prompts}}
    pairs = [
        (asked[_question(prompt)], language_of(answer) if asked[_question(prompt)] else None)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    decided = [(one, other) for one, other in pairs if one is not None and other is not None]
    return LanguageMatch(sum(one == other for one, other in decided), len(decided))


@dataclass(frozen=True)
class LengthHistogram:
    """How long the answers of several models are, in common bins."""

    edges: Sequence[float]
    """Tokens, EOS included; one more than there are bins. The last edge belongs to the last bin."""
    shares: Mapping[str, Sequence[float]]
    """Share of a model's answers in each bin, by model."""


def length_histogram(lengths: Mapping[str, Sequence[int]], *, bins: int = 16) -> LengthHistogram:
    """Histogram of each model's lengths in at most ``bins`` bins of whole tokens."""
    longest = max(max(values) for values in lengths.values())
    width = max(1, -(-longest // bins))
    edges = np.arange(0, longest + width, width, dtype=np.float64)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in lengths.items()}
    return LengthHistogram(edges.tolist(), {name: values.tolist() for name, values in shares.items()})


def _grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def _question(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
