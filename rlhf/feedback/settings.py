"""Settings of ingest and of the views: what to read, how strictly, and how it is split. Light on purpose:
configs are validated with this module alone, so it imports neither torch nor datasets nor any reader."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveInt, field_serializer, field_validator, model_validator

from rlhf.feedback.annotation_servers.settings import ArgillaSource, LabelStudioSource
from rlhf.feedback.ledger.settings import LedgerSettings
from rlhf.feedback.settings_aggregation import AggregationSettings
from rlhf.sample.settings import SupportDeskSettings
from rlhf.settings import Settings

LayoutName = Literal[
    "annotation-rows",
    "oasst-messages",
    "oasst-trees",
    "ukp-convincing-arguments",
    "pandalm",
    "argilla-export",
    "argilla-dolly-falcon",
    "better-poorer",
    "prompt-chosen-rejected",
    "chosen-rejected",
    "taskmaster-reward",
    "prompt-completion-label",
    "prompt-completion-reward",
    "sample-reward",
    "messages",
    "instruction-context-response",
    "instruction-input-output",
    "question-answer",
    "prompt-completion",
    "mt-bench",
    "prompts",
    "text",
]
LanguageCode = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
LAYOUT_NAMES: tuple[str, ...] = get_args(LayoutName)

Judged = Literal["comparisons", "ratings"]
FOLDS: Mapping[str, int] = {"proxy": 0, "selection": 1, "judge": 2}
"""The fold of the training comparisons, or ratings, that each reward model learns from."""

FILE_FORMATS = ("jsonl", "json", "csv", "parquet", "txt")


def file_format(path: Path) -> str | None:
    """The format that a file's name says, without regard to a final ``.gz``; None if it is none of ours."""
    name = path.name.lower().removesuffix(".gz")
    return next((known for known in FILE_FORMATS if name.endswith(f".{known}")), None)


class FileSource(Settings):
    """One local file of feedback."""

    type: Literal["file"] = "file"
    path: Path
    """File to read: .jsonl, .json, .csv, .parquet or .txt, each also with .gz; relative to the working
    directory."""
    layout: LayoutName | None = None
    """How its columns are read; by default recognised from the columns and the first rows."""
    name: str | None = Field(default=None, min_length=1)
    """Name of the source in rows and reports; by default the file's name without its endings."""
    limit: PositiveInt | None = None
    """Read at most this many records; by default all."""
    license: str | None = Field(default=None, min_length=1)
    """Licence of the data, such as `CC-BY-4.0`, for the model card."""

    @property
    def location(self) -> Path:
        """The path with environment variables filled in."""
        return Path(os.path.expandvars(self.path))

    @property
    def source_name(self) -> str:
        """The name its rows carry."""
        return self.name or self.path.name.split(".")[0] or self.path.name

    @field_validator("path")
    @classmethod
    def _format_is_known(cls, path: Path) -> Path:
        if file_format(path) is None:
            endings = ", ".join(f".{known}" for known in FILE_FORMATS)
            raise ValueError(f"{path} has none of the endings {endings} (each may be followed by .gz)")
        return path


class HubSource(Settings):
    """A dataset of the Hugging Face hub, or a local folder in the hub's layout."""

    type: Literal["hub"] = "hub"
    dataset: str = Field(min_length=1)
    """Dataset id such as ``Anthropic/hh-rlhf``, or the path of a local folder."""
    config: str | None = None
    """Configuration (subset) of the dataset; by default its only or default one."""
    split: str = "train"
    """Split to read, in the syntax of ``datasets`` (``train``, ``train[:1000]``)."""
    revision: str | None = None
    """Commit, tag or branch of the dataset; name a commit where a run must be repeatable."""
    layout: LayoutName | None = None
    """How its columns are read; by default recognised from the columns and the first rows."""
    name: str | None = Field(default=None, min_length=1)
    """Name of the source in rows and reports; by default the dataset's id."""
    limit: PositiveInt | None = None
    """Read at most this many records; by default all."""
    license: str | None = Field(default=None, min_length=1)
    """Licence of the data, such as `CC-BY-4.0`, for the model card."""

    @property
    def source_name(self) -> str:
        """The name its rows carry."""
        return self.name or self.dataset


class SampleSource(Settings):
    """The built-in sample: simulated feedback with a known utility function."""

    type: Literal["sample"] = "sample"
    sample: Literal["support_desk"] = "support_desk"
    """Which sample."""
    settings: SupportDeskSettings = SupportDeskSettings()
    """Size and seed of the sample."""

    @property
    def license(self) -> str:
        """Licence of the data: this repository's."""
        return "Apache-2.0"

    @property
    def source_name(self) -> str:
        """The name its rows are reported under."""
        return self.sample


class CustomSource(Settings):
    """A class of your own whose ``read()`` yields annotation rows."""

    type: Literal["custom"] = "custom"
    cls: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """The class as ``package.module:Class``; it is made from ``options`` and must have ``read()``."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the class; logged as they are."""
    secrets: Mapping[str, str] = Field(default_factory=dict)
    """Further keyword arguments, each with the name of the environment variable that holds its value:
    configs, logs and artifacts see only that name."""
    name: str | None = Field(default=None, min_length=1)
    """Name of the source in reports; by default the class."""
    license: str | None = Field(default=None, min_length=1)
    """Licence of the data, such as `CC-BY-4.0`, for the model card."""

    @property
    def source_name(self) -> str:
        """The name its rows are reported under."""
        return self.name or self.cls


Source = Annotated[
    FileSource | HubSource | SampleSource | CustomSource | ArgillaSource | LabelStudioSource,
    Field(discriminator="type"),
]


class FeedbackSettings(Settings):
    """Where feedback comes from, and how much of it may be unreadable."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Sources in the order in which they are read."""
    max_row_bytes: PositiveInt = 1_000_000
    """Longest record accepted from a file, in bytes; longer ones are quarantined."""
    max_quarantined_share: float = Field(default=0.05, ge=0, le=1)
    """Share of a source's records that may be unusable before ingest fails."""
    ledger: LedgerSettings = LedgerSettings()
    """Where the rows are kept from run to run."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> "FeedbackSettings":
        names = Counter(source.source_name for source in self.sources)
        repeated = sorted(name for name, times in names.items() if times > 1)
        if repeated:
            raise ValueError(
                f"several sources are called {', '.join(map(repr, repeated))}; give each a `name` of its own"
            )
        return self


class DatasetSettings(Settings):
    """How views are derived from annotation rows."""

    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Share of prompts whose rows are kept for the gate's evaluation."""
    dev_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of prompts whose rows are kept for choosing checkpoints."""
    folds: int = Field(default=3, ge=1)
    """Number of folds of the comparisons and ratings; reward models with different jobs train on different
    folds: 0 the proxy, 1 the selection model, 2 the judge."""
    split_salt: str = ""
    """Changes which prompts fall on which side and into which fold; leave it alone once a model was
    judged."""
    near_duplicate_threshold: float | None = Field(default=0.85, gt=0, le=1)
    """Jaccard similarity of 5-character shingles from which a training prompt counts as a copy of a dev or
    test prompt and is left out of training; null turns the search off (for prompts made from templates)."""
    contamination_ngram: PositiveInt | None = 13
    """Number of words in a row that a training prompt must share with a dev or test prompt to be left out of
    training (Brown et al. 2020, arXiv:2005.14165, appendix C); null turns the search off (for prompts made
    from templates)."""
    pii: Literal["ignore", "report", "mask", "drop"] = "report"
    """Personal data found by pattern (e-mail addresses, phone, card and IBAN numbers) in prompts, responses
    and what annotators wrote: count it, put a placeholder such as ``[EMAIL]`` in its place before anything
    else is done (a prompt's side then hangs on the masked text), or leave the row out."""
    pii_detector: Literal["patterns", "presidio"] = "patterns"
    """``patterns`` needs nothing else. ``presidio`` also finds names and places, with the packages
    presidio-analyzer and a spaCy model, and takes some milliseconds a text."""
    languages: tuple[LanguageCode, ...] | None = None
    """Keep only rows in these languages (ISO 639 codes such as ``en``), and those whose language cannot be
    told; the others are left out and counted. Takes about 0.1 milliseconds a row."""
    language_sample: NonNegativeInt = 0
    """Number of rows whose languages the report counts where ``languages`` does not ask for those of all of
    them; 0 for none."""
    aggregation: AggregationSettings = AggregationSettings()
    """How several annotators' judgements become one."""
    minimum_agreement: float | None = Field(default=None, ge=-1, le=1)
    """Krippendorff's alpha below which preparation stops, for any question that several annotators answered
    about the same items. 0 is chance, 1 is perfect; preferences are often between 0.2 and 0.6."""
    contradictions: Literal["keep", "drop"] = "keep"
    """Comparisons of one prompt that contradict each other once they are settled (a over b, b over c, c over
    a; texts that differ in case or spacing only are the same): keep them or leave all of a circle out. They
    are counted in either case."""
    min_completion_chars: int = Field(default=1, ge=0)
    """Demonstrations and chosen responses shorter than this many characters are left out."""
    pairs_from_rankings: Literal["all", "adjacent"] = "all"
    """Which pairs a ranking gives: every two responses of different rank, or neighbours in rank only."""
    rating_gap: float = Field(default=1.0, gt=0)
    """Smallest difference of mean ratings, on the ratings' own scale, that makes two responses a
    comparison."""
    min_edit_distance: float = Field(default=0.05, ge=0, le=1)
    """Smallest share of words changed by a text edit that makes edit and original a comparison."""
    good_labels: frozenset[str] = frozenset({"true", "good", "yes", "1", "1.0", "positive"})
    """Labels, in lower case, that call a response good."""
    bad_labels: frozenset[str] = frozenset({"false", "bad", "no", "0", "0.0", "negative"})
    """Labels, in lower case, that call a response bad."""
    demonstrations_from_labels: bool = False
    """Whether responses that were labelled good are demonstrations too."""
    pairs_from_discarded: bool = False
    """Whether a demonstration that was submitted is preferred to one that was discarded, for the same prompt
    and question. For records that an annotator accepts or discards; a discarded row may also be one that
    nobody wanted to judge."""
    max_pairs_per_prompt: PositiveInt = 32
    """Most comparisons derived from the labels, the ratings or the discarded demonstrations of one prompt;
    direct comparisons and rankings are never capped."""

    @field_serializer("good_labels", "bad_labels")
    def _in_order(self, labels: frozenset[str]) -> list[str]:
        # A set's own order differs from process to process, and with it what is logged and hashed of it.
        return sorted(labels)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "DatasetSettings":
        if self.test_fraction + self.dev_fraction >= 1:
            raise ValueError("test_fraction and dev_fraction together must stay below 1")
        if shared := self.good_labels & self.bad_labels:
            raise ValueError(f"labels {sorted(shared)} are both in good_labels and in bad_labels")
        return self
