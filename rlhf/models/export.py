"""Exports: a policy as a directory for others, which plain transformers loads, without anything of ours.

Weights, tokenizer, chat template, generation config and model card; on request with integer weights
(:mod:`rlhf.models.quantized_saving`) and as GGUF. It appears under its name only when it is whole.
"""

import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from transformers import AutoConfig, GenerationConfig

from rlhf.errors import ConfigError, ModelError
from rlhf.models.directory import MANIFEST, open_directory
from rlhf.models.loading import PUBLISHED, architecture_of, is_adapter, kind_of
from rlhf.models.quantized_saving import require_quantizer, save_quantized
from rlhf.models.saving import merge_adapter, require_new
from rlhf.models.settings_quantization import QuantizationScheme

logger = logging.getLogger(__name__)

GGUFType = Literal["f32", "f16", "bf16", "q8_0"]
CONVERTER_VARIABLE: Final = "LLAMA_CPP_CONVERTER"
CONVERTER: Final = "convert_hf_to_gguf.py"
CARD: Final = "README.md"


@dataclass(frozen=True)
class Export:
    """What was written."""

    path: Path
    size: int
    """Bytes of all files."""
    quantized_layers: int
    """Linear layers with integer weights."""
    gguf: Path | None
    """The GGUF file, which lies in ``path``."""


def export_policy(
    source: Path,
    out: Path,
    *,
    base: Path | None = None,
    card: str = "",
    quantize: QuantizationScheme | None = None,
    gguf: GGUFType | None = None,
    converter: Path | None = None,
) -> Export:
    """Write a policy to a directory that ``AutoModelForCausalLM.from_pretrained`` loads.

    Without ``quantize`` the weights are the bytes of ``source``, so the logits are the same bit by bit; of an
    adapter, those of the merged model.

    Args:
        source: a model directory, sealed or as transformers saves it, or an adapter.
        out: absent or empty.
        base: the model that an adapter was trained on.
        card: the model card, Markdown; how to load the export is added.
        gguf: also write this type of GGUF, of the weights before ``quantize``.
        converter: llama.cpp's ``convert_hf_to_gguf.py``; by default what LLAMA_CPP_CONVERTER names.

    Raises:
        ConfigError: torchao or the converter is not there.
        ModelError: ``source`` is no policy, was changed after it was sealed, or cannot be quantized or
            converted; or ``out`` is taken.
    """
    require_new(out)
    if quantize is not None:
        require_quantizer(quantize, "--quantize")
    script = find_converter(converter) if gguf is not None else None
    if not source.is_dir():
        raise ModelError(f"There is no model directory {source}; correct the path.")
    if (source / MANIFEST).exists():
        open_directory(source, verify=True)
    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        full = _full_model(source, base, work / "full")
        if quantize is not None:
            _compare_schemes(full, quantize)
        target = work / "export"
        target.mkdir()
        layers = save_quantized(full, target, quantize) if quantize is not None else 0
        _copy_published(full, target, weights=quantize is None)
        converted = None
        if gguf is not None and script is not None:
            converted = target / f"model-{gguf}.gguf"
            convert_to_gguf(full, converted, gguf, script)
        (target / CARD).write_text(_card(card, quantize, layers), encoding="utf-8")
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        if out.exists():
            out.rmdir()
        target.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Export(out, size, layers, out / converted.name if converted is not None else None)


def find_converter(given: Path | None) -> Path:
    """llama.cpp's converter.

    Raises:
        ConfigError: neither the option nor the environment names a file.
    """
    named = given or (Path(os.environ[CONVERTER_VARIABLE]) if os.environ.get(CONVERTER_VARIABLE) else None)
    if named is None:
        raise ConfigError(
            f"--gguf needs llama.cpp's {CONVERTER}; name it by --gguf-converter or {CONVERTER_VARIABLE}, or "
            "leave --gguf out."
        )
    if not named.is_file():
        raise ConfigError(f"There is no GGUF converter {named}; name llama.cpp's {CONVERTER}.")
    return named


def convert_to_gguf(model: Path, out: Path, kind: GGUFType, converter: Path) -> None:
    """Run llama.cpp's converter on a full model, with this Python.

    Raises:
        ModelError: it failed, or wrote nothing.
    """
    command = [sys.executable, str(converter), str(model), "--outfile", str(out), "--outtype", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not out.is_file():
        said = (done.stderr.strip() or done.stdout.strip() or "it wrote no file").splitlines()[-1]
        raise ModelError(
            f"{converter.name} could not convert the model ({said}); it needs gguf and sentencepiece in "
            "this Python, and must know architecture and tokenizer."
        )


def _full_model(source: Path, base: Path | None, out: Path) -> Path:
    if is_adapter(source):
        if base is None:
            raise ModelError(f"{source} is an adapter; name the model it was trained on by --base.")
        full = merge_adapter(open_directory(source), base, out).path
    elif base is not None:
        raise ModelError(f"{source} is a full model; leave --base out.")
    else:
        full = source
    if not (full / "config.json").is_file():
        raise ModelError(f"{source} holds no config.json; name the directory of a saved model.")
    if not any(full.glob("*.safetensors")):
        raise ModelError(f"{source} holds no *.safetensors; save it with transformers' save_pretrained.")
    kind = kind_of(architecture_of(full, "export"))
    if kind != "causal-lm":
        raise ModelError(f"{source} is a {kind}, not a policy; name a causal language model.")
    return full


def _copy_published(full: Path, out: Path, *, weights: bool) -> None:
    """Copy what is not there yet, with or without the weights."""
    files = sorted({file for pattern in PUBLISHED for file in full.glob(pattern) if file.is_file()})
    for file in files:
        if (weights or "safetensors" not in file.name) and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
    if not (out / "generation_config.json").exists():
        GenerationConfig.from_model_config(AutoConfig.from_pretrained(full)).save_pretrained(out)


def _compare_schemes(full: Path, scheme: QuantizationScheme) -> None:
    """Warn when a model was trained to be quantized in another way."""
    if not (full / MANIFEST).exists():
        return
    aware = open_directory(full).training.get("sft", {}).get("quantization_aware")
    if aware is not None and aware["scheme"] != scheme:
        logger.warning("The model was trained for %s and is quantized as %s.", aware["scheme"], scheme)


def _card(card: str, scheme: QuantizationScheme | None, layers: int) -> str:
    weights = "The weights are those of the model, bit by bit."
    if scheme is not None:
        package = "compressed-tensors" if scheme == "int4" else "torchao"
        weights = (
            f"{layers} linear layers are quantized as {scheme}, the rest is as it was. Loading takes "
            f"{package} {version(package)} or later."
        )
    how = (
        "## Use\n\n"
        f"{weights}\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("DIRECTORY")\n'
        'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n'
        "```\n"
    )
    return f"{card.rstrip()}\n\n{how}" if card.strip() else how
