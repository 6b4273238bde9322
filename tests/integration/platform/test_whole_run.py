"""A whole run on servers: ZenML's with a login, MLflow's on PostgreSQL, artifacts, checkpoints and ledger on
an object store. The ZenML server goes away while a policy is trained, and comes back."""

import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import httpx
import pytest
from mlflow.tracking import MlflowClient

from ops import environment
from ops.registries import POLICY
from rlhf.models.directory import MANIFEST
from tests.integration.platform.conftest import Platform
from tests.pipelines.conftest import TINY

pytestmark = pytest.mark.servers

PATIENCE_SECONDS = 400
AWAY_SECONDS = 8.0
UPDATES = 30


def _keys(bucket: str) -> list[str]:
    listed = httpx.get(bucket, params={"list-type": "2", "max-keys": "1000"})
    return [str(key.text) for key in ElementTree.fromstring(listed.text).iter() if key.tag.endswith("}Key")]


@pytest.mark.timeout(600)
def test_a_run_goes_on_while_its_zenml_server_is_away_and_loses_nothing(
    platform: Platform, bucket: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    arguments = [
        str(TINY), "--keep-stack", f"ppo.updates={UPDATES}", "ppo.evaluate_every=10",
        "ppo.checkpoint_every=5", "feedback.ledger.url=s3://bucket/ledger",
    ]  # fmt: skip
    with log.open("wb") as stream:
        run = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "run", *arguments],
            cwd=environment.PROJECT_ROOT, env=dict(platform.variables), stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any("/ppo/checkpoints/update-" in key for key in _keys(bucket)):
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        platform.zenml.stop()
        time.sleep(AWAY_SECONDS)
        assert run.poll() is None, log.read_text()
        platform.zenml.start()
        assert run.wait(PATIENCE_SECONDS) == 0, log.read_text()
    finally:
        run.kill()

    client = MlflowClient(tracking_uri=platform.mlflow.url, registry_uri=platform.mlflow.url)
    experiment = client.get_experiment_by_name("rlhf_pipeline")
    assert experiment is not None
    [tracked] = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(tracked.info.run_id, "ppo/kl")]
    assert sorted(steps) == list(range(1, UPDATES + 1))
    champion = client.get_model_version_by_alias(POLICY, "champion")
    assert champion.source.startswith("s3://bucket/artifacts/")

    keys = _keys(bucket)
    models = {key.partition("/model/")[0] for key in keys if "/model/" in key}
    assert len(models) == 6  # the base, the supervised policy, three reward models, the policy
    assert {f"{model}/model/{MANIFEST}" for model in models} <= set(keys)
    assert any(key.startswith("ledger/_delta_log/") for key in keys)
    assert not any("/checkpoints/" in key for key in keys)  # their steps have ended
