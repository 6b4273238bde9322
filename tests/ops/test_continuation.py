"""What a run says of itself, and which interrupted run another goes on with."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ops import continuation
from ops.continuation import Continuation, RunRecord, at_work, new_record, parameters_digest

RECORD = RunRecord(config="a-20260101T000000000000.yaml", parameters="", host=socket.gethostname())


def test_a_run_at_work_is_seen_by_other_processes_and_a_killed_one_is_not(tmp_path: Path) -> None:
    look = (
        "import sys; from filelock import FileLock, Timeout\n"
        "try: FileLock(sys.argv[1]).acquire(timeout=0); print('gone')\n"
        "except Timeout: print('alive')"
    )

    def seen() -> str:
        file = continuation._lock(RECORD).lock_file
        return subprocess.run(
            [sys.executable, "-c", look, file], capture_output=True, text=True
        ).stdout.strip()

    with at_work(RECORD):
        assert seen() == "alive"
    assert seen() == "gone"


def test_memory_that_the_kernel_wanted_back_is_told_with_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counters = tmp_path / "vmstat"
    monkeypatch.setattr(continuation, "_VMSTAT", counters)
    counters.write_text("pgfault 1\noom_kill 3\n")
    record = new_record({"parameters": {}}, "a.yaml", None, grace_seconds=1)
    assert record.out_of_memory_kills == 3
    assert continuation._why_it_ended(record) == "its process was killed."
    counters.write_text("pgfault 1\noom_kill 4\n")
    assert "lower sft.micro_batch_size" in continuation._why_it_ended(record)
    assert "started anew" in continuation._why_it_ended(record.model_copy(update={"boot": "another"}))


def test_only_the_parameters_make_two_configs_ask_for_the_same_run() -> None:
    config = {"parameters": {"seed": 1}, "enable_cache": False}
    assert parameters_digest(config) == parameters_digest({"parameters": {"seed": 1}})
    assert parameters_digest(config) != parameters_digest({"parameters": {"seed": 2}})


def test_a_record_survives_the_way_through_zenml() -> None:
    feedback = {"url": "u", "sequence": 7, "source_keys": ["a"], "state_digest": "d"}
    record = RECORD.model_copy(
        update={"continues": Continuation(run="r", name="n", first="f", feedback=feedback)}
    )
    assert RunRecord.model_validate(record.model_dump(mode="json")) == record
