import krippendorff
import numpy as np
import pytest

from rlhf.feedback.agreement import Level, krippendorff_alpha

# The example of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011, section C: four
# observers, twelve units; 0 stands for missing.
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
        [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
    ]
)


def long(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    observers, units = np.nonzero(table)
    return units, table[observers, units]


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_that_of_krippendorffs_own_example(level: Level, published: float) -> None:
    agreement = krippendorff_alpha(*long(EXAMPLE), level)
    assert agreement is not None
    assert agreement.alpha == pytest.approx(published, abs=5e-4)
    assert (agreement.items, agreement.judgements) == (11, 40)
    assert agreement.interval.low < agreement.alpha <= agreement.interval.high


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_is_that_of_the_krippendorff_package_on_gappy_data(level: Level) -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(1, 6, 80)
    table = np.clip(truth + rng.integers(-1, 2, (6, 80)), 1, 5) * (rng.random((6, 80)) < 0.5)
    agreement = krippendorff_alpha(*long(table), level)
    assert agreement is not None
    expected = krippendorff.alpha(np.where(table == 0, np.nan, table), level_of_measurement=level)
    assert agreement.alpha == pytest.approx(expected, abs=1e-12)


def test_the_interval_is_that_of_a_plain_bootstrap_over_items() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    table = np.where(rng.random((3, 300)) < 0.8, truth, 1 - truth)
    units, values = long(table + 1)
    agreement = krippendorff_alpha(units, values, "nominal")
    assert agreement is not None
    plain = [
        krippendorff.alpha(table[:, rng.integers(0, 300, 300)], level_of_measurement="nominal")
        for _ in range(400)
    ]
    low, high = np.percentile(plain, [2.5, 97.5])
    assert agreement.interval.low == pytest.approx(low, abs=0.02)
    assert agreement.interval.high == pytest.approx(high, abs=0.02)


def test_alpha_of_chance_is_about_zero_and_of_one_mind_is_one() -> None:
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(2000), 2)
    chance = krippendorff_alpha(items, rng.integers(0, 3, 4000), "nominal")
    assert chance is not None
    assert chance.interval.low < 0 < chance.interval.high
    same = krippendorff_alpha(items, np.repeat(rng.integers(0, 3, 2000), 2), "nominal")
    assert same is not None
    assert same.alpha == 1.0


def test_nothing_shared_or_nothing_different_has_no_alpha() -> None:
    assert krippendorff_alpha(np.array([0, 1]), np.array([0, 1]), "nominal") is None
    assert krippendorff_alpha(np.array([0, 0]), np.array([1, 1]), "nominal") is None
    assert krippendorff_alpha(np.array([0, 0, 1]), np.array([1, 1, 2]), "nominal") is None
