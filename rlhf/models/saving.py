"""Writing a model directory: safetensors, tokenizer, an ``MLmodel`` file, then the seal.

The ``MLmodel`` file lets ``mlflow.transformers.load_model`` read the very directory that the artifact store
holds, so that registering a model copies nothing. It is written as YAML here; MLflow is not imported. It
names no time and no path, since the digest covers it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from rlhf.errors import ModelError
from rlhf.models.directory import Curves, ModelDirectory, ModelKind, open_directory, seal

MLMODEL = "MLmodel"
_TASKS = {"causal-lm": "text-generation", "reward-model": "text-classification"}
_PIPELINES = {
    "text-generation": "TextGenerationPipeline",
    "text-classification": "TextClassificationPipeline",
    "fill-mask": "FillMaskPipeline",
}


def require_new(path: Path) -> None:
    """Refuse a place that holds something already.

    Raises:
        ModelError: ``path`` exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ModelError(f"{path} is not empty; write each model to a directory of its own.")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and load reports from transformers: a stage reports through its sink and its log."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def save_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    kind: ModelKind,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    curves: Curves | None = None,
) -> ModelDirectory:
    """Write and seal a model directory. It appears under ``path`` only when it is whole.

    Args:
        model: for ``kind="adapter"`` the PEFT model, of which the adapter alone is kept.
        settings: what it was trained with, as JSON values; part of the digest, so no paths and no times.
        metrics: final figures.

    Raises:
        ModelError: ``path`` is taken.
    """
    require_new(path)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if kind == "adapter":
        save_adapter(model, partial)
    else:
        with quiet_transformers():
            model.save_pretrained(str(partial))
        write_mlmodel(partial, type(model).__name__, tokenizer, kind=kind)
    tokenizer.save_pretrained(partial)
    (partial / "README.md").unlink(missing_ok=True)  # PEFT's model card names the base by its path
    seal(partial, kind=kind, settings=settings, metrics=metrics, curves=curves)
    if path.exists():
        path.rmdir()
    partial.rename(path)
    return open_directory(path)


def save_adapter(model: PreTrainedModel | PeftModel, path: Path) -> None:
    """Write the adapter that a model carries, and nothing of the model, in PEFT's layout."""
    model.save_pretrained(str(path))
    # PEFT notes where the base lay; the digest in the settings says which model it was.
    file = path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["base_model_name_or_path"] = None
    config["target_modules"] = (
        sorted(config["target_modules"])  # a set, written in the order of its hashes
        if isinstance(config["target_modules"], list)
        else config["target_modules"]
    )
    file.write_text(json.dumps(config, indent=2, sort_keys=True))


def write_mlmodel(
    path: Path, architecture: str, tokenizer: PreTrainedTokenizerBase, *, kind: ModelKind
) -> None:
    """Describe a directory to MLflow's ``transformers`` flavor.

    MLflow reads the weights where they are (``model_binary: .``) but the tokenizer from
    ``components/tokenizer``, so that one is written twice.

    Args:
        architecture: class name in transformers, such as ``LlamaForCausalLM``.
    """
    tokenizer.save_pretrained(path / "components" / "tokenizer")
    task = _TASKS.get(kind, "fill-mask")
    flavor = {
        "task": task,
        "instance_type": _PIPELINES[task],
        "pipeline_model_type": architecture,
        "framework": "pt",
        "model_binary": ".",
        "components": ["tokenizer"],
        # A class that transformers does not have would make MLflow run code from the directory.
        "tokenizer_type": "AutoTokenizer",
        "transformers_version": version("transformers"),
        "code": None,
    }
    description = {"flavors": {"transformers": flavor}}
    (path / MLMODEL).write_text(yaml.safe_dump(description, sort_keys=True))


def merge_adapter(directory: ModelDirectory, base: Path, out: Path) -> ModelDirectory:
    """Add an adapter to the model it was trained on and write the full model to ``out``.

    The merged model keeps the adapter's metrics and curves; its settings name the adapter by digest.

    Raises:
        ModelError: ``directory`` is no adapter, ``base`` is another model than it was trained on, or ``out``
        is
            taken.
    """
    from rlhf.models.loading import (
        load_policy,
        load_reward_model,
        load_tokenizer,
    )  # loading writes through us

    require_new(out)
    if directory.kind != "adapter":
        raise ModelError(
            f"{directory.path} is a {directory.kind}, not an adapter; there is nothing to merge."
        )
    task = json.loads((directory.path / "adapter_config.json").read_text())["task_type"]
    load, kind = (load_reward_model, "reward-model") if task == "SEQ_CLS" else (load_policy, "causal-lm")
    model = load(directory, base=base, dtype=torch.float32, key="adapter")
    tokenizer = load_tokenizer(directory, key="adapter")
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return save_model(
        model,
        tokenizer,
        out,
        kind=kind,  # type: ignore[arg-type]
        settings={**directory.training, "merged_adapter": directory.digest},
        metrics=directory.metrics,
        curves=directory.curves,
    )
