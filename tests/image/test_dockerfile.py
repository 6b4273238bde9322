"""The image: what can be said of it without a container engine, and its build's commands in a plain venv."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ops import environment
from ops.environment import PROJECT_ROOT
from tests.integration.orchestrators.kubelet import image_environment

DOCKERFILE = (PROJECT_ROOT / "Dockerfile").read_text(encoding="utf-8")
BUILD, FINAL = DOCKERFILE.split("\nFROM ")[1:]


def instructions(stage: str) -> list[tuple[str, str]]:
    """Name and arguments of each instruction of a stage, continued lines joined."""
    lines = [line for line in stage.splitlines()[1:] if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def test_the_image_has_the_environment_that_the_rlhf_command_makes() -> None:
    inside = image_environment()
    for name, value in environment._ALWAYS.items():
        assert inside.get(name) == value, name
    assert inside["ZENML_CUSTOM_SOURCE_ROOT"] == "/app"
    for name in ("RLHF_HOME", "ZENML_CONFIG_PATH", "ZENML_LOCAL_STORES_PATH", "MPLCONFIGDIR", "HF_HOME"):
        assert inside[name].startswith("/state"), name


def test_the_image_runs_as_a_user_without_rights_and_by_number() -> None:
    named = instructions(FINAL)
    users = [arguments for name, arguments in named if name == "USER"]
    assert users == ["1000:1000"]
    last_run = max(position for position, (name, _) in enumerate(named) if name == "RUN")
    assert [name for name, _ in named].index("USER") > last_run


def test_the_image_installs_from_the_locks_alone() -> None:
    installs = [arguments for name, arguments in instructions(BUILD) if "pip install" in arguments]
    for command in installs:
        assert "requirements" in command or "--no-deps" in command, command
    assert not any("pip install" in arguments for _, arguments in instructions(FINAL))
    for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (PROJECT_ROOT / line[1:]).exists(), line


def test_no_state_key_or_history_gets_into_the_image() -> None:
    lines = (PROJECT_ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    taken = {line[1:] for line in rules if line.startswith("!")}
    assert not taken & {".git", ".rlhf", ".venv", "tests"}
    # hadolint's DL3020, DL3002 and DL3007 where it is not installed: no ADD, no root, no moving tag
    assert not re.search(r"^ADD |^USER root|:latest", DOCKERFILE, re.MULTILINE)


@pytest.mark.image
def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=os.environ.get("HADOLINT_PATH", os.environ["PATH"]))
    if hadolint is None:
        pytest.skip("hadolint is not installed: run `make test-image`")
    ended = subprocess.run(
        [hadolint, str(PROJECT_ROOT / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.image
@pytest.mark.timeout(1200)
def test_the_builds_commands_make_an_environment_that_runs(tmp_path: Path) -> None:
    app, venv, state = tmp_path / "app", tmp_path / "venv", tmp_path / "state"
    app.mkdir()
    for line in (PROJECT_ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source = PROJECT_ROOT / line[1:]
            if source.is_dir():
                shutil.copytree(source, app / line[1:], ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, app / line[1:])
    defaults = dict(re.findall(r'^ARG (\w+)="(.*)"$', BUILD, re.MULTILINE))
    kept = ("PATH", "PIP_", "SSL_", "REQUESTS_")
    clean = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    for name, arguments in instructions(BUILD):
        if name == "RUN":
            command = arguments.replace("/opt/venv", str(venv))
            subprocess.run(
                ["/bin/bash", "-euo", "pipefail", "-c", command],
                cwd=app,
                env={**clean, **defaults, "HOME": str(tmp_path)},
                check=True,
            )
    inside = {
        name: value.replace("/state", str(state)).replace("/app", str(app))
        for name, value in image_environment().items()
    }
    variables = {**inside, "PATH": f"{venv}/bin:{os.environ['PATH']}", "HOME": str(tmp_path)}
    said = subprocess.run(
        ["rlhf", "validate", "support_desk", "profile=kubernetes"],
        cwd=app,
        env={**variables, "RLHF_IMAGE": "registry.example.com/rlhf:1.0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert str(app / "configs" / "support_desk.yaml") in said.stdout.replace("\n", "")
    loaded = "import kubernetes, torch, zenml.integrations.kubernetes.orchestrators"
    subprocess.run(["python", "-c", loaded], cwd=app, env=variables, check=True)
