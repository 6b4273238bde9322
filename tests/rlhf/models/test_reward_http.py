"""The HTTP reward against a real server on this machine: what is sent, what is retried, what is refused."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import ValidationError

from rlhf.errors import ConfigError, TrainingError
from rlhf.feedback.rows import Message
from rlhf.models.chat import Prompt
from rlhf.models.circuit_breaker import CircuitBreaker
from rlhf.models.reward_http import HTTPReward
from rlhf.models.settings_rewards import HTTPRewardSettings

Answer = tuple[int, dict[str, str], Any]
"""Status, headers and JSON of a response."""
PROMPTS: list[Prompt] = ["Where is it?", [Message(role="user", content="Help!")], "And?", "So?", "Well?"]
COMPLETIONS = ["a", "bb", "ccc", "dddd", "eeeee"]


class Server:
    """Answers the n-th request by ``answer(n, body)``; remembers requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.answer: Callable[[int, dict[str, Any]], Answer] = by_length
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append((body, dict(self.headers)))
                    number = len(outer.requests) - 1
                status, headers, content = outer.answer(number, body)
                payload = json.dumps(content).encode()
                try:
                    self.send_response(status)
                    for name, value in {**headers, "Content-Length": str(len(payload))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(payload)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the client did not wait

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/score"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def by_length(number: int, body: dict[str, Any]) -> Answer:
    return 200, {}, {"scores": [float(len(c)) for c in body["completions"]]}


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def reward(server: Server, waits: list[float] | None = None, **changes: Any) -> HTTPReward:
    settings = {"url": server.url, "backoff": 0.001, "timeout": 5.0, "concurrency": 1, **changes}
    return HTTPReward(HTTPRewardSettings(**settings), sleep=(waits if waits is not None else []).append)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_batches_are_scored_in_order(server: Server, concurrency: int) -> None:
    def slow_first(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.05 if number == 0 else 0.0)
        return by_length(number, body)

    server.answer = slow_first
    scores = reward(server, batch_size=2, concurrency=concurrency)(PROMPTS, COMPLETIONS)
    assert scores == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert len(server.requests) == 3


def test_chats_are_sent_as_messages_and_text_as_text(server: Server) -> None:
    reward(server)(PROMPTS[:2], COMPLETIONS[:2])
    assert server.requests[0][0] == {
        "prompts": ["Where is it?", [{"role": "user", "content": "Help!"}]],
        "completions": ["a", "bb"],
    }


def test_the_servers_of_openrlhf_are_understood(server: Server) -> None:
    server.answer = lambda number, body: (200, {}, {"rewards": [float(len(q)) for q in body["query"]]})
    assert reward(server, protocol="openrlhf")(PROMPTS[:2], COMPLETIONS[:2]) == [13.0, 14.0]
    assert server.requests[0][0] == {
        "query": ["Where is it?a", "user: Help!\nbb"],
        "prompts": ["Where is it?", "user: Help!"],
    }


def test_no_samples_take_no_request(server: Server) -> None:
    assert reward(server)([], []) == []
    assert server.requests == []


@pytest.mark.parametrize("status", [503, 500, 429])
def test_a_busy_server_is_asked_again_after_a_growing_random_wait(server: Server, status: int) -> None:
    waits: list[float] = []
    server.answer = lambda number, body: (status, {}, {}) if number < 3 else by_length(number, body)
    assert reward(server, waits, backoff=1.0)(PROMPTS[:1], ["four"]) == [4.0]
    assert len(waits) == 3
    assert all(0 <= wait <= 2.0**attempt for attempt, wait in enumerate(waits))


def test_the_wait_that_the_server_names_is_kept(server: Server) -> None:
    waits: list[float] = []
    headers = [{"Retry-After": "7"}, {"Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}]
    server.answer = lambda number, body: (429, headers[number], {}) if number < 2 else by_length(number, body)
    reward(server, waits)(PROMPTS[:1], COMPLETIONS[:1])
    assert waits == [7.0, 0.0]


def test_a_wait_beyond_the_longest_is_not_waited_for(server: Server) -> None:
    server.answer = lambda number, body: (503, {"Retry-After": "3600"}, {})
    with pytest.raises(TrainingError, match="asks to wait 3600 s"):
        reward(server)(PROMPTS[:1], COMPLETIONS[:1])
    assert len(server.requests) == 1


def test_a_time_out_is_retried_and_then_named(server: Server) -> None:
    def late(number: int, body: dict[str, Any]) -> Answer:
        time.sleep(0.3)
        return by_length(number, body)

    server.answer = late
    with pytest.raises(TrainingError, match="failed 2 times, at last with ReadTimeout"):
        reward(server, timeout=0.05, retries=1)(PROMPTS[:1], COMPLETIONS[:1])
    assert len(server.requests) == 2


def test_an_absent_server_is_named(server: Server) -> None:
    url = server.url
    scorer = reward(server, retries=1)
    server.close()
    with pytest.raises(TrainingError, match="at last with ConnectError") as caught:
        scorer(PROMPTS[:1], COMPLETIONS[:1])
    assert url in str(caught.value)


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_not_retried(server: Server, status: int) -> None:
    server.answer = lambda number, body: (status, {"Location": "/elsewhere"}, {"error": "no such model"})
    with pytest.raises(TrainingError, match=rf"status {status} \(.*no such model"):
        reward(server)(PROMPTS[:1], COMPLETIONS[:1])
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"scores": [1.0]}, "1 scores for the 2 samples from 0 on"),
        ({"scores": [1.0, None]}, r"gave None for sample 1 \(prompt 'user: Help!'\)"),
        ({"scores": [float("nan"), 1.0]}, r"gave nan for sample 0 \(prompt 'Where is it\?'\)"),
        ({"scores": [1.0, "2.0"]}, "gave '2.0' for sample 1"),
        ({"rewards": [1.0, 2.0]}, "without a list 'scores'"),
        ([1.0, 2.0], "without a list 'scores'"),
    ],
)
def test_an_answer_of_another_form_is_refused(server: Server, content: Any, message: str) -> None:
    server.answer = lambda number, body: (200, {}, content)
    with pytest.raises(TrainingError, match=message):
        reward(server)(PROMPTS[:2], COMPLETIONS[:2])


def test_a_bad_score_is_named_by_its_place_among_all_samples(server: Server) -> None:
    server.answer = lambda number, body: (200, {}, {"scores": [1.0 if number == 0 else None]})
    with pytest.raises(TrainingError, match=r"sample 1 \(prompt 'user: Help!'\)"):
        reward(server, batch_size=1)(PROMPTS[:2], COMPLETIONS[:2])


class Clock:
    """Time that passes only by sleeping, and then 500 times as fast as usual."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / 500)  # others may be within a request
        self.now += seconds


def outage(server: Server, clock: Clock, **changes: Any) -> HTTPReward:
    """A reward of default patience in simulated time."""
    settings = HTTPRewardSettings(**{"url": server.url, **changes})
    breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_cooldown, clock=clock)
    return HTTPReward(settings, sleep=clock.sleep, breaker=breaker)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_outage_of_minutes_is_waited_for_with_single_trials(server: Server, concurrency: int) -> None:
    clock = Clock()
    server.answer = lambda number, body: (503, {}, {}) if clock.now < 300 else by_length(number, body)
    scorer = outage(server, clock, concurrency=concurrency, batch_size=1)
    assert scorer(PROMPTS, COMPLETIONS) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert clock.now >= 300
    # those that make the outage, those under way at that moment, a trial every 30 s, and the answers
    assert len(server.requests) <= 5 + concurrency + 10 + 1 + len(PROMPTS)


def test_training_stops_with_the_first_trial_that_fails_after_the_longest_outage(server: Server) -> None:
    clock = Clock()
    server.answer = lambda number, body: (503, {}, {})
    scorer = outage(server, clock, concurrency=3, batch_size=1, longest_outage=100)
    with pytest.raises(TrainingError, match=r"has not answered for \d+ s, and longest_outage is 100 s"):
        scorer(PROMPTS, COMPLETIONS)
    assert 100 <= clock.now < 100 + 3 * 31
    sent = len(server.requests)
    with pytest.raises(TrainingError, match="longest_outage"):
        scorer(PROMPTS, COMPLETIONS)
    assert len(server.requests) == sent
    server.answer = by_length
    clock.now += 30
    assert scorer(PROMPTS[:1], COMPLETIONS[:1]) == [1.0]


def test_no_request_is_given_up_before_the_default_breaker_sees_an_outage() -> None:
    defaults = HTTPRewardSettings(url="https://scores.example")
    assert defaults.breaker_failures <= defaults.retries


def test_requests_are_not_told_to_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    reward(server)(PROMPTS[:1], COMPLETIONS[:1])
    assert server.url not in caplog.text


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with pytest.raises(ConfigError, match="DESK_KEY"):
        reward(server, api_key_variable="DESK_KEY")
    monkeypatch.setenv("DESK_KEY", "s3cret")
    scorer = reward(server, api_key_variable="DESK_KEY")
    server.answer = lambda number, body: (503, {}, {}) if number == 0 else by_length(number, body)
    scorer(PROMPTS[:1], COMPLETIONS[:1])
    assert {headers["Authorization"] for _, headers in server.requests} == {"Bearer s3cret"}
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://scores.example/score", "not encrypted"),
        ("ftp://localhost/score", r"http\(s\)://host"),
        ("scores.example", r"http\(s\)://host"),
        ("https://desk:s3cret@scores.example", "user name or password"),
        ("https://scores.example/score?key=s3cret", "query string"),
    ],
)
def test_an_unsafe_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        HTTPRewardSettings(url=url)


@pytest.mark.parametrize(
    "url", ["http://localhost:1/x", "http://127.0.0.5/x", "http://[::1]:9/x", "https://scores.example/x"]
)
def test_this_machine_and_https_are_fine(url: str) -> None:
    assert HTTPRewardSettings(url=url).url == url


def test_plain_http_to_another_machine_has_to_be_asked_for() -> None:
    assert HTTPRewardSettings(url="http://scores.example/x", allow_plain_http=True).allow_plain_http
