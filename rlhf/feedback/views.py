"""Views: annotation rows as the datasets that training reads, in TRL's formats, split by prompt. Derived and
deterministic: equal rows in any order give equal views. Whether a view suffices is for the stage that needs
it."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import pyarrow as pa

from rlhf.errors import DataError
from rlhf.feedback.annotators import annotator_figures, require_agreement
from rlhf.feedback.material import Material, take_apart
from rlhf.feedback.near_duplicates import near_duplicates
from rlhf.feedback.pairs import Pair, settle
from rlhf.feedback.quality.contamination import contaminated
from rlhf.feedback.quality.contradictions import Contradictions, contradictory
from rlhf.feedback.quality.languages import only_in_languages, sampled_languages
from rlhf.feedback.quality.pii import PIICounts, finder, without_pii
from rlhf.feedback.rows import Message
from rlhf.feedback.settings import FOLDS, DatasetSettings, Judged
from rlhf.feedback.splits import SPLITS, Split, fold_of_key, split_of_key
from rlhf.feedback.views_report import Quality, views_report
from rlhf.feedback.votes import (
    NAMELESS,
    mean_scores,
    votes_from_consensus,
    votes_from_discarded,
    votes_from_labels,
    votes_from_ranking,
    votes_from_ratings,
)
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
        ("votes", pa.int64()),
        ("source", pa.string()),
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

_NEAR_DUPLICATE = "near-duplicate of dev or test"
_CONTAMINATED = "shares contamination_ngram words in a row with dev or test"


@dataclass(frozen=True)
class Views:
    """The datasets of one state of the feedback, each with the splits ``train``, ``dev`` and ``test``."""

    demonstrations: datasets.DatasetDict
    """``prompt``, ``completion`` (one assistant message), ``weight``, ``record_id``."""
    comparisons: datasets.DatasetDict
    """``prompt``, ``chosen``, ``rejected``, ``weight``, ``margin``, ``agreement``, ``votes`` (those that are
    no ties), ``source``, ``fold``, ``record_id``."""
    ratings: datasets.DatasetDict
    """``prompt`` (empty where a whole text was rated), ``completion``, ``rating`` (the mean of its
    annotators'), ``question``, ``fold``, ``record_id``."""
    prompts: datasets.DatasetDict
    """``prompt``, ``record_id``: every prompt once, whatever its rows are."""
    text: datasets.DatasetDict
    """``text``: rows without a prompt; where there are none, the demonstrations with their prompts."""
    report: Report


def prepare(table: pa.Table, settings: DatasetSettings) -> Views:
    """Derive all views from annotation rows.

    Args:
        table: rows of ``ROW_SCHEMA`` in any order. Of several rows by one named annotator on the same record,
            question and responses, the latest counts.
        settings: splits, aggregation and thresholds.

    Raises:
        ConfigError: presidio is asked for and not installed, or a language that cannot be recognised.
        DataError: annotators agree less than ``minimum_agreement``, or nothing is left for any view.
    """
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    rows = _usable(table, settings, left_out)
    annotators = annotator_figures(rows.records)
    require_agreement(annotators, settings.minimum_agreement)
    made = _made(rows.records, settings, left_out)
    quality = Quality(
        near_duplicates=sum(reason == _NEAR_DUPLICATE for reason in made.unfit.values()),
        contaminated=sum(reason == _CONTAMINATED for reason in made.unfit.values()),
        contradictions=made.contradictions,
        pii=rows.pii,
        languages=rows.languages,
    )
    report = views_report(made.views, made.material.incoming, left_out, quality, annotators)
    for name, view in made.views.items():
        logger.info("%s: %s", name, ", ".join(f"{split} {len(rows)}" for split, rows in view.items()))
    return Views(**made.views, report=report)


def derive(table: pa.Table, settings: DatasetSettings) -> dict[str, datasets.DatasetDict]:
    """The views of :func:`prepare` by name, without the report and the figures of annotators;
    ``minimum_agreement`` is not insisted on."""
    left_out: dict[str, Counter[str]] = defaultdict(Counter)
    return _made(_usable(table, settings, left_out).records, settings, left_out).views


@dataclass(frozen=True)
class _Rows:
    """What is left of the annotation rows."""

    records: list[dict[str, Any]]
    languages: Counter[str]
    pii: PIICounts


def _usable(table: pa.Table, settings: DatasetSettings, left_out: dict[str, Counter[str]]) -> _Rows:
    records = list(_latest(table.to_pylist(), left_out["rows"]))
    languages: Counter[str] = Counter()
    if settings.languages is not None:
        before = len(records)
        records, languages = only_in_languages(records, settings.languages)
        left_out["rows"]["language not in languages"] += before - len(records)
    elif settings.language_sample:
        languages = sampled_languages(records, settings.language_sample)
    pii = PIICounts()
    if settings.pii != "ignore":
        before = len(records)
        records, pii = without_pii(records, settings.pii, finder(settings.pii_detector))
        left_out["rows"]["personal data"] += before - len(records)
    return _Rows(records, languages, pii)


@dataclass(frozen=True)
class _Made:
    """The views, and how they came to be."""

    views: dict[str, datasets.DatasetDict]
    material: Material
    unfit: dict[str, str]
    contradictions: Contradictions


def _made(
    records: list[dict[str, Any]], settings: DatasetSettings, left_out: dict[str, Counter[str]]
) -> _Made:
    material = take_apart(records, settings, left_out)
    sides: dict[str, Split] = {key: split_of_key(key, settings) for key in material.prompts}
    text_sides: dict[str, Split] = {key: split_of_key(key, settings) for key in material.all_texts}
    unfit = _unfit_for_training(material, sides, text_sides, settings)
    pairs = _pairs(material, settings)
    pairs, contradictions = _consistent(pairs, material, settings)
    views = _assemble(material, pairs, sides, text_sides, unfit, settings)
    if not any(len(rows) for view in views.values() for rows in view.values()):
        raise DataError(
            "No feedback is left for training: no row is both submitted and usable; see what ingest and the "
            "views left out, and correct the sources."
        )
    return _Made(views, material, unfit, contradictions)


def require_folds(view: datasets.DatasetDict, what: Judged) -> None:
    """See to it that every reward model has training rows of its own, before anything is trained.

    Raises:
        DataError: one has none.
    """
    counts = Counter(view["train"]["fold"])
    without = [role for role, fold in FOLDS.items() if not counts[fold]]
    if without:
        other = "regression" if what == "comparisons" else "pairwise"
        raise DataError(
            f"None of the {counts.total()} training {what} fall into the fold of the reward model "
            f"{' or '.join(without)}; add {what} about more prompts, change datasets.split_salt, or, where "
            f"the feedback is of the other kind, set reward_model.objective to {other}."
        )


def _latest(records: list[dict[str, Any]], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows without those that their annotator has since revised."""

    def identity(record: dict[str, Any]) -> tuple[object, ...]:
        own = ("source", "record_id", "question", "kind", "annotator")
        return (*(record[name] for name in own), *record["responses"])

    newest: dict[tuple[object, ...], str] = {}
    for record in records:
        if record["annotator"] != NAMELESS:
            key = identity(record)
            newest[key] = max(newest.get(key, ""), record["updated_at"])
    for record in records:
        if record["annotator"] != NAMELESS and record["updated_at"] < newest[identity(record)]:
            left_out["revised later by the same annotator"] += 1
        else:
            yield record


def _pairs(material: Material, settings: DatasetSettings) -> list[Pair]:
    most, how = settings.max_pairs_per_prompt, settings.aggregation
    left_out = material.left_out["comparisons"]
    votes = list(material.votes)
    if how.rankings == "bradley_terry":
        ranked, equal = votes_from_consensus(material.rankings, settings.pairs_from_rankings)
        votes += ranked
        left_out.update(equal)
    else:
        for ranking in material.rankings:
            votes += votes_from_ranking(ranking, settings.pairs_from_rankings)
    for derived, reasons in (
        votes_from_ratings(material.ratings, settings.rating_gap, most),
        votes_from_labels(material.labels, most, how.labels, smoothing=how.smoothing),
        votes_from_discarded(material.submitted, material.discarded, most),
    ):
        votes += derived
        left_out.update(reasons)
    pairs, unsettled = settle(votes, how.comparisons, smoothing=how.smoothing)
    left_out.update(unsettled)
    long_enough = [pair for pair in pairs if len(pair.chosen) >= settings.min_completion_chars]
    left_out["chosen shorter than min_completion_chars"] += len(pairs) - len(long_enough)
    return long_enough


def _consistent(
    pairs: list[Pair], material: Material, settings: DatasetSettings
) -> tuple[list[Pair], Contradictions]:
    found = contradictory(pairs)
    if settings.contradictions == "keep":
        return pairs, found
    left_out = material.left_out["comparisons"]
    left_out["contradict each other"] += len(found.circular)
    left_out["sides differ in case or spacing only"] += len(found.equal)
    unwanted = found.circular | found.equal
    return [pair for index, pair in enumerate(pairs) if index not in unwanted], found


def _unfit_for_training(
    material: Material, sides: dict[str, Split], text_sides: dict[str, Split], settings: DatasetSettings
) -> dict[str, str]:
    """Why training prompts and texts are too close to dev or test ones, by their hash."""
    prompts = {
        key: "\n".join(m["content"] for m in prompt.messages) for key, prompt in material.prompts.items()
    }
    unfit: dict[str, str] = {}
    for texts, own in ((prompts, sides), (material.all_texts, text_sides)):
        training = {key: text for key, text in texts.items() if own[key] == "train"}
        evaluation = [text for key, text in texts.items() if own[key] != "train"]
        if settings.contamination_ngram is not None:
            found = contaminated(training, evaluation, settings.contamination_ngram)
            unfit |= dict.fromkeys(found, _CONTAMINATED)
        if settings.near_duplicate_threshold is not None:
            found = near_duplicates(training, evaluation, settings.near_duplicate_threshold)
            unfit |= dict.fromkeys(found, _NEAR_DUPLICATE)
    return unfit


def _assemble(
    material: Material,
    pairs: Sequence[Pair],
    sides: dict[str, Split],
    text_sides: dict[str, Split],
    unfit: dict[str, str],
    settings: DatasetSettings,
) -> dict[str, datasets.DatasetDict]:
    def splits_of(
        name: str, schema: pa.Schema, entries: Iterable[tuple[str, dict[str, Any]]]
    ) -> datasets.DatasetDict:
        rows: dict[Split, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for key, row in entries:
            if key in unfit:
                material.left_out[name][unfit[key]] += 1
            else:
                rows[sides.get(key) or text_sides[key]].append(row)
        return datasets.DatasetDict(
            {split: datasets.Dataset(pa.Table.from_pylist(rows[split], schema=schema)) for split in SPLITS}
        )

    prompts, how = material.prompts, settings.aggregation
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
                        "weight": material.weights.get((key, completion), 1.0),
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
                        "weight": pair.confidence if how.weight == "confidence" else 1.0,
                        "margin": pair.log_odds if how.margin == "log_odds" else pair.margin,
                        "agreement": pair.agreement,
                        "votes": pair.votes,
                        "source": material.sources[pair.record_id],
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
