from rlhf.sample.enquiries import parse_enquiry
from rlhf.sample.settings import SupportDeskSettings
from rlhf.sample.support_desk import ARCHIVE_QUESTION, support_desk_rows

ROWS = list(support_desk_rows(SupportDeskSettings(demonstrations=200, comparisons=200, archive=300)))
TICKETS = [row for row in ROWS if row.question == ARCHIVE_QUESTION]


def test_tickets_are_plain_text_without_a_prompt() -> None:
    assert len(TICKETS) == 300
    assert all(row.kind == "demonstration" and row.prompt == () and row.value for row in TICKETS)


def test_every_ticket_repeats_the_facts_of_its_message() -> None:
    for row in TICKETS:
        enquiry = parse_enquiry(row.value)
        repeated = sum(row.value.count(fact) - 1 for fact in (enquiry.name, enquiry.order, enquiry.item))
        assert repeated >= 4, row.value  # of seven notes, few tell the outcome alone


def test_no_ticket_shares_a_name_or_an_order_number_with_a_prompt() -> None:
    prompts = [parse_enquiry(row.prompt) for row in ROWS if row.prompt]
    tickets = [parse_enquiry(row.value) for row in TICKETS]
    assert not {e.name for e in prompts} & {e.name for e in tickets}
    assert not {e.order for e in prompts} & {e.order for e in tickets}
