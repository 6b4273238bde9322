"""Criteria and evidence in, a verdict out: what promotes, what rejects and what stays undecided."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.gate import simulate
from rlhf.errors import ConfigError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate import decide, judge
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.promotion import CriterionResult, PromotionDecision, Verdict, conclude
from rlhf.registry.settings import Criterion, PromotionSettings
from rlhf.registry.store import Candidate
from rlhf.registry.transaction import promote
from rlhf.sample.enquiries import draw_enquiry, identities, render_enquiry
from rlhf.sample.gold import gold_reward
from rlhf.sample.replies import Flaw, draw_wording, render_reply
from tests.rlhf.registry.evidence import evidence, won
from tests.rlhf.registry.memory_store import MemoryStore

NOBODY = ChampionRef()
CHAMPION = ChampionRef(version="1", digest="old")
BETTER = Criterion(metric="eval/judge/win_rate", versus="sft", test="superiority")
NOT_WORSE = Criterion(metric="eval/judge/win_rate", versus="sft", test="non_inferiority", margin=0.05)
KL = Criterion(metric="eval/kl", maximum=20.0)


def gate(found: Evidence, *criteria: Criterion, champion: ChampionRef = NOBODY) -> PromotionDecision:
    return decide(found, PromotionSettings(criteria=criteria), champion, candidate_digest="new")


def figures(**metrics: float) -> Evidence:
    return Evidence(metrics={f"eval/{name}": value for name, value in metrics.items()})


@pytest.mark.parametrize(
    ("wins", "losses", "verdict"),
    [
        (240, 160, "promote"),
        (204, 196, "reject"),  # an advantage of ten points is ruled out
        (150, 250, "reject"),
        (22, 18, "undecided"),
        (8, 32, "reject"),
    ],
)
def test_superiority_is_met_failed_or_undecided(wins: int, losses: int, verdict: Verdict) -> None:
    assert gate(won(wins, 0, losses), BETTER).verdict == verdict


@pytest.mark.parametrize(
    ("wins", "losses", "verdict"),
    [(400, 400, "promote"), (40, 40, "undecided"), (300, 500, "reject"), (450, 350, "promote")],
)
def test_non_inferiority_asks_only_not_to_be_worse(wins: int, losses: int, verdict: Verdict) -> None:
    assert gate(won(wins, 0, losses), NOT_WORSE).verdict == verdict


def test_a_margin_raises_the_bar_of_superiority() -> None:
    by_five_points = BETTER.model_copy(update={"margin": 0.05})
    assert gate(won(230, 0, 170), BETTER).verdict == "promote"
    assert gate(won(230, 0, 170), by_five_points).verdict != "promote"
    assert gate(won(260, 0, 140), by_five_points).verdict == "promote"


def test_a_difference_is_tested_in_the_rewards_own_unit() -> None:
    rng = np.random.default_rng(1)
    sft = rng.normal(0.0, 1.0, 300)
    by_two = Criterion(metric="eval/judge/difference", versus="sft", test="superiority", margin=2.0)
    assert gate(evidence(sft + rng.normal(2.5, 1.0, 300), sft), by_two).verdict == "promote"
    assert gate(evidence(sft + rng.normal(1.0, 1.0, 300), sft), by_two).verdict == "reject"


def test_an_undecided_criterion_says_how_many_prompts_would_have_been_needed() -> None:
    [result] = gate(won(22, 0, 18), BETTER).reasons
    assert (result.outcome, result.needed, result.prompts) == ("undecided", 153, 40)
    assert result.power is not None
    assert result.power < 0.5
    assert "153 prompts would find 0.6" in result.reason


@pytest.mark.parametrize(
    ("value", "low", "high", "outcome"),
    [(9, 8, 10, "met"), (19, 17, 21, "undecided"), (25, 22, 28, "failed"), (20, 20, 20, "met")],
)
def test_a_threshold_takes_the_interval_into_account_and_is_inclusive(
    value: float, low: float, high: float, outcome: str
) -> None:
    found = Evidence(
        metrics={"eval/kl": value, "eval/kl_low": low, "eval/kl_high": high, "eval/prompts": 100}
    )
    result = judge(KL, found, NOBODY)
    assert result.outcome == outcome
    assert (result.needed_observed is not None) == (outcome == "undecided")


def test_a_figure_without_an_interval_is_met_or_failed_by_its_value() -> None:
    flag = Criterion(metric="eval/overoptimised", maximum=0.0)
    assert judge(flag, figures(overoptimised=0.0), NOBODY).outcome == "met"
    assert judge(flag, figures(overoptimised=1.0), NOBODY).outcome == "failed"


def test_between_two_bounds_both_must_hold() -> None:
    length = Criterion(metric="eval/length/policy", minimum=5.0, maximum=30.0)
    for value, outcome in ((4.0, "failed"), (20.0, "met"), (31.0, "failed")):
        assert judge(length, Evidence(metrics={"eval/length/policy": value}), NOBODY).outcome == outcome


def test_every_failed_criterion_is_named_and_failure_outweighs_lack_of_evidence() -> None:
    found = Evidence({**won(22, 0, 18).metrics, "eval/kl": 99.0}, won(22, 0, 18).scores)
    decision = gate(found, BETTER, KL)
    assert decision.verdict == "reject"
    assert "eval/kl did not pass" in decision.summary
    assert "win_rate" in gate(won(22, 0, 18), BETTER).summary


def test_a_criterion_against_the_champion_is_asked_only_when_there_is_one() -> None:
    versus = Criterion(metric="eval/judge/win_rate", versus="champion", test="superiority")
    assert judge(versus, Evidence({}), NOBODY).outcome == "not_asked"
    found = evidence([1.0] * 50, [0.0] * 50, [2.0] * 50)
    assert judge(versus, found, CHAMPION).outcome == "failed"
    with pytest.raises(ConfigError, match=r"criterion.versus.*champion"):
        judge(versus, evidence([1.0] * 50, [0.0] * 50), CHAMPION)


def test_a_figure_of_the_champion_is_asked_for_when_the_criterion_says_so() -> None:
    always = Criterion(metric="eval/length/champion", maximum=30.0)
    with pytest.raises(ConfigError, match="when: champion"):
        judge(always, Evidence({}), NOBODY)
    assert judge(always.model_copy(update={"when": "champion"}), Evidence({}), NOBODY).passed


def test_a_missing_figure_or_reward_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"criteria\[1\].*'eval/kl'.*reports: eval/prompts"):
        gate(won(300, 0, 100), BETTER, KL)
    gold = Criterion(metric="eval/gold/win_rate", versus="sft", test="superiority")
    with pytest.raises(ConfigError, match=r"criteria\[0\].*'gold'.*has: judge"):
        gate(won(300, 0, 100), gold)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_not_finite_neither_passes_nor_fails_but_is_an_error(value: float) -> None:
    with pytest.raises(ConfigError, match="eval/kl"):
        judge(KL, figures(kl=value), NOBODY)


def test_findings_decide_nothing_and_are_corrected_together() -> None:
    wins = won(222, 0, 178)  # p = 0.016: met alone, not among four
    findings = [
        BETTER.model_copy(update={"required": False, "margin": margin}) for margin in (0.0, 0.04, 0.06, 0.07)
    ]
    decision = gate(wins, NOT_WORSE, *findings)
    assert decision.verdict == "promote"
    first = decision.reasons[1]
    assert first.p_value is not None
    assert first.p_value <= 0.05 < first.p_adjusted == pytest.approx(4 * first.p_value)
    assert first.outcome == "undecided"
    assert "4 findings" in first.reason
    assert gate(wins, NOT_WORSE, findings[0]).reasons[1].outcome == "met"


def test_the_champion_itself_is_not_promoted_again() -> None:
    same = ChampionRef(version="1", digest="new")
    decision = gate(won(300, 0, 100), BETTER, champion=same)
    assert (decision.verdict, decision.promote) == ("already_champion", False)


@given(st.lists(st.tuples(st.sampled_from(["met", "failed", "undecided", "not_asked"]), st.booleans())))
def test_only_required_criteria_count_and_all_of_them_must_have_passed(given: list[tuple[str, bool]]) -> None:
    results = [
        CriterionResult.model_validate(
            {"metric": "eval/kl", "test": "threshold", "outcome": o, "required": r, "reason": ""}
        )
        for o, r in given
    ]
    required = {outcome for outcome, needed in given if needed}
    settings = PromotionSettings(criteria=(KL,))
    verdict = conclude(results, settings, NOBODY, candidate_digest="a").verdict
    if not required or "failed" in required:
        assert verdict == "reject"
    else:
        assert verdict == ("undecided" if "undecided" in required else "promote")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "eval/kl"}, "has no bound"),
        ({"metric": "eval/kl", "minimum": 2.0, "maximum": 1.0}, "can never pass"),
        ({"metric": "eval/kl", "maximum": 2.0, "margin": 0.1}, "margin and effect belong to the tests"),
        (
            {"metric": "eval/judge/win_rate_vs_sft_low", "minimum": 0.5},
            "name the figure .eval/judge/win_rate.",
        ),
        ({"metric": "eval/judge/win_rate", "test": "superiority"}, "set versus to sft or champion"),
        ({"metric": "eval/kl", "versus": "sft", "test": "superiority"}, "cannot be tested by prompt"),
        (
            {"metric": "eval/judge/win_rate", "versus": "sft", "test": "superiority", "minimum": 0.5},
            "use margin",
        ),
        ({"metric": "eval/judge/win_rate", "versus": "sft", "test": "non_inferiority"}, "margin above 0"),
        (
            {"metric": "eval/judge/win_rate", "versus": "sft", "test": "superiority", "margin": 0.5},
            "between 0 and 1",
        ),
    ],
)
def test_a_criterion_that_asks_nothing_or_the_impossible_is_refused(
    settings: dict[str, object], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        Criterion.model_validate(settings)


def test_a_gate_in_which_nothing_decides_is_refused() -> None:
    with pytest.raises(ValidationError, match="nothing decides"):
        PromotionSettings(criteria=(KL.model_copy(update={"required": False}),))
    with pytest.raises(ValidationError, match="criteria"):
        PromotionSettings(criteria=())


def test_an_equal_candidate_is_seldom_promoted_and_a_better_one_nearly_always() -> None:
    assert simulate(0.5, prompts=400, gates=1000, seed=0)["promote"] <= 64
    assert simulate(0.6, prompts=400, gates=1000, seed=0)["promote"] >= 900


class TestAChampionIsChallenged:
    """Replies to the support desk's own enquiries, judged by their true utility; the proxy counts words."""

    CRITERIA = (
        Criterion(metric="eval/judge/difference", versus="champion", test="superiority"),
        Criterion(metric="eval/judge/win_rate", versus="champion", test="superiority"),
        Criterion(metric="eval/proxy/win_rate", versus="champion", test="superiority", required=False),
    )

    @pytest.fixture(scope="class")
    def scores(self) -> dict[str, dict[str, list[float]]]:
        rng = random.Random(0)
        enquiries = [draw_enquiry(name, order, rng) for name, order in identities(0)[:150]]
        prompts = [list(render_enquiry(enquiry, rng)) for enquiry in enquiries]

        def reply(flaws: Sequence[Flaw]) -> list[str]:
            return [
                render_reply(e, draw_wording(rng), [f for f in flaws if rng.random() < 0.6], rng)
                for e in enquiries
            ]

        replies = {
            "champion": reply([Flaw.NO_ORDER, Flaw.NO_CLOSING, Flaw.WRONG_ITEM]),
            "better": reply([Flaw.NO_CLOSING]),
            "hacked": reply([Flaw.NO_ORDER, Flaw.RUNS_ON, Flaw.REPEATED, Flaw.WRONG_ITEM]),
        }
        return {
            "judge": {who: gold_reward(prompts, texts) for who, texts in replies.items()},
            "proxy": {who: [float(len(text.split())) for text in texts] for who, texts in replies.items()},
        }

    def challenge(
        self, store: MemoryStore, scores: dict[str, dict[str, list[float]]], challenger: str
    ) -> PromotionDecision:
        found = Evidence(
            metrics={},
            scores={
                reward: {"policy": by[challenger], "sft": by["champion"], "champion": by["champion"]}
                for reward, by in scores.items()
            },
        )
        settings = PromotionSettings(criteria=self.CRITERIA)
        champion = next(v for v in store.versions("policy") if v.digest == "champion").as_champion()
        decision = decide(found, settings, champion, candidate_digest=challenger)
        promote(store, Candidate(digest=challenger, path=f"models/{challenger}"), decision)
        return decision

    @pytest.fixture
    def store(self) -> MemoryStore:
        store = MemoryStore()
        first = decide(
            Evidence({"eval/kl": 1.0}), PromotionSettings(criteria=(KL,)), NOBODY, candidate_digest="champion"
        )
        promote(store, Candidate(digest="champion", path="models/champion"), first)
        return store

    def test_a_better_policy_takes_its_place(
        self, store: MemoryStore, scores: dict[str, dict[str, list[float]]]
    ) -> None:
        assert self.challenge(store, scores, "better").verdict == "promote"
        assert store.aliases()["policy@champion"] == "2"

    def test_a_reward_hacked_policy_does_not_however_much_the_proxy_likes_it(
        self, store: MemoryStore, scores: dict[str, dict[str, list[float]]]
    ) -> None:
        decision = self.challenge(store, scores, "hacked")
        assert decision.verdict == "reject"
        assert decision.reasons[2].outcome == "met"
        assert store.aliases()["policy@champion"] == "1"
