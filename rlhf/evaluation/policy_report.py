"""The evaluation as a page: what changed, at what distance from the SFT model, and which answers show it.

It words and draws what the evidence holds and computes no statistic of its own.
"""

import math
from collections.abc import Sequence

from rlhf.evaluation.evidence import PolicyEvidence, as_json
from rlhf.evaluation.frontier import FrontierPoint
from rlhf.evaluation.win_rate import Estimate
from rlhf.models.chat import prompt_text
from rlhf.report import Cell, Report, ReportBuilder, Series

_NAMES = {"policy": "policy", "sft": "SFT", "champion": "champion"}


def policy_report(evidence: PolicyEvidence) -> Report:
    """The report: ``data`` holds every figure, flat ones under ``metrics``."""
    level = f"{evidence.settings.confidence:.0%}"
    builder = ReportBuilder(
        "Policy evaluation",
        f"{evidence.prompts} held-out prompts, {evidence.settings.samples_per_prompt} answer(s) each, the "
        f"same random numbers for every model. Brackets are {level} intervals over prompts.",
        data=as_json(evidence),
    )
    for sentence in _findings(evidence):
        builder.note(sentence)
    _rewards(builder, evidence)
    _behaviour(builder, evidence)
    if evidence.frontier:
        _frontier(builder, evidence)
    if evidence.shown:
        _samples(builder, evidence)
    return builder.build()


def _findings(evidence: PolicyEvidence) -> list[str]:
    sentences = []
    for name, against in evidence.comparisons.items():
        for baseline, comparison in against.items():
            won = comparison.win_rate
            if won.low > 0.5:
                verdict = "is better than"
            elif won.high < 0.5:
                verdict = "is worse than"
            else:
                verdict = "is not shown to differ from"
            sentences.append(
                f"By {name}, the policy {verdict} the {_NAMES[baseline]} model: its win rate is "
                f"{_interval(Estimate(won.rate, won.low, won.high))}, ties counted as half."
            )
    if evidence.disagreeing:
        optimised = evidence.settings.optimised_reward
        sentences.append(
            f"Warning: {optimised}, which training maximised, prefers the policy to the SFT model, but "
            f"{' and '.join(evidence.disagreeing)} do not: a sign of over-optimisation."
        )
    sentences += [f"Warning: {finding.sentence}" for finding in evidence.overoptimisation]
    return sentences


def _rewards(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    builder.heading("Rewards")
    roles = list(evidence.behaviour)
    builder.table(
        ["reward", *(_NAMES[role] for role in roles)],
        [[name, *(_interval(means[role]) for role in roles)] for name, means in evidence.means.items()],
    )
    builder.table(
        ["reward", "against", "difference", "win rate", "won", "tied", "lost", "interval"],
        [
            [
                name,
                _NAMES[baseline],
                _interval(comparison.difference),
                _interval(Estimate(won.rate, won.low, won.high)),
                won.wins,
                won.ties,
                won.losses,
                won.method,
            ]
            for name, against in evidence.comparisons.items()
            for baseline, comparison in against.items()
            for won in [comparison.win_rate]
        ],
    )


def _behaviour(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    builder.heading("Distance and behaviour")
    builder.note(
        f"KL(policy‖SFT): {_interval(evidence.kl)} nats per answer, {_interval(evidence.kl_per_token)} per "
        "token, from the policy's own samples at temperature 1. Lengths are in each model's own tokens."
    )
    builder.table(
        ["model", "length", "truncated share", "distinct-1", "distinct-2"],
        [
            [_NAMES[role], _interval(b.length), b.truncated_share, b.distinct_1, b.distinct_2]
            for role, b in evidence.behaviour.items()
        ],
    )


def _frontier(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    points = sorted(evidence.frontier, key=lambda p: p.update)
    names = list(dict.fromkeys(name for p in points for name in p.rewards))
    builder.heading("Reward against distance during training")
    series = [line for name in names if (line := _gain(name, points)) is not None]
    if series:
        builder.plot(
            series,
            x_label="√KL(policy‖SFT), √nats per answer",
            y_label="gain over the first evaluation (largest = 1)",
        )
        builder.note(
            "The star is the chosen checkpoint. Each reward is drawn in units of its own largest gain or "
            "loss, since rewards have different units; the table has the values."
        )
    if not evidence.overoptimisation and len(points) > 1:
        builder.note("No reward ended below its peak while the optimised one still rose.")
    builder.table(
        ["update", "KL", *names, "chosen"],
        [[p.update, p.kl, *(p.rewards.get(n) for n in names), "chosen" if p.chosen else ""] for p in points],
    )


def _gain(name: str, points: Sequence[FrontierPoint]) -> Series | None:
    """The reward's curve in units of its largest move; ``None`` where it never moved."""
    present = [p for p in points if name in p.rewards]
    gains = [p.rewards[name] - present[0].rewards[name] for p in present]
    largest = max(map(abs, gains))
    if largest == 0:
        return None
    chosen = next((i for i, p in enumerate(present) if p.chosen), None)
    # A KL that is estimated from samples can come out slightly negative at the start.
    return Series(name, [math.sqrt(max(p.kl, 0.0)) for p in present], [g / largest for g in gains], chosen)


def _samples(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    builder.heading("Answers side by side")
    roles = list(evidence.behaviour)
    rows: list[list[Cell]] = []
    for row in evidence.shown:
        answers = [
            "\n".join(
                [
                    str(row[f"{role}_completion"]),
                    "",
                    *(f"{name} {row[f'{role}_{name}']:.3g}" for name in evidence.means),
                ]
            )
            for role in roles
        ]
        rows.append([str(row["why"]), str(row["record_id"]), prompt_text(row["prompt"]), *answers])
    builder.table(["shown as", "record", "prompt", *(_NAMES[role] for role in roles)], rows)


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
