"""``rlhf export``: a registered policy, or a model directory, as a directory for others to load."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import click

from rlhf.errors import ModelError
from rlhf.models.settings_quantization import QuantizationScheme
from rlhf.registry.store import Alias

if TYPE_CHECKING:
    from rlhf.models.export import GGUFType

GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")
_REGISTERED = re.compile(r"(?P<name>[\w-]+)(?:@(?P<alias>\w+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Resolved:
    """A model to export."""

    name: str
    """What the user sees: ``policy v3``, or the directory."""
    path: Path
    card: str
    """Model card, Markdown."""


@click.command()
@click.argument("source")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--quantize",
    type=click.Choice(get_args(QuantizationScheme)),
    help="Integer weights: 8 bits; 4 bits; or 4 bits with activations in 8. Needs torchao.",
)
@click.option("--gguf", type=click.Choice(GGUF_TYPES), help="Also write a GGUF file of this type.")
@click.option(
    "--gguf-converter",
    type=click.Path(path_type=Path),
    help="llama.cpp's convert_hf_to_gguf.py; by default what LLAMA_CPP_CONVERTER names.",
)
@click.option("--base", type=click.Path(path_type=Path), help="The model that an adapter was trained on.")
def export(
    source: str,
    directory: Path,
    quantize: str | None,
    gguf: str | None,
    gguf_converter: Path | None,
    base: Path | None,
) -> None:
    """Write the policy SOURCE to DIRECTORY, which transformers loads by its path.

    SOURCE is policy@champion, policy@candidate, policy@previous, policy/VERSION, or the directory of a
    model (./policy/3 if its path looks like a version). DIRECTORY must be absent or empty. It gets the merged
    weights as safetensors, tokenizer, chat template, generation config and a model card.
    """
    from rlhf.models.export import export_policy
    from rlhf.models.saving import require_new

    require_new(directory)
    found = resolve(source)
    done = export_policy(
        found.path,
        directory,
        base=base,
        card=found.card,
        quantize=cast("QuantizationScheme | None", quantize),
        gguf=cast("GGUFType | None", gguf),
        converter=gguf_converter,
    )
    click.echo(f"{found.name} is in {done.path}: {done.size / 1e6:,.1f} MB.")
    if done.quantized_layers:
        click.echo(f"{done.quantized_layers} linear layers are quantized: {quantize}.")
    if done.gguf is not None:
        click.echo(f"GGUF: {done.gguf}")


def resolve(source: str) -> Resolved:
    """Find what a user names.

    Raises:
        ConfigError: the active stack has no registry.
        ModelError: nothing is registered under this name, or its files are gone or were changed.
    """
    registered = _REGISTERED.fullmatch(source)
    if registered is None:
        return _local(Path(source).expanduser())
    return _registered(source, **registered.groupdict())


def _local(path: Path) -> Resolved:
    from rlhf.models.directory import MANIFEST, open_directory
    from rlhf.registry.model_card import Lineage, model_card

    if not (path / MANIFEST).exists():  # as transformers saves it, or not there; export says which
        return Resolved(str(path), path, "")
    directory = open_directory(path)
    base = directory.training.get("base", {}).get("digest")
    lineage = Lineage(models={"base": base} if base else {})
    return Resolved(str(path), path, model_card("policy", directory.digest, lineage, directory.metrics))


def _registered(source: str, name: str, alias: str | None, version: str | None) -> Resolved:
    from ops.model_cards import read_card
    from ops.registries import champion_directory, policy_registry
    from rlhf.registry.store import POLICY

    if name != POLICY:
        raise ModelError(f"There is no exportable model '{name}'; name {POLICY}@champion, or a directory.")
    if alias is not None and alias not in get_args(Alias):
        raise ModelError(f"There is no alias '{alias}'; it is one of {', '.join(get_args(Alias))}.")
    registry = policy_registry()
    entry = (
        registry.by_alias(cast("Alias", alias)) if alias is not None else registry.by_version(str(version))
    )
    if entry is None:
        raise ModelError(f"The registry has no {source}; run a config until a policy is registered there.")
    path = champion_directory(entry.as_champion())
    if path is None:
        raise ModelError(f"{source} has no directory; register it anew.")
    card = read_card(entry.path) or registry.description(POLICY, entry.version)
    return Resolved(f"{POLICY} v{entry.version}", path, card)
