"""How the tests are spread over several workers."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="pytest runs on one worker")
@pytest.mark.parametrize("number", range(4))
def test_tests_of_one_file_run_on_one_worker(number: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    # the workers' folders lie in one; pytest -n 2 needs --dist loadfile, as fixtures of a file cost minutes
    seen = tmp_path_factory.getbasetemp().parent / "workers-of-one-file"
    with seen.open("a") as stream:
        stream.write(f"{os.environ['PYTEST_XDIST_WORKER']}\n")
    assert len(set(seen.read_text().split())) == 1
