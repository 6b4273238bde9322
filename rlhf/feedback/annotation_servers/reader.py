"""What readers of annotation servers share: the key from the environment, a look at the server before
anything is read, rows with their quarantine, and the incremental protocol."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import RLHFError
from rlhf.feedback.annotation_servers.answers import rows_of_record
from rlhf.feedback.annotation_servers.mapping import Plan, plan_mapping
from rlhf.feedback.annotation_servers.schema import Answers, Schema
from rlhf.feedback.annotation_servers.settings import ArgillaSource, LabelStudioSource
from rlhf.feedback.records import BadRecordError, Outcome, Quarantined, checked, excerpt_of
from rlhf.feedback.rows import sha256_of

logger = logging.getLogger(__name__)

OPENING_SECONDS = 10.0
"""Patience before anything was read: whoever starts a run sits in front of it."""

Watermark = Mapping[str, Any]
"""How far a source was read: JSON, kept by whoever keeps the rows."""


@dataclass(frozen=True, slots=True)
class AnsweredRecord:
    """One record of a server with everybody's answers."""

    id: str
    fields: Mapping[str, Any]
    answered: tuple[Answers, ...]


class ServerReader(ABC):
    """One project of an annotation server as a source.

    :meth:`read_since` is the incremental protocol: it yields the rows of all records that may have changed
    since a watermark, and after the last of them :attr:`watermark` is where to go on, and :attr:`complete`
    says whether this was everything there is, so that what is missing was deleted.
    """

    layout: str

    def __init__(self, settings: ArgillaSource | LabelStudioSource) -> None:
        self.name = settings.source_name
        self.watermark: Watermark | None = None
        self.complete = False
        self.whole_records: set[str] = set()
        """Ids of the records that the last read gave with all their rows: what else was known of them is
        gone, even where the read was not complete."""
        self._common = settings
        self._plan: Plan | None = None

    def problem(self) -> str | None:
        """Connect and make the mapping, so that a wrong key, name or question is known before any source is
        read."""
        try:
            self._open()
        except RLHFError as error:
            return str(error).rstrip(".")
        return None

    def read(self) -> Iterator[Outcome]:
        """Everything there is.

        Raises:
            DataError: the server failed for longer than patience lasts, or records change faster than they
                can be read.
        """
        yield from self.read_since(None)

    def read_since(self, watermark: Watermark | None) -> Iterator[Outcome]:
        """Rows of the records that may have changed since ``watermark``, or all; errors as in
        :meth:`read`."""
        self._open()
        self.complete, self.watermark = False, None
        self.whole_records.clear()
        known = watermark if watermark and watermark.get("mapping") == self._mapping_digest() else None
        for number, record in enumerate(self._records(known), 1):
            self.whole_records.add(record.id)
            yield from self._outcomes(number, record)

    @abstractmethod
    def _connect(self) -> Schema:
        """Open the connection and say what the project asks."""

    @abstractmethod
    def _records(self, known: Watermark | None) -> Iterator[AnsweredRecord]:
        """Records that may have changed; sets :attr:`watermark` and :attr:`complete` at the end."""

    def _open(self) -> None:
        if self._plan is None:
            schema = self._connect()
            self._plan = plan_mapping(schema, self._common.mapping, self.name)
            logger.info("source %s is read as %s", self.name, self._plan.in_words)

    def _outcomes(self, number: int, record: AnsweredRecord) -> Iterator[Outcome]:
        assert self._plan is not None  # opened before anything is read
        try:
            for row in rows_of_record(self._plan, self.name, record.id, record.fields, record.answered):
                yield checked(row, number)
        except BadRecordError as bad:
            yield Quarantined(self.name, number, str(bad), excerpt_of(record.fields))
        except UnicodeEncodeError:  # JSON escapes can spell lone surrogates, which are no text
            reason = "text with a lone surrogate, which is not Unicode"
            yield Quarantined(self.name, number, reason, excerpt_of(record.fields))

    def _mapping_digest(self) -> str:
        """Changes with what rows would be made of an unchanged record."""
        assert self._plan is not None
        return sha256_of([self._plan.in_words, repr(self._plan), self._common.annotators])

    def _marked(self, **position: Any) -> Watermark:
        return {"mapping": self._mapping_digest(), **position}
