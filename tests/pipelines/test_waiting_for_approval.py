"""A verdict that waits for a person, on real ZenML and MLflow: answered by another process, refused, too
late, and void."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from zenml.client import Client
from zenml.enums import ExecutionStatus
from zenml.models import PipelineRunResponse

from ops import approval, environment, launch
from ops.cli import main
from ops.gate import verdict_artifact, verdict_record, verify
from ops.prune import prunable
from ops.registries import policy_registry
from rlhf.registry.transaction import history
from tests.pipelines.conftest import TINY, finished

pytestmark = pytest.mark.slow

KEY = "A_KEY_FOR_TESTS"


def invoke(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, list(arguments))
    return done.exit_code, " ".join(done.output.split())


def champion() -> str:
    found = policy_registry().champion()
    assert found is not None
    return found.digest


def runs_that_may_go() -> set[str]:
    return {run.id for run in prunable(0).runs}


def closed_as(run: PipelineRunResponse) -> object:
    return verdict_artifact(Client().get_pipeline_run(run.id)).run_metadata.get(approval.CLOSED)


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, "0123456789abcdef")
        yield


def waiting_run() -> PipelineRunResponse:
    """Another policy than the champion's, which passes the gate; trained once, then taken from the cache."""
    settings = ["ppo.updates=2", "promotion.mode=approval", f"promotion.signing_key_env={KEY}"]
    return finished(launch.run(str(TINY), settings))


@pytest.fixture(scope="module")
def first(first_run: PipelineRunResponse) -> PipelineRunResponse:
    return waiting_run()


def test_the_champion_stays_while_the_request_is_open_and_no_process_waits(
    first: PipelineRunResponse,
) -> None:
    record = verdict_record(first)
    assert record["verdict"] == "promote"
    assert champion() != record["candidate_digest"]
    [request] = approval.open_requests()
    assert (request.run, request.candidate, request.champion) == (
        first.name,
        record["candidate_digest"],
        champion(),
    )
    paused = Client().list_pipeline_runs(name=f"equals:approval-{request.artifact}-1").items
    assert [run.status for run in paused] == [ExecutionStatus.PAUSED]
    assert request.candidate[:12] in invoke("gate", "waiting")[1]


def test_a_signed_verdict_is_verified_with_its_inputs_and_both_registries(first: PipelineRunResponse) -> None:
    checks = verify(first)
    assert [check.what for check in checks if check.problem] == []
    assert checks[0].what == "signature"
    assert len(checks) == 6


def test_a_request_that_nobody_answers_in_time_is_closed_by_the_next_run(first: PipelineRunResponse) -> None:
    assert approval.close_expired() == []
    later = datetime.now(UTC) + timedelta(days=8)
    assert [request.run for request in approval.close_expired(later)] == [first.name]
    assert closed_as(first) == "expired"
    waiting = Client().list_pipeline_runs(name=f"equals:approval-{verdict_artifact(first).id}-1").items
    assert [run.status for run in waiting] == [ExecutionStatus.STOPPED]
    code, output = invoke("approve", first.name, "--reason", "late")
    assert code == 1
    assert "is closed (expired)" in output


class TestAnswers:
    @pytest.fixture(scope="class")
    def second(self, first: PipelineRunResponse) -> PipelineRunResponse:
        return waiting_run()

    @pytest.fixture(scope="class")
    def third(self, second: PipelineRunResponse) -> PipelineRunResponse:
        return waiting_run()

    def test_a_refusal_leaves_the_champion_and_says_why_in_the_registry(
        self, second: PipelineRunResponse
    ) -> None:
        before = champion()
        code, output = invoke("reject", second.name, "--reason", "too terse", "--by", "Ada")
        assert code == 0
        assert "Refused by Ada: too terse" in output
        assert champion() == before
        version = policy_registry().by_alias("candidate")
        assert version is not None
        assert version.tags["promotion.approved"] == "false"
        assert version.tags["promotion.approver"] == "Ada"
        assert closed_as(second) == "refused"

    def test_a_run_that_waits_for_nobody_cannot_be_approved(self, first_run: PipelineRunResponse) -> None:
        code, output = invoke("approve", first_run.name, "--reason", "why not")
        assert code == 1
        assert "waits for nobody" in output
        assert "There is no run 'nothing-like-it'" in invoke("reject", "nothing-like-it")[1]

    def test_another_process_approves_and_the_candidate_becomes_champion_once(
        self, third: PipelineRunResponse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fourth = waiting_run()  # judged against the same champion
        assert not {str(third.id), str(fourth.id)} & runs_that_may_go()  # though another run made the policy
        listed = [request for request in approval.open_requests() if request.run == third.name]
        command = [
            sys.executable,
            "-m",
            "ops.cli",
            "approve",
            third.name,
            "--by",
            "Ada",
            "--reason",
            "better",
        ]
        done = subprocess.run(
            command, cwd=environment.PROJECT_ROOT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert champion() == verdict_record(third)["candidate_digest"]
        assert closed_as(third) == "approved"
        found = policy_registry().champion()
        assert found is not None
        assert found.tags["promotion.approver"] == "Ada"
        assert history(policy_registry())[0].evidence["zenml.run_name"] == third.name

        code, output = invoke("approve", fourth.name, "--reason", "again")
        assert code == 1
        assert "the request is void" in output
        assert closed_as(fourth) == "void"
        assert approval.open_requests() == []
        assert str(third.id) not in runs_that_may_go()  # its verdict is why the champion is one
        reigning = policy_registry().champion()
        assert reigning is not None
        assert reigning.tags["promotion.approved"] == "true"

        # a run that found it expired while the answer, in time, was being carried out
        monkeypatch.setattr(approval, "open_requests", lambda: listed)
        assert approval.close_expired(datetime.now(UTC) + timedelta(days=8)) == []
        assert closed_as(third) == "approved"
