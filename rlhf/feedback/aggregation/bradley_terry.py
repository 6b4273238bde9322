"""Bradley and Terry's model of paired comparisons: one strength for each response, from all rankings of
them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bradley_terry(
    wins: Floats, *, smoothing: float = 0.5, tolerance: float = 1e-9, max_iterations: int = 10_000
) -> Floats:
    """Log-strengths by minorisation-maximisation (D. R. Hunter, "MM Algorithms for Generalized Bradley-Terry
    Models", Annals of Statistics 32:384, 2004, eq. 3); i beats j with probability σ(βᵢ − βⱼ).

    Args:
        wins: how often i beat j, (n, n); a tie is half a win for both.
        smoothing: wins added in both directions to every pair that was compared, which keeps the strengths
            of unbeaten responses finite; a half is Jeffreys' choice for a single pair.
        tolerance: iteration ends when no log-strength moves by more than this.
        max_iterations: iteration ends here in any case.

    Returns:
        Log-strengths with a mean of zero, (n,). Responses that no chain of comparisons connects have no
        meaningful difference.
    """
    compared = (wins + wins.T) > 0
    smoothed = wins + smoothing * compared
    games = smoothed + smoothed.T
    won = smoothed.sum(axis=1)
    played = won > 0
    strengths = np.ones(len(wins))
    for _ in range(max_iterations):
        expected = (games / (strengths[:, None] + strengths[None, :])).sum(axis=1)
        updated = np.divide(won, expected, out=np.ones_like(won), where=played)
        updated /= np.exp(np.log(updated).mean())
        moved = np.abs(np.log(updated) - np.log(strengths)).max()
        strengths = updated
        if moved <= tolerance:
            break
    log_strengths = np.log(strengths)
    return log_strengths - log_strengths.mean()


def wins_of_rankings(rankings: list[dict[str, int]], responses: list[str]) -> Floats:
    """How often each response was ranked above each other, ties as half a win for both, (n, n).

    Args:
        rankings: rank by response, 1 is best; a ranking need not hold all responses.
        responses: the responses in the order of rows and columns.
    """
    wins = np.zeros((len(responses), len(responses)))
    number = {response: index for index, response in enumerate(responses)}
    for ranking in rankings:
        at = np.array([number[response] for response in ranking])
        ranks = np.array(list(ranking.values()))
        wins[np.ix_(at, at)] += (ranks[:, None] < ranks[None, :]) + 0.5 * (ranks[:, None] == ranks[None, :])
    np.fill_diagonal(wins, 0.0)
    return wins
