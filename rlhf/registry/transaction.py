"""Moves in the registry: each is made as a whole or not at all, whenever its process dies.

A move opens a journal in the registry itself, checks that the champion is still the one it rests on,
registers versions (which moves nothing), and then replaces the journal by one that holds every alias to set.
That single write is the commit: an interruption before it is undone by closing the journal, one after it is
finished by setting the same aliases again. Whoever comes next does either, see :func:`recover`.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rlhf.errors import PromotionError
from rlhf.registry.champion import ChampionRef
from rlhf.registry.journal import HISTORY_PREFIX, Journal
from rlhf.registry.promotion import PromotionDecision, decision_tags
from rlhf.registry.store import (
    CANDIDATE,
    CHAMPION,
    MODELS,
    POLICY,
    PREVIOUS,
    PRUNED_TAG,
    REWARD_MODEL,
    ROLES,
    Alias,
    Candidate,
    RegisteredVersion,
    RegistryStore,
    at,
    by_digest,
    place,
    reward_model_tag,
)

logger = logging.getLogger(__name__)

LEASE_SECONDS = 600.0
"""After this long a move that was opened on another machine counts as dead; a living one takes seconds."""

DECISION_TAG = "promotion.decision"
_RUN_TAGS = ("zenml.run_name", "mlflow.run_id")

Outcome = Literal["promoted", "rejected", "undecided", "awaits_approval", "already_champion", "dry_run"]
Repair = Literal["finished", "undone"]


class PromotionOutcome(BaseModel):
    """What was done; it survives JSON. ``version`` is the candidate's, ``None`` when nothing was written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Outcome
    version: str | None
    champion: ChampionRef
    previous: ChampionRef


def promote(
    store: RegistryStore,
    candidate: Candidate,
    decision: PromotionDecision,
    expected_champion: ChampionRef | None = None,
    *,
    by: str | None = None,
    why: str | None = None,
) -> PromotionOutcome:
    """Carry a decision out: register the candidate and, if it won, make it the champion.

    A candidate that did not win is registered as well, with its verdict as tags, so that every decision can
    be read in the registry. The same call made again registers and moves nothing twice.

    Args:
        expected_champion: what the champion must still be; the decision's own by default.
        by: who answers for it; by default whoever started the run that made the candidate.
        why: the reason for the history; the decision's summary by default.

    Raises:
        PromotionError: the decision is about another model, the champion is no longer the expected one, or
            another machine is in the middle of a move.
    """
    if decision.candidate_digest != candidate.digest:
        raise PromotionError(
            f"The decision is about model {decision.candidate_digest[:12]}, not {candidate.digest[:12]}; "
            "run the gate on this model."
        )
    expected = decision.champion if expected_champion is None else expected_champion
    if decision.mode == "dry_run":
        current = at(store, CHAMPION)
        return _outcome("dry_run", None, current, None)
    digest = decision_digest(decision)
    journal = Journal(
        action="promotion" if decision.promote else "candidacy",
        by=by or candidate.by or "unknown",
        why=why or decision.summary,
        place=store.place,
        evidence=_evidence(candidate, decision, digest),
    )
    with _open(store, journal):
        current = at(store, CHAMPION)
        if current is not None and current.digest == candidate.digest:
            store.follow()
            return _outcome("already_champion", current, current, None)
        if decision.promote or decision.verdict == "already_champion":
            _refuse_if_moved(expected, current)
        version = _register(store, candidate)
        store.set_tags(POLICY, version.version, {**decision_tags(decision), DECISION_TAG: digest})
        after = _points(CANDIDATE, version)
        if decision.promote:
            after |= _coronation(version, current)
        _commit(store, journal.decided(version.version, store.aliases(), after))
        if not decision.promote:
            return _outcome(decision.without_promotion, version, current, None)
        return _outcome("promoted", version, version, current)


def rollback(store: RegistryStore, to: str | None = None, *, by: str, why: str) -> PromotionOutcome:
    """Make an earlier champion the champion again; the one that steps down becomes the previous one.

    Args:
        to: version to return to; the previous champion by default.

    Raises:
        PromotionError: there is nothing to return to, the version never was champion, or its files are gone.
    """
    journal = Journal(action="rollback", by=by, why=why, place=store.place)
    with _open(store, journal):
        current = at(store, CHAMPION)
        if current is None:
            raise PromotionError(
                "There is no champion to roll back; `rlhf registry list` shows what there is."
            )
        if to is not None:
            target = version_named(store, to)
        elif (before := at(store, PREVIOUS)) is not None:
            target = before
        else:
            raise PromotionError(
                f"Version {current.version} is the first champion; name another version with --to."
            )
        if not _was_champion(target):
            raise PromotionError(
                f"Version {target.version} never was champion; to make it one by hand, use "
                f"`rlhf registry promote {target.version} --reason ...`."
            )
        return _crown(store, journal, target, current)


def appoint(store: RegistryStore, version: str, *, by: str, why: str) -> PromotionOutcome:
    """Make a registered version the champion because a person says so, whatever the gate said.

    Raises:
        PromotionError: no such version, or its files are gone.
    """
    journal = Journal(action="appointment", by=by, why=why, place=store.place)
    with _open(store, journal):
        return _crown(store, journal, version_named(store, version), at(store, CHAMPION))


def recover(store: RegistryStore, *, force: bool = False) -> Repair | None:
    """Finish or undo the move that a dead process has left, if there is one. Call it with the lock held.

    Args:
        force: also take over from another machine within the lease, because its process is known to be dead.

    Raises:
        PromotionError: the open move is another machine's, and may be alive.
    """
    journal = store.journal()
    if journal is None:
        return None
    if journal.place != store.place and journal.age_seconds < LEASE_SECONDS and not force:
        raise _busy(journal)
    if journal.phase == "decided":
        _finish(store, journal)
    else:
        store.follow()  # what it registered stays, without an alias
    store.end()
    done: Repair = "finished" if journal.phase == "decided" else "undone"
    logger.warning("A %s by %s, interrupted on %s, was %s.", journal.action, journal.by, journal.place, done)
    return done


def repair(store: RegistryStore, *, force: bool = False) -> Repair | None:
    """Recover, and bring every mirror to the registry even if no move was interrupted.

    Raises:
        PromotionError: as :func:`recover`.
    """
    with store.lock():
        done = recover(store, force=force)
        store.follow()
    return done


def settled_champion(store: RegistryStore) -> RegisteredVersion | None:
    """The champion, after what a dead process left was finished or undone. A living move on another machine
    is not waited for: whoever promotes later compares the champion again."""
    with store.lock():
        journal = store.journal()
        if journal is not None and (journal.place == store.place or journal.age_seconds >= LEASE_SECONDS):
            recover(store)
        return at(store, CHAMPION)


def history(store: RegistryStore) -> list[Journal]:
    """Every move that was made, newest first."""
    kept = (
        Journal.model_validate_json(value)
        for version in store.versions(POLICY)
        for tag, value in version.tags.items()
        if tag.startswith(HISTORY_PREFIX)
    )
    return sorted(kept, key=lambda journal: journal.at, reverse=True)


def decision_digest(decision: PromotionDecision) -> str:
    """SHA-256 of a decision with all its reasons: what the registry names as the evidence of a move."""
    return hashlib.sha256(decision.model_dump_json().encode()).hexdigest()


def version_named(store: RegistryStore, name: str) -> RegisteredVersion:
    """A version of the policy by its number (``3``, ``v3``) or alias.

    Raises:
        PromotionError: there is none.
    """
    wanted = store.aliases().get(f"{POLICY}@{name}", name.removeprefix("v"))
    for version in store.versions(POLICY):
        if version.version == wanted:
            return version
    raise PromotionError(f"The registry has no policy {name!r}; see `rlhf registry list`.")


def mark_pruned(store: RegistryStore, paths: Collection[str], *, by: str) -> list[str]:
    """Take versions out of every later move, because their files are about to be deleted.

    Args:
        paths: model directories that go; of what an alias names, nothing may be among them.

    Returns:
        The versions as ``model@version``.

    Raises:
        PromotionError: an alias names one of them by now, or another machine is in the middle of a move.
    """
    journal = Journal(action="pruning", by=by, why="retention", place=store.place)
    with _open(store, journal):
        held = store.aliases()
        going = [
            (model, version)
            for model in MODELS
            for version in store.versions(model)
            if version.path in paths and not version.pruned
        ]
        for model, version in going:
            for where, number in held.items():
                if where.startswith(f"{model}@") and number == version.version:
                    raise PromotionError(
                        f"Version {number} became {where} meanwhile; look at what would be deleted again."
                    )
        for model, version in going:
            store.set_tags(model, version.version, {PRUNED_TAG: f"{journal.at:%Y-%m-%dT%H:%M:%SZ}"})
        return [f"{model}@{version.version}" for model, version in going]


@contextmanager
def _open(store: RegistryStore, journal: Journal) -> Iterator[None]:
    """The lock and the open journal. An error before the commit closes it; the death of the process, or an
    error after the commit, leaves it to :func:`recover`."""
    with store.lock():
        recover(store)
        if not store.begin(journal):
            raise _busy(store.journal())
        made = False
        try:
            yield
            made = True
        finally:
            if made or store.journal() == journal:  # a committed journal is another one
                store.end()


def _crown(
    store: RegistryStore, journal: Journal, target: RegisteredVersion, current: RegisteredVersion | None
) -> PromotionOutcome:
    if current is not None and target.version == current.version:
        raise PromotionError(f"Version {target.version} is the champion already.")
    if target.pruned or not store.available(target):
        raise PromotionError(
            f"The files of version {target.version} are gone ({target.path}); choose another version."
        )
    _commit(store, journal.decided(target.version, store.aliases(), _coronation(target, current)))
    return _outcome("promoted", target, target, current)


def _coronation(new: RegisteredVersion, old: RegisteredVersion | None) -> dict[str, str | None]:
    """The policy's own alias comes last: who reads it from outside finds everything else in place."""
    left = _points(PREVIOUS, old) if old is not None else {}
    return {**left, **_points(CHAMPION, new)}


def _points(alias: Alias, version: RegisteredVersion) -> dict[str, str | None]:
    """The places that an alias has, with those of the reward models that belong to the policy."""
    reward_models = {place(REWARD_MODEL, alias, role): version.reward_model(role) for role in ROLES}
    return {**reward_models, place(POLICY, alias): version.version}


def _register(store: RegistryStore, candidate: Candidate) -> RegisteredVersion:
    tags = {}
    for role, model in candidate.reward_models.items():
        known = by_digest(store, REWARD_MODEL, model.digest) or store.register(REWARD_MODEL, model)
        tags[reward_model_tag(role)] = known.version
    version = by_digest(store, POLICY, candidate.digest) or store.register(POLICY, candidate)
    if tags:
        store.set_tags(POLICY, version.version, tags)
    return RegisteredVersion(version.version, version.digest, version.path, {**version.tags, **tags})


def _commit(store: RegistryStore, journal: Journal) -> None:
    _require_open(store, journal)
    store.record(journal)
    _finish(store, journal)


def _finish(store: RegistryStore, journal: Journal) -> None:
    for where, version in journal.after.items():
        # A process that was stopped for longer than the lease must not move what others moved since.
        _require_open(store, journal)
        store.set_alias(where, version)
    store.follow()
    store.set_tags(POLICY, str(journal.version), {journal.history_tag: journal.model_dump_json()})


def _require_open(store: RegistryStore, journal: Journal) -> None:
    found = store.journal()
    if found is None or found.id != journal.id:
        raise PromotionError(
            f"Another process closed this {journal.action}, which took longer than {LEASE_SECONDS:.0f} s; "
            "`rlhf registry history` says how it ended."
        )


def _refuse_if_moved(expected: ChampionRef, current: RegisteredVersion | None) -> None:
    actual = current.as_champion() if current else ChampionRef()
    if (expected.version, expected.digest) != (actual.version, actual.digest):
        raise PromotionError(
            f"The champion is {_name(actual)} and not {_name(expected)}, which this promotion rests on; "
            "another run moved it: evaluate against the new champion and decide again."
        )


def _busy(journal: Journal | None) -> PromotionError:
    who = f"A {journal.action} by {journal.by} on {journal.place}" if journal else "Another move"
    return PromotionError(
        f"{who} is under way; wait for it, or run `rlhf registry repair --force` if its process is dead."
    )


def _was_champion(version: RegisteredVersion) -> bool:
    champion = place(POLICY, CHAMPION)
    made = (Journal.model_validate_json(v) for k, v in version.tags.items() if k.startswith(HISTORY_PREFIX))
    return any(journal.after.get(champion) == version.version for journal in made)


def _evidence(candidate: Candidate, decision: PromotionDecision, digest: str) -> Mapping[str, str]:
    runs = {name: candidate.tags[name] for name in _RUN_TAGS if name in candidate.tags}
    return {"verdict": decision.verdict, "decision": digest, **runs}


def _name(champion: ChampionRef) -> str:
    return f"version {champion.version} ({str(champion.digest)[:12]})" if champion.exists else "nobody"


def _outcome(
    action: Outcome,
    version: RegisteredVersion | None,
    champion: RegisteredVersion | None,
    replaced: RegisteredVersion | None,
) -> PromotionOutcome:
    return PromotionOutcome(
        action=action,
        version=version.version if version else None,
        champion=champion.as_champion() if champion else ChampionRef(),
        previous=replaced.as_champion() if replaced else ChampionRef(),
    )
