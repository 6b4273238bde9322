"""Writes self-contained HTML next to an artifact, for the dashboard's visualization tab."""

from pathlib import PurePosixPath

from zenml.artifact_stores.base_artifact_store import BaseArtifactStore
from zenml.enums import VisualizationType


def write_html(store: BaseArtifactStore, uri: str, name: str, html: str) -> dict[str, VisualizationType]:
    """Store ``html`` as ``<uri>/<name>.html`` and say what it is, as ``save_visualizations`` must answer."""
    target = f"{uri.rstrip('/')}/{PurePosixPath(name).with_suffix('.html')}"
    with store.open(target, "w") as stream:
        stream.write(html)
    return {target: VisualizationType.HTML}
