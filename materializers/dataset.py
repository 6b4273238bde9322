"""Datasets as Arrow files: memory-mapped on load, identified by content, with a preview of rows."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from datasets import Dataset, DatasetDict
from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.metadata.metadata_types import MetadataType

from materializers.transfer import fetch_directory, put_directory
from materializers.visualization import write_html
from rlhf.report import ReportBuilder

_INDEX = "index.json"
_ROWS_PER_BATCH = 1000
_PREVIEW_ROWS = 20
_PREVIEW_CHARACTERS = 400


class DatasetMaterializer(BaseMaterializer):
    """Stores a ``Dataset`` or ``DatasetDict`` as one Arrow stream per split.

    The batches have a fixed size, so that equal rows give equal bytes and the files' hash is the content's.
    """

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (Dataset, DatasetDict)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    @property
    def _target(self) -> str:
        return f"{self.uri.rstrip('/')}/data"

    def save(self, data: Dataset | DatasetDict) -> None:
        with self.get_temporary_directory(delete_at_exit=True) as temporary:
            folder = Path(temporary) / "data"
            folder.mkdir()
            hashes = {}
            for split, rows in _splits(data).items():
                file = folder / f"{split}.arrow"
                _write(rows, file)
                with file.open("rb") as stream:
                    hashes[split] = hashlib.file_digest(stream, "sha256").hexdigest()
            self._hash = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()
            index = {"splits": hashes, "digest": self._hash, "single": isinstance(data, Dataset)}
            (folder / _INDEX).write_text(json.dumps(index, sort_keys=True))
            put_directory(self.artifact_store, folder, self._target, last=_INDEX)

    def load(self, data_type: type[Any]) -> Dataset | DatasetDict:
        with self.artifact_store.open(f"{self._target}/{_INDEX}", "r") as stream:
            index = json.loads(stream.read())
        cache = Path(os.environ.get("RLHF_HOME", ".rlhf")) / "cache" / "datasets" / index["digest"]
        folder = fetch_directory(self.artifact_store, self._target, cache, last=_INDEX)
        loaded = {split: Dataset.from_file(str(folder / f"{split}.arrow")) for split in index["splits"]}
        return next(iter(loaded.values())) if index["single"] else DatasetDict(loaded)

    def compute_content_hash(self, data: Dataset | DatasetDict) -> str | None:
        return self._hash

    def extract_metadata(self, data: Dataset | DatasetDict) -> dict[str, MetadataType]:
        if isinstance(data, Dataset):
            return {"rows": len(data)}
        return {f"rows ({split})": len(rows) for split, rows in data.items()}

    def save_visualizations(self, data: Dataset | DatasetDict) -> dict[str, VisualizationType]:
        page = ReportBuilder("Sample rows")
        for split, rows in _splits(data).items():
            page.heading(f"{split}: {len(rows):,} rows")
            head = rows.select(range(min(_PREVIEW_ROWS, len(rows)))).to_list()
            page.table(rows.column_names, [[_cell(row[c]) for c in rows.column_names] for row in head])
        return write_html(self.artifact_store, self.uri, "rows", page.build().html)


def _splits(data: Dataset | DatasetDict) -> dict[str, Dataset]:
    return {"rows": data} if isinstance(data, Dataset) else dict(data)


def _write(rows: Dataset, file: Path) -> None:
    table = rows.flatten_indices().data.table.combine_chunks() if len(rows) else rows.data.table.slice(0, 0)
    table = table.cast(rows.features.arrow_schema)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=_ROWS_PER_BATCH)


def _cell(value: Any) -> str | float | int | None:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = "\n".join(f"{m['role']}: {m['content']}" for m in value)
    elif isinstance(value, (list, dict)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and len(value) > _PREVIEW_CHARACTERS:
        return value[:_PREVIEW_CHARACTERS] + " …"
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
