"""How many readings of a source since its last full scan began where the one before had stopped. Kept beside
the table's files, so that a source in which nothing changed writes no transaction. Nothing depends on it but
when the next full scan is due: if it is lost, they are counted anew."""

import json

from deltalake import DeltaTable

from rlhf.feedback.ledger.files import read_beside, write_beside
from rlhf.feedback.ledger.table import writing

_FOLDER = "_checks"
"""Delta takes what begins with an underscore for no part of the table, also when it is vacuumed."""


def partial_readings(table: DeltaTable, source_key: str) -> int:
    """Readings of a source since the last full one."""
    said = read_beside(table, _path(source_key))
    return 0 if said is None else int(json.loads(said)["partial_readings"])


def remember(table: DeltaTable, source_key: str, readings: int) -> None:
    """Set what :func:`partial_readings` gives.

    Raises:
        LedgerError: the ledger cannot be written.
    """
    with writing(table):
        write_beside(table, _path(source_key), json.dumps({"partial_readings": readings}))


def _path(source_key: str) -> str:
    return f"{_FOLDER}/{source_key}.json"
