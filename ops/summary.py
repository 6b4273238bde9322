"""What a person wants to know after a run, and about the runs before it."""

import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from zenml.client import Client
from zenml.models import PipelineRunResponse

from ops import environment
from ops.console import add_row
from ops.continuation import INTERRUPTED
from ops.plan import FORECAST
from rlhf.report import Report

_HEADLINES = (
    "eval/gold/sft",
    "eval/gold/policy",
    "eval/gold/win_rate_vs_sft",
    "eval/judge/win_rate_vs_sft",
    "eval/judge/length_controlled_win_rate_vs_sft",
    "eval/selection/win_rate_vs_sft",
    "eval/proxy/win_rate_vs_sft",
    "eval/kl",
    "eval/proxy/agreement_with_gold",
    "eval/selection/agreement_with_gold",
    "eval/judge/agreement_with_gold",
)


def print_summary(run_id: str, console: Console) -> None:
    """The steps with their times, the figures that matter, the verdict, and where to look further."""
    run = Client().get_pipeline_run(run_id)
    title = f"Run {run.name}: {run.status.value}"
    steps = Table("step", "status", "seconds", title=title, title_justify="left")
    for name, step in sorted(run.steps.items(), key=lambda item: item[1].start_time or item[1].created):
        ended = step.end_time is not None and step.start_time is not None
        seconds = f"{(step.end_time - step.start_time).total_seconds():.1f}" if ended else ""
        steps.add_row(name, step.status.value, seconds)
    console.print(steps)
    if FORECAST in run.run_metadata:
        console.print(_forecast_table(json.loads(str(run.run_metadata[FORECAST]))))
    evaluation = _report(run, "evaluate_policy", "evaluation")
    if evaluation is not None:
        figures = Table("figure", "value", title="Evaluation on held-out prompts", title_justify="left")
        for name in _HEADLINES:
            if name in evaluation.data["metrics"]:
                figures.add_row(name, f"{evaluation.data['metrics'][name]:.3f}")
        console.print(figures)
    promotion = _report(run, "promote_policy", "promotion")
    if promotion is not None:
        console.print(str(promotion.data["summary"]), markup=False, soft_wrap=True)
        if until := promotion.data.get("expires_at"):
            console.print(
                f"Answer until {until:.16} UTC: rlhf approve {run.name} --reason '…', or rlhf reject.",
                soft_wrap=True,
            )
    console.print(
        f"Browse it: `make ui` serves ZenML at {environment.ZENML_UI} and MLflow at {environment.MLFLOW_UI}.",
        highlight=False,
    )


def _forecast_table(compared: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table("step", "seconds forecast", "actual", "peak GiB forecast", "actual")
    table.title, table.title_justify = "Forecast and actual", "left"
    for step, figures in compared.items():
        cells = [
            f"{figures[name] / unit:.{digits}f}" if name in figures else ""
            for name, unit, digits in (
                ("forecast_seconds", 1, 1),
                ("actual_seconds", 1, 1),
                ("forecast_peak_bytes", 2**30, 2),
                ("actual_peak_bytes", 2**30, 2),
            )
        ]
        table.add_row(step, *cells)
    return table


def retraining_summary(run_id: str) -> str:
    """What a retraining check decided and started."""
    run = Client().get_pipeline_run(run_id)
    decision = _report(run, "decide_retraining", "retraining_decision")
    said = str(decision.data["summary"]) if decision else f"The check {run.name} came to no decision."
    started = run.run_metadata.get("training_run")
    return f"{said} Training run: {started}." if started else said


def runs_table(limit: int) -> Table:
    """The latest runs, newest first."""
    table = Table("run", "pipeline", "started (UTC)", "status", "verdict")
    for run in Client().list_pipeline_runs(size=limit, sort_by="desc:created", hydrate=True).items:
        promotion = _report(run, "promote_policy", "promotion")
        started = f"{run.start_time:%Y-%m-%d %H:%M}" if run.start_time else ""
        pipeline = run.pipeline.name if run.pipeline else ""
        verdict = str(promotion.data["verdict"] if promotion else run.run_metadata.get("retraining", ""))
        status = INTERRUPTED if INTERRUPTED in run.run_metadata else run.status.value
        add_row(table, run.name, pipeline, started, status, verdict)
    return table


def _report(run: PipelineRunResponse, step: str, output: str) -> Report | None:
    found = run.steps.get(step)
    if found is None or not found.outputs.get(output):
        return None
    loaded = found.outputs[output][0].load()
    return loaded if isinstance(loaded, Report) else None
