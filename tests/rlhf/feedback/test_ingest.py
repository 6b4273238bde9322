import json
from pathlib import Path

import pytest

from rlhf.errors import DataError
from rlhf.feedback.ingest import ingest
from rlhf.feedback.rows import ROW_SCHEMA, from_table
from rlhf.feedback.settings import FeedbackSettings


def pairs(path: Path, rows: list[dict]) -> dict:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return {"type": "file", "path": path}


def pair(n: int, chosen: str = "good") -> dict:
    return {"prompt": f"prompt {n}", "chosen": chosen, "rejected": "bad"}


def test_rows_come_in_the_order_of_sources_and_records(tmp_path: Path) -> None:
    settings = FeedbackSettings.model_validate(
        {
            "sources": [
                pairs(tmp_path / "b.jsonl", [pair(2), pair(1)]),
                pairs(tmp_path / "a.jsonl", [pair(3)]),
            ]
        }
    )
    result = ingest(settings)
    assert result.table.schema == ROW_SCHEMA
    assert [(row.source, row.prompt[0]["content"]) for row in from_table(result.table)] == [
        ("b", "prompt 2"),
        ("b", "prompt 1"),
        ("a", "prompt 3"),
    ]
    assert ingest(settings).table.equals(result.table)


def test_row_hashes_survive_the_table(tmp_path: Path) -> None:
    table = ingest(
        FeedbackSettings.model_validate({"sources": [pairs(tmp_path / "a.jsonl", [pair(1)])]})
    ).table
    assert [row.row_hash for row in from_table(table)] == table["row_hash"].to_pylist()


def test_identical_rows_are_kept_once_and_counted(tmp_path: Path) -> None:
    source = pairs(tmp_path / "a.jsonl", [pair(1), pair(2), pair(1)])
    result = ingest(FeedbackSettings.model_validate({"sources": [source]}))
    assert (result.table.num_rows, result.report.data["repeated"]) == (2, 1)


def test_bad_records_are_quarantined_with_line_and_reason_and_the_rest_is_kept(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(30)]
    rows[4] = pair(4, chosen="bad ")
    source = pairs(tmp_path / "a.jsonl", rows)
    result = ingest(FeedbackSettings.model_validate({"sources": [source]}))
    (refused,) = result.quarantined
    assert (refused.source, refused.line, refused.reason) == ("a", 5, "both sides are equal")
    assert "prompt 4" in refused.excerpt
    assert result.table.num_rows == 29
    assert "both sides are equal" in result.report.html


def test_too_many_bad_records_are_an_error_with_the_commonest_reason(tmp_path: Path) -> None:
    rows = [pair(n, chosen="bad" if n < 5 else "good") for n in range(30)]
    source = {
        "sources": [pairs(tmp_path / "a.jsonl", [*rows, {"prompt": 3, "chosen": "x", "rejected": "y"}])]
    }
    with pytest.raises(
        DataError, match=r"'a': 6 of 31 .*19\.4%, allowed are 5\.0%.*sides are equal \(5 times\)"
    ):
        ingest(FeedbackSettings.model_validate(source))
    allowed = FeedbackSettings.model_validate({**source, "max_quarantined_share": 0.2})
    assert ingest(allowed).report.data["quarantined"] == 6


def test_a_bad_source_is_not_hidden_behind_a_large_good_one(tmp_path: Path) -> None:
    good = pairs(tmp_path / "good.jsonl", [pair(n) for n in range(500)])
    bad = pairs(tmp_path / "bad.jsonl", [pair(n, chosen="bad") for n in range(3)])
    with pytest.raises(DataError, match="Source 'bad'"):
        ingest(FeedbackSettings.model_validate({"sources": [good, bad]}))


def test_a_row_of_a_megabyte_is_refused_by_size(tmp_path: Path) -> None:
    rows = [pair(n) for n in range(30)]
    rows[7] = pair(7, chosen="x" * 1_000_000)
    result = ingest(FeedbackSettings.model_validate({"sources": [pairs(tmp_path / "a.jsonl", rows)]}))
    assert [(q.line, q.reason, len(q.excerpt) < 500) for q in result.quarantined] == [
        (8, "longer than max_row_bytes", True)
    ]


def test_no_feedback_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="No feedback came in from a"):
        ingest(FeedbackSettings.model_validate({"sources": [{"type": "file", "path": tmp_path / "a.jsonl"}]}))


def test_the_report_counts_kinds_statuses_and_annotators_of_each_source() -> None:
    sample = {"type": "sample", "settings": {"demonstrations": 50, "comparisons": 40, "edited_share": 0.1}}
    result = ingest(FeedbackSettings.model_validate({"sources": [sample]}))
    counts = result.report.data["sources"]["support_desk"]
    assert sum(counts["kinds"].values()) == sum(counts["statuses"].values()) == result.table.num_rows
    assert {"demonstration", "comparison"} <= set(counts["kinds"])
    assert counts["annotators"] > 2
    assert counts["quarantined"] == {}


def test_rows_written_by_one_ingest_are_read_back_by_the_next(tmp_path: Path) -> None:
    sample = {"type": "sample", "settings": {"demonstrations": 30, "comparisons": 30, "edited_share": 0.2}}
    table = ingest(FeedbackSettings.model_validate({"sources": [sample]})).table
    import pyarrow.parquet as pq

    pq.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    for name in ("rows.parquet", "rows.jsonl"):
        source = {"type": "file", "path": tmp_path / name}
        again = ingest(FeedbackSettings.model_validate({"sources": [source]}))
        assert again.report.data["sources"]["rows"]["layout"] == "annotation-rows"
        # Text is stripped on the way in; everything else is as it was.
        stripped = [
            row for row in table["row_hash"].to_pylist() if row in set(again.table["row_hash"].to_pylist())
        ]
        assert again.table.num_rows == table.num_rows
        assert len(stripped) == table.num_rows
