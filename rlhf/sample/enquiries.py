"""What customers write to the support desk: problems, turns of phrase, and reading the facts from the text.

The world is small on purpose (a model of a million parameters learns it from scratch), but a reply cannot be
learnt by heart: no name and no order number occurs twice. Nothing here knows of replies.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import permutations

from rlhf.errors import DataError
from rlhf.feedback.rows import Message


class Resolution(StrEnum):
    """What the desk can do for a customer; exactly one is right for each problem."""

    TRACE = "trace"
    REPLACE = "replace"
    REFUND = "refund"
    CANCEL = "cancel"
    ADDRESS = "address"
    INVOICE = "invoice"
    REPAIR = "repair"
    LARGER = "larger"
    PART = "part"


CLOTHES = ("jacket", "shirt", "coat", "dress")
DEVICES = ("lamp", "kettle", "radio", "toaster", "heater", "camera", "printer", "clock")
FURNITURE = ("chair", "desk", "shelf", "bench")
ITEMS = CLOTHES + DEVICES + FURNITURE


@dataclass(frozen=True)
class Problem:
    """A reason to write in. ``phrases`` are whole sentences with the slot ``{item}``."""

    intent: str
    resolution: Resolution
    apology: bool
    """Whether the desk is at fault and owes an apology; otherwise it thanks the customer for writing."""
    items: tuple[str, ...]
    phrases: tuple[str, ...]


PROBLEMS: tuple[Problem, ...] = (
    Problem(
        "late delivery",
        Resolution.TRACE,
        apology=True,
        items=ITEMS,
        phrases=(
            "My {item} has not arrived.",
            "My {item} is late.",
            "I am still waiting for my {item}.",
            "The {item} never came.",
            "Where is my {item}?",
        ),
    ),
    Problem(
        "damaged item",
        Resolution.REPLACE,
        apology=True,
        items=DEVICES + FURNITURE,
        phrases=(
            "My {item} came broken.",
            "The {item} is in pieces.",
            "I got a broken {item}.",
            "The {item} broke on the way.",
            "I opened the box and my {item} is broken.",
        ),
    ),
    Problem(
        "refund",
        Resolution.REFUND,
        apology=False,
        items=ITEMS,
        phrases=(
            "I want my money back for the {item}.",
            "Please refund my {item}.",
            "I sent the {item} back and want a refund.",
            "Can I have a refund for my {item}?",
            "I would like a refund for the {item}.",
        ),
    ),
    Problem(
        "cancel",
        Resolution.CANCEL,
        apology=False,
        items=ITEMS,
        phrases=(
            "Please cancel my {item}.",
            "I do not want the {item} any more.",
            "I want to cancel the {item}.",
            "Can you cancel my {item}?",
            "I no longer need the {item}.",
        ),
    ),
    Problem(
        "change address",
        Resolution.ADDRESS,
        apology=False,
        items=ITEMS,
        phrases=(
            "Please send the {item} to my new address.",
            "Can you change the address for my {item}?",
            "I have moved and still want my {item}.",
            "I need the {item} at a new address.",
            "The address for my {item} is not right.",
        ),
    ),
    Problem(
        "invoice copy",
        Resolution.INVOICE,
        apology=False,
        items=ITEMS,
        phrases=(
            "I need the invoice for my {item}.",
            "Please send the invoice for the {item}.",
            "Can I get an invoice for my {item}?",
            "I lost the invoice for the {item}.",
            "There was no invoice with my {item}.",
        ),
    ),
    Problem(
        "warranty repair",
        Resolution.REPAIR,
        apology=True,
        items=DEVICES,
        phrases=(
            "My {item} stopped working.",
            "The {item} does not turn on.",
            "My {item} does not work any more.",
            "The {item} stopped after a month.",
            "I can not turn my {item} on.",
        ),
    ),
    Problem(
        "exchange size",
        Resolution.LARGER,
        apology=False,
        items=CLOTHES,
        phrases=(
            "My {item} is too small.",
            "The {item} is too tight.",
            "I need the {item} one size up.",
            "Can I get a larger {item}?",
            "I got a {item} that is too small for me.",
        ),
    ),
    Problem(
        "missing part",
        Resolution.PART,
        apology=True,
        items=DEVICES + FURNITURE,
        phrases=(
            "My {item} has a missing part.",
            "A part of my {item} is missing.",
            "The {item} came with a part missing.",
            "I can not use the {item}, a part is missing.",
            "There is a part missing in the box with my {item}.",
        ),
    ),
)

_OPENINGS = ("Hello.", "Hi.", "Good day.", "", "", "")
_INTRODUCTIONS = ("I'm {name}.", "This is {name}.", "My name is {name}.")
_SIGNATURES = ("Thanks, {name}", "Regards, {name}")
_ORDERS = ("Order {order}.", "It is order {order}.", "It is about order {order}.")

# Every name is preceded by a space, here and in the replies: a byte-level BPE then cuts both alike, so that
# copying a name is copying its tokens.
_NAME = re.compile(r"(?:I'm|This is|My name is|Thanks,|Regards,) ([A-Z][a-z]+)")
_ORDER = re.compile(r"\border (?:is )?(\d{5})\b", re.IGNORECASE)

# Open syllables of few letters: 125,000 names that a tokenizer cuts into a few well-known pieces.
_SYLLABLES = tuple(consonant + vowel for consonant in "bdklmnrstv" for vowel in "aeiou")

# No digit comes twice in an order number: to copy one is then plain induction (find the digit last written,
# then write its successor), which small models learn long before they learn to count places.
_ORDER_NUMBERS = tuple("".join(digits) for digits in permutations("0123456789", 5) if digits[0] != "0")


@dataclass(frozen=True)
class Enquiry:
    """The facts of one customer's message."""

    name: str
    order: str
    """Order number, five digits."""
    item: str
    """What the customer ordered."""
    problem: Problem


def name_of(number: int) -> str:
    """The three-syllable name with that number, 0 to 124,999; different numbers have different names."""
    base = len(_SYLLABLES)
    first, second, third = number // base**2, number // base % base, number % base
    return (_SYLLABLES[first] + _SYLLABLES[second] + _SYLLABLES[third]).capitalize()


def syllables_of(name: str) -> list[str]:
    """The syllables of a name made by :func:`name_of`, in lower case."""
    return [name[i : i + 2].lower() for i in range(0, len(name), 2)]


def random_syllable(rng: random.Random) -> str:
    """One of the syllables that names are made of."""
    return rng.choice(_SYLLABLES)


def identities(seed: int) -> list[tuple[str, str]]:
    """Pairs of a name and an order number, in an order fixed by ``seed``; none comes twice."""
    rng = random.Random(f"support-desk-identities-{seed}")
    orders = rng.sample(_ORDER_NUMBERS, len(_ORDER_NUMBERS))
    names = [name_of(number) for number in rng.sample(range(len(_SYLLABLES) ** 3), len(orders))]
    return list(zip(names, orders, strict=True))


def draw_enquiry(name: str, order: str, rng: random.Random) -> Enquiry:
    """An enquiry of that customer about a random problem."""
    problem = rng.choice(PROBLEMS)
    item = rng.choice(problem.items)
    return Enquiry(name, order, item, problem)


def render_enquiry(enquiry: Enquiry, rng: random.Random) -> tuple[Message, ...]:
    """A customer's message: introduction, order number and problem in random order and wording, as a chat."""
    phrase = rng.choice(enquiry.problem.phrases)
    parts = [
        rng.choice(_INTRODUCTIONS).format(name=enquiry.name),
        rng.choice(_ORDERS).format(order=enquiry.order),
        phrase.format(item=enquiry.item),
    ]
    if rng.random() < 0.3:
        body = parts[1:]
        rng.shuffle(body)
        body.append(rng.choice(_SIGNATURES).format(name=enquiry.name))
    else:
        body = parts
        rng.shuffle(body)
    opening = rng.choice(_OPENINGS)
    text = " ".join([opening, *body] if opening else body)
    return (Message(role="user", content=text),)


def _patterns() -> Iterator[tuple[re.Pattern[str], Problem]]:
    alternatives = "|".join(ITEMS)
    for problem in PROBLEMS:
        for phrase in problem.phrases:
            pattern = re.escape(phrase).replace(r"\{item\}", rf"(?P<item>{alternatives})")
            yield re.compile(rf"(?:^|(?<= )){pattern}"), problem


_PHRASES = tuple(_patterns())


def parse_enquiry(prompt: str | Sequence[Message]) -> Enquiry:
    """The facts of a customer's message, read from its text alone.

    Raises:
        DataError: the prompt is no message to the support desk.
    """
    if isinstance(prompt, str):
        return _parse(prompt)
    return _parse("\n".join(m["content"] for m in prompt if m["role"] == "user"))


@lru_cache(maxsize=32_768)
def _parse(text: str) -> Enquiry:
    name, order = _NAME.search(text), _ORDER.search(text)
    if name and order:
        for pattern, problem in _PHRASES:
            if found := pattern.search(text):
                return Enquiry(name[1], order[1], found["item"], problem)
    raise DataError(
        f"The prompt {text[:80]!r} is not one of the built-in support desk, and only those have a known "
        "utility; use rlhf.sample.gold with the sample source alone."
    )
