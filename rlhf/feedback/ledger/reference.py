"""What the steps of a run pass on in place of the rows: the ledger's address and how far it had come."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LedgerRef:
    """A state of the feedback. It is rebuilt from the ledger's rows, whatever came in later."""

    url: str
    """Folder or object-store URL of the Delta table."""
    sequence: int
    """The last ``ledger_seq`` that counts."""
    source_keys: tuple[str, ...]
    """The sources that count, in the config's order."""
    state_digest: str
    """Hex SHA-256 of the rows' content: equal for equal rows, in whatever ledger and order they lie."""
