"""Which language a text is in, where that can be told."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

CONFIDENT = 0.9
"""Probability from which a text's language counts as known."""
_FEWEST_LETTERS = 20
"""Letters below which a text's language is not asked for: names and numbers belong to any."""


def language_of(text: str) -> str | None:
    """ISO 639 code of a text's language by py3langid (Lui & Baldwin 2012), ``None`` where it is too short or
    too mixed to tell."""
    if sum(character.isalpha() for character in text) < _FEWEST_LETTERS:
        return None
    code, probability = _identifier().classify(text)
    return str(code) if probability >= CONFIDENT else None


def known_languages() -> frozenset[str]:
    """Codes that :func:`language_of` can give."""
    return frozenset(map(str, _identifier().nb_classes))


@cache
def _identifier() -> "LanguageIdentifier":
    # Half a second, and only those who ask for languages need it.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
