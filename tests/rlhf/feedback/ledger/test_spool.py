from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rlhf.feedback.ledger import spool
from rlhf.feedback.ledger.spool import INCOMING, STORED, KeyParts, Positions, ranges


def _keys(dtype: np.dtype, identities: np.ndarray) -> np.ndarray:
    keys = np.zeros(len(identities), dtype)
    keys["id0"], keys["h0"] = identities, np.arange(len(identities))
    return keys


def test_ranges_hold_every_key_once_in_the_order_of_identities_and_are_as_small_for_many_keys_as_for_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_COMPARED_AT_ONCE", 16)
    rng = np.random.default_rng(0)
    read = rng.integers(0, 2**64, 20_000, np.uint64)
    known = np.concatenate([read[:50], rng.integers(0, 2**64, 5_000, np.uint64)])
    with KeyParts(tmp_path / "in", INCOMING) as incoming, KeyParts(tmp_path / "stored", STORED) as stored:
        for part in np.array_split(_keys(INCOMING, read), 3):
            incoming.add(part)
        stored.add(_keys(STORED, known))
        found = list(ranges(incoming, stored))
    assert max(len(keys) for both in found for keys in both) <= 3 * 16
    bounds = [(int(ids.min()), int(ids.max())) for both in found if len(ids := _identities(*both))]
    assert all(before[1] < after[0] for before, after in pairwise(bounds))
    for position, identities in enumerate((read, known)):
        together = np.concatenate([both[position] for both in found])
        assert np.array_equal(identities[together["h0"]], together["id0"])
        assert sorted(together["h0"]) == list(range(len(identities)))


def _identities(incoming: np.ndarray, stored: np.ndarray) -> np.ndarray:
    return np.concatenate([incoming["id0"], stored["id0"]])


def test_keys_of_one_identity_stay_together_in_the_order_in_which_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_COMPARED_AT_ONCE", 16)
    same = np.full(100, 2**63 + 12345, np.uint64)
    with KeyParts(tmp_path / "in", INCOMING) as incoming, KeyParts(tmp_path / "stored", STORED) as stored:
        incoming.add(_keys(INCOMING, same))
        [own] = [keys for keys, _ in ranges(incoming, stored) if len(keys)]
    assert own["h0"].tolist() == list(range(100))


def test_positions_beyond_a_byte_are_kept_with_all_those_before() -> None:
    positions = Positions(6)
    for row, position in ((1, 127), (2, 128), (0, 40_000), (4, 0)):
        positions.put(np.array([row]), np.array([position], np.int64))
    assert positions.are_put(slice(0, 6)).tolist() == [True, True, True, False, True, False]
    assert positions.of(np.array([0, 1, 2, 4])).tolist() == [40_000, 127, 128, 0]
