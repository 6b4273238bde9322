import pytest

from rlhf.models.endpoints import is_loopback, require_safe_url


@pytest.mark.parametrize(
    "url",
    [
        "https://rewards.example.org/score",
        "https://rewards.example.org:8443",
        "http://127.0.0.1:8000",
        "http://localhost:8000/score",
        "http://[::1]:8000/score",
    ],
)
def test_encrypted_urls_and_those_of_this_machine_are_taken(url: str) -> None:
    require_safe_url(url, key="url")


@pytest.mark.parametrize(
    "url",
    [
        "http://rewards.example.org",
        "http://10.0.0.5:8000",
        "http://0.0.0.0:8000",
        "http://localhost.evil.org",
    ],
)
def test_plain_http_to_another_machine_is_refused_unless_it_is_allowed(url: str) -> None:
    with pytest.raises(ValueError, match=r"server_url .* is not encrypted"):
        require_safe_url(url, key="server_url")
    require_safe_url(url, key="server_url", allow_plain_http=True)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("https://user:hunter2@example.org/score", "a user name or password"),
        ("https://hunter2@example.org/score", "a user name or password"),
        ("https://example.org/score?key=hunter2", "a query string"),
        ("https://example.org/score#hunter2", "a query string"),
    ],
)
def test_a_url_that_holds_a_secret_is_refused_and_not_repeated(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        require_safe_url(url, key="url", allow_plain_http=True)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "rewards",
        "ftp://example.org/score",
        "http:///score",
        "http://[::1",
        "http://127.0.0.1:port",
        "http://127.0.0.1\\.example.org",
        "http://127.0.0.1\t.example.org",
    ],
)
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"url .*http\(s\)://host:port/path"):
        require_safe_url(url, key="url", allow_plain_http=True)


def test_a_name_that_only_begins_like_this_machine_is_another_one() -> None:
    assert not is_loopback("127.0.0.1.example.org")
