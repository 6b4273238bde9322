"""What is wrong with a config, and what was probably meant."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a config."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` with the known name that is closest, or nothing."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {match[0]!r}?" if match else ""


def fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The keys that a block knows, by its place below a model."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        inner: list[type[BaseModel]] = []
        for candidate in models:
            if part in candidate.model_fields:
                inner += models_in(candidate.model_fields[part].annotation)
        models = inner or models  # list indices and union tags lead nowhere new
    return [name for candidate in models for name in candidate.model_fields]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that a field's annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, tuple, list) or hasattr(annotation, "__metadata__"):
        return [model for part in get_args(annotation) for model in models_in(part)]
    return []
