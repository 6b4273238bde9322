"""Compare the policy with the supervised one, and with the champion, on held-out prompts."""

from typing import Annotated

from datasets import Dataset, DatasetDict
from zenml import ArtifactConfig, step

from materializers.report import ReportMaterializer
from ops.cache import cached_by_content
from ops.registries import champion_directory
from ops.stage import stage
from rlhf.evaluation.settings import EvaluationSettings
from rlhf.models.directory import ModelDirectory
from rlhf.registry.champion import ChampionRef
from rlhf.report import Report


@step(
    cache_policy=cached_by_content(__name__),
    output_materializers={"evaluation": ReportMaterializer},
)
def evaluate_policy(
    policy: ModelDirectory,
    sft_policy: ModelDirectory,
    proxy: ModelDirectory,
    selection: ModelDirectory,
    judge: ModelDirectory,
    champion: ChampionRef,
    prompts: DatasetDict,
    comparisons: DatasetDict,
    demonstrations: DatasetDict,
    frontier: Dataset,
    settings: EvaluationSettings,
    seed: int,
    rewards_content: str = "",
    suites_content: str = "",
) -> Annotated[Report, ArtifactConfig(name="evaluation", tags=["report"])]:
    """Rewards, KL, language and win rates with intervals, the reward models' own accuracy and calibration,
    the reward/KL frontier, and samples side by side.

    ``rewards_content`` and ``suites_content`` are for the cache key: the code of ``settings.rewards``
    (:func:`ops.cache.code_of`), and the files and models that ``settings.suites`` name
    (:func:`rlhf.evaluation.suites.content.suites_content`).
    """
    from ops.evaluation_samples import log_samples
    from rlhf.evaluation.stage import evaluate

    with stage("evaluation", settings) as run:
        result = evaluate(
            policy=policy.path,
            sft=sft_policy.path,
            champion=champion_directory(champion),
            proxy=proxy.path,
            selection=selection.path,
            judge=judge.path,
            prompts=prompts["test"],
            comparisons=comparisons["test"],
            demonstrations=demonstrations["test"],
            frontier=frontier,
            settings=settings,
            seed=seed,
            sink=run.sink,
        )
        run.sink.log_metrics(result.metrics, step=0)
        run.sink.log_text(result.report.html, "reports/evaluation.html")
        log_samples(run.sink, result.samples)
        return result.report
