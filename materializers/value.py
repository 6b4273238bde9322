"""Small typed values (pydantic models) as JSON artifacts with a content hash, so that equal values cache
alike."""

import hashlib
from typing import Any, ClassVar

from pydantic import BaseModel
from zenml.enums import ArtifactType
from zenml.materializers.base_materializer import BaseMaterializer
from zenml.metadata.metadata_types import MetadataType

from rlhf.feedback.rows import canonical_json


class ValueMaterializer(BaseMaterializer):
    """Stores a pydantic model as ``value.json``.

    ZenML's own pydantic materializer gives no content hash: a fresh but equal value would invalidate whatever
    depends on it.
    """

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (BaseModel,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA
    SKIP_REGISTRATION: ClassVar[bool] = True  # chosen by name where a step returns one

    def save(self, data: BaseModel) -> None:
        with self.artifact_store.open(f"{self.uri}/value.json", "w") as stream:
            stream.write(canonical_json(data.model_dump(mode="json")))

    def load(self, data_type: type[Any]) -> BaseModel:
        with self.artifact_store.open(f"{self.uri}/value.json", "r") as stream:
            return data_type.model_validate_json(stream.read())

    def compute_content_hash(self, data: BaseModel) -> str | None:
        return hashlib.sha256(canonical_json(data.model_dump(mode="json")).encode()).hexdigest()

    def extract_metadata(self, data: BaseModel) -> dict[str, MetadataType]:
        return {key: value for key, value in data.model_dump(mode="json").items() if value is not None}
