"""The decision against its criteria."""

from collections.abc import Mapping

import pytest
from pydantic import ValidationError

from rlhf.errors import ConfigError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import PromotionDecision, conclude, decide, decision_report, judge
from rlhf.registry.settings import Criterion, PromotionSettings

WIN = Criterion(metric="eval/gold/win_rate_vs_sft_low", minimum=0.5)
KL = Criterion(metric="eval/kl", maximum=20.0)
GATE = PromotionSettings(criteria=(WIN, KL))
NOBODY = ChampionRef()
GOOD = {"eval/gold/win_rate_vs_sft_low": 0.6, "eval/kl": 9.0}
BAD = {"eval/gold/win_rate_vs_sft_low": 0.4, "eval/kl": 9.0}


def gate(
    digest: str, metrics: Mapping[str, float] = GOOD, champion: ChampionRef = NOBODY
) -> PromotionDecision:
    return decide(metrics, GATE, champion, candidate_digest=digest)


def test_the_champion_itself_is_not_promoted_again() -> None:
    decision = gate("a", champion=ChampionRef(version="1", digest="a"))
    assert not decision.promote
    assert "already the champion" in decision.summary


def test_a_candidate_within_all_bounds_is_promoted_and_bounds_are_inclusive() -> None:
    decision = gate("a", {"eval/gold/win_rate_vs_sft_low": 0.5, "eval/kl": 20.0})
    assert decision.promote
    assert all(r.passed for r in decision.reasons)


@pytest.mark.parametrize(
    ("metrics", "failing"),
    [
        ({"eval/gold/win_rate_vs_sft_low": 0.49, "eval/kl": 1.0}, {"eval/gold/win_rate_vs_sft_low"}),
        ({"eval/gold/win_rate_vs_sft_low": 0.9, "eval/kl": 20.1}, {"eval/kl"}),
        (
            {"eval/gold/win_rate_vs_sft_low": 0.1, "eval/kl": 99.0},
            {"eval/gold/win_rate_vs_sft_low", "eval/kl"},
        ),
    ],
)
def test_each_broken_bound_rejects_and_is_named(metrics: dict[str, float], failing: set[str]) -> None:
    decision = gate("a", metrics)
    assert not decision.promote
    assert {r.metric for r in decision.reasons if not r.passed} == failing
    assert all(name in decision.summary for name in failing)


def test_a_missing_metric_is_an_error_that_names_it_and_those_that_exist() -> None:
    with pytest.raises(
        ConfigError, match=r"criteria\[1\].*'eval/kl'.*reports: eval/gold, eval/gold/win"
    ) as e:
        gate("a", {"eval/gold": 1.0, "eval/gold/win_rate_vs_sft_low": 0.9})
    assert "champion" not in str(e.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_not_finite_neither_passes_nor_fails_but_is_an_error(value: float) -> None:
    with pytest.raises(ConfigError, match="eval/kl"):
        judge(KL, {"eval/kl": value}, ChampionRef())


def test_a_criterion_against_the_champion_is_asked_only_when_there_is_one() -> None:
    versus = Criterion(metric="eval/gold/win_rate_vs_champion_low", minimum=0.5, when="champion")
    champion = ChampionRef(version="1", digest="x")
    assert judge(versus, {}, ChampionRef()).passed
    assert not judge(versus, {versus.metric: 0.4}, champion).passed
    with pytest.raises(ConfigError, match="win_rate_vs_champion_low"):
        judge(versus, {}, champion)
    with pytest.raises(ConfigError, match="when: champion"):
        judge(versus.model_copy(update={"when": "always"}), {}, ChampionRef())


def test_no_results_at_all_do_not_promote() -> None:
    assert not conclude([], GATE, ChampionRef(), candidate_digest="a").promote
    with pytest.raises(ValidationError, match="criteria"):
        PromotionSettings(criteria=())


@pytest.mark.parametrize("bounds", [{}, {"minimum": 2.0, "maximum": 1.0}])
def test_a_criterion_that_asks_nothing_or_the_impossible_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="eval/kl"):
        Criterion(metric="eval/kl", **bounds)  # type: ignore[arg-type]


def test_half_a_champion_is_refused() -> None:
    with pytest.raises(ValidationError, match="both a version and a digest"):
        ChampionRef(version="3")


def test_a_decision_survives_json_and_its_report_holds_every_reason() -> None:
    decision = gate("a", BAD)
    assert PromotionDecision.model_validate_json(decision.model_dump_json()) == decision
    report = decision_report(decision)
    assert report.data["promote"] is False
    assert [r["value"] for r in report.data["reasons"]] == [0.4, 9.0]
    assert "eval/gold/win_rate_vs_sft_low is 0.4, below the minimum 0.5." in report.html
