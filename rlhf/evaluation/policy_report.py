"""The evaluation as a page: what changed, at what distance from the SFT model, and which answers show it.

It words and draws what the evidence holds and computes no statistic of its own.
"""

import itertools
import math
from collections.abc import Sequence

from rlhf.evaluation.evidence import PolicyEvidence, as_json
from rlhf.evaluation.frontier import FrontierPoint
from rlhf.evaluation.reward_model_report import reward_model_section
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
    _tests(builder, evidence)
    if evidence.reward_models:
        reward_model_section(builder, evidence.reward_models)
    _behaviour(builder, evidence)
    _lengths(builder, evidence)
    if evidence.frontier:
        _frontier(builder, evidence)
    if evidence.shown:
        _samples(builder, evidence)
    return builder.build()


def _findings(evidence: PolicyEvidence) -> list[str]:
    sentences = []
    adjusted, level = evidence.adjusted_p_values, 1 - evidence.settings.confidence
    for name, against in evidence.comparisons.items():
        for baseline, comparison in against.items():
            won = comparison.win_rate
            verdict = "is not shown to differ from"
            if adjusted[name][baseline] <= level:
                verdict = "is better than" if won.rate > 0.5 else "is worse than"
            sentences.append(
                f"By {name}, the policy {verdict} the {_NAMES[baseline]} model: its win rate is "
                f"{Estimate(won.rate, won.low, won.high).text}, ties counted as half "
                f"(p = {adjusted[name][baseline]:.2g} after Holm's correction for all win rates here)."
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
        [[name, *(means[role].text for role in roles)] for name, means in evidence.means.items()],
    )
    builder.table(
        ["reward", "against", "difference", "win rate", "won", "tied", "lost", "interval"],
        [
            [
                name,
                _NAMES[baseline],
                comparison.difference.text,
                Estimate(won.rate, won.low, won.high).text,
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


def _tests(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    adjusted = evidence.adjusted_p_values
    builder.table(
        [
            "win rate by",
            "against",
            "at equal length",
            "p (permutation)",
            "p (Holm)",
            "p (McNemar)",
            "power",
            "prompts needed",
            "detectable",
        ],
        [
            [
                name,
                _NAMES[baseline],
                Estimate(fair.rate, fair.low, fair.high).text if fair else "length alone decides",
                f"{comparison.p_value:.2g}",
                f"{adjusted[name][baseline]:.2g}",
                f"{comparison.mcnemar_p_value:.2g}",
                comparison.power.achieved,
                comparison.power.prompts_needed,
                min(1.0, 0.5 + comparison.power.detectable),
            ]
            for name, against in evidence.comparisons.items()
            for baseline, comparison in against.items()
            for fair in [comparison.length_controlled]
        ],
    )
    builder.note(
        "Power is the chance that as many new prompts show a difference if the observed one is true; prompts "
        "needed make it 80 %; detectable is the smallest win rate that these prompts show with 80 %. Where "
        "nothing was shown, these say whether there was enough evidence to show it."
    )


def _behaviour(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    builder.heading("Distance and behaviour")
    builder.note(
        f"KL(policy‖SFT): {evidence.kl.text} nats per answer, {evidence.kl_per_token.text} per "
        "token, from the policy's own samples at temperature 1. Lengths are in each model's own tokens."
    )
    builder.table(
        [
            "model",
            "length",
            "truncated share",
            "distinct-1",
            "distinct-2",
            "repeated 4-grams",
            "in the prompt's language",
            "perplexity",
        ],
        [
            [
                _NAMES[role],
                b.length.text,
                b.truncated_share,
                b.distinct_1,
                b.distinct_2,
                b.repetition_4.text,
                _share(b.prompt_language_share, b.language_decided),
                b.perplexity.text if b.perplexity else None,
            ]
            for role, b in evidence.behaviour.items()
        ],
    )


def _share(share: float | None, of: int) -> str:
    return "too short to tell" if share is None else f"{share:.1%} of {of}"


def _lengths(builder: ReportBuilder, evidence: PolicyEvidence) -> None:
    edges = evidence.lengths.edges
    middles = [(low + high) / 2 for low, high in itertools.pairwise(edges)]
    builder.plot(
        [Series(_NAMES[role], middles, evidence.lengths.shares[role]) for role in evidence.behaviour],
        x_label="tokens per answer, EOS included",
        y_label="share of answers",
        title="Lengths",
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
