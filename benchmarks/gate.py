"""How often the gate errs: candidates that equal the champion and candidates that are truly better, thousands
of times through the real gate.

    python -m benchmarks.gate

The criterion is one-sided superiority of the win rate at α = 0.05, without ties. Each gate sees prompts of
its own.
"""

import argparse
import time
from collections import Counter

import numpy as np

from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate import decide
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.promotion import Verdict
from rlhf.registry.settings import Criterion, PromotionSettings

_SETTINGS = PromotionSettings(
    criteria=(Criterion(metric="eval/judge/win_rate", versus="champion", test="superiority"),)
)
_CHAMPION = ChampionRef(version="1", digest="champion")


def simulate(true_win_rate: float, *, prompts: int, gates: int, seed: int) -> Counter[Verdict]:
    """Verdicts on candidates that win each prompt with this probability."""
    rng = np.random.default_rng(seed)
    verdicts: Counter[Verdict] = Counter()
    for won in rng.random((gates, prompts)) < true_win_rate:
        scores = {"judge": {"policy": won.astype(float).tolist(), "champion": (~won).astype(float).tolist()}}
        evidence = Evidence(metrics={}, scores=scores)
        verdicts[decide(evidence, _SETTINGS, _CHAMPION, candidate_digest="candidate").verdict] += 1
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| true win rate | prompts | promote | undecided | reject | seconds |\n|---|---|---|---|---|---|")
    for true_win_rate in (0.45, 0.5, 0.55, 0.6):
        for prompts in (50, 150, 400):
            started = time.perf_counter()
            found = simulate(true_win_rate, prompts=prompts, gates=arguments.gates, seed=arguments.seed)
            seconds = time.perf_counter() - started
            counts = " | ".join(str(found[verdict]) for verdict in ("promote", "undecided", "reject"))
            print(f"| {true_win_rate:.2f} | {prompts} | {counts} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
