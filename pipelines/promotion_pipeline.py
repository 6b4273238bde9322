"""The promotion that waits for a person: a verdict in, an answer awaited, the answer carried out.

Dynamic, because only a dynamic pipeline can wait. It pauses at once and its process ends; whoever answers
resumes it (`rlhf approve`, `rlhf reject`, or ZenML's own commands).
"""

from uuid import UUID

from zenml import pipeline, wait
from zenml.client import Client

from rlhf.registry.approval import ApprovalAnswer
from steps.conclude_approval import conclude_approval


@pipeline(name="promotion_pipeline", dynamic=True, enable_cache=False)
def promotion_pipeline(verdict: str, question: str) -> None:
    """Wait for an answer to a verdict, and carry it out.

    Args:
        verdict: id of the verdict's artifact version.
        question: what the person is asked.
    """
    artifact = Client().get_artifact_version(UUID(verdict))
    # No answer at all is an answer: what is left out means no.
    answer = wait(schema=ApprovalAnswer, question=question, timeout=0, name="approval")
    # As parameters: values passed in a call would each become an artifact.
    conclude_approval.with_options(parameters=answer.model_dump())(verdict=artifact)
