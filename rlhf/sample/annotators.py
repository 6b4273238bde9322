"""The support desk's simulated annotators: what people make of the gold utility when they have to choose.

Choices follow the Bradley-Terry model on the difference of utilities, with Davidson's extension for ties
(R. R. Davidson, "On Extending the Bradley-Terry Model to Accommodate Ties in Paired Comparison Experiments",
JASA 65, 1970, eq. 2.2); on top come the ways in which real annotators fail.
"""

import math
import random
from dataclasses import dataclass

from rlhf.sample.gold import HIGHEST, LOWEST


@dataclass(frozen=True)
class Annotator:
    """How one person judges."""

    name: str
    temperature: float
    """Scale of the noise in points of utility: one temperature of difference makes odds of e."""
    workload: float = 1.0
    """How many pairs this person takes, relative to the others."""
    ties: float = 0.15
    """Davidson's nu: readiness to call a tie; 0 never does."""
    position_bias: float = 0.0
    """Points of utility that the reply shown first gets for being first."""
    guesses: float = 0.0
    """Share of judgements made without reading."""
    inverts: float = 0.0
    """Share of judgements turned round on purpose."""
    star_noise: float = 0.4
    """Standard deviation of a rating, in stars."""


CAREFUL = (
    Annotator("ada", temperature=0.25),
    Annotator("ben", temperature=0.3, workload=1.5),
    Annotator("chloe", temperature=0.35, ties=0.4),
    Annotator("david", temperature=0.4),
    Annotator("elena", temperature=0.45),
)
"""Those whom one would ask again."""

BIASED = Annotator("farid", temperature=0.4, position_bias=0.6)
CARELESS = Annotator("gina", temperature=0.4, workload=0.7, ties=0.3, guesses=0.95, star_noise=1.5)
ADVERSARIAL = Annotator("hugo", temperature=0.4, workload=0.5, inverts=0.85)

ANNOTATORS: tuple[Annotator, ...] = (*CAREFUL, BIASED, CARELESS, ADVERSARIAL)


def judge(
    annotator: Annotator, first: float, second: float, rng: random.Random, *, noise: float = 1.0
) -> int | None:
    """Which of two replies the annotator prefers: 0, 1, or ``None`` for a tie.

    Args:
        first: gold utility of the reply shown first.
        second: gold utility of the reply shown second.
        noise: factor on the temperature.
    """
    read = rng.random() >= annotator.guesses
    difference = first - second + annotator.position_bias if read else 0.0
    choice = _davidson(difference, annotator.temperature * noise, annotator.ties, rng)
    if choice is not None and rng.random() < annotator.inverts:
        return 1 - choice
    return choice


def rate(annotator: Annotator, utility: float, rng: random.Random, *, noise: float = 1.0) -> float:
    """Stars for one reply, a whole number from 1 to 5."""
    if rng.random() < annotator.guesses:
        return float(rng.randint(1, 5))
    stars = 1 + 4 * (utility - LOWEST) / (HIGHEST - LOWEST)
    if rng.random() < annotator.inverts:
        stars = 6 - stars
    return float(min(5, max(1, round(rng.gauss(stars, annotator.star_noise * noise)))))


def choose_annotators(count: int, rng: random.Random) -> list[Annotator]:
    """``count`` different annotators, the busier ones more often."""
    # Efraimidis and Spirakis 2006: the largest of u^(1/w) are a weighted sample without replacement.
    drawn = sorted(ANNOTATORS, key=lambda a: rng.random() ** (1 / a.workload), reverse=True)
    return drawn[:count]


def _davidson(difference: float, temperature: float, ties: float, rng: random.Random) -> int | None:
    if temperature == 0.0:
        # The limit of no noise; equal replies are a tie to anyone who knows ties, else a coin decides.
        if difference == 0.0:
            return None if ties > 0 else rng.randrange(2)
        return 0 if difference > 0 else 1
    # Weights relative to a tie's, so that nothing overflows: utilities differ by less than eight points.
    half = min(300.0, max(-300.0, difference / (2 * temperature)))
    wins, loses = math.exp(half), math.exp(-half)
    draw = rng.random() * (wins + loses + ties)
    if draw < wins:
        return 0
    return 1 if draw < wins + loses else None
