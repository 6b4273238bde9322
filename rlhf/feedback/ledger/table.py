"""The ledger as a Delta table: its columns, how it is opened, and what its commits say.

Every commit of ours carries one JSON text, ``rlhf``, in its metadata. Together they say how far the ledger
has come, what was last read of each source, and who must stay out: no second file can disagree with the rows.
"""

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from rlhf.errors import LedgerError
from rlhf.feedback.ledger.files import discard, files_of, write_files
from rlhf.feedback.ledger.keys import IDENTITY, identity_column
from rlhf.feedback.ledger.settings import is_remote
from rlhf.feedback.rows import ROW_SCHEMA

logger = logging.getLogger(__name__)

PUT = "put"
TOMBSTONE = "tombstone"
METADATA_KEY = "rlhf"

LEDGER_SCHEMA = pa.schema(
    [
        ("ledger_seq", pa.int64()),
        ("source_key", pa.string()),
        ("identity", pa.binary()),
        ("position", pa.int32()),  # tells rows of one identity in one source apart
        ("operation", pa.string()),
        ("batch", pa.string()),
        ("ingested_at", pa.timestamp("us", tz="UTC")),
        *ROW_SCHEMA,  # null in tombstones
    ]
)
PARTITION = ["source_key"]
KEY_COLUMNS = ["identity", "position", "ledger_seq", "operation", "row_hash"]

_CONFIGURATION = {
    # Statistics of further columns would put texts and names of annotators into the log, where no erasure
    # gets at them.
    "delta.dataSkippingStatsColumns": "ledger_seq",
    # The commits' metadata is the ledger's memory.
    "delta.enableExpiredLogCleanup": "false",
}


@dataclass(frozen=True)
class Rule:
    """Somebody or something that was told to stay out."""

    kind: Literal["record", "annotator"]
    digest: str
    """SHA-256 of the name, so that the rule itself does not keep it."""
    at: str
    by: str
    erased: bool = False
    lifetimes: tuple[tuple[str, int, int], ...] = ()
    """Source key, first sequence and first sequence no more, of every version that was removed."""


@dataclass(frozen=True)
class Commit:
    """One transaction of ours."""

    version: int
    at: datetime
    action: str
    batch: str
    last_sequence: int
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By source key: name, watermark, digest, live, counts, tally."""
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Head:
    """What all commits together say."""

    version: int
    last_sequence: int
    sources: Mapping[str, Mapping[str, Any]]
    """The last word on each source key; ``sequence`` is added to what the commit says."""
    rules: tuple[Rule, ...]


def canonical_url(url: str) -> str:
    """A URL as it stands, a local folder as an absolute path."""
    return url.rstrip("/") if is_remote(url) else str(Path(url.removeprefix("file://")).resolve())


def exists(url: str) -> bool:
    """Whether there is a ledger."""
    return DeltaTable.is_deltatable(url)


def open_table(url: str) -> DeltaTable:
    """The ledger as it stands.

    Raises:
        LedgerError: there is none, or it cannot be reached.
    """
    try:
        return DeltaTable(url)
    except TableNotFoundError as error:
        raise LedgerError(
            f"There is no feedback ledger at {url}; a run makes one, or set feedback.ledger.url to its place."
        ) from error
    except (DeltaError, OSError) as error:
        raise LedgerError(
            f"The feedback ledger at {url} cannot be opened ({_first_line(error)}); check "
            "feedback.ledger.url and the credentials in the environment."
        ) from error


def open_or_create(url: str) -> DeltaTable:
    """The ledger, made first if there is none.

    Raises:
        LedgerError: it cannot be reached or made, or the table there is no ledger.
    """
    try:
        if not exists(url):
            DeltaTable.create(
                url,
                LEDGER_SCHEMA,
                mode="ignore",
                partition_by=PARTITION,
                name="feedback_ledger",
                configuration=_CONFIGURATION,
            )
    except CommitFailedError:
        logger.debug("another process made the ledger first")
    except (DeltaError, OSError) as error:
        raise LedgerError(
            f"No feedback ledger can be made at {url} ({_first_line(error)}); check feedback.ledger.url and "
            "the credentials in the environment."
        ) from error
    table = open_table(url)
    if set(LEDGER_SCHEMA.names) - set(pa.schema(table.schema()).names):
        raise LedgerError(
            f"The table at {url} is no feedback ledger; give feedback.ledger.url its own folder."
        )
    return table


def scan(table: DeltaTable, source_keys: Sequence[str], upto: int | None = None) -> ds.Scanner:
    """Keys of the sources' rows in batches, in no particular order."""
    return table.to_pyarrow_dataset().scanner(
        columns=KEY_COLUMNS, filter=_within(source_keys, upto), batch_size=1 << 16
    )


def identities_of(table: DeltaTable, source_key: str, records: Collection[str]) -> np.ndarray:
    """Identities (fields ``id0`` and ``id1``, sorted) of all rows that a source ever had of some records."""
    if not records:
        return np.zeros(0, IDENTITY)
    chosen = (ds.field("source_key") == source_key) & ds.field("record_id").isin(list(records))
    found = table.to_pyarrow_dataset().scanner(columns=["identity"], filter=chosen)
    words = [identity_column(batch["identity"]) for batch in found.to_batches() if len(batch)]
    both = np.unique(np.concatenate([np.zeros((0, 2), np.uint64), *words]), axis=0)
    identities = np.zeros(len(both), IDENTITY)
    identities["id0"], identities["id1"] = both[:, 0], both[:, 1]
    return identities


def _within(source_keys: Sequence[str], upto: int | None) -> ds.Expression:
    chosen = ds.field("source_key").isin(list(source_keys))
    return chosen if upto is None else chosen & (ds.field("ledger_seq") <= upto)


def commits(table: DeltaTable) -> list[Commit]:
    """Our commits, newest first. Those of other programs (compaction, vacuuming) say nothing about rows."""
    return [
        _commit(entry, json.loads(entry[METADATA_KEY])) for entry in table.history() if METADATA_KEY in entry
    ]


def _commit(entry: Mapping[str, Any], said: Mapping[str, Any]) -> Commit:
    rules = tuple(
        Rule(**{**rule, "lifetimes": tuple(tuple(span) for span in rule["lifetimes"])})
        for rule in said.get("rules", ())
    )
    at = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
    return Commit(
        entry["version"],
        at,
        said["action"],
        said["batch"],
        said["last_sequence"],
        said.get("sources", {}),
        rules,
    )


def head_of(table: DeltaTable) -> Head:
    """What the commits say by now."""
    sources: dict[str, dict[str, Any]] = {}
    rules: list[Rule] = []
    said = commits(table)
    for commit in reversed(said):
        rules += commit.rules
        for key, entry in commit.sources.items():
            sources[key] = {**sources.get(key, {}), **entry, "sequence": commit.last_sequence}
    return Head(table.version(), said[0].last_sequence if said else 0, sources, tuple(rules))


def append(table: DeltaTable, batches: Iterable[pa.RecordBatch], metadata: Mapping[str, Any]) -> bool:
    """Write batches of ``LEDGER_SCHEMA``, source by source, and the commit's metadata in one transaction, on
    top of exactly the version that ``table`` was opened at.

    Returns:
        False if another transaction came first; then nothing of this one counts.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    with writing(table):
        added = write_files(table, batches)
    return commit_files(table, added, metadata)


def commit_files(
    table: DeltaTable, actions: Sequence[AddAction | RemoveAction], metadata: Mapping[str, Any] | None = None
) -> bool:
    """One transaction that adds and removes files, on top of exactly the version that ``table`` was opened
    at.

    Returns:
        False if another transaction came first; the files to add are deleted then.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    said = json.dumps(metadata, ensure_ascii=False, sort_keys=True)
    properties = CommitProperties(
        custom_metadata={} if metadata is None else {METADATA_KEY: said},
        # Appends never contradict each other for Delta, but ours count on from the last sequence number.
        max_commit_retries=0,
    )
    with writing(table):
        try:
            table.create_write_transaction(
                list(actions), "append", table.schema(), PARTITION, commit_properties=properties
            )
        except CommitFailedError:
            now = DeltaTable(table.table_uri)
            if now.version() == table.version():
                raise
            ours = {action.path for action in actions if isinstance(action, AddAction)}
            # The answer to a commit may get lost, and the store then refuses it the second time.
            if ours & {file.path for file in files_of(now)}:
                return True
            discard(now, ours)
            return False
    return True


@contextmanager
def writing(table: DeltaTable) -> Iterator[None]:
    """Turn what a store raises while it is written to into one sentence.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    try:
        yield
    except (DeltaError, OSError) as error:
        raise LedgerError(
            f"The feedback ledger at {table.table_uri} cannot be written ({_first_line(error)}); the "
            "transaction was not recorded. See that the place has room and can be written to, and run again."
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
