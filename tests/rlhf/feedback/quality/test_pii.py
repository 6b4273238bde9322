import random
import sys
import time
from types import SimpleNamespace

import pytest

from rlhf.errors import ConfigError
from rlhf.feedback.quality.pii import (
    find_pii,
    finder,
    is_iban,
    masked,
    passes_luhn,
    presidio_finder,
    without_pii,
)
from rlhf.feedback.rows import AnnotationRow, Message, to_table


def mask(text: str) -> str:
    return masked(text, find_pii(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jo.smith+x@mail.example.co.uk, please.", "Write to [EMAIL], please."),
        ("Card 4111 1111 1111 1111 expired.", "Card [CARD] expired."),
        ("Card 5500-0055-5555-5559.", "Card [CARD]."),
        ("IBAN DE89 3704 0044 0532 0130 00 OK?", "IBAN [IBAN] OK?"),
        ("to GB82WEST12345698765432", "to [IBAN]"),
        ("Call +44 20 7946 0958 or (212) 555-0123!", "Call [PHONE] or [PHONE]!"),
        ("Tel. 030/23125 678, 212-555-0123", "Tel. [PHONE], [PHONE]"),
        ("+4915123456789", "[PHONE]"),
    ],
)
def test_personal_data_is_found(text: str, expected: str) -> None:
    assert mask(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Card 4111 1111 1111 1112",  # fails Luhn
        "DE88 3704 0044 0532 0130 00",  # fails modulo 97
        "Order 1234567890123, placed on 01-02-2024 at 10:30",
        "Pi is 3.14159265358979 and ISBN 978-3-16-148410-0",
        "2024-11-20T10:30:00Z, v1.22.333.4444, 192.168.100.200",
        "user@localhost, @home, 12 @ 5 each",
        "The years 1914 1918 1939 1945",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert find_pii(text) == []


def test_check_digits_are_those_of_the_standards() -> None:
    assert passes_luhn("79927398713")
    assert not any(passes_luhn(f"7992739871{digit}") for digit in "012456789")
    assert is_iban("CH9300762011623852957")
    assert not is_iban("CH9300762011623852958")
    assert not is_iban("CH93007620116238529570")


def test_hostile_texts_take_no_time() -> None:
    rng = random.Random(0)
    hostile = ["a" * 200_000, "a@" * 100_000, "1 " * 100_000, "DE12" * 50_000, "+1-" * 60_000, "0" * 200_000]
    hostile.append("".join(rng.choices("01 -+()@.aA", k=200_000)))
    start = time.process_time()
    for text in hostile:
        find_pii(text)
    assert time.process_time() - start < 10


def rows() -> list[dict[str, object]]:
    prompt = (Message(role="user", content="I am jo@example.org"),)
    other = (Message(role="user", content="Hello"),)
    return to_table(
        [
            AnnotationRow("1", "s", prompt, ("Call +44 20 7946 0958", "b"), "comparison", 0),
            AnnotationRow("2", "s", other, (), "demonstration", 'Say "jo@example.org"'),
            AnnotationRow("3", "s", other, ("a", "b"), "comparison", 1),
        ]
    ).to_pylist()


def test_rows_are_counted_masked_or_dropped() -> None:
    reported, counts = without_pii(rows(), "report")
    assert reported == rows()
    assert (counts.rows, counts.finds) == (2, {"EMAIL": 2, "PHONE": 1})
    hidden, same = without_pii(rows(), "mask")
    assert same == counts
    assert hidden[0]["prompt"] == [{"role": "user", "content": "I am [EMAIL]"}]
    assert hidden[0]["responses"] == ["Call [PHONE]", "b"]
    assert hidden[0]["value"] == "0"
    assert hidden[1]["value"] == '"Say \\"[EMAIL]\\""'
    assert hidden[2] == rows()[2]
    dropped, _ = without_pii(rows(), "drop")
    assert [row["record_id"] for row in dropped] == ["3"]


def test_presidio_is_asked_for_by_name_and_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(ConfigError, match="presidio_analyzer"):
        finder("presidio")


def test_of_presidios_overlapping_finds_the_surest_stands() -> None:
    def analyze(text: str, language: str) -> list[SimpleNamespace]:
        assert language == "en"
        return [
            SimpleNamespace(start=0, end=2, score=0.9, entity_type="PERSON"),
            SimpleNamespace(start=1, end=6, score=0.4, entity_type="LOCATION"),
            SimpleNamespace(start=7, end=9, score=0.5, entity_type="LOCATION"),
        ]

    spans = presidio_finder(SimpleNamespace(analyze=analyze))("Jo of X in Y")
    assert spans == [(0, 2, "PERSON"), (7, 9, "LOCATION")]
