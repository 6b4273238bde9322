"""How the tests are spread over several workers."""

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="pytest runs on one worker")
def test_tests_of_one_file_go_to_one_worker(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith(f"@{request.path}")
