"""The table layouts that ingest understands, and how one is recognised from columns and first rows. What a
layout's records mean is said in the modules that convert them."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rlhf.errors import DataError
from rlhf.feedback import annotator_votes, argilla_exports, message_trees, single_records, transcripts
from rlhf.feedback.records import Converter, Outcome, Record, row_wise
from rlhf.feedback.settings import LayoutName

FIRST_ROWS = 50
"""Records looked at before a layout is chosen."""

FirstRows = list[Mapping[str, Any]]


def _always(first_rows: FirstRows) -> bool:
    return True


@dataclass(frozen=True)
class Layout:
    """One way in which feedback is laid out."""

    name: LayoutName
    columns: tuple[frozenset[str], ...]
    """Alternatives of the columns it needs."""
    read: Callable[[Iterable[Record], str], Iterator[Outcome]]
    """Turns the records of the named source into rows."""
    looks_right: Callable[[FirstRows], bool] = _always
    """A further look at the first rows where columns do not decide."""

    def fits(self, columns: frozenset[str]) -> bool:
        """Whether all columns of one alternative are there."""
        return any(needed <= columns for needed in self.columns)

    @property
    def needs(self) -> str:
        """Its columns for people."""
        return " or ".join(", ".join(sorted(needed)) for needed in self.columns)


def _layout(
    name: LayoutName,
    convert: Converter,
    *columns: str,
    looks_right: Callable[[FirstRows], bool] = _always,
) -> Layout:
    alternatives = tuple(frozenset(alternative.split()) for alternative in columns)
    return Layout(name, alternatives, partial(row_wise, convert), looks_right)


def _any_prompt_with(*columns: str) -> list[str]:
    return [" ".join((prompt, *columns)) for prompt in single_records.PROMPT_COLUMNS]


# Most specific first: the first that fits is taken.
LAYOUTS: tuple[Layout, ...] = (
    _layout("annotation-rows", annotator_votes.annotation_rows, "record_id prompt responses kind value"),
    Layout(
        "oasst-messages",
        (frozenset({"message_id", "parent_id", "role", "text"}),),
        message_trees.oasst_messages,
    ),
    Layout("oasst-trees", (frozenset({"message_tree_id", "prompt"}),), message_trees.oasst_trees),
    _layout(
        "ukp-convincing-arguments",
        annotator_votes.ukp_convincing_arguments,
        "arg1 arg2 debateMetaData mTurkAssignments",
    ),
    _layout("pandalm", annotator_votes.pandalm, "instruction response1 response2 annotator1"),
    Layout(
        "argilla-export",
        (frozenset({"external_id"}),),
        argilla_exports.argilla_export,
        argilla_exports.has_responses,
    ),
    _layout(
        "argilla-dolly-falcon",
        single_records.argilla_dolly_falcon,
        *_any_prompt_with("original_response", "response-1"),
    ),
    _layout(
        "better-poorer", single_records.better_poorer, *_any_prompt_with("better_response", "poorer_response")
    ),
    _layout("prompt-chosen-rejected", transcripts.prompt_chosen_rejected, "prompt chosen rejected"),
    _layout("chosen-rejected", transcripts.chosen_rejected, "chosen rejected"),
    _layout("taskmaster-reward", single_records.taskmaster_reward, "context generation reward"),
    _layout("prompt-completion-label", single_records.prompt_completion_label, "prompt completion label"),
    _layout(
        "prompt-completion-reward",
        single_records.prompt_completion_reward,
        "prompt completion reward",
        "prompt completion score",
        "prompt response reward",
        "prompt response score",
        looks_right=single_records.is_rewarded,
    ),
    # A column 'score' beside 'text' is as often a quality filter's, on plain text for pre-training.
    _layout(
        "sample-reward",
        single_records.sample_reward,
        "sample reward",
        "sample score",
        "text reward",
        looks_right=single_records.is_rewarded,
    ),
    _layout("messages", single_records.messages, "messages", "conversations"),
    _layout(
        "instruction-context-response", single_records.instruction_context_response, "instruction response"
    ),
    _layout(
        "instruction-input-output",
        single_records.instruction_input_output,
        "instruction output",
        "instruction instances",
    ),
    _layout("question-answer", single_records.question_answer, "question answer"),
    _layout("prompt-completion", single_records.prompt_completion, "prompt completion"),
    _layout("mt-bench", single_records.mt_bench, "turns"),
    _layout("prompts", single_records.prompts, "prompt", looks_right=single_records.is_prompt_only),
    _layout("text", single_records.text, "text"),
)
BY_NAME: dict[str, Layout] = {layout.name: layout for layout in LAYOUTS}


def choose_layout(
    source: str, first_rows: Sequence[Mapping[str, Any]], name: LayoutName | None = None
) -> Layout:
    """The layout that a config names, or the one that columns and first rows show.

    Raises:
        DataError: nothing fits, or the named layout's columns are missing. The message lists the columns
            found and the nearest known layout.
    """
    columns = frozenset(column for row in first_rows for column in row)
    found = ", ".join(sorted(columns)) or "none"
    if name is not None:
        layout = BY_NAME[name]
        if not layout.fits(columns):
            raise DataError(
                f"Source '{source}' is to be read as layout '{name}', which needs the columns "
                f"{layout.needs}, but has {found}; rename its columns or name another `layout`."
            )
        return layout
    for layout in LAYOUTS:
        if layout.fits(columns) and layout.looks_right(list(first_rows)):
            return layout
    unexplained = single_records.looks_like_feedback(first_rows) if BY_NAME["prompts"].fits(columns) else []
    near = _nearest_to_feedback(columns, unexplained) if unexplained else nearest_layout(columns)
    dropped = f" (`layout: prompts` leaves {', '.join(unexplained)} out)" if unexplained else ""
    raise DataError(
        f"Source '{source}' has the columns {found}, which match no known layout; the nearest is "
        f"'{near.name}' ({near.needs}): rename its columns, name its `layout`{dropped}, or read it with a "
        "custom source."
    )


def _nearest_to_feedback(columns: frozenset[str], unexplained: Sequence[str]) -> Layout:
    """The layout that was meant by a prompt with these columns, whatever their names: one text beside it is
    an answer, two are a pair."""
    if columns == {"prompt", *unexplained} and len(unexplained) <= 2:
        return BY_NAME["prompt-completion" if len(unexplained) == 1 else "prompt-chosen-rejected"]
    return nearest_layout(columns, besides=("prompts", "text"))


def nearest_layout(columns: frozenset[str], besides: Sequence[LayoutName] = ()) -> Layout:
    """The layout whose columns resemble the given ones most: each needed column counts by its closest
    spelling, in relation to all columns on either side (a soft Jaccard index).

    Args:
        besides: layouts that are out of the question.
    """

    def similarity(needed: frozenset[str]) -> float:
        close = sum(
            max((difflib.SequenceMatcher(None, want, have).ratio() for have in columns), default=0.0)
            for want in needed
        )
        return close / (len(needed) + len(columns) - min(close, len(columns)) or 1)

    possible = (layout for layout in LAYOUTS if layout.name not in besides)
    return max(possible, key=lambda layout: max(similarity(needed) for needed in layout.columns))
