"""Sends one message, read as JSON from standard input: started by ``ops.alerts`` in a process of its own."""

import json
import os
import sys
from typing import Any

from ops import environment
from ops.alerts import NO_URLS, NOT_INSTALLED, WRONG_URL


def main() -> int:
    """Send it.

    Returns:
        The exit status: 0 when every address took it.
    """
    try:
        import apprise
    except ImportError:
        return NOT_INSTALLED
    asked = json.load(sys.stdin)
    urls = _urls(asked)
    if not urls:
        return NO_URLS
    messenger = apprise.Apprise()
    known = [messenger.add(url) for url in urls]
    sent = messenger.notify(title=asked["title"], body=asked["text"]) if any(known) else False
    if not all(known):
        return WRONG_URL
    return 0 if sent else 1


def _urls(asked: dict[str, Any]) -> list[str]:
    texts = []
    if asked["urls_variable"]:
        texts.append(os.environ.get(asked["urls_variable"], ""))
    if asked["urls_secret"]:
        environment.configure()
        from zenml.client import Client

        texts += Client().get_secret(asked["urls_secret"]).secret_values.values()
    return [url for text in texts for url in text.split()]


if __name__ == "__main__":
    sys.exit(main())
