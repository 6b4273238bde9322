"""The process environment: where state lives, what stays off, how CPU threads wait.

Everything the product writes is under one folder, ``.rlhf`` in the checkout (or ``$RLHF_HOME``); nothing in
the user's home is touched. Must run before ZenML, MLflow or torch are imported, since they read these
variables at import. A value the user has already set is kept.
"""

import os
import secrets
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

PROJECT_ROOT = Path(__file__).resolve().parents[1]
CONFIGS = PROJECT_ROOT / "configs"
ZENML_UI = "http://127.0.0.1:8237"
MLFLOW_UI = "http://127.0.0.1:5000"

_KEY = "ZENML_SECRETS_STORE_ENCRYPTION_KEY"
_KEY_FILE = "secrets.key"
_ALWAYS = {
    # Nothing phones home.
    "ZENML_ANALYTICS_OPT_IN": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "ARGILLA_ENABLE_TELEMETRY": "0",
    "DO_NOT_TRACK": "1",
    # No artifact is ever unpickled.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Spinning barriers cut a small model's throughput to a fifteenth when the machine is shared.
    "OMP_WAIT_POLICY": "passive",
    # One thread to begin with; a stage that gains from more asks torch for them.
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Batches of varying length fill oneDNN's cache of kernels with hundreds of megabytes, and glibc's arenas
    # keep what threads have freed; training is no slower without.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "MALLOC_ARENA_MAX": "2",
    # One progress bar a stage, not one for each file that is loaded.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    # ZenML's boxed tracebacks bury the one sentence a user needs.
    "ZENML_ENABLE_RICH_TRACEBACK": "false",
    "ZENML_ENABLE_REPO_INIT_WARNINGS": "false",
    "AUTO_OPEN_DASHBOARD": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # An unreachable tracking server must not hold training up: metrics are queued and sent later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_UNSEEN_BARS = {"TQDM_DISABLE": "1", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
_UNSEEN_COLOURS = {"ZENML_LOGGING_COLORS_DISABLED": "true"}


def home() -> Path:
    """The state folder: ``$RLHF_HOME``, or ``.rlhf`` in the checkout."""
    return Path(os.environ.get("RLHF_HOME", PROJECT_ROOT / ".rlhf")).resolve()


def configure() -> dict[str, str]:
    """Set what is not set yet and create the state folder.

    Returns:
        Every variable that now holds, for ``rlhf env`` to print.
    """
    state = home()
    state.mkdir(parents=True, exist_ok=True)
    # ZenML looks for `.zen` to find a repository; here it finds it inside the state folder.
    (state / ".zen").mkdir(exist_ok=True)
    wanted = {
        **_ALWAYS,
        "RLHF_HOME": str(state),
        "ZENML_CONFIG_PATH": str(state / "zenml"),
        "ZENML_LOCAL_STORES_PATH": str(state / "zenml-stores"),
        "ZENML_REPOSITORY_PATH": str(state),
        "ZENML_CUSTOM_SOURCE_ROOT": str(PROJECT_ROOT),
        "MPLCONFIGDIR": str(state / "matplotlib"),  # its font cache would go into the user's home
        # What is read of hub datasets is feedback, and erasing it must find it.
        "HF_DATASETS_CACHE": str(hub_datasets()),
        _KEY: _encryption_key(state / _KEY_FILE),
    }
    # Bars and colours are for people who watch: in a file they are noise.
    unseen = {
        **({} if _is_terminal(sys.stderr) else _UNSEEN_BARS),
        **({} if _is_terminal(sys.stdout) else _UNSEEN_COLOURS),
    }
    for name, value in {**wanted, **unseen}.items():
        os.environ.setdefault(name, value)
    return {name: os.environ[name] for name in wanted}


def shell_exports() -> str:
    """``export`` lines for a POSIX shell, the virtual environment's commands first on the path."""
    variables = configure()
    del variables[_KEY]
    # Not for this process: what runs here asks the active stack where MLflow is.
    mlflow_database().parent.mkdir(exist_ok=True)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        variables[name] = os.environ.get(name, mlflow_uri())
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    # The key itself must not end up in a terminal's scrollback or a log.
    lines.append(f'export {_KEY}="$(cat {shlex.quote(str(home() / _KEY_FILE))})"')
    binaries = PROJECT_ROOT / ".venv" / "bin"
    if binaries.is_dir():
        lines.append(f'export PATH={shlex.quote(str(binaries))}:"$PATH"')
    return "\n".join(lines)


def mlflow_database() -> Path:
    """The sqlite file of the local MLflow tracking server and registry."""
    return home() / "mlflow" / "mlflow.db"


def mlflow_uri() -> str:
    """The local MLflow tracking server and registry, as a client names them."""
    return f"sqlite:///{mlflow_database()}"


def mlflow_artifacts() -> Path:
    """Where the local MLflow keeps run artifacts (texts and reports; weights stay in the artifact store)."""
    return home() / "mlflow" / "artifacts"


def artifact_store() -> Path:
    """The local ZenML artifact store."""
    return home() / "artifacts"


def hub_datasets() -> Path:
    """What is kept of sources of ``type: hub``, beside the downloads from a remote artifact store."""
    return home() / "cache" / "hub-datasets"


def scratch() -> Path:
    """Training output before it becomes an artifact; on the artifact store's file system, so moving is a
    rename."""
    return home() / "scratch"


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _encryption_key(file: Path) -> str:
    """A random key for ZenML's secret store, made once and readable by the owner only."""
    if not file.exists():
        # Complete before it has its name: a second process must never read half a key.
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(partial, file)
        partial.unlink()
    return file.read_text().strip()
