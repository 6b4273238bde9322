"""A champion challenged by really trained policies, through the whole pipeline and the shipped gate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_gate_promotes_a_better_policy_and_rejects_one_that_hacked_its_reward(tmp_path: Path) -> None:
    found = tmp_path / "challenges.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.challenges", "--json", str(found)],
        cwd=environment.PROJECT_ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=840,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    champion, better, hacked = json.loads(found.read_text())
    assert [run["verdict"] for run in (champion, better, hacked)] == ["promote", "promote", "reject"]
    assert [run["champion"] for run in (champion, better, hacked)] == ["1", "2", "2"]
    assert set(better["outcomes"].values()) == {"met"}
    # the judge's criterion would have been enough
    assert hacked["outcomes"]["eval/judge/win_rate_vs_champion"] == "failed"
    assert hacked["outcomes"]["eval/kl"] == hacked["outcomes"]["eval/truncated_share/policy"] == "failed"
    # and it was right: what a reply really is worth, which no reward model was told
    gold = [run["metrics"]["eval/gold/policy"] for run in (hacked, champion, better)]
    assert gold == sorted(gold)
    assert gold[0] < hacked["metrics"]["eval/gold/sft"]
