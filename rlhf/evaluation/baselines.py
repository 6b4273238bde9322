"""What a reward model has to beat: preferring the longer answer, and a bag of words.

A learned model that is no better than these has learnt length or vocabulary, whatever its accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from rlhf.errors import DataError

Pair = tuple[str, str]
"""Texts of the chosen and of the rejected answer to one prompt."""


def longer_wins_accuracy(pairs: Sequence[Pair]) -> float:
    """Share of pairs whose chosen answer is the longer one, in characters; equal lengths count half."""
    _require(pairs)
    return float(np.mean([0.5 if len(c) == len(r) else float(len(c) > len(r)) for c, r in pairs]))


@dataclass(frozen=True)
class BagOfWords:
    """A pairwise logistic model on the difference of TF-IDF vectors (words and word pairs).

    It is a Bradley-Terry model whose score is linear in the words of an answer; it sees no prompt.
    """

    vectorizer: TfidfVectorizer
    weights: np.ndarray
    """Score of one unit of each word, shape (vocabulary,)."""

    @classmethod
    def fit(cls, pairs: Sequence[Pair], *, max_features: int = 50_000) -> "BagOfWords":
        """Fit on training pairs.

        Raises:
            DataError: there are no pairs, or no words in them.
        """
        _require(pairs)
        vectorizer = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, max_features=max_features, token_pattern=r"(?u)\b\w+\b"
        )
        try:
            vectorizer.fit(text for pair in pairs for text in pair)
        except ValueError as error:
            raise DataError(
                "The answers hold no words to compare; check the chosen and rejected columns."
            ) from error
        difference = _difference(vectorizer, pairs)
        # Each pair stands in both orders, so neither side is favoured and no intercept is needed.
        both = sparse.vstack([difference, -difference])
        labels = np.repeat([1, 0], difference.shape[0])
        model = LogisticRegression(fit_intercept=False, max_iter=1000).fit(both, labels)
        return cls(vectorizer, model.coef_[0])

    def accuracy(self, pairs: Sequence[Pair]) -> float:
        """Share of pairs whose chosen answer scores higher; equal scores count half."""
        _require(pairs)
        gap = _difference(self.vectorizer, pairs) @ self.weights
        return float(np.mean((gap > 0) + 0.5 * (gap == 0)))


def _difference(vectorizer: TfidfVectorizer, pairs: Sequence[Pair]) -> sparse.csr_matrix:
    chosen, rejected = zip(*pairs, strict=True)
    return vectorizer.transform(chosen) - vectorizer.transform(rejected)


def _require(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise DataError("A baseline needs at least one pair; add comparisons or enlarge the split.")
