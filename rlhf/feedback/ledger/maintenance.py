"""Keeps the table quick: many small commits leave many small files, which are put together now and then."""

import logging
from datetime import timedelta

from deltalake.exceptions import CommitFailedError

from rlhf.feedback.ledger.table import open_table

logger = logging.getLogger(__name__)

_MOST_FILES = 32
_KEEP_REPLACED = timedelta(days=7)


def compact(url: str, source_key: str) -> None:
    """Put a source's files together once there are too many; rows and their numbers stay as they are.

    Files that were replaced stay for a week, for those who are reading them.
    """
    table = open_table(url)
    partition = [("source_key", "=", source_key)]
    if len(table.file_uris(partition)) <= _MOST_FILES:
        return
    try:
        table.optimize.compact(partition_filters=partition)
        # In full: also files of ingests that broke off before their transaction.
        table.vacuum(
            retention_hours=int(_KEEP_REPLACED.total_seconds() // 3600), dry_run=False, full=True
        )
    except CommitFailedError:
        logger.debug("the ledger was written to meanwhile; the next ingest compacts it")
