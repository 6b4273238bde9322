"""A seal shows every change; a signature shows who wrote it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import ConfigError
from rlhf.registry.seal import seal_problem, sealed, signing_key

KEY = b"0123456789abcdef"
RECORD = {"verdict": "promote", "inputs": {"candidate": "abc"}, "figures": [0.5, None, True]}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.none() | st.just(KEY))
def test_what_was_sealed_is_accepted(value: object, key: bytes | None) -> None:
    assert seal_problem(sealed({"record": value}, key), key) is None


@pytest.mark.parametrize(
    "change",
    [{"verdict": "reject"}, {"inputs": {"candidate": "abd"}}, {"figures": [0.5, None, False]}, {"more": 1}],
)
@pytest.mark.parametrize("key", [None, KEY])
def test_any_change_is_found(change: dict[str, object], key: bytes | None) -> None:
    assert "digest differs" in str(seal_problem({**sealed(RECORD, key), **change}, key))


def test_a_forger_without_the_key_can_make_a_digest_but_no_signature() -> None:
    forged = sealed({**RECORD, "verdict": "promote"}, None)
    assert seal_problem(forged, None) is None
    assert "not signed" in str(seal_problem(forged, KEY))
    assert "not signed with this key" in str(seal_problem(sealed(RECORD, b"another key 12345"), KEY))


def test_the_signature_is_rfc_2104s_with_sha_256() -> None:
    import hashlib
    import hmac

    text = b'{"verdict":"promote"}'
    seal = sealed({"verdict": "promote"}, KEY)["seal"]
    assert seal == {
        "sha256": hashlib.sha256(text).hexdigest(),
        "hmac_sha256": hmac.new(KEY, text, hashlib.sha256).hexdigest(),
    }


def test_a_record_without_a_seal_is_not_accepted() -> None:
    assert "no seal" in str(seal_problem(RECORD, None))


def test_the_key_comes_from_the_named_variable_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signing_key(None) is None
    monkeypatch.setenv("GATE_KEY", "0123456789abcdef")
    assert signing_key("GATE_KEY") == KEY
    monkeypatch.setenv("GATE_KEY", "t00short")
    with pytest.raises(ConfigError, match="GATE_KEY, which holds no key") as error:
        signing_key("GATE_KEY")
    assert "t00short" not in str(error.value)
