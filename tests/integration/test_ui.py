"""What a person finds in the two dashboards after a run, looked for with a real browser.

One small run serves all tests. The servers are those of ``rlhf ui``, on free ports. Chromium comes from the
system, so nothing is downloaded; without one the browser's tests are skipped.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, expect, sync_playwright

from ops import environment, launch, ui

pytestmark = [pytest.mark.ui, pytest.mark.timeout(300)]

TINY = Path(__file__).parents[1] / "pipelines" / "tiny.yaml"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 1000  # Playwright counts in milliseconds
expect.set_options(timeout=20 * SECONDS)  # both front ends load megabytes of script on the first visit


@dataclass(frozen=True)
class Dashboards:
    """A finished run and the servers that show it."""

    run: launch.FinishedRun
    zenml: ui.Server
    mlflow: ui.Server

    def zenml_page(self, path: str) -> str:
        """The address of a page of the project."""
        return f"{self.zenml.url}/projects/default{path}"

    def mlflow_run(self, tab: str = "") -> str:
        """The address of the run's page in MLflow, as the pipeline run's metadata gives it, or of a tab."""
        from zenml.client import Client

        recorded = str(Client().get_pipeline_run(self.run.id).run_metadata["mlflow_run"])
        return recorded.replace(environment.MLFLOW_UI, self.mlflow.url).replace("?", f"{tab}?")


@pytest.fixture(scope="module")
def dashboards() -> Iterator[Dashboards]:
    run = launch.run(str(TINY))
    ui.prepare()
    servers = [ui.zenml_server(_free_port()), ui.mlflow_server(_free_port())]
    with ui.running(servers):
        yield Dashboards(run, *servers)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("There is no Chromium on this machine (Debian: apt-get install chromium).")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page; at the end, no request of it may have left this machine."""
    # tall: the DAG draws only the nodes that are in view
    context = browser.new_context(viewport={"width": 1400, "height": 1700})
    sent: list[Request] = []
    context.on("request", lambda request: sent.append(request))
    opened = context.new_page()
    opened.set_default_timeout(30 * SECONDS)
    yield opened
    left = [request.url for request in sent if _leaves(request)]
    context.close()
    assert sent
    assert left == []


def test_the_run_page_shows_every_step_and_asks_for_no_login(dashboards: Dashboards, page: Page) -> None:
    page.goto(dashboards.zenml_page(f"/runs/{dashboards.run.id}"))
    expect(page.get_by_text(dashboards.run.name).first).to_be_visible()
    _show_whole_graph(page)
    for step in (
        "ingest_feedback",
        "train_sft",
        "train_proxy_reward_model",
        "train_policy",
        "promote_policy",
    ):
        expect(_node(page, step)).to_be_visible()
    assert urlsplit(page.url).path == f"/projects/default/runs/{dashboards.run.id}"


def test_the_front_page_is_not_the_survey(dashboards: Dashboards, page: Page) -> None:
    page.goto(dashboards.zenml.url)
    expect(page.get_by_text("Welcome back").first).to_be_visible()
    assert "survey" not in page.url


def test_the_list_of_runs_leads_to_the_run(dashboards: Dashboards, page: Page) -> None:
    page.goto(dashboards.zenml.url + dashboards.zenml.page)
    page.get_by_role("link", name=dashboards.run.name).first.click()
    _show_whole_graph(page)
    expect(_node(page, "train_policy")).to_be_visible()


@pytest.mark.parametrize(
    ("artifact", "heading"),
    [("evaluation", "Policy evaluation"), ("policy", "Training curves"), ("comparisons", "Sample rows")],
)
def test_an_artifact_opens_as_a_page(dashboards: Dashboards, page: Page, artifact: str, heading: str) -> None:
    page.goto(dashboards.zenml_page(f"/runs/{dashboards.run.id}"))
    _show_whole_graph(page)
    _node(page, artifact).click()
    page.get_by_role("tab", name="Visualization").click()
    page.get_by_text("Load Preview").first.click()
    shown = page.frame_locator("iframe")
    expect(shown.get_by_role("heading", name=heading)).to_be_visible()


def test_mlflow_shows_the_run_with_its_settings(dashboards: Dashboards, page: Page) -> None:
    page.goto(dashboards.mlflow_run())
    expect(page.get_by_role("heading", name=dashboards.run.name)).to_be_visible()
    search = page.get_by_placeholder("Search parameters")
    for setting in ("ppo/rollout_batch_size", "sft/optimizer/learning_rate", "reward/proxy/fold"):
        search.fill(setting)
        expect(page.get_by_text(setting, exact=True)).to_be_visible()


@pytest.mark.parametrize(
    "metric", ["sft/loss", "reward/proxy/loss", "reward/selection/loss", "ppo/kl", "eval/kl"]
)
def test_mlflow_draws_the_metric(dashboards: Dashboards, page: Page, metric: str) -> None:
    page.goto(dashboards.mlflow_run("/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill(metric)
    expect(page.get_by_text(metric.rsplit("/", 1)[1], exact=True).first).to_be_visible()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


def test_mlflow_lists_the_runs_of_the_experiment(dashboards: Dashboards, page: Page) -> None:
    page.goto(dashboards.mlflow.url + dashboards.mlflow.page)
    expect(page.get_by_role("link", name=dashboards.run.name).first).to_be_visible()


def test_mlflow_keeps_the_reports(dashboards: Dashboards, page: Page) -> None:
    page.goto(dashboards.mlflow_run("/artifacts"))
    page.get_by_text("reports", exact=True).first.click()
    for report in ("data.html", "evaluation.html", "ingest.html", "promotion.html"):
        expect(page.get_by_text(report).first).to_be_visible()


def test_another_website_gets_no_permission_and_no_answer(dashboards: Dashboards) -> None:
    for server in (dashboards.zenml, dashboards.mlflow):
        path = "/api/v1/runs" if server is dashboards.zenml else "/api/2.0/mlflow/experiments/search"
        status, headers = _post(server, path, {"Origin": "http://elsewhere.example"})
        assert status == 403
        assert "access-control-allow-origin" not in headers


def test_a_foreign_name_for_this_machine_is_refused(dashboards: Dashboards) -> None:
    for server in (dashboards.zenml, dashboards.mlflow):
        status, _ = _post(server, "/api/", {"Host": "elsewhere.example"})
        assert status == 403


def test_zenml_answers_its_own_pages(dashboards: Dashboards) -> None:
    request = urllib.request.Request(
        f"{dashboards.zenml.url}/api/v1/runs", headers={"Origin": dashboards.zenml.url}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert dashboards.run.id in {run["id"] for run in json.load(answer)["items"]}


def test_the_servers_listen_on_loopback_only(dashboards: Dashboards) -> None:
    ports = {dashboards.zenml.port, dashboards.mlflow.port}
    listening = [line for line in _listening_sockets() if int(line.rsplit(":", 1)[1], 16) in ports]
    assert len(listening) == 2
    assert {line.split(":")[0] for line in listening} == {"0100007F"}  # 127.0.0.1, as the kernel writes it


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_addresses_and_leaves_nothing_behind(
    dashboards: Dashboards, ending: signal.Signals
) -> None:
    client = Path(os.environ["ZENML_CONFIG_PATH"]) / "config.yaml"
    before = client.read_bytes()
    ports = (_free_port(), _free_port())
    command = [sys.executable, "-m", "ops.cli", "ui", "--zenml-port", str(ports[0])]
    process = subprocess.Popen(
        [*command, "--mlflow-port", str(ports[1])],
        cwd=environment.PROJECT_ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = [process.stdout.readline() for _ in range(3)]
    process.send_signal(ending)
    assert process.wait(timeout=30) == 0
    assert f"http://127.0.0.1:{ports[0]}/" in printed[0]
    assert f"http://127.0.0.1:{ports[1]}/" in printed[1]
    assert all(_is_free(port) for port in ports)
    assert client.read_bytes() == before


def test_a_taken_port_is_named_with_its_remedy(dashboards: Dashboards) -> None:
    from rlhf.errors import ConfigError

    taken = ui.mlflow_server(dashboards.mlflow.port)
    with (
        pytest.raises(ConfigError, match=rf"Port {taken.port} is in use; .*--mlflow-port"),
        ui.running([taken]),
    ):
        pass


def _show_whole_graph(page: Page) -> None:
    """Only nodes that are in view are drawn, and a graph larger than the window opens at its middle."""
    expect(page.locator(".react-flow__node").first).to_be_visible()
    page.get_by_role("button", name="Fit view").click()


def _node(page: Page, name: str) -> Locator:
    """A step or an artifact in the graph of a run."""
    return page.locator(".react-flow__node").get_by_text(name, exact=True).first


def _leaves(request: Request) -> bool:
    """Whether a request went to another machine; what the content policy stops is announced, never sent."""
    target = urlsplit(request.url)
    if target.scheme not in ("http", "https", "ws", "wss") or target.hostname == ui.HOST:
        return False
    return request.failure != "csp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ui.HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ui.HOST, port)) != 0


def _listening_sockets() -> Sequence[str]:
    """Local addresses in state LISTEN (0A), in hexadecimal, of IPv4 and IPv6."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    rows = [row.split() for table in tables if table.exists() for row in table.read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A"]


def _post(server: ui.Server, path: str, headers: dict[str, str]) -> tuple[int, set[str]]:
    connection = http.client.HTTPConnection(ui.HOST, server.port, timeout=10)
    connection.request("POST", path, body="{}", headers={"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    names = {name.lower() for name, _ in answer.getheaders()}
    connection.close()
    return answer.status, names
