"""The card says where the model comes from and what was decided."""

from huggingface_hub import ModelCard

from rlhf.registry.champion import ChampionRef
from rlhf.registry.gate import decide
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.model_card import Lineage, model_card, worst_answers
from rlhf.registry.settings import Criterion, PromotionSettings

METRICS = {"eval/kl": 9.123456, "eval/gold/policy": 3.25}


def test_the_card_names_lineage_figures_and_decision() -> None:
    settings = PromotionSettings(criteria=(Criterion(metric="eval/kl", maximum=5.0),))
    decision = decide(Evidence(METRICS), settings, ChampionRef(), candidate_digest="abc")
    lineage = Lineage(models={"SFT policy": "f00"}, data={"ledger": "version 12"}, runs={"ppo": "http://h/1"})
    card = model_card("support-desk", "abc", lineage, METRICS, decision=decision)
    for part in ("`abc`", "| SFT policy | f00 |", "| ledger | version 12 |", "| eval/kl | 9.123 |"):
        assert part in card
    assert "- eval/kl is 9.12346: above 5, where ≤ 5 is asked." in card
    assert "## Code" not in card


def test_the_hub_reads_the_metadata_block() -> None:
    parsed = ModelCard(model_card("support-desk", "abc", Lineage(), {}))
    assert parsed.data.pipeline_tag == "text-generation"
    assert parsed.data.tags == ["rlhf"]


def test_a_cell_cannot_break_the_table() -> None:
    card = model_card("m", "abc", Lineage(data={"a|b": "two\nlines"}), {})
    assert "| a\\|b | two lines |" in card


def test_chosen_figures_come_in_the_given_order() -> None:
    card = model_card("m", "abc", Lineage(), METRICS, metric_names=("eval/kl", "eval/absent"))
    assert "eval/kl" in card
    assert "eval/gold/policy" not in card
    assert "absent" not in card


def test_a_figure_stands_with_its_interval() -> None:
    card = model_card("m", "abc", Lineage(), {"eval/kl": 9.1, "eval/kl_low": 8.0, "eval/kl_high": 10.25})
    assert "| eval/kl | 9.1 [8, 10.25] |" in card
    assert "eval/kl_low" not in card


def test_known_failures_are_the_failed_criteria_and_the_worst_answers_by_record() -> None:
    samples = [
        {"why": "worst", "record_id": "r7", "prompt": "secret", "policy_gold": 0.25, "sft_gold": 1.5},
        {"why": "best", "record_id": "r8", "policy_gold": 3.0, "sft_gold": 1.5},
    ]
    worst = worst_answers(samples, ["gold", "absent"])
    assert worst == ["Among the worst answers, to record r7: gold 0.25 (SFT 1.5)."]
    settings = PromotionSettings(criteria=(Criterion(metric="eval/kl", maximum=5.0),))
    decision = decide(Evidence(METRICS), settings, ChampionRef(), candidate_digest="abc")
    card = model_card("m", "abc", Lineage(), METRICS, decision=decision, worst=worst)
    failures = card.split("## Known failures")[1]
    assert "above 5, where ≤ 5 is asked." in failures
    assert "eval/kl" in failures
    assert "record r7" in failures
    assert "secret" not in card


def test_licences_annotators_and_settings_have_their_sections() -> None:
    lineage = Lineage(licences={"helpdesk": "CC-BY-4.0"}, annotators={"q": "3 annotators"})
    card = model_card("m", "abc", lineage, {}, settings={"ppo": {"updates": 3}})
    for part in ("| helpdesk | CC-BY-4.0 |", "| q | 3 annotators |", "ppo:\n  updates: 3"):
        assert part in card
