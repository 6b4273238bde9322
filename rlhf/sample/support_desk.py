"""The built-in sample: a support desk's feedback as annotation rows, for runs without data at hand.

It stands in for human feedback, faults included: demonstrations of uneven quality, annotators who disagree,
guess or invert, drafts and discarded responses. Rows go through the ordinary ingest: nothing here is a way
round it. The known utility behind it (``rlhf.sample.gold``) is for evaluation.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from rlhf.feedback.rows import AnnotationRow, Kind, Message, Status
from rlhf.sample.annotators import CAREFUL, choose_annotators, judge, rate
from rlhf.sample.archive import ticket
from rlhf.sample.enquiries import Enquiry, draw_enquiry, identities, render_enquiry
from rlhf.sample.gold import gold_utility
from rlhf.sample.replies import (
    EXCLUSIVE,
    FAILURE_MODES,
    Flaw,
    Wording,
    best_reply,
    draw_wording,
    render_reply,
)
from rlhf.sample.settings import SupportDeskSettings

SOURCE = "support-desk"
COMPARISON_QUESTION = "Which reply would you rather get?"
RATING_QUESTION = "How good is this reply, from 1 to 5 stars?"
EDIT_QUESTION = "Rewrite the reply as it should have been."
DEMONSTRATION_QUESTION = "Reply to the customer."
ARCHIVE_QUESTION = "Ticket archive"

# Rows carry the time of the last change; a clock would make every run's data new.
_EPOCH = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
_BETWEEN_ROWS = timedelta(seconds=40)

WRITING_HABITS: Mapping[Flaw, float] = {
    Flaw.NO_GREETING: 0.48,
    Flaw.WRONG_NAME: 0.06,
    Flaw.NO_COURTESY: 0.55,
    Flaw.WRONG_COURTESY: 0.08,
    Flaw.NO_ORDER: 0.28,
    Flaw.WRONG_ORDER: 0.06,
    Flaw.NO_ITEM: 0.42,
    Flaw.WRONG_ITEM: 0.08,
    Flaw.NO_RESOLUTION: 0.36,
    Flaw.WRONG_RESOLUTION: 0.16,
    Flaw.NO_CLOSING: 0.62,
}
"""Chance of each flaw in an ordinary writer's demonstration. Order numbers are rarely left out,
since copying them takes a policy longest to learn."""

CANDIDATE_HABITS: Mapping[Flaw, float] = {
    Flaw.NO_GREETING: 0.45,
    Flaw.WRONG_NAME: 0.02,
    Flaw.NO_COURTESY: 0.45,
    Flaw.WRONG_COURTESY: 0.05,
    Flaw.NO_ORDER: 0.36,
    Flaw.WRONG_ORDER: 0.03,
    Flaw.NO_ITEM: 0.45,
    Flaw.WRONG_ITEM: 0.04,
    Flaw.NO_RESOLUTION: 0.30,
    Flaw.WRONG_RESOLUTION: 0.22,
    Flaw.NO_CLOSING: 0.50,
}
"""The same for a reply that stands for comparison: parts left out make pairs that few examples teach."""

_HASTE = ((0.25, 0.4), (0.5, 1.0), (0.25, 1.5))
"""Share of writers, and factor on the chance of every flaw: careful, ordinary, hurried."""

_CANDIDATES_HASTE = (0.3, (1.0, 1.5))
"""The factor on either side of a pair of unrelated replies: one writer took care, the other did not.
Annotation teams, too, compare variants chosen for diversity (Touvron et al. 2023, Llama 2, section 3.2.1), as
two replies alike in quality teach little but noise."""

_WRONG_FACTS = (Flaw.WRONG_NAME, Flaw.WRONG_ORDER, Flaw.WRONG_ITEM, Flaw.WRONG_RESOLUTION)
"""Flaws that are not seen without reading the message. Edits have more of them than writing does: other pairs
only teach a reward model to count components."""

_FAILURE_RATE = 0.015
"""Chance that a person's reply shows one of the failure modes; a slip of copy and paste."""


@dataclass(frozen=True)
class _Draft:
    """A reply before it is put into words."""

    wording: Wording
    flaws: frozenset[Flaw]


def support_desk_rows(settings: SupportDeskSettings) -> Iterator[AnnotationRow]:
    """All rows of the sample: demonstrations (some with a rating or an edit of theirs), judged pairs,
    tickets.

    Equal settings give equal rows. No two prompts share a customer's name or an order number.
    """
    customers = identities(settings.seed)
    # Demonstrations take customers from one end, pairs from the other: more of one leaves the other as it is.
    yield from _demonstrations(settings, customers[: settings.demonstrations])
    yield from _comparisons(settings, customers[::-1][: settings.comparisons])
    yield from _archive(settings, customers[settings.demonstrations :][: settings.archive])


def _demonstrations(
    settings: SupportDeskSettings, customers: Sequence[tuple[str, str]]
) -> Iterator[AnnotationRow]:
    rng = random.Random(f"support-desk-demonstrations-{settings.seed}")
    for number, (name, order) in enumerate(customers):
        enquiry = draw_enquiry(name, order, rng)
        prompt = render_enquiry(enquiry, rng)
        reply = _render(enquiry, _draw_draft(WRITING_HABITS, _draw_haste(rng), rng), rng)
        status = _draw_status(settings, rng)
        record = f"{settings.seed}-demonstration-{number:06d}"
        time = _EPOCH + number * _BETWEEN_ROWS
        [writer, reviewer] = choose_annotators(2, rng)
        if status == "draft":
            value = render_reply(enquiry, draw_wording(rng), {Flaw.TRUNCATED}, rng)
        else:
            value = reply
        yield _row(
            record, prompt, (), "demonstration", value, DEMONSTRATION_QUESTION, writer.name, status, time
        )
        if rng.random() < settings.rated_share and status == "submitted":
            stars = rate(reviewer, gold_utility(prompt, reply), rng, noise=settings.annotator_noise)
            yield _row(
                f"{settings.seed}-rating-{number:06d}",
                prompt,
                (reply,),
                "rating",
                stars,
                RATING_QUESTION,
                reviewer.name,
                _draw_status(settings, rng),
                time + timedelta(days=1),
            )
        if rng.random() < settings.edited_share and reply != (better := best_reply(prompt)):
            yield _row(
                f"{settings.seed}-edit-{number:06d}",
                prompt,
                (reply,),
                "text-edit",
                better,
                EDIT_QUESTION,
                rng.choice(CAREFUL).name,
                "submitted",
                time + timedelta(days=2),
            )


def _comparisons(
    settings: SupportDeskSettings, customers: Sequence[tuple[str, str]]
) -> Iterator[AnnotationRow]:
    rng = random.Random(f"support-desk-comparisons-{settings.seed}")
    start = _EPOCH + timedelta(days=30)
    for number, (name, order) in enumerate(customers):
        enquiry = draw_enquiry(name, order, rng)
        prompt = render_enquiry(enquiry, rng)
        responses = _draw_pair(enquiry, rng)
        first, second = (gold_utility(prompt, response) for response in responses)
        for annotator in choose_annotators(rng.randint(1, settings.max_judgements), rng):
            yield _row(
                f"{settings.seed}-pair-{number:06d}",
                prompt,
                responses,
                "comparison",
                judge(annotator, first, second, rng, noise=settings.annotator_noise),
                COMPARISON_QUESTION,
                annotator.name,
                _draw_status(settings, rng),
                start + number * _BETWEEN_ROWS + timedelta(hours=rng.randrange(48)),
            )


def _archive(settings: SupportDeskSettings, customers: Sequence[tuple[str, str]]) -> Iterator[AnnotationRow]:
    rng = random.Random(f"support-desk-archive-{settings.seed}")
    for number, (name, order) in enumerate(customers):
        text = ticket(name, order, rng)
        record = f"{settings.seed}-ticket-{number:06d}"
        time = _EPOCH - timedelta(days=90) + number * _BETWEEN_ROWS
        yield _row(record, (), (), "demonstration", text, ARCHIVE_QUESTION, "archive", "submitted", time)


def _row(
    record: str,
    prompt: tuple[Message, ...],
    responses: tuple[str, ...],
    kind: Kind,
    value: Any,
    question: str,
    annotator: str,
    status: Status,
    time: datetime,
) -> AnnotationRow:
    return AnnotationRow(
        record_id=f"{SOURCE}-{record}",
        source=SOURCE,
        prompt=prompt,
        responses=responses,
        kind=kind,
        value=value,
        question=question,
        annotator=annotator,
        status=status,
        updated_at=time.isoformat(),
    )


def _draw_status(settings: SupportDeskSettings, rng: random.Random) -> Status:
    draw = rng.random()
    if draw < settings.draft_share:
        return "draft"
    return "discarded" if draw < settings.draft_share + settings.discarded_share else "submitted"


def _draw_haste(rng: random.Random) -> float:
    [haste] = rng.choices([factor for _, factor in _HASTE], [share for share, _ in _HASTE])
    return haste


def _draw_draft(habits: Mapping[Flaw, float], haste: float, rng: random.Random) -> _Draft:
    flaws: set[Flaw] = set()
    for flaw, chance in habits.items():
        if rng.random() < chance * haste:
            flaws = _with(flaws, flaw)
    if rng.random() < _FAILURE_RATE:
        flaws = _with(flaws, rng.choice(FAILURE_MODES))
    return _Draft(draw_wording(rng), frozenset(flaws))


def _draw_pair(enquiry: Enquiry, rng: random.Random) -> tuple[str, str]:
    """Two different replies in random order: unrelated ones, one and its edit, or one and a failure mode."""
    while True:
        draw = rng.random()
        if draw < 0.65:
            care, hurry = _CANDIDATES_HASTE
            one = _draw_draft(CANDIDATE_HABITS, care, rng)
            other = _draw_draft(CANDIDATE_HABITS, rng.choice(hurry), rng)
        else:
            one = _draw_draft(CANDIDATE_HABITS, _draw_haste(rng), rng)
            other = _edited(one, rng) if draw < 0.8 else _failing(one, rng)
        pair = [_render(enquiry, one, rng), _render(enquiry, other, rng)]
        if pair[0] != pair[1]:
            rng.shuffle(pair)
            return pair[0], pair[1]


def _edited(draft: _Draft, rng: random.Random) -> _Draft:
    """The same reply with one flaw more or one less: late in PPO a reward model must tell these apart."""
    wording = draft.wording if rng.random() < 0.7 else draw_wording(rng)
    if draft.flaws and rng.random() < 0.4:
        return _Draft(wording, draft.flaws - {rng.choice(sorted(draft.flaws))})
    if rng.random() < 0.25:
        flaw = rng.choice(_WRONG_FACTS)
    else:
        [flaw] = rng.choices(list(CANDIDATE_HABITS), list(CANDIDATE_HABITS.values()))
    return _Draft(wording, frozenset(_with(set(draft.flaws), flaw)))


def _failing(draft: _Draft, rng: random.Random) -> _Draft:
    """A failure mode on top of a flawless reply (dangerous: all components are there) or of the same."""
    base = frozenset() if rng.random() < 0.5 else draft.flaws
    return _Draft(draw_wording(rng), frozenset(_with(set(base), rng.choice(FAILURE_MODES))))


def _with(flaws: set[Flaw], flaw: Flaw) -> set[Flaw]:
    for exclusive in EXCLUSIVE:
        if flaw in exclusive:
            return (flaws - exclusive) | {flaw}
    return flaws | {flaw}


def _render(enquiry: Enquiry, draft: _Draft, rng: random.Random) -> str:
    return render_reply(enquiry, draft.wording, draft.flaws, rng)
