"""A model directory as an artifact: moved in, opened in place, identified by its content."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.metadata.metadata_types import MetadataType

from materializers.transfer import fetch_directory, put_directory
from materializers.visualization import write_html
from rlhf.models.directory import MANIFEST, ModelDirectory, open_directory
from rlhf.report import ReportBuilder, Series


class ModelDirectoryMaterializer(BaseMaterializer):
    """Stores a :class:`ModelDirectory` without a second copy of its weights.

    ``save`` moves the directory (the step's scratch output) into the artifact store; ``load`` opens it
    where it is, read-only by contract, or downloads it once per content digest from a remote store.
    """

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (ModelDirectory,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    @property
    def _target(self) -> str:
        return f"{self.uri.rstrip('/')}/model"

    def save(self, data: ModelDirectory) -> None:
        self._summary = _summary(data)  # read before the directory moves away
        put_directory(self.artifact_store, data.path, self._target, last=MANIFEST)

    def load(self, data_type: type[Any]) -> ModelDirectory:
        with self.artifact_store.open(f"{self._target}/{MANIFEST}", "r") as stream:
            digest = json.loads(stream.read())["digest"]
        cache = Path(os.environ.get("RLHF_HOME", ".rlhf")) / "cache" / "models" / digest
        return open_directory(fetch_directory(self.artifact_store, self._target, cache, last=MANIFEST))

    def compute_content_hash(self, data: ModelDirectory) -> str | None:
        return data.digest

    def extract_metadata(self, data: ModelDirectory) -> dict[str, MetadataType]:
        metrics = {name: int(v) if float(v).is_integer() else float(v) for name, v in data.metrics.items()}
        return {"kind": data.kind, "digest": data.digest, **metrics}

    def save_visualizations(self, data: ModelDirectory) -> dict[str, VisualizationType]:
        return write_html(self.artifact_store, self.uri, "training", self._summary)


def _summary(model: ModelDirectory) -> str:
    """Curves, final figures and settings of one training, as a page."""
    page = ReportBuilder(f"Model ({model.kind})", subtitle=f"content digest {model.digest}")
    curves = {name: points for name, points in sorted(model.curves.items()) if len(points) > 1}
    if curves:
        page.heading("Training curves")
        page.plots(
            [Series(name, *zip(*points, strict=True)) for name, points in curves.items()], x_label="step"
        )
    if model.metrics:
        page.heading("Result")
        page.table(["metric", "value"], [[name, value] for name, value in sorted(model.metrics.items())])
    page.heading("Settings")
    page.table(["setting", "value"], [[name, value] for name, value in _settings("", model.training)])
    return page.build().html


def _settings(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Nested settings as one row each, in the order of their names."""
    if isinstance(value, Mapping) and value:
        for key, inner in sorted(value.items()):
            yield from _settings(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, json.dumps(value, ensure_ascii=False)
