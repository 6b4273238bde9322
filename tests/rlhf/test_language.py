import pytest

from rlhf.language import known_languages, language_of


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("I ordered a lamp last week and it has not arrived yet.", "en"),
        ("Wo ist mein Paket? Ich warte seit drei Wochen darauf.", "de"),
        ("Où est mon colis ? Je l'attends depuis trois semaines.", "fr"),
        ("我的包裹在哪里？我已经等了三个星期了，请尽快告诉我它现在的位置。", "zh"),
    ],
)
def test_the_language_of_a_sentence_is_told(text: str, code: str) -> None:
    assert language_of(text) == code
    assert code in known_languages()


@pytest.mark.parametrize("text", ["", "OK", "4711-0815", "¿Qué?", "x = [f(y) for y in range(10) if y % z]"])
def test_what_is_too_short_or_no_prose_has_no_language(text: str) -> None:
    assert language_of(text) is None
