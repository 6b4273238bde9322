"""The card says where the model comes from and what was decided."""

from huggingface_hub import ModelCard

from rlhf.registry.champion import ChampionRef
from rlhf.registry.model_card import Lineage, model_card
from rlhf.registry.promotion import decide
from rlhf.registry.settings import Criterion, PromotionSettings

METRICS = {"eval/kl": 9.123456, "eval/gold/policy": 3.25}


def test_the_card_names_lineage_figures_and_decision() -> None:
    settings = PromotionSettings(criteria=(Criterion(metric="eval/kl", maximum=5.0),))
    decision = decide(METRICS, settings, ChampionRef(), candidate_digest="abc")
    lineage = Lineage(models={"SFT policy": "f00"}, data={"ledger": "version 12"}, runs={"ppo": "http://h/1"})
    card = model_card("support-desk", "abc", lineage, METRICS, decision=decision)
    for part in ("`abc`", "| SFT policy | f00 |", "| ledger | version 12 |", "| eval/kl | 9.123 |"):
        assert part in card
    assert "- eval/kl is 9.12346, above the maximum 5." in card
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
