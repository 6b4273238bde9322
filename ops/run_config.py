"""Run configs: reading, overriding and validating them before ZenML, which ignores unknown keys, sees them.

A run config is ZenML's own YAML: its top-level keys are ZenML's, and ``parameters`` holds the arguments of
the pipeline function, one block per stage, whose signature is the only schema. Sections of our own stand
beside them.
"""

import inspect
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from ops.environment import CONFIGS
from ops.problems import Problem, fields_at, nearest
from ops.profiles import KEY as PROFILE
from ops.profiles import asked_profile, find_profile, laid_under
from ops.zenml_blocks import stack_component_types, wrong_blocks
from rlhf.alerting.settings import AlertSettings
from rlhf.errors import ConfigError
from rlhf.feedback.settings import FOLDS, FeedbackSettings
from rlhf.planning.settings import PlanSettings
from rlhf.retraining.settings import RetrainingSettings
from rlhf.settings import Settings
from rlhf.training.settings import BaseModelSettings

SECTIONS: Mapping[str, type[Settings]] = {
    "alerts": AlertSettings,
    "plan": PlanSettings,
    "retraining": RetrainingSettings,
}
"""Blocks beside ``parameters``: what surrounds a run. ZenML does not know them."""

_ENVIRONMENT_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class ConfigCard:
    """What a config's header says of it."""

    name: str
    path: Path
    summary: str
    needs: str
    takes: str


def shipped_configs() -> list[ConfigCard]:
    """The configs in ``configs/``, by name."""
    return [config_card(path) for path in sorted(CONFIGS.glob("*.yaml"))]


def config_card(path: Path) -> ConfigCard:
    """Read ``# summary:``, ``# needs:`` and ``# takes:`` from a config's leading comment."""
    header: dict[str, str] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("# ").rstrip()
        name, colon, rest = text.partition(":")
        if colon and name in {"summary", "needs", "takes", "measured"}:
            key = name
            header[key] = rest.strip()
        elif text and key:
            header[key] += f" {text}"
        else:
            key = ""
    return ConfigCard(
        path.stem, path, header.get("summary", ""), header.get("needs", ""), header.get("takes", "")
    )


def find_config(name_or_path: str) -> Path:
    """A shipped config by name, or a file.

    Raises:
        ConfigError: neither exists.
    """
    for candidate in (CONFIGS / f"{name_or_path}.yaml", Path(name_or_path)):
        if candidate.is_file():
            return candidate
    names = [card.name for card in shipped_configs()]
    raise ConfigError(
        f"There is no config {name_or_path!r}{nearest(name_or_path, names)}; `rlhf ls` lists the names, and "
        "a path to a YAML file works too."
    )


def read_config(path: Path) -> dict[str, Any]:
    """The YAML of a run config, as it stands.

    Raises:
        ConfigError: the file is not a YAML mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"{path} must hold a mapping with a `parameters:` block; see configs/support_desk.yaml."
        )
    return loaded


def apply_overrides(config: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set ``key.path=value`` pairs on a copy of the config.

    A path starts at the pipeline's parameters (``sft.epochs=1``) unless its first word is a key of ZenML's
    (``enable_cache=false``, ``steps.train_sft.retry.max_retries=2``) or a section of its own
    (``retraining.minimum_new_pairs=20``). Values are YAML; numbers index lists. The profile that the config
    or an override names (``profile=kubernetes``) is laid under the config first.

    Raises:
        ConfigError: a pair without ``=``, a path through something that is not a mapping or list, or no such
            profile.
    """
    overrides = list(overrides)
    named = asked_profile(config, overrides)
    profile = {} if named is None else read_config(find_profile(named))
    result = laid_under(config, profile)
    result.pop(PROFILE, None)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"{override!r} is not an override; write it as key.path=value.")
        if path == PROFILE:
            continue
        parts = _parts(path)
        if parts[0] not in (*zenml_keys(), *SECTIONS):
            parts = ["parameters", *parts]
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"The value of {path!r} is not YAML: {text!r}.") from error
        _set(result, parts, value, path)
    return result


def _parts(path: str) -> list[str]:
    """The keys that a path leads through; those of ZenML's settings, as ``orchestrator.kubernetes``, hold a
    dot."""
    parts = path.split(".")
    if "settings" in parts[:-2] and parts[0] in ("settings", "steps"):
        at = parts.index("settings") + 1
        if parts[at] in stack_component_types():
            parts[at : at + 2] = [".".join(parts[at : at + 2])]
    return parts


def _set(node: Any, parts: list[str], value: Any, path: str) -> None:
    for position, part in enumerate(parts):
        last = position == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ConfigError(f"{path}: {part!r} is not an index of the {len(node)} entries there.")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
        else:
            raise ConfigError(f"{path}: {'.'.join(parts[:position])!r} is a value, not a block.")
        if last:
            node[index] = value
            return
        if isinstance(node, dict) and node.get(index) is None:
            node[index] = {}
        node = node[index]


def validate(config: Mapping[str, Any]) -> list[Problem]:
    """Everything that is wrong with a config, each with its key and remedy. Reads no data and loads no
    model."""
    known = [*zenml_keys(), *SECTIONS]
    parameters = config.get("parameters")
    problems = [
        Problem(
            key, f"unknown key{nearest(key, [*known, *parameters_model().model_fields])}; {_placement(key)}"
        )
        for key in config
        if key not in known
    ]
    written = config
    config, missing = substitute_environment(config)
    problems += missing
    problems += _wrong_sections(config)
    problems += _wrong_values(config, written)
    problems += wrong_blocks(config)
    if not isinstance(parameters, dict):
        return [*problems, Problem("parameters", "missing; put the stages' settings under it")]
    try:
        validated = parameters_model().model_validate(config["parameters"])
    except ValidationError as error:
        return [*problems, *_from_pydantic(error, parameters, at=["parameters"])]
    problems += _contradictions(validated)
    if not problems:
        problems += _unknown_steps(config, validated)
    return problems


def checked(config: Mapping[str, Any]) -> BaseModel:
    """The validated parameters.

    Raises:
        ConfigError: with every problem, one to a line.
    """
    problems = validate(config)
    if problems:
        raise ConfigError("\n".join(map(str, problems)))
    return parameters_model().model_validate(substitute_environment(config)[0]["parameters"])


def section(config: Mapping[str, Any], name: str) -> Any:
    """The settings of a section beside ``parameters``; its defaults where the config leaves it out.

    Raises:
        ConfigError: a wrong key or value in it.
    """
    problems = _wrong_sections({name: config.get(name)})
    if problems:
        raise ConfigError("\n".join(map(str, problems)))
    return SECTIONS[name].model_validate(config.get(name) or {})


def for_zenml(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what is not ZenML's."""
    return {key: value for key, value in config.items() if key not in SECTIONS}


def _wrong_sections(config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for name, model in SECTIONS.items():
        try:
            model.model_validate(config.get(name) or {})
        except ValidationError as error:
            for item in error.errors():
                key = ".".join([name, *map(str, item["loc"])])
                if item["type"] == "extra_forbidden":
                    siblings = fields_at(model, [str(part) for part in item["loc"][:-1]])
                    problems.append(Problem(key, f"unknown key{nearest(str(item['loc'][-1]), siblings)}"))
                else:
                    problems.append(Problem(key, item["msg"].removeprefix("Value error, ")))
    return problems


def parameters_model() -> type[BaseModel]:
    """The pipeline function's signature as a pydantic model."""
    from pipelines.rlhf_pipeline import rlhf_pipeline

    function = rlhf_pipeline.entrypoint
    hints = get_type_hints(function, include_extras=True)  # with them, a tagged union's errors name one kind
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return create_model(
        "Parameters", __config__=ConfigDict(extra="forbid", hide_input_in_errors=True), **fields
    )


def zenml_keys() -> list[str]:
    """Top-level keys that ZenML understands."""
    from zenml.config.pipeline_run_configuration import PipelineRunConfiguration

    return list(PipelineRunConfiguration.model_fields)


def substitute_environment(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """``${NAME}`` in strings replaced by the environment's value, and a problem for each that is not set."""
    problems: list[Problem] = []

    def walk(node: Any, key: str) -> Any:
        if isinstance(node, dict):
            return {k: walk(v, f"{key}.{k}" if key else str(k)) for k, v in node.items()}
        if isinstance(node, list):
            return [walk(v, f"{key}.{i}") for i, v in enumerate(node)]
        if isinstance(node, str):
            for name in _ENVIRONMENT_VARIABLE.findall(node):
                if name not in os.environ:
                    problems.append(Problem(key, f"the environment variable {name} is not set; export it"))
            return _ENVIRONMENT_VARIABLE.sub(lambda m: os.environ.get(m[1], m[0]), node)
        return node

    return walk(dict(config), ""), problems


def _contradictions(parameters: BaseModel) -> list[Problem]:
    values = dict(parameters)
    problems = []
    if values["base_model"] is not None and values["pretrain"] is not None:
        problems.append(Problem("parameters.pretrain", "contradicts base_model; keep one of the two"))
    if values["datasets"].folds < len(FOLDS):
        problems.append(
            Problem(
                "parameters.datasets.folds",
                f"the proxy, the selection model and the judge need a fold each; set it to {len(FOLDS)}",
            )
        )
    for stage in ("sft", "reward_model", "ppo"):
        lora = values[stage].lora
        if lora is not None and not lora.merge:
            problems.append(
                Problem(f"parameters.{stage}.lora.merge", "later stages load a full model; set it to true")
            )
    figures = values["evaluation"].figure_names()
    for position, criterion in enumerate(values["promotion"].criteria):
        if criterion.figure in figures:
            continue
        suffix = criterion.figure.removeprefix(criterion.metric)
        metrics = {name.removesuffix(suffix) for name in figures if name.endswith(suffix)}
        against = f" versus {criterion.versus}" if suffix else ""
        problems.append(
            Problem(
                f"parameters.promotion.criteria.{position}.metric",
                f"the evaluation reports no {criterion.metric!r}{against}"
                f"{nearest(criterion.metric, metrics)}",
            )
        )
    stages = [stage for stage in ("pretrain", "sft", "reward_model") if values[stage] is not None]
    for stage in (*stages, *(("ppo",) if values["algorithm"] == "ppo" else ())):
        if values[stage].sharding != "none" and values[stage].processes == 1:
            problems.append(
                Problem(
                    f"parameters.{stage}.sharding",
                    f"one process has nobody to share with; raise {stage}.processes",
                )
            )
    if values["algorithm"] == "ppo" and values["ppo"].ptx_coefficient > 0:
        problems.append(
            Problem(
                "parameters.ppo.ptx_coefficient", "the pipeline passes PPO no demonstrations; set it to 0"
            )
        )
    return problems


def _wrong_values(config: Mapping[str, Any], written: Mapping[str, Any]) -> list[Problem]:
    """Values of ZenML's own keys that it would refuse, in words of its own, when the run is compiled."""
    from zenml.config.pipeline_run_configuration import PipelineRunConfiguration

    known = {key: value for key, value in config.items() if key in zenml_keys() and key != "parameters"}
    try:
        PipelineRunConfiguration.model_validate(known)
    except ValidationError as error:
        return _from_pydantic(error, written, at=[])
    return []


def steps_of(parameters: BaseModel) -> list[str]:
    """Names of the steps that a run with these parameters has."""
    from pipelines.rlhf_pipeline import rlhf_pipeline

    wired = rlhf_pipeline.copy()
    wired.prepare(**dict(parameters))
    return list(wired.invocations)


def _unknown_steps(config: Mapping[str, Any], parameters: BaseModel) -> list[Problem]:
    if not config.get("steps"):
        return []
    # A profile speaks of steps that not every config has, and of those of the retraining check.
    values = dict(parameters)
    other = BaseModelSettings(model="another")
    from_hub = parameters.model_copy(update={"base_model": other, "pretrain": None, "reward_base": other})
    from_scratch = parameters.model_copy(update={"base_model": None})
    known = {*steps_of(parameters), *steps_of(from_hub), *steps_of(from_scratch)}
    known.update(retraining_steps(values["feedback"]))
    return [
        Problem(f"steps.{name}", f"no such step{nearest(name, sorted(known))}")
        for name in config["steps"]
        if name not in known
    ]


def retraining_steps(feedback: FeedbackSettings) -> list[str]:
    """Names of the steps of a retraining check."""
    from pipelines.retraining_pipeline import retraining_pipeline

    wired = retraining_pipeline.copy()
    wired.prepare(feedback=feedback, config="", overrides=[])
    return list(wired.invocations)


def _from_pydantic(error: ValidationError, written: Mapping[str, Any], *, at: list[str]) -> list[Problem]:
    """Pydantic's errors as problems. ``written``: the block as it stands in the file, with references to the
    environment in place of its values, which may be secrets and are never printed; ``at``: its key."""
    problems = []
    secrets = _referenced_values(written)
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        key = ".".join([*at, *location])
        if item["type"] == "extra_forbidden":
            siblings = fields_at(parameters_model(), location[:-1]) if at else []
            problems.append(Problem(key, f"unknown key{nearest(location[-1], siblings)}"))
        elif item["type"] == "missing":
            problems.append(Problem(key, "missing; it has no default"))
        else:
            message = _redacted(item["msg"].removeprefix("Value error, "), secrets)
            problems.append(Problem(key, f"{message}{_shown(item['input'], secrets)}"))
    return problems


def _shown(value: Any, secrets: Mapping[str, str]) -> str:
    """A wrong value for people. Of a block nothing is shown: what is wrong in it has a problem of its own."""
    if not isinstance(value, str | int | float | None):
        return ""
    # before it is quoted and cut, after which a part of a secret would not be recognised
    written = _redacted(value, secrets) if isinstance(value, str) else value
    return f" (got {written!r:.80})"


def _redacted(text: str, secrets: Mapping[str, str]) -> str:
    """The text with references in place of the environment's values, plain or quoted."""
    quoted = {repr(value)[1:-1]: reference for value, reference in secrets.items()}
    forms = sorted({**quoted, **secrets}.items(), key=lambda form: -len(form[0]))
    if not forms:
        return text
    references = dict(forms)
    return re.sub("|".join(re.escape(form) for form, _ in forms), lambda found: references[found[0]], text)


def _referenced_values(node: Any) -> dict[str, str]:
    """Values of all ``${NAME}`` in a config, with the reference that each stands for."""
    names = sorted(set(_ENVIRONMENT_VARIABLE.findall(yaml.safe_dump(node))))
    return {os.environ[name]: f"${{{name}}}" for name in names if os.environ.get(name)}


def _placement(key: str) -> str:
    if key in parameters_model().model_fields:
        return "stage settings belong under `parameters:`"
    return "remove it"
