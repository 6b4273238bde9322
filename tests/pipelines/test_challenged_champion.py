"""A champion challenged by really trained policies, through the whole pipeline and the shipped gate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ops import environment

pytestmark = pytest.mark.slow


def test_the_gate_promotes_a_better_policy_and_rejects_one_that_hacked_its_reward(tmp_path: Path) -> None:
    found = tmp_path / "challenges.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.challenges", "--json", str(found)],
        cwd=environment.PROJECT_ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    champion, better, hacked = json.loads(found.read_text())
    assert [run["verdict"] for run in (champion, better, hacked)] == ["promote", "promote", "reject"]
    assert [run["champion"] for run in (champion, better, hacked)] == ["1", "2", "2"]
    # the criteria are the shipped config's, and the judge's
    assert hacked["outcomes"] == {
        "eval/judge/win_rate_vs_sft": "failed",
        "eval/judge/win_rate_vs_champion": "failed",
    }
    assert set(better["outcomes"].values()) == {"met"}
    # it was hacked: what training maximised liked it, and what it stands for did not
    assert hacked["metrics"]["eval/length/policy"] > 1.5 * better["metrics"]["eval/length/policy"]
    assert hacked["metrics"]["eval/gold/policy"] < better["metrics"]["eval/gold/policy"]
