"""Which URLs may be sent prompts and weights: encrypted ones, or those that stay on this machine.

Light on purpose: settings call it while a config is validated, without loading torch.
"""

from ipaddress import ip_address
from urllib.parse import urlsplit


def require_safe_url(url: str, *, key: str, allow_plain_http: bool = False) -> None:
    """Refuse a URL that would leak what is sent to it, or that holds a secret itself.

    A config is logged and stored with every run, so that a user name, a password or a query string (where
    keys of cloud endpoints stand) would be, too; a message never repeats a URL that has one.

    Args:
        key: the setting that holds the URL, for the error.
        allow_plain_http: let unencrypted requests leave this machine.

    Raises:
        ValueError: the URL is malformed, holds more than scheme, host, port and path, or is plain http to
            another machine.
    """
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url):
        raise ValueError(f"{key} holds white space or a backslash; write it as http(s)://host:port/path")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError as error:
        raise ValueError(f"{key} is not of the form http(s)://host:port/path") from error
    if "@" in parts.netloc:
        raise ValueError(f"{key} holds a user name or password; give secrets by an environment variable")
    if "?" in url or "#" in url:
        raise ValueError(
            f"{key} holds a query string or fragment; leave it out, and give secrets by an environment "
            "variable"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{key} '{url}' is not of the form http(s)://host:port/path")
    if parts.scheme == "http" and not (allow_plain_http or is_loopback(host)):
        raise ValueError(
            f"{key} '{url}' is not encrypted and leaves this machine; use https, or set allow_plain_http"
        )


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
