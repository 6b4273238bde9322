"""The `rlhf` command as a user meets it: exit codes and last words."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ops import environment, launch
from ops.cli import main
from rlhf.errors import ConfigError
from rlhf.feedback.rows import AnnotationRow

RLHF = Path(sys.executable).parent / "rlhf"
TINY = Path(__file__).parents[1] / "pipelines" / "tiny.yaml"


def _rlhf(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(RLHF), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=environment.PROJECT_ROOT,
        env={**os.environ, **environ},
    )


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr).strip().splitlines()[-1]


def test_ls_lists_every_config() -> None:
    done = _rlhf("ls")
    assert done.returncode == 0
    assert "support_desk" in done.stdout
    assert "open_feedback" in done.stdout
    assert "kubeflow" in done.stdout
    assert '".[qlora]"' in done.stdout  # no markup, and no word cut where nobody sees the screen's width


def test_cp_copies_a_config_and_never_overwrites(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    assert _rlhf("cp", "support_desk", str(target)).returncode == 0
    assert target.read_bytes() == (environment.CONFIGS / "support_desk.yaml").read_bytes()
    again = _rlhf("cp", "support_desk", str(target))
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_env_prints_exports_and_no_secret() -> None:
    done = _rlhf("env")
    assert (environment.home() / "secrets.key").read_text() not in done.stdout
    exports = dict(
        line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines() if "=" in line
    )
    assert exports["ZENML_ANALYTICS_OPT_IN"] == "false"
    assert exports["RLHF_HOME"].strip("'") == str(environment.home())
    database = f"sqlite:///{environment.home()}/mlflow/mlflow.db"
    assert exports["MLFLOW_TRACKING_URI"] == exports["MLFLOW_REGISTRY_URI"] == database


def test_env_keeps_an_mlflow_server_that_the_user_has_named() -> None:
    said = _rlhf("env", MLFLOW_TRACKING_URI="http://127.0.0.1:1").stdout
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:1\n" in said


@pytest.mark.parametrize(
    "arguments",
    [("runs", "--limit", "0"), ("ui", "--zenml-port", "0"), ("ui", "--mlflow-port", "65536")],
    ids=" ".join,
)
def test_a_number_out_of_range_is_refused_by_the_command_line(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "range" in done.output


# Each of these is known before any training: the command must end at once, with one sentence and status 1.
BAD_INPUT = {
    "a missing file": ("path=/nowhere/rows.jsonl", "does not exist"),
    "a wrong column": ('{"prompt": "a", "answer_text": "b"}\n', "the nearest is"),
    "empty feedback": ("", "is empty"),
    "equal sides": ('{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "equal"),
    "invalid UTF-8": (b'{"prompt": "a", "completion": "\xff"}\n', "UTF-8"),
    "a row of a megabyte": (json.dumps({"prompt": "a", "completion": "b" * 1_100_000}) + "\n", "bytes"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_feedback_ends_with_one_clear_sentence(case: str, tmp_path: Path) -> None:
    content, expected = BAD_INPUT[case]
    path = tmp_path / "rows.jsonl"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif not content.startswith("path="):
        path.write_text(content)
    sources = json.dumps([{"type": "file", "path": str(path)}])
    done = _rlhf("run", str(TINY), f"feedback.sources={sources}")
    assert done.returncode == 1
    output = done.stdout + done.stderr
    last = output[output.rindex("Error:") :]
    assert expected in last, output[-2000:]
    assert "Traceback" not in last


def test_an_absent_base_model_is_named_before_anything_runs() -> None:
    done = _rlhf("run", str(TINY), "pretrain=null", "base_model={model: ./no-such-model}")
    assert done.returncode == 1
    assert "no-such-model" in _last_line(done) or "no-such-model" in done.stderr
    assert "has started" not in done.stdout


def test_a_misspelt_reward_function_is_named_before_anything_runs() -> None:
    done = _rlhf("run", str(TINY), "evaluation.rewards={gold: 'rlhf.sample.gold:gold_rewad'}")
    assert done.returncode == 1
    assert "has no function 'gold_rewad'" in " ".join(done.stderr.split())
    assert "has started" not in done.stdout


def test_an_unknown_key_is_refused_before_anything_runs() -> None:
    done = _rlhf("run", str(TINY), "sft.epoch=3")
    assert done.returncode == 1
    assert "did you mean 'epochs'" in done.stderr
    assert "has started" not in done.stdout


class FullDisk:
    """A source of feedback that has to write, on a device that is always full."""

    def read(self) -> Iterator[AnnotationRow]:
        with Path("/dev/full").open("w") as file:
            file.write("x")
        yield from ()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_the_run_with_what_to_free() -> None:
    sources = json.dumps([{"type": "custom", "cls": f"{__name__}:FullDisk"}])
    root = str(environment.PROJECT_ROOT)
    done = _rlhf("run", str(TINY), f"feedback.sources={sources}", PYTHONPATH=root)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    last = " ".join(output[output.rindex("Error:") :].split())
    assert last.startswith("Error: The disk is full; free space under")
    assert "Traceback" not in last


def test_too_little_disk_is_found_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        launch.shutil, "disk_usage", lambda path: SimpleNamespace(total=2**40, used=2**40, free=2**20)
    )
    with pytest.raises(ConfigError, match=r"Only 0\.0 GiB of disk are free"):
        launch.run(str(TINY))
