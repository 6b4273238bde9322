"""The support desk's ticket archive: plain text to pre-train on, each ticket a message and the desk's notes
on it.

Notes repeat the facts of their message again and again, which teaches a small network to copy (the
induction heads of Olsson et al. 2022, arXiv:2209.11895) sooner than replies, where a name occurs once. They
also say what was done, in the desk's words; what a whole good reply is like is left to the demonstrations.
"""

import random

from rlhf.sample.enquiries import draw_enquiry, render_enquiry
from rlhf.sample.replies import RESOLUTIONS

_NOTES = (
    "Name: {name}.",
    "Order: {order}.",
    "Item: {item}.",
    "Order {order}, {item}.",
    "{name}, order {order}.",
    "{name}, {item}.",
    "Ticket of {name}.",
    "We wrote to {name}.",
    "{name} wrote about order {order}.",
    "{name} wrote about the {item}.",
    "Called {name} about the {item}, order {order}.",
    "About your {item}, order {order}.",
    "For your {item}, order {order}.",
    "To {name}.",
    "Done: {outcome}.",
    "{name}: {outcome}.",
    "Order {order}: {outcome}.",
    "Closed, {outcome}.",
)
_NOTES_PER_TICKET = 7


def ticket(name: str, order: str, rng: random.Random) -> str:
    """A ticket of that customer: a message, then notes that name its facts in ever new combinations."""
    enquiry = draw_enquiry(name, order, rng)
    [message] = render_enquiry(enquiry, rng)
    notes = (
        rng.choice(_NOTES).format(
            name=name,
            order=order,
            item=enquiry.item,
            outcome=rng.choice(RESOLUTIONS[enquiry.problem.resolution]),
        )
        for _ in range(_NOTES_PER_TICKET)
    )
    return " ".join([message["content"], *notes])
