"""Where feedback comes from. A source is an object with ``read()``, which yields annotation rows and, in
place of records that are unusable, their quarantine; a ledger or an annotation server is one more such
class."""

import importlib
import itertools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from rlhf.errors import ConfigError, DataError
from rlhf.feedback.annotation_servers.reader import ServerReader
from rlhf.feedback.annotation_servers.settings import ArgillaSource, LabelStudioSource
from rlhf.feedback.files import first_line, problem_with, read_file
from rlhf.feedback.layouts import FIRST_ROWS, choose_layout
from rlhf.feedback.records import Outcome, Quarantined, Record, checked
from rlhf.feedback.rows import AnnotationRow
from rlhf.feedback.settings import (
    CustomSource,
    FeedbackSettings,
    FileSource,
    HubSource,
    LayoutName,
    SampleSource,
)

logger = logging.getLogger(__name__)


@runtime_checkable
class Source(Protocol):
    """What ingest reads from. Classes named in a config's ``custom`` source need ``read`` alone."""

    def read(self) -> Iterator[AnnotationRow | Quarantined]:
        """Rows in a fixed order."""
        ...


class _Reader(ABC):
    """Base of the built-in sources: a name, a check before anything is read, and the layout found while
    reading."""

    name: str
    layout: str = ""

    def problem(self) -> str | None:
        """Why it cannot be read, as a clause, or None; asked of all sources before one is read."""
        return None

    @abstractmethod
    def read(self) -> Iterator[Outcome]:
        """Rows and quarantined records in the source's order."""

    def _rows(
        self, entries: Iterable[Record | Quarantined], layout: LayoutName | None, limit: int | None
    ) -> Iterator[Outcome]:
        refused: list[Quarantined] = []

        def readable() -> Iterator[Record]:
            for entry in entries:
                if isinstance(entry, Record):
                    yield entry
                else:
                    refused.append(entry)

        records = itertools.islice(readable(), limit)
        first = list(itertools.islice(records, FIRST_ROWS))
        if not first:
            yield from refused
            return
        chosen = choose_layout(self.name, [record.values for record in first], layout)
        self.layout = chosen.name
        logger.info("source %s is read as layout %s", self.name, chosen.name)
        for outcome in chosen.read(itertools.chain(first, records), self.name):
            yield from refused
            refused.clear()
            yield outcome
        yield from refused


class FileReader(_Reader):
    """Records of one local file."""

    def __init__(self, settings: FileSource, max_row_bytes: int) -> None:
        self.name = settings.source_name
        self._settings = settings
        self._max_row_bytes = max_row_bytes

    def problem(self) -> str | None:
        return problem_with(self._settings.location)

    def read(self) -> Iterator[Outcome]:
        entries = read_file(self._settings.location, self.name, self._max_row_bytes)
        yield from self._rows(entries, self._settings.layout, self._settings.limit)


class HubReader(_Reader):
    """Rows of a dataset read with ``datasets.load_dataset``."""

    def __init__(self, settings: HubSource) -> None:
        self.name = settings.source_name
        self._hub = settings

    def problem(self) -> str | None:
        import datasets  # half a second, and only hub sources need it

        hub = self._hub
        try:
            splits = datasets.get_dataset_split_names(hub.dataset, hub.config, revision=hub.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            return f"dataset {hub.dataset} cannot be opened ({first_line(error)})"
        if hub.split.split("[")[0] not in [*splits, "all"] and "+" not in hub.split:
            return f"dataset {hub.dataset} has no split '{hub.split}' but {', '.join(splits)}"
        return None

    def read(self) -> Iterator[Outcome]:
        import datasets

        hub = self._hub
        try:
            rows = datasets.load_dataset(hub.dataset, hub.config, split=hub.split, revision=hub.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(
                f"Dataset {hub.dataset} cannot be read ({first_line(error)}); check its name, "
                "split and revision, and your access to it."
            ) from error
        entries = (Record(number, values) for number, values in enumerate(rows, 1))
        yield from self._rows(entries, hub.layout, hub.limit)


class SampleReader(_Reader):
    """The built-in sample."""

    layout = "annotation-rows"

    def __init__(self, settings: SampleSource) -> None:
        self.name = settings.source_name
        self._settings = settings

    def read(self) -> Iterator[Outcome]:
        from rlhf.sample.support_desk import support_desk_rows  # its generator is no part of other runs

        for number, row in enumerate(support_desk_rows(self._settings.settings), 1):
            yield checked(row, number)


class CustomReader(_Reader):
    """A class that a config names."""

    layout = "custom"

    def __init__(self, settings: CustomSource) -> None:
        self.name = settings.source_name
        self._settings = settings
        self.source = _made(settings)

    def read(self) -> Iterator[Outcome]:
        for number, outcome in enumerate(self.source.read(), 1):
            if isinstance(outcome, Quarantined):
                yield outcome
            elif isinstance(outcome, AnnotationRow):
                yield checked(outcome, number)
            else:
                raise DataError(
                    f"{self._settings.cls}.read() gave {type(outcome).__name__} at position {number}; it "
                    "must yield AnnotationRow."
                )


def _made(settings: CustomSource) -> Source:
    module_name, class_name = settings.cls.split(":")
    if absent := sorted(set(settings.secrets.values()) - os.environ.keys()):
        raise ConfigError(f"sources: {settings.cls} needs {', '.join(absent)} in the environment; export it.")
    secrets = {argument: os.environ[variable] for argument, variable in settings.secrets.items()}
    try:
        made = getattr(importlib.import_module(module_name), class_name)(**settings.options, **secrets)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"sources: {settings.cls} cannot be imported ({error}); correct `cls`.") from error
    except TypeError as error:
        raise ConfigError(
            f"sources: {settings.cls} refuses its `options` ({error}); correct them."
        ) from error
    if not isinstance(made, Source):
        raise ConfigError(f"sources: {settings.cls} has no read(); name a class that has.")
    return made


def _server_reader(settings: ArgillaSource | LabelStudioSource) -> ServerReader:
    # HTTP clients are imported for the sources that need one.
    if isinstance(settings, ArgillaSource):
        from rlhf.feedback.annotation_servers.argilla import ArgillaReader

        return ArgillaReader(settings)
    from rlhf.feedback.annotation_servers.label_studio import LabelStudioReader

    return LabelStudioReader(settings)


BuiltSource = FileReader | HubReader | SampleReader | CustomReader | ServerReader


def open_sources(settings: FeedbackSettings) -> list[BuiltSource]:
    """All sources, each looked at but none read.

    Raises:
        ConfigError: a custom class that cannot be made.
        DataError: sources that cannot be read, all of them in one message.
    """
    sources: list[BuiltSource] = []
    for source in settings.sources:
        match source:
            case FileSource():
                sources.append(FileReader(source, settings.max_row_bytes))
            case HubSource():
                sources.append(HubReader(source))
            case SampleSource():
                sources.append(SampleReader(source))
            case CustomSource():
                sources.append(CustomReader(source))
            case ArgillaSource() | LabelStudioSource():
                sources.append(_server_reader(source))
    problems = [problem for source in sources if (problem := source.problem()) is not None]
    if problems:
        raise DataError(f"Feedback cannot be read: {'; '.join(problems)}. Correct the config's `sources`.")
    return sources
