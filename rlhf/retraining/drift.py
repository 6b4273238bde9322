"""Drift between the data a champion was trained on and what came in since, as pure functions."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_BINS = 50
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Drift:
    """One test of drift."""

    name: str
    statistic: float
    p_value: float | None
    """None where the statistic itself is compared with a threshold."""
    threshold: float
    drifted: bool

    @property
    def summary(self) -> str:
        """The test as half a sentence."""
        if self.p_value is None:
            return f"{self.name} {self.statistic:.3f} (threshold {self.threshold:g})"
        return f"{self.name} {self.statistic:.3f}, p {self.p_value:.2g} (threshold {self.threshold:g})"


def ks_drift(name: str, before: Sequence[float], after: Sequence[float], threshold: float) -> Drift:
    """Two-sample Kolmogorov-Smirnov test (``scipy.stats.ks_2samp``); drifted where p < ``threshold``."""
    from scipy import stats  # a second to load, and most checks end without a test

    found = stats.ks_2samp(np.asarray(before, float), np.asarray(after, float))
    p_value = float(found.pvalue)
    return Drift(name, float(found.statistic), p_value, threshold, p_value < threshold)


def word_psi(before: Iterable[str], after: Iterable[str]) -> float:
    """Population stability index of words: the 50 commonest of ``before`` and ``after`` together are a bin
    each, the others one more.

    PSI = Σ (q − p)·ln(q / p) over bins, with half an occurrence added to each so that it stays finite
    (Siddiqi 2006, Credit Risk Scorecards, ch. 9). Digits are no words: numbers are mostly unique.
    """
    counts = [_words(before), _words(after)]
    common = [
        word for word, _ in sorted((counts[0] + counts[1]).items(), key=lambda e: (-e[1], e[0]))[:_BINS]
    ]
    shares = []
    for count in counts:
        bins = np.array([count[word] for word in common] + [count.total()], float)
        bins[-1] -= bins[:-1].sum()
        bins += 0.5
        shares.append(bins / bins.sum())
    p, q = shares
    return float(np.sum((q - p) * np.log(q / p)))


def psi_drift(name: str, before: Iterable[str], after: Iterable[str], threshold: float) -> Drift:
    """:func:`word_psi` against a threshold."""
    value = word_psi(before, after)
    return Drift(name, value, None, threshold, value > threshold)


def _words(texts: Iterable[str]) -> Counter[str]:
    return Counter(word.lower() for text in texts for word in _WORD.findall(text))
