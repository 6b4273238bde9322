import json
import os
import pty
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, os, pathlib, sys
from ops import environment
environment.configure()
names = ("TQDM_DISABLE", "ZENML_LOGGING_COLORS_DISABLED")
pathlib.Path(sys.argv[1]).write_text(json.dumps([os.environ.get(name) for name in names]))
"""


def _configured(tmp_path: Path, stdout: int, stderr: int) -> list[str | None]:
    """Whether bars and colours are off in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TQDM_", "ZENML_"))}
    environment = {**kept, "RLHF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "found")]
    subprocess.run(
        command, stdout=stdout, stderr=stderr, env=environment, cwd=Path(__file__).parents[2], check=True
    )
    found: list[str | None] = json.loads((tmp_path / "found").read_text())
    return found


def test_bars_and_colours_are_off_where_nobody_sees_them(tmp_path: Path) -> None:
    terminal, other_end = pty.openpty()
    try:
        assert _configured(tmp_path, other_end, other_end) == [None, None]
        assert _configured(tmp_path, subprocess.DEVNULL, other_end) == [None, "true"]
        assert _configured(tmp_path, subprocess.DEVNULL, subprocess.DEVNULL) == ["1", "true"]
    finally:
        os.close(terminal)
        os.close(other_end)
