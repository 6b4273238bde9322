"""Models and tokenizers from a directory or the hub, with one clear error when they are not there.

Only safetensors are read and code that comes with a model is never run. Nothing is trained or changed here,
but ``import_base_model`` makes a sealed copy of a model that somebody else published.
"""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from peft import PeftConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.errors import ModelError
from rlhf.models.directory import ModelDirectory, ModelKind, open_directory, seal
from rlhf.models.saving import quiet_transformers, require_new, write_mlmodel
from rlhf.training.settings import BaseModelSettings, is_local

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
PUBLISHED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
    "chat_template*", "LICENSE*",
)  # fmt: skip
Source = str | Path | ModelDirectory


def load_policy(
    source: Source,
    *,
    base: Source | None = None,
    dtype: torch.dtype = torch.float32,
    key: str = "base_model.model",
    **options: Any,
) -> PreTrainedModel:
    """A causal language model, in evaluation mode.

    Args:
        source: a directory or a hub repository. An adapter is added to ``base`` and merged in memory.
        base: the model an adapter was trained on.
        key: the config key to name in an error.
        options: more arguments of ``from_pretrained``, such as ``attn_implementation``.

    Raises:
        ModelError: it is not there, not reachable, holds no safetensors, or is another kind of model.
    """
    if is_adapter(source):
        return _merged(source, base, key, lambda path: load_policy(path, dtype=dtype, key=key, **options))
    with _explained(source, key), quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            _location(source, key), dtype=dtype, trust_remote_code=False, use_safetensors=True, **options
        )
    return model.eval()


def load_reward_model(
    source: Source,
    *,
    base: Source | None = None,
    dtype: torch.dtype = torch.float32,
    key: str = "base_model.model",
    **options: Any,
) -> PreTrainedModel:
    """A sequence classifier with one output, in evaluation mode.

    From a language model without a score head, the head is drawn from the global random state: seed it first.
    Arguments and errors as in :func:`load_policy`.
    """
    if is_adapter(source):
        return _merged(
            source, base, key, lambda path: load_reward_model(path, dtype=dtype, key=key, **options)
        )
    with _explained(source, key), quiet_transformers():
        model = AutoModelForSequenceClassification.from_pretrained(
            _location(source, key),
            num_labels=1,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    return model.eval()


def load_tokenizer(source: Source, *, key: str = "base_model.model") -> PreTrainedTokenizerBase:
    """The tokenizer that stands beside a model.

    Raises:
        ModelError: it is not there or not reachable.
    """
    with _explained(source, key):
        return AutoTokenizer.from_pretrained(_location(source, key), trust_remote_code=False)


def import_base_model(base: BaseModelSettings, out: Path) -> ModelDirectory:
    """Copy a published model into ``out`` and seal it: weights as safetensors, configuration and tokenizer.

    Raises:
        ModelError: it is not there, not reachable, has no safetensors, or ``out`` is taken.
    """
    require_new(out)
    key = "base_model.model"
    if is_local(base.model):
        origin, commit = Path(_location(base.model, key)), None
    else:
        with _explained(base.model, key):
            origin = Path(
                huggingface_hub.snapshot_download(
                    base.model, revision=base.revision, allow_patterns=list(PUBLISHED)
                )
            )
        commit = origin.name
    files = sorted({file for pattern in PUBLISHED for file in origin.glob(pattern) if file.is_file()})
    names = {file.name for file in files}
    if not any(name.endswith(".safetensors") for name in names) or "config.json" not in names:
        raise ModelError(
            f"{key}: '{base.model}' holds no config.json with *.safetensors; convert the weights to "
            "safetensors (transformers: model.save_pretrained) or choose another revision."
        )
    architecture = architecture_of(origin, key)
    tokenizer = load_tokenizer(origin, key=key)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in files:
        shutil.copy(file, partial / file.name)
    kind = kind_of(architecture)
    write_mlmodel(partial, architecture, tokenizer, kind=kind)
    # The place a local model came from is no part of what it is: only a hub repository names its content.
    settings = {"base_model": {"model": base.model, "commit": commit}} if commit else {"base_model": {}}
    seal(partial, kind=kind, settings=settings, metrics={})
    if out.exists():
        out.rmdir()
    partial.rename(out)
    logger.info("Imported %s (%s) from %s.", out.name, architecture, base.model)
    return open_directory(out)


def require_base(source: Source, key: str) -> Path:
    """The directory of a full model to train on.

    Raises:
        ModelError: it is absent or an adapter.
    """
    path = Path(_location(source, key))
    if is_adapter(path):
        raise ModelError(
            f"{key}: {path} is an adapter; merge it into its base first (lora.merge: true, or merge_adapter)."
        )
    if not (path / "config.json").is_file():
        raise ModelError(f"{key}: {path} holds no config.json; give the directory of a saved model.")
    return path


def is_adapter(source: Source) -> bool:
    """Whether a directory holds an adapter, which takes the model it was trained on."""
    path = source.path if isinstance(source, ModelDirectory) else Path(source)
    return (path / ADAPTER_CONFIG).is_file()


def architecture_of(path: Path, key: str) -> str:
    """Name of the class of a full model, such as ``LlamaForCausalLM``.

    Raises:
        ModelError: transformers does not have it built in.
    """
    architectures = json.loads((path / "config.json").read_text()).get("architectures") or [""]
    if not hasattr(transformers, architectures[0]):
        raise ModelError(
            f"{key}: '{path}' is of the architecture '{architectures[0]}', which "
            f"transformers {transformers.__version__} does not have built in; choose another model (code "
            "that comes with a model is not run)."
        )
    return str(architectures[0])


def kind_of(architecture: str) -> ModelKind:
    """What a model is for, by the name of its class."""
    if architecture.endswith("ForSequenceClassification"):
        return "reward-model"
    if architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return "causal-lm"
    return "encoder"


def _location(source: Source, key: str) -> str:
    if isinstance(source, ModelDirectory):
        return str(source.path)
    if isinstance(source, Path) or is_local(source):
        path = Path(source).expanduser()
        if not path.is_dir():
            raise ModelError(f"{key}: there is no model directory {path}; correct the path.")
        return str(path)
    return source


def _merged(
    source: Source, base: Source | None, key: str, load: Callable[[Source], PreTrainedModel]
) -> PreTrainedModel:
    path = Path(_location(source, key))
    if base is None:
        raise ModelError(
            f"{key}: {path} is an adapter; give the model it was trained on as its base, or merge it first."
        )
    recorded = open_directory(path).training.get("base", {}).get("digest")
    given = Path(_location(base, key))
    actual = open_directory(given).digest if (given / "manifest.json").exists() else None
    if recorded and actual and recorded != actual:
        raise ModelError(
            f"{key}: the adapter {path} was trained on a model with digest {recorded[:12]}, but the base "
            f"given has {actual[:12]}; give the model it was trained on."
        )
    model = PeftModel.from_pretrained(load(base), str(path), config=PeftConfig.from_pretrained(str(path)))
    merged: PreTrainedModel = model.merge_and_unload()
    return merged.eval()


@contextmanager
def _explained(source: Source, key: str) -> Iterator[None]:
    name = source.path if isinstance(source, ModelDirectory) else source
    try:
        yield
    # Offline and unknown repositories, unreadable files; then architectures and configs transformers can't
    # take.
    except (
        OSError,
        LocalEntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        ValueError,
        KeyError,
    ) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{key}: the model '{name}' could not be loaded ({first_line}); check the name and "
            "revision, download it beforehand where the hub can't be reached, or give a local directory with "
            "safetensors."
        ) from error
