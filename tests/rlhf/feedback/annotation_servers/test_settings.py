import pytest
from pydantic import ValidationError

from rlhf.feedback.annotation_servers.settings import ArgillaSource, LabelStudioSource, QuestionSettings


def test_an_address_holds_no_credentials_and_ends_without_a_slash() -> None:
    source = ArgillaSource(api_url="https://argilla.example.org/", workspace="w", dataset="d")
    assert source.api_url == "https://argilla.example.org"
    with pytest.raises(ValidationError, match="api_url"):
        ArgillaSource(api_url="https://me:secret@argilla.example.org", workspace="w", dataset="d")
    with pytest.raises(ValidationError, match="key_variable"):
        LabelStudioSource(url="http://ls", project=1, key_variable="eyJhbGciOi.J9-x")


def test_the_manner_of_reading_is_no_part_of_where_rows_come_from() -> None:
    slow = LabelStudioSource(url="http://ls", project=1, page_size=10, patience_seconds=5)
    assert slow.identity == LabelStudioSource(url="http://ls/", project=1, name="other").identity
    assert slow.identity != LabelStudioSource(url="http://ls", project=2).identity


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "rating", "options": {"1": "left"}}, "options belong to comparisons and rankings"),
        ({"kind": "ranking", "field": "left"}, "field has no meaning for ranking"),
    ],
)
def test_what_a_kind_of_question_cannot_have_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        QuestionSettings.model_validate(given)
