import pytest
from pydantic import ValidationError

from rlhf.sample.settings import MAX_PROMPTS, SupportDeskSettings


def test_every_setting_has_a_help_text() -> None:
    assert all(field.description for field in SupportDeskSettings.model_fields.values())


def test_more_prompts_than_order_numbers_are_refused_before_anything_is_generated() -> None:
    with pytest.raises(ValidationError, match="lower one of them"):
        SupportDeskSettings(demonstrations=MAX_PROMPTS, comparisons=1)


def test_shares_of_drafts_and_discards_may_not_exceed_one_together() -> None:
    with pytest.raises(ValidationError, match="draft_share"):
        SupportDeskSettings(draft_share=0.6, discarded_share=0.6)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="pairs"):
        SupportDeskSettings.model_validate({"pairs": 3})
