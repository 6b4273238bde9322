"""Which answers people see side by side: the worst, the best and some at random, the same on every run."""

import numpy as np
import numpy.typing as npt


def choose_samples(differences: npt.NDArray[np.float64], count: int, *, seed: int) -> list[tuple[int, str]]:
    """Positions to show and why: a third of the lowest and of the highest differences, the rest at random.

    Only the best would flatter, only random ones hide the failures. Equal differences are taken in order of
    position.

    Args:
        differences: shape ``[answers]``, new model minus old, in the judging reward's unit.
        count: how many to show; all where there are fewer.

    Returns:
        ``(position, "worst" | "best" | "random")``, without repetition.
    """
    count = min(count, len(differences))
    third = count // 3
    order = np.argsort(differences, kind="stable")
    worst, best = order[:third], order[len(order) - third :][::-1]
    rest = np.sort(order[third : len(order) - third])
    random = np.sort(np.random.default_rng(seed).choice(rest, count - 2 * third, replace=False))
    return [
        (int(position), label)
        for label, positions in (("worst", worst), ("best", best), ("random", random))
        for position in positions
    ]
