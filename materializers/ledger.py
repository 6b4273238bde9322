"""A ledger's state as an artifact: an address and a number, shown with counts and the first rows."""

import json
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.metadata.metadata_types import MetadataType

from materializers.visualization import write_html
from rlhf.feedback.ledger.reference import LedgerRef
from rlhf.feedback.ledger.state import head_of_state, live_counts
from rlhf.feedback.rows import canonical_json
from rlhf.report import ReportBuilder

_PREVIEW_ROWS = 20
_PREVIEW_CHARACTERS = 400
_COLUMNS = ("source", "record_id", "question", "kind", "annotator", "status", "prompt", "responses", "value")


class LedgerRefMaterializer(BaseMaterializer):
    """Stores a :class:`LedgerRef` as ``ledger.json``.

    Its content hash is the rows' own: steps behind it stay cached while the feedback says the same, however
    often it was ingested.
    """

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (LedgerRef,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: LedgerRef) -> None:
        with self.artifact_store.open(f"{self.uri}/ledger.json", "w") as stream:
            stream.write(canonical_json(vars(data)))

    def load(self, data_type: type[Any]) -> LedgerRef:
        with self.artifact_store.open(f"{self.uri}/ledger.json", "r") as stream:
            stored = json.loads(stream.read())
        return LedgerRef(**{**stored, "source_keys": tuple(stored["source_keys"])})

    def compute_content_hash(self, data: LedgerRef) -> str | None:
        return data.state_digest

    def extract_metadata(self, data: LedgerRef) -> dict[str, MetadataType]:
        return {"url": data.url, "sequence": data.sequence, "source_keys": list(data.source_keys)}

    def save_visualizations(self, data: LedgerRef) -> dict[str, VisualizationType]:
        page = ReportBuilder("Feedback", subtitle=f"{data.url} at sequence {data.sequence:,}")
        page.heading("Rows that count")
        page.table(["source", "rows"], [[key, n] for key, n in live_counts(data).items()])
        page.heading("The first rows that came in")
        rows = head_of_state(data, _PREVIEW_ROWS).to_pylist()
        page.table(_COLUMNS, [[_cell(row[column]) for column in _COLUMNS] for row in rows])
        return write_html(self.artifact_store, self.uri, "rows", page.build().html)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        parts = (f"{v['role']}: {v['content']}" if isinstance(v, dict) else str(v) for v in value)
        value = "\n".join(parts)
    text = str(value)
    return text if len(text) <= _PREVIEW_CHARACTERS else text[:_PREVIEW_CHARACTERS] + " …"
