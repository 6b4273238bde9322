"""The retraining check: look for new feedback, decide with a reason, and start ``rlhf_pipeline`` if it is
needed.

    resolve_champion ─┐
    ingest_feedback ──┴─ decide_retraining ─ start_training

Static and cheap, so that every orchestrator can schedule it. A check that needs no training ends green.
"""

from zenml import pipeline
from zenml.enums import ExecutionMode

from ops.hooks import mark_run_failed
from rlhf.feedback.settings import DatasetSettings, FeedbackSettings
from rlhf.retraining.settings import RetrainingSettings
from steps.decide_retraining import decide_retraining
from steps.ingest_feedback import ingest_feedback
from steps.resolve_champion import resolve_champion
from steps.start_training import start_training


@pipeline(name="retraining_pipeline", on_failure=mark_run_failed, execution_mode=ExecutionMode.FAIL_FAST)
def retraining_pipeline(
    feedback: FeedbackSettings,
    config: str,
    overrides: list[str],
    datasets: DatasetSettings = DatasetSettings(),
    retraining: RetrainingSettings = RetrainingSettings(),
) -> None:
    """Wire the check together.

    Args:
        feedback: where feedback comes from.
        config: name or path of the run config that training is started with.
        overrides: ``key.path=value`` for it.
        datasets: how rows become comparisons, as in training.
        retraining: what calls for training.
    """
    champion = resolve_champion()
    rows, _ = ingest_feedback(settings=feedback)
    decision = decide_retraining(feedback=rows, champion=champion, datasets=datasets, settings=retraining)
    start_training(decision=decision, feedback=rows, config=config, overrides=overrides)
