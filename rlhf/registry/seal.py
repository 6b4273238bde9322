"""Seals of verdicts: a digest over everything a verdict says and rests on, signed when there is a key.

The digest shows that a record is whole. Only the signature (HMAC-SHA256, RFC 2104) shows who wrote it:
whoever can change the record can also compute a digest."""

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Any

from rlhf.errors import ConfigError
from rlhf.feedback.rows import canonical_json

SEAL = "seal"


def sealed(record: Mapping[str, Any], key: bytes | None) -> dict[str, Any]:
    """The record with its seal: ``{"sha256": …}``, and ``"hmac_sha256"`` if there is a key.

    Args:
        record: values that JSON knows, without NaN.
    """
    text = canonical_json(dict(record)).encode()
    seal = {"sha256": hashlib.sha256(text).hexdigest()}
    if key is not None:
        seal["hmac_sha256"] = hmac.digest(key, text, "sha256").hex()
    return {**record, SEAL: seal}


def seal_problem(record: Mapping[str, Any], key: bytes | None) -> str | None:
    """What is wrong with a sealed record, as one sentence; ``None`` if it is what was sealed.

    Args:
        key: with one, an unsigned record is not accepted.
    """
    seal = record.get(SEAL)
    if not isinstance(seal, Mapping) or "sha256" not in seal:
        return "The verdict carries no seal."
    text = canonical_json({name: value for name, value in record.items() if name != SEAL}).encode()
    if not hmac.compare_digest(str(seal["sha256"]), hashlib.sha256(text).hexdigest()):
        return "The verdict is not what was sealed: its digest differs."
    signature = seal.get("hmac_sha256")
    if key is None:
        return None
    if signature is None:
        return "The verdict is not signed, although there is a key."
    if not hmac.compare_digest(str(signature), hmac.digest(key, text, "sha256").hex()):
        return "The verdict is not signed with this key."
    return None


def signing_key(variable: str | None, *, setting: str = "promotion.signing_key_env") -> bytes | None:
    """The key in an environment variable; ``None`` if no variable is named.

    Raises:
        ConfigError: the variable is not set, or too short to be a key.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").encode()
    if len(key) < 16:
        raise ConfigError(
            f"{setting} names {variable}, which holds no key of at least 16 bytes; export one, or unset it."
        )
    return key
