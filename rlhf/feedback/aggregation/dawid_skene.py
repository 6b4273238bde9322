"""Dawid and Skene's model of annotators who err each in their own way: true labels and confusion matrices by
expectation-maximisation over sparse judgements."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from rlhf.feedback.aggregation.majority import label_counts

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]

_LEAST = 1e-12


@dataclass(frozen=True)
class DawidSkene:
    """A fitted model of I items, A annotators and K labels."""

    posterior: Floats
    """Probability of each label being the true one, (I, K)."""
    prior: Floats
    """Share of each label among the true ones, (K,)."""
    confusion: Floats
    """Probability of the given label (last axis) by annotator and true label, (A, K, K)."""
    log_likelihood: float
    """Of all judgements under the model, in nats."""
    iterations: int
    converged: bool

    @property
    def reliability(self) -> Floats:
        """Probability that an annotator gives the true label of an item drawn by ``prior``, (A,)."""
        return np.einsum("akk,k->a", self.confusion, self.prior)


def dawid_skene(
    items: Integers,
    annotators: Integers,
    labels: Integers,
    *,
    label_count: int | None = None,
    smoothing: float = 2.0,
    tolerance: float = 1e-5,
    max_iterations: int = 500,
) -> DawidSkene:
    """Fit the model (A. P. Dawid, A. M. Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using
    the EM Algorithm", Applied Statistics 28:20, 1979, eq. 2.3 to 2.5), starting from the shares of votes.
    Steps are extrapolated, which changes the way there and not the end.

    Args:
        items: item of each of n judgements, numbered densely from 0, (n,).
        annotators: its annotator, numbered densely from 0, (n,).
        labels: the label given, 0 to K - 1, (n,).
        label_count: K; by default one more than the largest label.
        smoothing: judgements per true label, distributed like those of all annotators together, that are
            added to each annotator's own; 0 is the paper's maximum likelihood.
        tolerance: iteration ends when the posterior moves less than this on average.
        max_iterations: steps of expectation and maximisation, after which ``converged`` is false.
    """
    counts = label_counts(items, labels, label_count)
    item_count, label_count = counts.shape
    annotator_count = int(annotators.max()) + 1
    order = np.argsort(items, kind="stable")
    item_of = items[order]
    # One number for (annotator, given label): a row of the table of logarithms, a bin of the counts.
    event_of = (annotators[order] * label_count + labels[order]).astype(np.int64)
    starts = np.searchsorted(item_of, np.arange(item_count))

    def step(posterior: Floats) -> tuple[Floats, Floats, Floats, float]:
        """One maximisation and one expectation: posterior, prior, confusion and log-likelihood."""
        prior = posterior.mean(axis=0)
        confusion = np.empty((annotator_count, label_count, label_count))
        for true in range(label_count):
            confusion[:, true, :] = np.bincount(
                event_of, posterior[item_of, true], annotator_count * label_count
            ).reshape(annotator_count, label_count)
        pooled = confusion.sum(axis=0) + _LEAST
        confusion += smoothing * pooled / pooled.sum(axis=1, keepdims=True) + _LEAST
        confusion /= confusion.sum(axis=2, keepdims=True)
        by_event = np.log(confusion).transpose(0, 2, 1).reshape(-1, label_count)
        evidence = np.log(prior + _LEAST) + np.add.reduceat(by_event[event_of], starts, axis=0)
        total = logsumexp(evidence, axis=1, keepdims=True)
        return np.exp(evidence - total), prior, confusion, float(total.sum())

    posterior = counts / counts.sum(axis=1, keepdims=True)
    iterations, converged = 0, False
    while True:
        first, prior, confusion, log_likelihood = step(posterior)
        iterations += 1
        converged = float(np.abs(first - posterior).mean()) < tolerance
        if converged or iterations + 2 > max_iterations:
            return DawidSkene(first, prior, confusion, log_likelihood, iterations, converged)
        second, _, _, reached = step(first)
        posterior, _, _, jumped = step(_extrapolated(posterior, first, second))
        iterations += 2
        if jumped < reached:
            posterior = second


def _extrapolated(start: Floats, first: Floats, second: Floats) -> Floats:
    """Where three iterates in a row are heading: the third scheme of SQUAREM (Varadhan & Roland 2008,
    Scandinavian Journal of Statistics 35:335), which turns thousands of iterations into dozens where few
    judgements overlap."""
    change = first - start
    bend = second - first - change
    length = max(1.0, float(np.linalg.norm(change) / max(float(np.linalg.norm(bend)), _LEAST)))
    jump = np.clip(start + 2.0 * length * change + length**2 * bend, _LEAST, None)
    return jump / jump.sum(axis=1, keepdims=True)
