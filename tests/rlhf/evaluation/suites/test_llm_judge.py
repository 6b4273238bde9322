"""The judge against a real server on this machine: orders, ties, costs, and what is refused."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rlhf.errors import ConfigError, EvaluationError
from rlhf.evaluation.suites.figures import Estimator
from rlhf.evaluation.suites.llm_judge import LLMJudge, pair_figures, pair_score, read_verdict
from rlhf.evaluation.suites.settings import LLMJudgeSettings

ESTIMATOR = Estimator(confidence=0.95, seed=0)


class ChatServer:
    """Answers each request by ``verdict(first, second)``; remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], str | None]] = []
        self.verdict: Callable[[str, str], str] = longer
        self.failures = 0
        self.usage = {"prompt_tokens": 100, "completion_tokens": 10}
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((body, self.headers.get("Authorization")))
                    failing = outer.failures > 0
                    outer.failures -= 1
                answers = body["messages"][-1]["content"].split("[Start of answer ")
                first, second = (part.split("\n", 1)[1].split("\n[End of")[0] for part in answers[1:])
                content = {
                    "choices": [{"message": {"role": "assistant", "content": outer.verdict(first, second)}}],
                    "usage": outer.usage,
                }
                payload = json.dumps(content).encode()
                self.send_response(503 if failing else 200)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/chat/completions"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def longer(first: str, second: str) -> str:
    return "B looks like [[B]] at first, but: [[A]]" if len(first) > len(second) else "So [[B]]"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    running = ChatServer()
    yield running
    running.close()


def judge(server: ChatServer, **changes: Any) -> LLMJudge:
    given = {"url": server.url, "model": "judge-1", "backoff": 0.001, "max_pairs": None, **changes}
    return LLMJudge(LLMJudgeSettings(**given), seed=0)


def samples(count: int, *, wins: int, ties: int = 0) -> list[dict[str, Any]]:
    """Rows in which the policy's answer is the longer one, then those with equal ones, then the shorter."""
    policy = ["a long answer"] * wins + ["the same"] * ties + ["no"] * (count - wins - ties)
    sft = ["short"] * wins + ["the same"] * ties + ["longer"] * (count - wins - ties)
    return [
        {"record_id": str(i), "prompt": f"q{i}", "policy_completion": ours, "sft_completion": theirs}
        for i, (ours, theirs) in enumerate(zip(policy, sft, strict=True))
    ]


def test_every_pair_is_judged_in_both_orders_and_costs_are_counted(server: ChatServer) -> None:
    settings = {"prompt_price": 2.0, "completion_price": 10.0, "seed": 7}
    result = judge(server, **settings).result_of_samples(
        samples(10, wins=6, ties=1), ["policy", "sft"], ESTIMATOR
    )
    metrics = result.metrics()
    assert metrics["eval/llm_judge/win_rate_vs_sft"] == pytest.approx(0.65)
    assert (
        metrics["eval/llm_judge/win_rate_vs_sft_low"] < 0.65 < metrics["eval/llm_judge/win_rate_vs_sft_high"]
    )
    assert metrics["eval/llm_judge/tie_share_vs_sft"] == pytest.approx(0.1)
    assert metrics["eval/llm_judge/consistency_vs_sft"] == 1.0
    assert metrics["eval/llm_judge/first_place_share_vs_sft"] == 0.5
    assert metrics["eval/llm_judge/requests"] == len(server.requests) == 18  # equal answers are not sent
    assert metrics["eval/llm_judge/prompt_tokens"] == 1800
    assert metrics["eval/llm_judge/cost"] == pytest.approx((1800 * 2 + 180 * 10) / 1e6)
    assert result.tables[0].rows == [["sft", 6, 1, 3]]
    body, _ = server.requests[0]
    assert (body["model"], body["temperature"], body["seed"]) == ("judge-1", 0, 7)
    assert "[[C]]" in body["messages"][0]["content"]


def test_a_judge_that_always_takes_the_first_answer_proves_nothing(server: ChatServer) -> None:
    server.verdict = lambda first, second: "[[A]]"
    found = judge(server).result_of_samples(samples(12, wins=6), ["policy", "sft"], ESTIMATOR).comparisons
    assert found["win_rate_vs_sft"].value == 0.5
    assert found["consistency_vs_sft"].value == 0.0
    assert found["first_place_share_vs_sft"].value == 1.0
    assert found["tie_share_vs_sft"].value == 1.0


def test_the_key_is_sent_from_its_variable_and_must_be_there(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    judge(server, api_key_variable="JUDGE_KEY").result_of_samples(
        samples(2, wins=1), ["policy", "sft"], ESTIMATOR
    )
    assert {key for _, key in server.requests} == {"Bearer secret"}
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ConfigError, match="JUDGE_KEY"):
        judge(server, api_key_variable="JUDGE_KEY")


def test_a_server_that_fails_for_a_while_is_asked_again(server: ChatServer) -> None:
    server.failures = 3
    result = judge(server, concurrency=1, retries=4).result_of_samples(
        samples(3, wins=3), ["policy", "sft"], ESTIMATOR
    )
    assert result.comparisons["win_rate_vs_sft"].value == 1.0
    assert len(server.requests) == 6 + 3


def test_a_judge_without_verdicts_is_not_believed(server: ChatServer) -> None:
    server.verdict = lambda first, second: "They are both fine."
    with pytest.raises(EvaluationError, match=r"4 of 4 pairs against sft got no verdict such as \[\[A\]\]"):
        judge(server).result_of_samples(samples(4, wins=2), ["policy", "sft"], ESTIMATOR)


def test_few_unreadable_pairs_are_left_out_and_counted(server: ChatServer) -> None:
    server.verdict = lambda first, second: "hm" if "q0" in first else longer(first, second)
    rows = samples(10, wins=10)
    rows[0]["policy_completion"] = "q0 is a long answer"
    result = judge(server).result_of_samples(rows, ["policy", "sft"], ESTIMATOR)
    assert result.left_out == 1
    assert result.plain["unreadable_share"] == pytest.approx(0.1)


def test_a_judge_stops_at_its_greatest_cost(server: ChatServer) -> None:
    limited = judge(server, concurrency=1, prompt_price=1_000.0, max_cost=0.25)
    with pytest.raises(EvaluationError, match=r"has cost 0\.30 after 3 requests, and max_cost is 0\.25"):
        limited.result_of_samples(samples(10, wins=5), ["policy", "sft"], ESTIMATOR)
    assert len(server.requests) == 3


def test_a_limit_that_cannot_be_kept_is_refused(server: ChatServer) -> None:
    server.usage = {}
    with pytest.raises(EvaluationError, match="does not say how many tokens it used"):
        judge(server, prompt_price=1.0, max_cost=1.0).result_of_samples(
            samples(2, wins=1), ["policy", "sft"], ESTIMATOR
        )


def test_an_endpoint_of_another_kind_is_named(server: ChatServer) -> None:
    server.verdict = lambda first, second: {"not": "text"}  # type: ignore[return-value]
    with pytest.raises(EvaluationError, match="OpenAI-compatible"):
        judge(server).result_of_samples(samples(2, wins=1), ["policy", "sft"], ESTIMATOR)


def test_pairs_are_drawn_by_the_seed(server: ChatServer) -> None:
    judge(server, max_pairs=4).result_of_samples(samples(40, wins=20), ["policy", "sft"], ESTIMATOR)
    assert len(server.requests) == 8


@pytest.mark.parametrize(
    ("orders", "score"),
    [
        (("first", "second"), 1.0),
        (("second", "first"), 0.0),
        (("first", "first"), 0.5),
        (("tie", "second"), 0.5),
        (("tie", "tie"), 0.5),
    ],
)
def test_a_win_needs_both_orders(orders: tuple[Any, Any], score: float) -> None:
    assert pair_score(*orders) == score


def test_without_decided_verdicts_there_is_no_leaning_to_the_first_place() -> None:
    assert "first_place_share" not in pair_figures([("tie", "tie")] * 3, np.arange(3), ESTIMATOR)


def test_the_last_verdict_of_an_answer_counts() -> None:
    assert read_verdict("[[A]] is tempting, yet [[B]]") == "second"
    assert read_verdict("A is better") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "http://judge.example/v1"}, "not encrypted"),
        ({"url": "https://judge.example/v1?key=abc"}, "query string"),
        ({"url": "https://judge.example/v1", "max_cost": 1.0}, "max_cost needs prompt_price"),
    ],
)
def test_settings_that_leak_or_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LLMJudgeSettings(model="m", **changes)
