"""The layout's rules: which folder may import which."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_library_imports_no_orchestration_and_pipelines_are_wiring() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_configs_are_validated_without_loading_torch() -> None:
    code = (
        "import sys, rlhf.training.settings, rlhf.training.ppo.settings, rlhf.feedback.settings, "
        "rlhf.evaluation.settings, rlhf.registry.settings; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
