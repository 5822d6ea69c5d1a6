"""Collection: models that nothing needs any more leave the store.

- A model is *needed* when the user's repository names its manifest anywhere: in a reference, a reflog, an index, an operation
  under way. The caller finds that out (`Needs`); what it could not look into counts as needed.
- An unneeded model goes when it has been seen so, and not been used, for the whole *grace* time. (Git writes its index only after
  the filter has answered: what was just added is unneeded for a moment.)
- A model that was *only cleaned* (a `git status` while a trainer overwrites the file) goes early: Git never kept its manifest, so
  nothing can ask for it, and whoever adds the file makes it again.

`plan` decides, `collect` does it. What is used between the two stays.
"""

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from git_gru.errors import StoreError
from git_gru.store.freeing import set_free
from git_gru.store.locking import one_at_a_time
from git_gru.store.rewrite import Keep, Rewrite, free_of_garbage
from git_gru.store.store import Store
from git_gru.store.trees import items_there

DAY = 86_400.0
_AT_LEAST = 60.0
"""Seconds for which even a model that was only cleaned is kept: Git may take a while from the answer to keeping the manifest."""

_ENDED = 1.0
"""Seconds that suffice where the git command which was answered has ended. (Another may have been answered just before it.)"""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How long unneeded models are kept, in seconds: `grace` all, `early` those only cleaned; of these `most` may be younger."""

    grace: float = 14 * DAY
    early: float = 600.0
    most: int = 4


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What the user's repository needs of its store.

    `digests` are the models whose manifests it names. `absent` counts the objects that it names and does not have here (a
    partial clone): each may be a manifest. `adding_since` is when the oldest git command that may be adding files now began.
    `in_git` tells whether Git keeps the blob of that name.
    """

    digests: frozenset[str]
    absent: int
    adding_since: float | None
    in_git: Callable[[bytes], bool]


class Reason(StrEnum):
    """Why an unneeded model goes, or stays."""

    EXPIRED = "expired"
    ONLY_CLEANED = "only cleaned"
    GRACE = "grace"
    ADDING = "adding"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """An unneeded model: when it was last used (None: not known) and since when it has been seen unneeded, in seconds since 1970.

    `frees` is how many stored bytes go with it that no model before it in the list takes along.
    """

    digest: str
    reason: Reason
    used: float | None
    since: float
    frees: int = 0

    @property
    def goes(self) -> bool:
        """Whether it is to be dropped."""
        return self.reason in (Reason.EXPIRED, Reason.ONLY_CLEANED)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a collection would do. `asked` and `born` (of the cache) say when it was made."""

    models: int
    unneeded: tuple[Unneeded, ...]
    asked: float
    born: str
    clock_behind: float

    @property
    def drop(self) -> frozenset[str]:
        """The digests of the models that go."""
        return frozenset(model.digest for model in self.unneeded if model.goes)


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection did: the digests dropped, chunks encoded anew, and all packs' bytes and number before and after."""

    dropped: frozenset[str]
    rewritten: int
    bytes_before: int
    bytes_after: int
    packs_before: int
    packs_after: int


def plan(store: Store, find_needs: Callable[[], Needs], rules: Rules) -> Plan:
    """Which models a collection would drop now. `find_needs` looks at the user's repository."""
    stamps = store.stamps
    asked, born = stamps.now(), store.lookup.born()
    needs = find_needs()
    models = store.models()
    since = stamps.mark(models.keys() - needs.digests)
    used, now = stamps.stamps(), stamps.now()
    unneeded = [
        Unneeded(digest=digest, reason=Reason.GRACE, used=used.get(digest), since=since[digest])
        for digest in sorted(since, key=lambda digest: -used.get(digest, 0.0))
    ]
    busy = asked if needs.adding_since is None else min(asked, needs.adding_since)
    judged = [_judged(store, model, needs, busy, now, rules.grace) for model in unneeded]
    return Plan(
        models=len(models),
        unneeded=tuple(_measured(store, models, _early(store, judged, needs, now, rules))),
        asked=asked,
        born=born,
        clock_behind=max(0.0, asked - stamps.clock()),
    )


def collect(
    store: Store, plan: Plan, own_of: Callable[[str], Collection[str] | None], *, keep: Keep = free_of_garbage
) -> Collected:
    """Drops the models that `plan` says, but for those that were used since, and sweeps what killed processes left.

    `own_of` gives the chunks that a model's manifest names, None where that is not known. Raises `RewriteRunningError`.
    """

    def still() -> Set[str]:
        if store.lookup.born() != plan.born:
            return frozenset()  # the stamps were lost meanwhile
        used = store.stamps.stamps()
        return {digest for digest in plan.drop if used.get(digest, 0.0) < plan.asked}

    with one_at_a_time(store.folder):
        with Rewrite(store, drop=plan.drop) as work:
            set_free(work, own_of)
            work.copy(keep)
            dropped = work.swap(still)
        after = [pack.size for pack in store.objects.packs()]
        return Collected(
            dropped=frozenset(dropped),
            rewritten=work.rewritten,
            bytes_before=sum(pack.size for pack in work.packs),
            bytes_after=sum(after),
            packs_before=len(work.packs),
            packs_after=len(after),
        )


def _judged(store: Store, model: Unneeded, needs: Needs, busy: float, now: float, grace: float) -> Unneeded:
    """The model with the reason why it stays, or that its grace is over. What was used since `busy` may be just being added."""
    reason = Reason.EXPIRED if now - max(model.since, model.used or 0.0) >= grace else Reason.GRACE
    if model.used is not None and model.used >= busy:
        reason = Reason.ADDING
    elif needs.absent and not store.stamps.names(model.digest):
        reason = Reason.ABSENT
    return replace(model, reason=reason)


def _early(store: Store, judged: list[Unneeded], needs: Needs, now: float, rules: Rules) -> list[Unneeded]:
    """`judged` (latest used first) with those that go early: only cleaned, and old or many."""
    result = []
    cleaned = 0
    released = store.stamps.released()  # before Git is asked what it keeps
    for model in judged:
        names = store.stamps.names(model.digest) if model.reason is Reason.GRACE else []
        if names and model.used is not None and not any(map(needs.in_git, names)):
            cleaned += 1
            age = now - model.used
            least = _ENDED if model.digest in released else _AT_LEAST
            if age >= rules.early or (cleaned > rules.most and age >= least):
                model = replace(model, reason=Reason.ONLY_CLEANED)
        result.append(model)
    return result


def _measured(store: Store, models: dict[str, bytes], judged: list[Unneeded]) -> list[Unneeded]:
    """The models, those that go first, with the bytes that each would free were those before it gone."""
    if not judged:
        return judged
    unneeded = {model.digest for model in judged}
    seen: set[bytes] = set()
    for digest, tree in models.items():
        if digest not in unneeded:
            seen.update(oid for _, oid, _ in items_there(store.objects, tree))
    measured = []
    for model in sorted(judged, key=lambda model: not model.goes):
        new = {oid for _, oid, _ in items_there(store.objects, models[model.digest])} - seen
        seen |= new
        measured.append(replace(model, frees=sum(_stored(store, oid) for oid in new)))
    return measured


def _stored(store: Store, oid: bytes) -> int:
    try:
        return store.objects.head(oid, 1)[0]
    except StoreError:
        return 0
