"""Registering and loading a policy over HTTP, against a real `mlflow server`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from transformers import LlamaForCausalLM

import ops.registries as registries
from ops.model_source import version_source
from ops.tags import MLFLOW_RUN_TAG
from ops.tracking import PipelineRun, open_run
from rlhf.models.architecture import new_llama
from rlhf.models.directory import ModelDirectory
from rlhf.models.saving import save_model
from rlhf.models.tokenizer import train_tokenizer
from rlhf.registry.gate import decide
from rlhf.registry.gate_evidence import Evidence
from rlhf.registry.settings import Criterion, PromotionSettings
from rlhf.registry.store import Candidate
from rlhf.registry.transaction import promote
from rlhf.training.settings import ArchitectureSettings
from tests.integration.mlflow_server import MLflowServer, free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on loopback that keeps run artifacts in a local folder."""
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"), free_port())
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def policy(tmp_path: Path) -> ModelDirectory:
    texts = ["Hello, my lamp is late.", "We will trace the parcel."] * 20
    tokenizer = train_tokenizer(texts, vocabulary_size=300, max_length=64)
    shape = ArchitectureSettings(hidden_size=32, layers=1, heads=2, ffn_size=32, max_positions=64)
    model = new_llama(shape, tokenizer, seed=0)
    return save_model(model, tokenizer, tmp_path / "policy", kind="causal-lm", settings={}, metrics={})


def test_the_champion_loads_by_alias_over_http_without_a_second_copy_of_the_weights(
    server: str, policy: ModelDirectory, lead_mlflow_to: Callable[[str], None]
) -> None:
    import mlflow

    client = MlflowClient(tracking_uri=server, registry_uri=server)
    run = open_run(client, PipelineRun("http-run", "http-run", "http"), {})
    # A name of its own: the versions in the session's ZenML are numbered by the local registry.
    registry = registries.MLflowRegistry(client, prefix="http-")
    candidate = Candidate(policy.digest, str(policy.path), tags={MLFLOW_RUN_TAG: run.info.run_id})
    settings = PromotionSettings(criteria=(Criterion(metric="eval/kl", maximum=10),))
    decision = decide(
        Evidence({"eval/kl": 1.0}), settings, registries.ChampionRef(), candidate_digest=policy.digest
    )
    assert promote(registry, candidate, decision).action == "promoted"

    lead_mlflow_to(server)
    loaded = mlflow.transformers.load_model("models:/http-policy@champion")
    expected = LlamaForCausalLM.from_pretrained(policy.path, dtype=torch.float32).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.model.state_dict().items())

    source = Path(client.get_model_version_by_alias("http-policy", "champion").source.removeprefix("file://"))
    assert (source / "model.safetensors").samefile(policy.path / "model.safetensors")


def test_a_local_source_without_a_run_is_refused_with_the_remedy(server: str, policy: ModelDirectory) -> None:
    client = MlflowClient(tracking_uri=server)
    with pytest.raises(registries.ConfigError, match="only as part of a run"):
        version_source(client, str(policy.path), None, policy.digest)
