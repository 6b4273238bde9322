import random

from rlhf.feedback.quality.contamination import contaminated

PASSAGE = "the quick brown fox jumps over the lazy dog while the old cat sleeps on"  # 15 words


def naive(training: dict[str, str], evaluation: list[str], ngram: int) -> set[str]:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.split()
        return {tuple(words[at : at + ngram]) for at in range(len(words) - ngram + 1)}

    held_out = set().union(*(runs(text) for text in evaluation))
    shared = {key: runs(text) & held_out for key, text in training.items()}
    times: dict[tuple[str, ...], int] = {}
    for found in shared.values():
        for run in found:
            times[run] = times.get(run, 0) + 1
    return {key for key, found in shared.items() if any(times[run] <= 10 for run in found)}


def test_a_passage_inside_a_longer_prompt_is_found_whatever_its_case_and_punctuation() -> None:
    training = {
        "copy": f"Please translate: {PASSAGE.upper().replace(' ', ', ')}! Thank you.",
        "twelve": " ".join(PASSAGE.split()[:12]),
        "other": "an entirely different prompt of more than thirteen words that nobody has ever seen before",
    }
    assert contaminated(training, [f"Summarise this. {PASSAGE}"], 13) == {"copy"}


def test_runs_do_not_reach_from_one_text_into_the_next() -> None:
    words = PASSAGE.split()
    training = {"a": " ".join(words[:7]), "b": " ".join(words[7:])}
    assert contaminated(training, [PASSAGE], 13) == frozenset()


def test_what_many_training_prompts_share_is_a_phrase_and_no_contamination() -> None:
    training = {str(n): f"{PASSAGE} number {n}" for n in range(11)}
    assert contaminated(training, [PASSAGE], 13) == frozenset()
    del training["0"]
    assert contaminated(training, [PASSAGE], 13) == training.keys()


def test_it_finds_what_a_search_word_by_word_finds() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcd", k=rng.randint(0, 30))) for _ in range(400)]
    training = {str(n): text for n, text in enumerate(texts[:300])}
    found = contaminated(training, texts[300:], 6)
    assert found == naive(training, texts[300:], 6)
    assert 5 < len(found) < 295


def test_nothing_to_compare_is_no_contamination() -> None:
    assert contaminated({}, [PASSAGE], 13) == contaminated({"a": PASSAGE}, [], 13) == frozenset()
