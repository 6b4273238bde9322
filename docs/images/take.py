"""Takes the README's pictures anew from a finished run: `RLHF_HOME=… python docs/images/take.py`.

Serves the dashboards as `rlhf ui` does and photographs them with the system's Chromium. What is shown is the
newest completed run; nothing is retouched but images that the content policy keeps out, which would show as
broken.
"""

import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

from ops import environment

environment.configure()  # before anything imports ZenML

from PIL import Image  # noqa: E402
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402
from zenml.client import Client  # noqa: E402
from zenml.models import PipelineRunResponse  # noqa: E402

from ops import ui  # noqa: E402

HERE = Path(__file__).parent
PORTS = (18237, 15000)
CURVES = "|".join(  # a regular expression over metric names
    (
        r"^sft/(eval/)?loss$",
        r"^reward/proxy/(loss|accuracy)$",
        r"^ppo/(reward|kl|entropy|explained_variance|response_length|value_loss)$",
    )
)
SETTLED = 2500  # ms: both front ends draw on after the network is idle
SAMPLES = 5
# MLflow opens a chat panel over its right third on the first visit.
NO_ASSISTANT = """
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
localStorage.setItem("mlflow.assistant.panelOpen_v1", "false");
"""


def main() -> None:
    """Write zenml-run.png, mlflow-run.png and evaluation-report.png next to this file."""
    runs = Client().list_pipeline_runs(status="completed", sort_by="desc:created", hydrate=True, size=1).items
    if not runs:
        raise SystemExit("There is no completed run to photograph; start one with `make run`.")
    ui.prepare()
    servers = [ui.zenml_server(PORTS[0]), ui.mlflow_server(PORTS[1])]
    with ui.running(servers), sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        zenml_run(browser, servers[0], runs[0])
        mlflow_run(browser, servers[1], runs[0])
        evaluation_report(browser, runs[0])
        browser.close()


def zenml_run(browser: Browser, server: ui.Server, run: PipelineRunResponse) -> None:
    """The graph of the run with every step and artifact."""
    page = browser.new_page(viewport={"width": 1400, "height": 1700})
    page.goto(f"{server.url}/projects/{run.project.name}/runs/{run.id}")
    page.locator(".react-flow__node").first.wait_for()
    page.add_style_tag(content='img[src^="https:"]{visibility:hidden}')
    notice = page.get_by_text("You are running a local version of ZenML")
    notice.locator("xpath=ancestor::*[.//button][1]//button").last.click()
    page.get_by_text("Run Insights").locator("xpath=preceding::button[1]").click()
    page.wait_for_timeout(SETTLED)
    page.get_by_role("button", name="Fit view").click()
    page.wait_for_timeout(SETTLED)
    save(page, "zenml-run")


def mlflow_run(browser: Browser, server: ui.Server, run: PipelineRunResponse) -> None:
    """Curves of every stage in one run."""
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.add_init_script(NO_ASSISTANT)
    recorded, query = str(run.run_metadata["mlflow_run"]).partition("?")[::2]
    metrics = f"{recorded}/model-metrics?{query or ui.TRAINING_PAGES}"
    page.goto(metrics.replace(environment.MLFLOW_UI, server.url))
    page.get_by_placeholder("Search metric charts").fill(CURVES)
    page.locator(".js-plotly-plot").first.wait_for()
    page.wait_for_timeout(SETTLED)
    save(page, "mlflow-run")


def evaluation_report(browser: Browser, run: PipelineRunResponse) -> None:
    """The report from its verdict to the first samples."""
    report = run.steps["evaluate_policy"].outputs["evaluation"][0].load()
    page = browser.new_page(viewport={"width": 1140, "height": 900})
    page.set_content(report.html)
    last = page.locator("table").last.locator("tbody tr").nth(SAMPLES - 1).bounding_box()
    assert last is not None
    height = last["y"] + last["height"] + 8
    clip = {"x": 0, "y": 0, "width": 1140, "height": height}
    save(page, "evaluation-report", full_page=True, clip=clip)


def save(page: Page, name: str, **options: Any) -> None:
    """A picture of the page in 128 colours: a third of the bytes, and no difference that an eye sees."""
    taken = Image.open(BytesIO(page.screenshot(**options))).convert("RGB")
    taken.quantize(128, dither=Image.Dither.NONE).save(HERE / f"{name}.png", optimize=True)
    page.close()


if __name__ == "__main__":
    main()
