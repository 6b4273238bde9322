"""Views: annotation rows as the datasets that training reads, in TRL's formats, split by prompt. Derived and
deterministic: equal rows in any order give equal views. Whether a view suffices is for the stage that needs
it."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import pyarrow as pa

from rlhf.errors import DataError
from rlhf.feedback.near_duplicates import near_duplicates
from rlhf.feedback.pairs import (
    Pair,
    Score,
    Vote,
    edit_distance,
    mean_scores,
    settle,
    votes_from_labels,
    votes_from_ranking,
    votes_from_ratings,
)
from rlhf.feedback.rows import Message, canonical_json, prompt_hash
from rlhf.feedback.settings import DatasetSettings
from rlhf.feedback.splits import SPLITS, Split, fold_of_key, split_of_key, text_key
from rlhf.feedback.views_report import views_report
from rlhf.report import Report

logger = logging.getLogger(__name__)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
DEMONSTRATIONS_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("completion", _MESSAGES),
        ("weight", pa.float64()),
        ("record_id", pa.string()),
    ]
)
COMPARISONS_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("weight", pa.float64()),
        ("margin", pa.float64()),
        ("agreement", pa.float64()),
        ("fold", pa.int64()),
        ("record_id", pa.string()),
    ]
)
RATINGS_SCHEMA = pa.schema(
    [
        ("prompt", _MESSAGES),
        ("completion", _MESSAGES),
        ("rating", pa.float64()),
        ("question", pa.string()),
        ("fold", pa.int64()),
        ("record_id", pa.string()),
    ]
)
PROMPTS_SCHEMA = pa.schema([("prompt", _MESSAGES), ("record_id", pa.string())])
TEXT_SCHEMA = pa.schema([("text", pa.string())])

# Annotators whose name nobody recorded are several people: none of them supersedes another.
_NAMELESS = "unknown"


@dataclass(frozen=True)
class Views:
    """The datasets of one state of the feedback, each with the splits ``train``, ``dev`` and ``test``."""

    demonstrations: datasets.DatasetDict
    """``prompt``, ``completion`` (one assistant message), ``weight``, ``record_id``."""
    comparisons: datasets.DatasetDict
    """``prompt``, ``chosen``, ``rejected``, ``weight``, ``margin``, ``agreement``, ``fold``,
    ``record_id``."""
    ratings: datasets.DatasetDict
    """``prompt`` (empty where a whole text was rated), ``completion``, ``rating`` (the mean of its
    annotators'), ``question``, ``fold``, ``record_id``."""
    prompts: datasets.DatasetDict
    """``prompt``, ``record_id``: every prompt once, whatever its rows are."""
    text: datasets.DatasetDict
    """``text``: rows without a prompt; where there are none, the demonstrations with their prompts."""
    report: Report


@dataclass
class _Prompt:
    """A prompt under its hash; of several spellings (whitespace) the smallest stands for all."""

    messages: list[Message]
    spelling: str
    record_id: str
    usable: bool = False
    """Whether a submitted or drafted row has it, so that it may be answered in rollouts."""


@dataclass
class _Material:
    """Rows taken apart by what they can become."""

    prompts: dict[str, _Prompt] = field(default_factory=dict)
    demonstrations: dict[tuple[str, str], str] = field(default_factory=dict)
    """Record id by (prompt hash, completion)."""
    texts: dict[str, str] = field(default_factory=dict)
    """Text by its hash."""
    votes: list[Vote] = field(default_factory=list)
    ratings: list[Score] = field(default_factory=list)
    rated_texts: dict[str, str] = field(default_factory=dict)
    """Rated texts without a prompt, by their hash."""
    labels: list[Score] = field(default_factory=list)
    incoming: dict[tuple[str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Number of rows by annotator, by (source, kind, status)."""
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By view, then reason."""


def prepare(table: pa.Table, settings: DatasetSettings) -> Views:
    """Derive all views from annotation rows.

    Args:
        table: rows of ``ROW_SCHEMA`` in any order. Of several rows by one named annotator on the same record,
            question and responses, the latest counts.
        settings: splits, aggregation and thresholds.

    Raises:
        DataError: nothing is left for any view.
    """
    material = _take_apart(table.to_pylist(), settings)
    sides: dict[str, Split] = {key: split_of_key(key, settings) for key in material.prompts}
    all_texts = material.texts | material.rated_texts
    text_sides: dict[str, Split] = {key: split_of_key(key, settings) for key in all_texts}
    copies = frozenset[str]()
    if settings.near_duplicate_threshold is not None:
        joined = {
            key: "\n".join(m["content"] for m in prompt.messages) for key, prompt in material.prompts.items()
        }
        copies = _copies(joined, sides, settings.near_duplicate_threshold) | _copies(
            all_texts, text_sides, settings.near_duplicate_threshold
        )
    pairs = _pairs(material, settings)
    views = _assemble(material, pairs, sides, text_sides, copies, settings)
    if not any(len(rows) for view in views.values() for rows in view.values()):
        raise DataError(
            "No feedback is left for training: no row is both submitted and usable; see what ingest and the "
            "views left out, and correct the sources."
        )
    report = views_report(views, material.incoming, material.left_out, copies=len(copies))
    for name, view in views.items():
        logger.info("%s: %s", name, ", ".join(f"{split} {len(rows)}" for split, rows in view.items()))
    return Views(**views, report=report)


def _take_apart(records: list[dict[str, Any]], settings: DatasetSettings) -> _Material:
    material = _Material()
    hashes: dict[tuple[tuple[str, str], ...], str] = {}
    for record in _latest(records, material.left_out["rows"]):
        material.incoming[record["source"], record["kind"], record["status"]][record["annotator"]] += 1
        messages = record["prompt"]
        key = ""
        if messages:
            turns = tuple((m["role"], m["content"]) for m in messages)
            key = hashes.get(turns) or hashes.setdefault(turns, prompt_hash(messages))
            _remember_prompt(material, key, record)
        if record["status"] == "submitted":
            _take_row(material, key, record, settings)
        else:
            material.left_out["rows"][f"{record['status']} rows"] += 1
    return material


def _latest(records: list[dict[str, Any]], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows without those that their annotator has since revised."""

    def identity(record: dict[str, Any]) -> tuple[object, ...]:
        own = ("source", "record_id", "question", "kind", "annotator")
        return (*(record[name] for name in own), *record["responses"])

    newest: dict[tuple[object, ...], str] = {}
    for record in records:
        if record["annotator"] != _NAMELESS:
            key = identity(record)
            newest[key] = max(newest.get(key, ""), record["updated_at"])
    for record in records:
        if record["annotator"] != _NAMELESS and record["updated_at"] < newest[identity(record)]:
            left_out["revised later by the same annotator"] += 1
        else:
            yield record


def _remember_prompt(material: _Material, key: str, record: dict[str, Any]) -> None:
    prompt = material.prompts.get(key)
    if prompt is None:
        spelling = canonical_json(record["prompt"])
        prompt = material.prompts[key] = _Prompt(record["prompt"], spelling, record["record_id"])
    elif (
        record["prompt"] != prompt.messages
        and (spelling := canonical_json(record["prompt"])) < prompt.spelling
    ):
        prompt.messages, prompt.spelling = record["prompt"], spelling
    prompt.record_id = min(prompt.record_id, record["record_id"])
    prompt.usable |= record["status"] != "discarded"


def _take_row(material: _Material, key: str, record: dict[str, Any], settings: DatasetSettings) -> None:
    value = json.loads(record["value"])
    identity = record["record_id"]
    responses = [response.strip() for response in record["responses"]]
    match record["kind"]:
        case "demonstration" if key:
            _add_demonstration(material, key, value, identity, settings)
        case "demonstration":
            _add_text(material, value)
        case "comparison":
            preferred, other = responses if value != 1 else reversed(responses)
            material.votes.append(Vote(key, preferred, other, identity, tie=value is None))
        case "ranking":
            material.votes += votes_from_ranking(
                key, responses, value, identity, settings.pairs_from_rankings
            )
        case "rating":
            if not key:
                key = text_key(responses[0])
                material.rated_texts[key] = responses[0]
            material.ratings.append(Score(key, record["question"], responses[0], float(value), identity))
        case "label":
            label = str(value).strip().lower()
            if label in settings.good_labels:
                material.labels.append(Score(key, record["question"], responses[0], 1.0, identity))
                if settings.demonstrations_from_labels:
                    _add_demonstration(material, key, responses[0], identity, settings)
            elif label in settings.bad_labels:
                material.labels.append(Score(key, record["question"], responses[0], 0.0, identity))
            else:
                material.left_out["comparisons"]["label neither good nor bad"] += 1
        case "text-edit":
            _add_demonstration(material, key, value, identity, settings)
            if edit_distance(responses[0], value) >= settings.min_edit_distance:
                material.votes.append(Vote(key, value.strip(), responses[0], identity))
            else:
                material.left_out["comparisons"]["edit closer than min_edit_distance"] += 1


def _add_demonstration(
    material: _Material, key: str, completion: str, identity: str, settings: DatasetSettings
) -> None:
    completion = completion.strip()
    if len(completion) < settings.min_completion_chars:
        material.left_out["demonstrations"]["shorter than min_completion_chars"] += 1
        return
    earlier = material.demonstrations.get((key, completion))
    if earlier is not None:
        material.left_out["demonstrations"]["same prompt and completion"] += 1
        identity = min(identity, earlier)
    material.demonstrations[key, completion] = identity


def _add_text(material: _Material, text: str) -> None:
    key = text_key(text)
    if key in material.texts:
        material.left_out["text"]["same text"] += 1
    else:
        material.texts[key] = text.strip()


def _pairs(material: _Material, settings: DatasetSettings) -> list[Pair]:
    most = settings.max_pairs_per_prompt
    from_ratings, far = votes_from_ratings(material.ratings, settings.rating_gap, most)
    from_labels, unmatched = votes_from_labels(material.labels, most)
    pairs, unsettled = settle([*material.votes, *from_ratings, *from_labels])
    left_out = material.left_out["comparisons"]
    left_out.update(far + unmatched + unsettled)
    long_enough = [pair for pair in pairs if len(pair.chosen) >= settings.min_completion_chars]
    left_out["chosen shorter than min_completion_chars"] += len(pairs) - len(long_enough)
    return long_enough


def _copies(texts: dict[str, str], sides: dict[str, Split], threshold: float) -> frozenset[str]:
    training = {key: text for key, text in texts.items() if sides[key] == "train"}
    evaluation = (text for key, text in texts.items() if sides[key] != "train")
    return near_duplicates(training, evaluation, threshold)


def _assemble(
    material: _Material,
    pairs: Sequence[Pair],
    sides: dict[str, Split],
    text_sides: dict[str, Split],
    copies: frozenset[str],
    settings: DatasetSettings,
) -> dict[str, datasets.DatasetDict]:
    def splits_of(
        name: str, schema: pa.Schema, entries: Iterable[tuple[str, dict[str, Any]]]
    ) -> datasets.DatasetDict:
        rows: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for key, row in entries:
            if key in copies:
                material.left_out[name]["near-duplicate of dev or test"] += 1
            else:
                rows[sides.get(key) or text_sides[key]].append(row)
        return datasets.DatasetDict(
            {split: datasets.Dataset(pa.Table.from_pylist(rows[split], schema=schema)) for split in SPLITS}
        )

    prompts = material.prompts
    # In order of hashes: the same for the same rows, whatever order they came in, and as good as shuffled.
    demonstrations = sorted(material.demonstrations.items())
    texts: Iterable[tuple[str, str]] = sorted(material.texts.items())
    if not material.texts:
        texts = (
            (key, _as_text(prompts[key].messages, completion)) for (key, completion), _ in demonstrations
        )
    return {
        "demonstrations": splits_of(
            "demonstrations",
            DEMONSTRATIONS_SCHEMA,
            (
                (
                    key,
                    {
                        "prompt": prompts[key].messages,
                        "completion": _reply(completion),
                        "weight": 1.0,
                        "record_id": record_id,
                    },
                )
                for (key, completion), record_id in demonstrations
            ),
        ),
        "comparisons": splits_of(
            "comparisons",
            COMPARISONS_SCHEMA,
            (
                (
                    pair.prompt,
                    {
                        "prompt": prompts[pair.prompt].messages,
                        "chosen": _reply(pair.chosen),
                        "rejected": _reply(pair.rejected),
                        "weight": 1.0,
                        "margin": pair.margin,
                        "agreement": pair.agreement,
                        "fold": fold_of_key(pair.prompt, settings.folds, settings.split_salt),
                        "record_id": pair.record_id,
                    },
                )
                for pair in pairs
            ),
        ),
        "ratings": splits_of(
            "ratings",
            RATINGS_SCHEMA,
            (
                (
                    key,
                    {
                        "prompt": prompts[key].messages if key in prompts else [],
                        "completion": _reply(response),
                        "rating": rating,
                        "question": question,
                        "fold": fold_of_key(key, settings.folds, settings.split_salt),
                        "record_id": record_id,
                    },
                )
                for (key, question), rated in mean_scores(material.ratings).items()
                for response, (rating, record_id) in sorted(rated.items())
            ),
        ),
        "prompts": splits_of(
            "prompts",
            PROMPTS_SCHEMA,
            (
                (key, {"prompt": prompts[key].messages, "record_id": prompts[key].record_id})
                for key in sorted(prompts)
                if prompts[key].usable
            ),
        ),
        "text": splits_of("text", TEXT_SCHEMA, ((key, {"text": text}) for key, text in texts)),
    }


def _reply(text: str) -> list[Message]:
    return [Message(role="assistant", content=text)]


def _as_text(prompt: Sequence[Message], completion: str) -> str:
    return "\n\n".join([*(message["content"] for message in prompt), completion])
