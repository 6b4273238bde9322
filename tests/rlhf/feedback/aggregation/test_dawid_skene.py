import numpy as np
import pytest

from rlhf.feedback.aggregation.dawid_skene import DawidSkene, dawid_skene
from rlhf.feedback.aggregation.majority import label_counts, plurality

Judgements = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def crowd(seed: int, accuracies: list[float], items: int, per_item: int, labels: int = 3) -> Judgements:
    """True labels, and item, annotator and label of every judgement; an error is any other label."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, labels, items)
    item = np.repeat(np.arange(items), per_item)
    annotator = np.concatenate([rng.choice(len(accuracies), per_item, replace=False) for _ in range(items)])
    wrong = (truth[item] + rng.integers(1, labels, len(item))) % labels
    right = rng.random(len(item)) < np.array(accuracies)[annotator]
    return truth, item, annotator, np.where(right, truth[item], wrong)


def by_the_book(
    items: np.ndarray, annotators: np.ndarray, labels: np.ndarray, count: int, steps: int
) -> DawidSkene:
    """Dawid & Skene's equations 2.3 to 2.5 as they are written, one judgement after the other."""
    given = np.zeros((items.max() + 1, annotators.max() + 1, count))
    for item, annotator, label in zip(items, annotators, labels, strict=True):
        given[item, annotator, label] += 1
    posterior = given.sum(axis=1) / given.sum(axis=(1, 2))[:, None]
    for _ in range(steps):
        confusion = np.einsum("ij,iak->ajk", posterior, given)
        confusion /= confusion.sum(axis=2, keepdims=True)
        prior = posterior.mean(axis=0)
        likelihood = np.ones_like(posterior) * prior
        for item in range(len(given)):
            for true in range(count):
                likelihood[item, true] *= np.prod(confusion[:, true, :] ** given[item])
        posterior = likelihood / likelihood.sum(axis=1, keepdims=True)
    log_likelihood = float(np.log(likelihood.sum(axis=1)).sum())
    return DawidSkene(posterior, prior, confusion, log_likelihood, steps, True)


def test_without_smoothing_it_ends_where_the_papers_equations_end() -> None:
    _, *judgements = crowd(1, [0.9, 0.8, 0.7, 0.4], items=60, per_item=4)
    fitted = dawid_skene(*judgements, smoothing=0, tolerance=1e-10, max_iterations=5000)
    expected = by_the_book(*judgements, count=3, steps=3000)
    assert fitted.converged
    assert np.allclose(fitted.posterior, expected.posterior, atol=1e-5)
    assert np.allclose(fitted.confusion, expected.confusion, atol=1e-4)
    assert fitted.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-4)


def test_it_beats_the_majority_where_some_are_careless_and_some_adversarial() -> None:
    accuracies = [0.85] * 10 + [0.4] * 6 + [0.1] * 4
    for seed in range(3):
        truth, *judgements = crowd(seed, accuracies, items=1500, per_item=5)
        fitted = dawid_skene(*judgements)
        majority = (plurality(label_counts(judgements[0], judgements[2])) == truth).mean()
        modelled = (fitted.posterior.argmax(axis=1) == truth).mean()
        print(f"seed {seed}: majority {majority:.1%}, Dawid-Skene {modelled:.1%}")
        assert modelled > majority + 0.1


def test_it_finds_out_how_reliable_each_annotator_is_and_how_the_adversary_errs() -> None:
    accuracies = [0.9, 0.8, 0.7, 0.6, 0.05]
    truth, *judgements = crowd(0, accuracies, items=3000, per_item=4, labels=2)
    fitted = dawid_skene(*judgements)
    assert np.allclose(fitted.reliability, accuracies, atol=0.04)
    assert fitted.confusion[4, 0, 1] > 0.9
    confident = fitted.posterior.max(axis=1) > 0.95
    assert (fitted.posterior.argmax(axis=1) == truth)[confident].mean() > 0.95


def test_probabilities_are_probabilities_and_one_judgement_is_enough() -> None:
    for smoothing in (0.0, 2.0):
        fitted = dawid_skene(np.array([0]), np.array([0]), np.array([1]), label_count=3, smoothing=smoothing)
        assert fitted.posterior.shape == (1, 3)
        assert fitted.posterior[0].argmax() == 1
        for shares in (fitted.posterior, fitted.prior, fitted.confusion):
            assert np.allclose(shares.sum(axis=-1), 1)
            assert np.isfinite(shares).all()


def test_smoothing_draws_annotators_of_few_judgements_to_the_average() -> None:
    _, *judgements = crowd(2, [0.9] * 8, items=200, per_item=3)
    items, annotators, labels = judgements
    # A newcomer who disagreed once.
    items = np.append(items, 0)
    annotators = np.append(annotators, 8)
    labels = np.append(labels, (labels[0] + 1) % 3)
    free = dawid_skene(items, annotators, labels, smoothing=0)
    drawn = dawid_skene(items, annotators, labels, smoothing=20)
    average = drawn.reliability[:8].mean()
    assert abs(drawn.reliability[8] - average) < abs(free.reliability[8] - average)
    assert drawn.reliability[8] < average


def test_what_does_not_converge_says_so() -> None:
    _, *judgements = crowd(0, [0.7, 0.6, 0.5], items=100, per_item=2)
    assert not dawid_skene(*judgements, max_iterations=3).converged
    assert dawid_skene(*judgements).converged
