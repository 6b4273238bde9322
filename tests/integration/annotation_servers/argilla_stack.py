"""A real, unmodified argilla-server on sqlite: with fakeredis over TCP, which it pings when it starts, and
the stand-in for its search index."""

import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from .processes import HERE, ServerProcess, clean_environment, free_port

# What `database migrate` and `users create_default` do, without the command line around them.
_PREPARE = (
    "import sys, alembic.config; from argilla_server.database import ALEMBIC_CONFIG_FILE; "
    "alembic.config.main(argv=['-c', ALEMBIC_CONFIG_FILE, 'upgrade', 'head']); "
    "import asyncio; from argilla_server.cli.database.users.create_default import _create_default; "
    "asyncio.run(_create_default(sys.argv[1], sys.argv[2], True))"
)
_UP_SECONDS = 120


class ArgillaStack:
    """``with ArgillaStack(python, folder) as stack``: ``stack.url`` answers, ``stack.key`` is the owner's."""

    key = "owner.apikey"

    def __init__(self, python: Path, folder: Path) -> None:
        search, redis, self.port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._python = folder, str(python)
        self._variables = {
            "ARGILLA_HOME_PATH": str(folder),
            "ARGILLA_ELASTICSEARCH": f"http://127.0.0.1:{search}",
            "ARGILLA_REDIS_URL": f"redis://127.0.0.1:{redis}/0",
            "ARGILLA_AUTH_SECRET_KEY": "only-for-tests",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(HERE),
        }
        web = [self._python, "-m", "uvicorn", "--host", "127.0.0.1", "--no-access-log"]
        self.server = self._process("server", [*web, "argilla_server:app", "--port", str(self.port)])
        self._around = [
            self._process("search", [*web, "search_double:app", "--port", str(search)]),
            self._process("redis", [self._python, "-m", "redis_double", str(redis)]),
        ]

    def _process(self, name: str, argv: list[str]) -> ServerProcess:
        return ServerProcess(name, argv, self._folder, self._variables)

    def __enter__(self) -> Self:
        for process in self._around:
            process.start()
        subprocess.run(
            [self._python, "-c", _PREPARE, self.key, "only-for-tests"],
            env=clean_environment() | self._variables,
            cwd=self._folder,
            check=True,
            capture_output=True,
        )
        self.start_server()
        return self

    def start_server(self) -> None:
        """Also after a kill: the database is on disk."""
        self.server.start()
        # Its /api/v1/status answers 422 with everything up.
        self.server.wait_for(f"{self.url}/api/v1/version", _UP_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (self.server, *self._around):
            process.stop()
