"""What a process takes for granted inside a pod: its host is called as the pod, and /app is its own."""

import os
import socket

_POD, _ROOT = os.environ["HOSTNAME"], os.environ["POD_ROOT"]
_makedirs, _chdir = os.makedirs, os.chdir


def _inside(path: object) -> object:
    return f"{_ROOT}/app" if path == "/app" else path


socket.gethostname = lambda: _POD
os.makedirs = lambda name, *args, **kwargs: _makedirs(_inside(name), *args, **kwargs)  # type: ignore[assignment]
os.chdir = lambda path: _chdir(_inside(path))  # type: ignore[assignment]
