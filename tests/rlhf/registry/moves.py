"""Candidates, decisions and promotions, made up by digest."""

from rlhf.registry.champion import ChampionRef
from rlhf.registry.promotion import CriterionResult, PromotionDecision
from rlhf.registry.store import CHAMPION, Candidate, at
from rlhf.registry.transaction import PromotionOutcome, promote
from tests.rlhf.registry.memory_store import MemoryStore


def candidate(digest: str) -> Candidate:
    models = {role: Candidate(f"{role}-{digest}", f"models/{role}-{digest}") for role in ("proxy", "judge")}
    return Candidate(digest=digest, path=f"models/{digest}", reward_models=models, by="ann")  # type: ignore[arg-type]


def decision(
    store: MemoryStore, digest: str, *, wins: bool = True, mode: str = "enforce"
) -> PromotionDecision:
    current = at(store, CHAMPION)
    champion = current.as_champion() if current else ChampionRef()
    verdict = "already_champion" if champion.digest == digest else "promote" if wins else "reject"
    reason = CriterionResult(
        metric="eval/kl",
        test="threshold",
        outcome="met" if wins else "failed",
        value=9.0,
        reason="eval/kl is 9.",
    )
    return PromotionDecision.model_validate(
        {
            "verdict": verdict,
            "mode": mode,
            "candidate_digest": digest,
            "champion": champion,
            "reasons": [reason],
        }
    )


def crown(store: MemoryStore, digest: str, *, wins: bool = True) -> PromotionOutcome:
    return promote(store, candidate(digest), decision(store, digest, wins=wins))


def store_of(*champions: str) -> MemoryStore:
    store = MemoryStore()
    for digest in champions:
        crown(store, digest)
    return store
