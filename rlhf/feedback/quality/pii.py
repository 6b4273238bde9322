"""Personal data in feedback, by pattern: e-mail addresses, phone, card and IBAN numbers, the latter two with
their check digits. Names and places need a model; presidio is the way to one."""

import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from rlhf.errors import ConfigError
from rlhf.feedback.rows import canonical_json

# Quantifiers are bounded: a long run of letters must not be scanned again from each of its positions.
_EMAIL = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_CARD = re.compile(r"(?<![\w.,+-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")
_PHONE = re.compile(
    r"(?<![\w.+-])(?<!\d[ -])(?:"
    r"\+\d{1,3}[ ./-]?(?:\(0?\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}"  # international
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4}"  # North American
    r"|0\d{1,4}[ /-]\d{2,8}(?:[ -]\d{2,8}){0,3}"  # national, with a trunk prefix
    r")(?![\w-])"
)
_MANY_DIGITS = re.compile(r"\d(?:[ ./()-]{0,3}\d){6}")
_IBAN_LIKE = re.compile(r"[A-Z]{2}\d{2}")

# Characters of an IBAN by country: ISO 13616 registry.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL", 19: "MK SI", 20: "AT BA EE KZ LT LU XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "PT", 26: "IS TR", 27: "FR GR IT MC MR SM",
        28: "AL AZ CY DO GT HU LB PL", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT",
    }.items()
    for country in countries.split()
}  # fmt: skip

_FEWEST_PHONE_DIGITS = 9
"""National numbers of fewer digits look like dates and order numbers."""

_TEXT_VALUES = ("demonstration", "text-edit")

Span = tuple[int, int, str]
Finder = Callable[[str], Iterable[Span]]
"""``text -> (start, end, kind)`` of what it holds, in order and without overlap."""


def find_pii(text: str) -> list[Span]:
    """``(start, end, kind)`` of each find, in order; kinds are ``EMAIL``, ``IBAN``, ``CARD`` and
    ``PHONE``."""
    found: list[Span] = []
    if "@" in text:
        found += ((*match.span(), "EMAIL") for match in _EMAIL.finditer(text))
    if _IBAN_LIKE.search(text):
        found += _free(_ibans(text), found)
    if _MANY_DIGITS.search(text):
        cards = ((*m.span(), "CARD") for m in _CARD.finditer(text) if passes_luhn(_digits(m.group())))
        found += _free(cards, found)
        phones = ((*m.span(), "PHONE") for m in _PHONE.finditer(text) if _is_phone(m.group()))
        found += _free(phones, found)
    return sorted(found)


def passes_luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1, annex B)."""
    values = [int(digit) for digit in reversed(digits)]
    doubled = (2 * value - 9 * (value > 4) for value in values[1::2])
    return len(values) > 1 and (sum(values[::2]) + sum(doubled)) % 10 == 0


def is_iban(compact: str) -> bool:
    """Length by country and check digits modulo 97 (ISO 13616) of an IBAN without spaces."""
    if len(compact) != _IBAN_LENGTHS.get(compact[:2]):
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def _ibans(text: str) -> Iterator[Span]:
    for match in _IBAN.finditer(text):
        # Capitals that follow belong to the match but not to the number.
        length = _IBAN_LENGTHS.get(match.group()[:2], 0)
        places = [at for at, character in enumerate(match.group()) if character != " "][:length]
        compact = "".join(match.group()[at] for at in places)
        if is_iban(compact):
            yield match.start(), match.start() + places[-1] + 1, "IBAN"


def _free(spans: Iterable[Span], taken: list[Span]) -> list[Span]:
    return [span for span in spans if all(span[1] <= start or end <= span[0] for start, end, _ in taken)]


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


def _is_phone(text: str) -> bool:
    digits = len(_digits(text))
    return digits <= 15 and (text.startswith(("+", "(")) or digits >= _FEWEST_PHONE_DIGITS)


def masked(text: str, spans: Iterable[Span]) -> str:
    """The text with ``[KIND]`` in place of each find."""
    parts, at = [], 0
    for start, end, kind in spans:
        parts += [text[at:start], f"[{kind}]"]
        at = end
    return "".join([*parts, text[at:]])


@dataclass
class PIICounts:
    """What was found: finds by kind, and the rows that hold any."""

    finds: Counter[str] = field(default_factory=Counter)
    rows: int = 0


def without_pii(
    records: Iterable[dict[str, Any]], mode: Literal["report", "mask", "drop"], find: Finder = find_pii
) -> tuple[list[dict[str, Any]], PIICounts]:
    """Annotation rows with personal data counted, masked or left out with their row.

    Prompts, responses and the texts that annotators wrote are searched; each distinct text once.
    """
    counts = PIICounts()
    kept = []
    spans_of = lru_cache(maxsize=200_000)(lambda text: tuple(find(text)))
    for record in records:
        is_text = record["kind"] in _TEXT_VALUES
        value = json.loads(record["value"]) if is_text else ""
        texts = [*(message["content"] for message in record["prompt"]), *record["responses"], value]
        spans = [spans_of(text) for text in texts]
        if not any(spans):
            kept.append(record)
            continue
        counts.rows += 1
        counts.finds.update(kind for own in spans for _, _, kind in own)
        if mode == "report":
            kept.append(record)
        elif mode == "mask":
            kept.append(_masked_record(record, [masked(*pair) for pair in zip(texts, spans, strict=True)]))
    return kept, counts


def _masked_record(record: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    turns = len(record["prompt"])
    prompt = [
        {**message, "content": text} for message, text in zip(record["prompt"], texts[:turns], strict=True)
    ]
    changed = record | {"prompt": prompt, "responses": texts[turns:-1]}
    return changed | {"value": canonical_json(texts[-1])} if record["kind"] in _TEXT_VALUES else changed


def finder(detector: Literal["patterns", "presidio"]) -> Finder:
    """The search that settings name.

    Raises:
        ConfigError: presidio or the language model that it needs is not installed.
    """
    if detector == "patterns":
        return find_pii
    missing = [
        name for name in ("presidio_analyzer", "en_core_web_lg") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ConfigError(
            f"datasets.pii_detector 'presidio' needs {' and '.join(missing)}, not installed here; install "
            "the extra 'presidio' and spaCy's model en_core_web_lg, or set it to 'patterns'."
        )
    from presidio_analyzer import AnalyzerEngine

    return presidio_finder(AnalyzerEngine())


def presidio_finder(engine: Any) -> Finder:
    """A search by a presidio ``AnalyzerEngine``; of overlapping finds the surest stands."""

    def find(text: str) -> list[Span]:
        taken: list[Span] = []
        results = engine.analyze(text=text, language="en")
        for result in sorted(results, key=lambda r: (-r.score, r.start, -r.end)):
            taken += _free([(result.start, result.end, result.entity_type)], taken)
        return sorted(taken)

    return find


def pii_data(counts: PIICounts) -> Mapping[str, Any]:
    """The counts for a report."""
    return {"rows": counts.rows, "finds": dict(sorted(counts.finds.items()))}
