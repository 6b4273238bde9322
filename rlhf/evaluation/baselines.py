"""What a reward model has to beat: preferring the longer answer, and a bag of words, for pairs or for
ratings.

A learned model that is no better than these has learnt length or vocabulary, whatever its accuracy.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, ShuffleSplit

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
        vectorizer = _vectorizer((text for pair in pairs for text in pair), max_features)
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


@dataclass(frozen=True)
class BagOfWordsRidge:
    """Ridge regression of ratings on the TF-IDF vectors (words and word pairs) of the answers; it sees no
    prompt. The penalty is chosen by the squared error on a fifth of the answers."""

    vectorizer: TfidfVectorizer
    model: Ridge

    @classmethod
    def fit(
        cls, texts: Sequence[str], ratings: Sequence[float], *, max_features: int = 50_000
    ) -> "BagOfWordsRidge":
        """Fit on training rows.

        Raises:
            DataError: there are no texts, or no words in them.
        """
        vectorizer = _vectorizer(texts, max_features)
        # Iterative: the closed form holds a dense matrix of answers by answers.
        search = GridSearchCV(
            Ridge(solver="lsqr"),
            {"alpha": np.logspace(-1, 2, 4)},
            scoring="neg_mean_squared_error",
            cv=ShuffleSplit(n_splits=1, test_size=0.2, random_state=0),
        )
        words = vectorizer.transform(texts)
        model = (
            search.fit(words, ratings).best_estimator_ if len(ratings) > 1 else Ridge().fit(words, ratings)
        )
        return cls(vectorizer, model)

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Ratings of texts, shape (n,)."""
        return self.model.predict(self.vectorizer.transform(texts))


def _vectorizer(texts: Iterable[str], max_features: int) -> TfidfVectorizer:
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=max_features, token_pattern=r"(?u)\b\w+\b"
    )
    try:
        return vectorizer.fit(texts)
    except ValueError as error:
        raise DataError(
            "The answers hold no words for a baseline; check the columns that they are read from."
        ) from error


def _difference(vectorizer: TfidfVectorizer, pairs: Sequence[Pair]) -> sparse.csr_matrix:
    chosen, rejected = zip(*pairs, strict=True)
    return vectorizer.transform(chosen) - vectorizer.transform(rejected)


def _require(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise DataError("A baseline needs at least one pair; add comparisons or enlarge the split.")
