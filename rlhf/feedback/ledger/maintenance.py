"""Keeps the table quick: many small commits leave many small files, which are put together now and then."""

import logging
from datetime import timedelta

from rlhf.feedback.ledger.files import ROWS_PER_FILE, files_of, rewritten
from rlhf.feedback.ledger.table import LEDGER_SCHEMA, commit_files, open_table

logger = logging.getLogger(__name__)

_MOST_SMALL_FILES = 32
_KEEP_REPLACED = timedelta(days=7)


def compact(url: str, source_key: str) -> None:
    """Put a source's small files together once there are too many; rows and their numbers stay as they are.

    Files that were replaced stay for a week, for those who are reading them.
    """
    table = open_table(url)
    small = [f for f in files_of(table) if f.source_key == source_key and f.rows < ROWS_PER_FILE // 2]
    if len(small) <= _MOST_SMALL_FILES:
        return
    if not commit_files(table, rewritten(table, small, None, LEDGER_SCHEMA)):
        logger.debug("the ledger was written to meanwhile; the next ingest compacts it")
        return
    # In full: also files of ingests that broke off before their transaction.
    hours = int(_KEEP_REPLACED.total_seconds() // 3600)
    open_table(url).vacuum(retention_hours=hours, dry_run=False, full=True)
