"""A process that promotes, and may kill itself on the way: ``registry_worker.py JOB``, a JSON object."""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ops import environment

environment.configure()

from mlflow.tracking import MlflowClient  # noqa: E402

from ops.registries import MLflowRegistry  # noqa: E402
from rlhf.errors import RLHFError  # noqa: E402
from rlhf.registry.champion import ChampionRef  # noqa: E402
from rlhf.registry.promotion import PromotionDecision  # noqa: E402
from rlhf.registry.store import Candidate  # noqa: E402
from rlhf.registry.transaction import promote  # noqa: E402


def _deadly(verb: Callable[..., Any], *, after: bool, place: str | None) -> Callable[..., Any]:
    def call(self: MLflowRegistry, *arguments: Any) -> Any:
        hit = place is None or arguments[0] == place
        if hit and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = verb(self, *arguments)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def main() -> None:
    job = json.loads(sys.argv[1])
    if job.get("die"):
        verb, when, place = job["die"]
        setattr(
            MLflowRegistry, verb, _deadly(getattr(MLflowRegistry, verb), after=when == "after", place=place)
        )
    registry = MLflowRegistry(MlflowClient(job["uri"], job["uri"]), prefix=job["prefix"])
    proxy = Candidate(f"proxy-{job['digest']}", job["path"])
    candidate = Candidate(job["digest"], job["path"], reward_models={"proxy": proxy}, by="worker")
    decision = PromotionDecision(
        verdict="promote",
        mode="enforce",
        candidate_digest=job["digest"],
        champion=ChampionRef.model_validate(job["champion"]),
        reasons=(),
    )
    try:
        promote(registry, candidate, decision)
    except RLHFError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
