import uuid
from pathlib import Path

import pytest
from zenml.client import Client

from materializers.ledger import LedgerRefMaterializer
from rlhf.feedback.ledger.reference import LedgerRef
from tests.rlhf.feedback.ledger.conftest import Desk, judgement


@pytest.fixture
def materializer() -> LedgerRefMaterializer:
    folder = Path(Client().active_stack.artifact_store.path) / f"ledger-tests-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    return LedgerRefMaterializer(uri=str(folder))


def test_a_reference_comes_back_as_it_was(materializer: LedgerRefMaterializer) -> None:
    reference = LedgerRef("/ledger", 7, ("a", "b"), "d" * 64)
    materializer.save(reference)
    assert materializer.load(LedgerRef) == reference


def test_references_to_equal_rows_have_one_hash(materializer: LedgerRefMaterializer) -> None:
    one, other = LedgerRef("/ledger", 7, ("a",), "d" * 64), LedgerRef("/other", 9, ("b",), "d" * 64)
    assert materializer.compute_content_hash(one) == materializer.compute_content_hash(other)


def test_the_page_counts_the_rows_of_each_source_and_shows_the_first(
    materializer: LedgerRefMaterializer, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    desk.write([judgement("first"), judgement("second", annotator="<b>ben</b>")])
    reference = desk.ingest().reference
    [page] = materializer.save_visualizations(reference)
    html = Path(page).read_text()
    assert reference.source_keys[0] in html
    assert "question of first" in html
    assert "<b>ben" not in html
