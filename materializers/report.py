"""Reports as artifacts: every figure as JSON, the page as HTML in the dashboard."""

import hashlib
import json
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.metadata.metadata_types import MetadataType

from materializers.visualization import write_html
from rlhf.feedback.rows import canonical_json
from rlhf.report import Report


def report_digest(report: Report) -> str:
    """The content of a report: its figures and its page."""
    return hashlib.sha256(f"{canonical_json(report.data)}\0{report.html}".encode()).hexdigest()


class ReportMaterializer(BaseMaterializer):
    """Stores a :class:`Report` as ``report.json`` and ``report.html``."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Report,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS

    def save(self, data: Report) -> None:
        with self.artifact_store.open(f"{self.uri}/report.json", "w") as stream:
            stream.write(canonical_json({"title": data.title, "data": data.data}))
        with self.artifact_store.open(f"{self.uri}/page.html", "w") as stream:
            stream.write(data.html)

    def load(self, data_type: type[Any]) -> Report:
        with self.artifact_store.open(f"{self.uri}/report.json", "r") as stream:
            stored = json.loads(stream.read())
        with self.artifact_store.open(f"{self.uri}/page.html", "r") as stream:
            return Report(stored["title"], stored["data"], stream.read())

    def compute_content_hash(self, data: Report) -> str | None:
        return report_digest(data)

    def extract_metadata(self, data: Report) -> dict[str, MetadataType]:
        figures = {k: v for k, v in data.data.items() if isinstance(v, (int, float, str, bool))}
        metrics = data.data.get("metrics")
        return {"title": data.title, **figures, **({"metrics": dict(metrics)} if metrics else {})}

    def save_visualizations(self, data: Report) -> dict[str, VisualizationType]:
        return write_html(self.artifact_store, self.uri, "report", data.html)
