"""Annotation rows taken apart by what they can become: demonstrations, texts, and the judgements that
comparisons are made from. Nothing is aggregated here."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from rlhf.feedback.rows import Message, canonical_json, prompt_hash
from rlhf.feedback.settings import DatasetSettings
from rlhf.feedback.splits import text_key
from rlhf.feedback.votes import Ranking, Score, Vote, edit_distance, settled_labels


@dataclass
class Prompt:
    """A prompt under its hash; of several spellings (whitespace) the smallest stands for all."""

    messages: list[Message]
    spelling: str
    record_id: str
    usable: bool = False
    """Whether a submitted or drafted row has it, so that it may be answered in rollouts."""


@dataclass
class Material:
    """Rows taken apart by what they can become."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    demonstrations: dict[tuple[str, str], str] = field(default_factory=dict)
    """Record id by (prompt hash, completion)."""
    weights: dict[tuple[str, str], float] = field(default_factory=dict)
    """Weight of demonstrations that are worth less than 1, by the same."""
    texts: dict[str, str] = field(default_factory=dict)
    """Text by its hash."""
    votes: list[Vote] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    ratings: list[Score] = field(default_factory=list)
    rated_texts: dict[str, str] = field(default_factory=dict)
    """Rated texts without a prompt, by their hash."""
    labels: list[Score] = field(default_factory=list)
    submitted: list[Score] = field(default_factory=list)
    """Demonstrations as candidates; discarded ones likewise."""
    discarded: list[Score] = field(default_factory=list)
    incoming: dict[tuple[str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Number of rows by annotator, by (source, kind, status)."""
    sources: dict[str, str] = field(default_factory=dict)
    """Source by record id; of several that use the same id, the first in alphabetical order."""
    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    """Number of entries by view, then reason."""

    @property
    def all_texts(self) -> dict[str, str]:
        """Texts that stand without a prompt, by their hash."""
        return self.texts | self.rated_texts


def take_apart(
    records: list[dict[str, Any]], settings: DatasetSettings, left_out: dict[str, Counter[str]]
) -> Material:
    material = Material(left_out=left_out)
    hashes: dict[tuple[tuple[str, str], ...], str] = {}
    for record in records:
        material.incoming[record["source"], record["kind"], record["status"]][record["annotator"]] += 1
        source, identity = record["source"], record["record_id"]
        material.sources[identity] = min(source, material.sources.get(identity, source))
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
            _take_discarded(material, key, record, settings)
    _add_labelled_demonstrations(material, settings)
    return material


def _remember_prompt(material: Material, key: str, record: dict[str, Any]) -> None:
    prompt = material.prompts.get(key)
    if prompt is None:
        spelling = canonical_json(record["prompt"])
        prompt = material.prompts[key] = Prompt(record["prompt"], spelling, record["record_id"])
    elif (
        record["prompt"] != prompt.messages
        and (spelling := canonical_json(record["prompt"])) < prompt.spelling
    ):
        prompt.messages, prompt.spelling = record["prompt"], spelling
    prompt.record_id = min(prompt.record_id, record["record_id"])
    prompt.usable |= record["status"] != "discarded"


def _take_row(material: Material, key: str, record: dict[str, Any], settings: DatasetSettings) -> None:
    value = json.loads(record["value"])
    identity, question = record["record_id"], record["question"]
    responses = [response.strip() for response in record["responses"]]
    # The same name in two sources need not be the same person.
    annotator = canonical_json([record["source"], record["annotator"]])
    match record["kind"]:
        case "demonstration" if key:
            _add_demonstration(material, key, value, identity, settings)
            if settings.pairs_from_discarded:
                material.submitted.append(Score(key, question, value.strip(), 1.0, identity, annotator))
        case "demonstration":
            _add_text(material, value)
        case "comparison":
            preferred, other = responses if value != 1 else reversed(responses)
            material.votes.append(
                Vote(key, preferred, other, identity, value is None, None, annotator, swapped=value == 1)
            )
        case "ranking":
            material.rankings.append(Ranking(key, question, responses, value, identity, annotator))
        case "rating":
            if not key:
                key = text_key(responses[0])
                material.rated_texts[key] = responses[0]
            material.ratings.append(Score(key, question, responses[0], float(value), identity, annotator))
        case "label":
            label = str(value).strip().lower()
            if label in settings.good_labels or label in settings.bad_labels:
                good = float(label in settings.good_labels)
                material.labels.append(Score(key, question, responses[0], good, identity, annotator))
            else:
                material.left_out["comparisons"]["label neither good nor bad"] += 1
        case "text-edit":
            _add_demonstration(material, key, value, identity, settings)
            if edit_distance(responses[0], value) >= settings.min_edit_distance:
                material.votes.append(
                    Vote(key, value.strip(), responses[0], identity, annotator=annotator, swapped=True)
                )
            else:
                material.left_out["comparisons"]["edit closer than min_edit_distance"] += 1


def _take_discarded(material: Material, key: str, record: dict[str, Any], settings: DatasetSettings) -> None:
    is_candidate = record["kind"] == "demonstration" and record["status"] == "discarded" and key
    if settings.pairs_from_discarded and is_candidate and (text := json.loads(record["value"]).strip()):
        material.discarded.append(Score(key, record["question"], text, 0.0, record["record_id"]))


def _add_labelled_demonstrations(material: Material, settings: DatasetSettings) -> None:
    if not settings.demonstrations_from_labels:
        return
    how = settings.aggregation
    settled = settled_labels(material.labels, how.labels, smoothing=how.smoothing)
    for (key, _), shares in settled.items():
        for response, (share, identity) in sorted(shares.items()):
            if share <= 0.5:
                continue
            known = (key, response) in material.demonstrations
            _add_demonstration(material, key, response, identity, settings)
            if how.weight == "confidence" and not known:
                material.weights[key, response] = 2.0 * share - 1.0


def _add_demonstration(
    material: Material, key: str, completion: str, identity: str, settings: DatasetSettings
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


def _add_text(material: Material, text: str) -> None:
    key = text_key(text)
    if key in material.texts:
        material.left_out["text"]["same text"] += 1
    else:
        material.texts[key] = text.strip()
