"""Settings of the feedback ledger. Light on purpose: no table is opened to validate them."""

import re

from pydantic import Field, field_validator

from rlhf.settings import Settings

_REMOTE = re.compile(r"^[a-z][a-z0-9+.-]*://")


def is_remote(url: str) -> bool:
    """Whether a ledger URL leads to an object store, which several machines can reach."""
    return bool(_REMOTE.match(url)) and not url.startswith("file://")


class LedgerSettings(Settings):
    """Where annotation rows are kept from one run to the next."""

    url: str | None = Field(default=None, min_length=1)
    """Folder or object-store URL (``s3://``, ``gs://``, ``abfss://`` …) of the Delta table; by default
    ``ledger`` in the state folder. Credentials and endpoints come from the environment alone
    (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``GOOGLE_SERVICE_ACCOUNT``, ``AZURE_STORAGE_…``)."""
    full_scan_every: int = Field(default=10, ge=1)
    """Read sources that can be read from where the last ingest stopped in full every so many ingests: only a
    full scan finds rows that were deleted there."""
    sequence: int | None = Field(default=None, ge=1)
    """Train on the ledger as it stood at this sequence number, and read no source. Unset: bring it up to its
    sources first. A retraining check pins the run that it starts in this way."""

    @field_validator("url")
    @classmethod
    def _holds_no_password(cls, url: str | None) -> str | None:
        if url is not None and re.search(r"://[^/]*:[^/]*@", url):
            raise ValueError("holds a password; export the credentials in the environment")
        return url
