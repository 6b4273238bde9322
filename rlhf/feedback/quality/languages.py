"""Languages of annotation rows: counted for the report, and those that are not wanted left out."""

import heapq
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.errors import ConfigError
from rlhf.language import known_languages, language_of

UNDECIDED = "undecided"
"""In place of a code, for texts that are too short or too mixed to tell."""
_WRITTEN = ("demonstration", "text-edit")


def row_language(record: Mapping[str, Any]) -> str | None:
    """Code of the language of everything in a row of ``ROW_SCHEMA``: its prompt, responses and what the
    annotator wrote, taken together."""
    texts = [*(message["content"] for message in record["prompt"]), *record["responses"]]
    if record["kind"] in _WRITTEN:
        texts.append(json.loads(record["value"]))
    return language_of("\n".join(texts))


def sampled_languages(records: Sequence[Mapping[str, Any]], most: int) -> Counter[str]:
    """Number of rows by language among ``most`` of them: the same ones in whatever order they came."""
    chosen = heapq.nsmallest(most, records, key=lambda record: str(record["row_hash"]))
    return Counter(row_language(record) or UNDECIDED for record in chosen)


def only_in_languages(
    records: Sequence[dict[str, Any]], wanted: Sequence[str]
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Rows in the wanted languages, and those whose language cannot be told.

    Returns:
        The rows that are kept, and the number of all rows by language.

    Raises:
        ConfigError: a wanted language is none that can be recognised.
    """
    if unknown := sorted(set(wanted) - known_languages()):
        raise ConfigError(
            f"datasets.languages: {', '.join(unknown)} cannot be recognised; use ISO 639 codes such as en, "
            "de or zh."
        )
    found = [row_language(record) or UNDECIDED for record in records]
    kept = {*wanted, UNDECIDED}
    return [record for record, code in zip(records, found, strict=True) if code in kept], Counter(found)
