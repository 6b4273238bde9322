"""The suites as a section of the evaluation's report. It words what they found and computes nothing."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rlhf.evaluation.suites.figures import SuiteResult
from rlhf.evaluation.win_rate import Estimate
from rlhf.report import Cell, ReportBuilder

_NAMES = {"policy": "policy", "sft": "SFT", "champion": "champion"}
_EXCERPT = 600
"""Characters of an answer that the report shows."""


def suites_report(results: Sequence[SuiteResult]) -> ReportBuilder:
    """One part for each suite: what it measures, its figures, groups and some answers."""
    builder = ReportBuilder("Suites", data={"suites": {r.suite: _as_json(r) for r in results}})
    for result in results:
        _suite(builder, result)
    return builder


def _suite(builder: ReportBuilder, result: SuiteResult) -> None:
    builder.heading(result.title)
    builder.note(result.about)
    if result.items or result.left_out:
        left_out = f"; {result.left_out} were left out" if result.left_out else ""
        builder.note(f"{result.items} items{left_out}.")
    roles = list(dict.fromkeys(role for figure in result.figures for role in figure.estimates))
    baselines = list(dict.fromkeys(b for figure in result.figures for b in figure.differences))
    if result.figures:
        builder.table(
            ["figure", "meaning", *(_NAMES[r] for r in roles), *(f"policy − {_NAMES[b]}" for b in baselines)],
            [
                [
                    figure.name,
                    figure.meaning,
                    *(_interval(figure.estimates.get(role)) for role in roles),
                    *(_interval(figure.differences.get(baseline)) for baseline in baselines),
                ]
                for figure in result.figures
            ],
        )
    if result.comparisons:
        builder.table(
            ["figure", "value"],
            [[name, _interval(estimate)] for name, estimate in result.comparisons.items()],
        )
    if result.plain:
        builder.table(["figure", "value"], [[name, value] for name, value in result.plain.items()])
    for table in result.tables:
        builder.note(table.title)
        builder.table([_NAMES.get(column, column) for column in table.columns], table.rows)
    if result.examples:
        columns = list(dict.fromkeys(name for row in result.examples for name in row))
        builder.table(
            [_NAMES.get(column, column) for column in columns],
            [[_cell(row.get(column)) for column in columns] for row in result.examples],
        )


def _as_json(result: SuiteResult) -> dict[str, Any]:
    return {
        "items": result.items,
        "left_out": result.left_out,
        "figures": [asdict(figure) for figure in result.figures],
        "comparisons": {name: asdict(estimate) for name, estimate in result.comparisons.items()},
        **dict(result.plain),
        "groups": [asdict(table) for table in result.tables],
        "examples": [dict(row) for row in result.examples],
    }


def _interval(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def _cell(value: Any) -> Cell:
    return value if isinstance(value, int | float) else str(value or "")[:_EXCERPT]
