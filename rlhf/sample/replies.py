"""How the support desk replies: the phrases of a reply, and replies with chosen flaws.

A flaw is either a habit of a hurried writer (no greeting, a wrong order number) or a way in which a policy
games a reward model (several resolutions, repetition, running on). How bad a flaw is, is no business of this
module: ``rlhf.sample.gold`` judges the text alone.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rlhf.feedback.rows import Message
from rlhf.sample.enquiries import ITEMS, Enquiry, Resolution, parse_enquiry, random_syllable, syllables_of

GREETINGS = ("Hello", "Hi", "Dear")
APOLOGIES = ("we are sorry.", "sorry about that.", "sorry for the trouble.")
THANKS = ("thank you for writing.", "thanks for your message.")
CLOSINGS = ("Kind regards, Support", "Best wishes, Support")
RESOLUTIONS: Mapping[Resolution, tuple[str, ...]] = {
    Resolution.TRACE: ("we will trace the parcel", "we will look for the parcel"),
    Resolution.REPLACE: ("we will send a new one", "a new one is on its way"),
    Resolution.REFUND: ("we will refund you in full", "a full refund is on its way"),
    Resolution.CANCEL: ("we have cancelled it", "it is now cancelled"),
    Resolution.ADDRESS: ("we will use the new address", "we have changed the address"),
    Resolution.INVOICE: ("we will email the invoice", "the invoice is on its way"),
    Resolution.REPAIR: ("we will repair it for free", "you get a free repair"),
    Resolution.LARGER: ("we will send a larger one", "a larger one is on its way"),
    Resolution.PART: ("we will send the missing part", "the missing part is on its way"),
}
STOCK_ANSWERS = (Resolution.TRACE, Resolution.REPLACE, Resolution.REFUND, Resolution.CANCEL)
"""What a hurried writer offers whatever the problem."""
ACKNOWLEDGEMENTS = ("we have your message", "we will look at it")
"""Said where no resolution is offered."""


class Flaw(StrEnum):
    """Something wrong with a reply."""

    NO_GREETING = "no-greeting"
    WRONG_NAME = "wrong-name"
    NO_COURTESY = "no-courtesy"
    WRONG_COURTESY = "wrong-courtesy"
    NO_ORDER = "no-order"
    WRONG_ORDER = "wrong-order"
    NO_ITEM = "no-item"
    WRONG_ITEM = "wrong-item"
    NO_RESOLUTION = "no-resolution"
    WRONG_RESOLUTION = "wrong-resolution"
    NO_CLOSING = "no-closing"
    SEVERAL_RESOLUTIONS = "several-resolutions"
    REPEATED = "repeated"
    RUNS_ON = "runs-on"
    TRUNCATED = "truncated"
    GARBLED = "garbled"
    ALMOST_EMPTY = "almost-empty"


EXCLUSIVE: tuple[frozenset[Flaw], ...] = (
    frozenset({Flaw.NO_GREETING, Flaw.WRONG_NAME}),
    frozenset({Flaw.NO_COURTESY, Flaw.WRONG_COURTESY}),
    frozenset({Flaw.NO_ORDER, Flaw.WRONG_ORDER}),
    frozenset({Flaw.NO_ITEM, Flaw.WRONG_ITEM}),
    frozenset({Flaw.NO_RESOLUTION, Flaw.WRONG_RESOLUTION}),
)
"""Flaws of the same component: a reply has at most one of each set."""

FAILURE_MODES = (
    Flaw.SEVERAL_RESOLUTIONS,
    Flaw.REPEATED,
    Flaw.RUNS_ON,
    Flaw.TRUNCATED,
    Flaw.GARBLED,
    Flaw.ALMOST_EMPTY,
)
"""What optimisation against a reward model finds and people hardly ever write."""


@dataclass(frozen=True)
class Wording:
    """Which of the equally good turns of phrase a reply uses; two replies of the same wording differ only by
    their flaws."""

    greeting: int
    courtesy: int
    resolution: int
    core: int
    closing: int


def draw_wording(rng: random.Random) -> Wording:
    """A wording, each choice even."""
    return Wording(*(rng.randrange(6) for _ in range(5)))


def render_reply(enquiry: Enquiry, wording: Wording, flaws: Collection[Flaw], rng: random.Random) -> str:
    """A reply to ``enquiry`` with exactly these flaws; ``rng`` decides which wrong fact a flaw puts in."""
    if Flaw.ALMOST_EMPTY in flaws:
        return rng.choice(
            (".", "Hello,", "Support", "we", f"{_pick(GREETINGS, wording.greeting)} {enquiry.name},")
        )
    name = _other_name(enquiry.name, rng) if Flaw.WRONG_NAME in flaws else enquiry.name
    order = _other_order(enquiry.order, rng) if Flaw.WRONG_ORDER in flaws else enquiry.order
    item = _other_item(enquiry, rng) if Flaw.WRONG_ITEM in flaws else enquiry.item
    greeting = "" if Flaw.NO_GREETING in flaws else f"{_pick(GREETINGS, wording.greeting)} {name},"
    courtesies = APOLOGIES if enquiry.problem.apology != (Flaw.WRONG_COURTESY in flaws) else THANKS
    courtesy = "" if Flaw.NO_COURTESY in flaws else _pick(courtesies, wording.courtesy)
    core = _core(
        wording.core,
        order="" if Flaw.NO_ORDER in flaws else f"order {order}",
        item="" if Flaw.NO_ITEM in flaws else f"your {item}",
        action=_action(enquiry, wording, flaws, rng),
    )
    closing = "" if Flaw.NO_CLOSING in flaws else _pick(CLOSINGS, wording.closing)
    # A sentence after a comma goes on in lower case: "Hello Mirato, we are sorry. For your lamp, …"
    body = [part for part in (courtesy, core) if part]
    body = [part if greeting and at == 0 else _sentence_case(part) for at, part in enumerate(body)]
    sentences = [part for part in (greeting, *body, closing) if part]
    if Flaw.REPEATED in flaws:
        sentences = _repeat(sentences, rng)
    if Flaw.RUNS_ON in flaws:
        sentences = _run_on(sentences, rng)
    text = " ".join(sentences)
    if Flaw.GARBLED in flaws:
        text = _garble(text, rng)
    if Flaw.TRUNCATED in flaws:
        text = text[: rng.randint(len(text) // 4, len(text) * 9 // 10)].rstrip() or "."
    return text


def best_reply(prompt: str | Sequence[Message]) -> str:
    """A reply without a flaw, in the plainest wording.

    Raises:
        DataError: the prompt is no message to the support desk.
    """
    return render_reply(parse_enquiry(prompt), Wording(0, 0, 0, 0, 0), (), random.Random(0))


def _sentence_case(text: str) -> str:
    return text[0].upper() + text[1:]


def _pick(options: Sequence[str], number: int) -> str:
    return options[number % len(options)]


def _core(form: int, *, order: str, item: str, action: str) -> str:
    subject = f"{item}, {order}" if order and item else order or item
    if not subject:
        return f"{action}."
    match form % 3:
        case 0:
            return f"for {subject}, {action}."
        case 1:
            return f"{action} ({subject})."
        case _:
            return f"about {subject}: {action}."


def _action(enquiry: Enquiry, wording: Wording, flaws: Collection[Flaw], rng: random.Random) -> str:
    right = enquiry.problem.resolution
    # Who does not read the message gives a stock answer; the rest is spread over all others.
    pool = STOCK_ANSWERS if rng.random() < 0.75 else tuple(Resolution)
    wrong = rng.sample([r for r in pool if r is not right], 3)
    if Flaw.NO_RESOLUTION in flaws:
        chosen: list[Resolution] = []
    elif Flaw.WRONG_RESOLUTION in flaws:
        chosen = wrong[:1]
    else:
        chosen = [right]
    if Flaw.SEVERAL_RESOLUTIONS in flaws:
        chosen += wrong[1 : rng.randint(2, 3)]
        rng.shuffle(chosen)
    if not chosen:
        return _pick(ACKNOWLEDGEMENTS, wording.resolution)
    return " and ".join(_pick(RESOLUTIONS[r], wording.resolution) for r in chosen)


def _other_name(name: str, rng: random.Random) -> str:
    """Half of the wrong names are one syllable off, as those of a model that copies badly are."""
    kept = syllables_of(name)
    changed = [rng.randrange(3)] if rng.random() < 0.5 else range(3)
    while True:
        syllables = [random_syllable(rng) if i in changed else s for i, s in enumerate(kept)]
        if syllables != kept:
            return "".join(syllables).capitalize()


def _other_order(order: str, rng: random.Random) -> str:
    """Half of the wrong numbers are one or two digits off."""
    changed = rng.sample(range(5), rng.randint(1, 2)) if rng.random() < 0.5 else range(5)
    while True:
        digits = "".join(str(rng.randrange(10)) if i in changed else d for i, d in enumerate(order))
        # Like the right ones, so that only a comparison with the message tells them apart.
        if digits != order and digits[0] != "0" and len(set(digits)) == 5:
            return digits


def _other_item(enquiry: Enquiry, rng: random.Random) -> str:
    return rng.choice([i for i in ITEMS if i != enquiry.item])


def _repeat(sentences: list[str], rng: random.Random) -> list[str]:
    at = rng.randrange(len(sentences))
    return [*sentences[: at + 1], *[sentences[at]] * rng.randint(1, 2), *sentences[at + 1 :]]


def _run_on(sentences: list[str], rng: random.Random) -> list[str]:
    filler = [
        _sentence_case(s) for s in (*APOLOGIES, *THANKS, *(f"{a}." for a in ACKNOWLEDGEMENTS), *CLOSINGS)
    ]
    return [*sentences, *rng.choices(filler, k=rng.randint(3, 5))]


def _garble(text: str, rng: random.Random) -> str:
    words = text.split()
    if rng.random() < 0.5:
        rng.shuffle(words)
        return " ".join(words)
    for at in rng.sample(range(len(words)), max(1, len(words) // 3)):
        letters = list(words[at])
        rng.shuffle(letters)
        words[at] = "".join(letters)
    return " ".join(words)
