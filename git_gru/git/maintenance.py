"""Maintenance in the background, as `git gc --auto` is: dropping what nothing needs, and repacking once enough has gathered.

The filter asks when it ends whether it is due, and starts a process of its own that Git does not wait for. One runs at a time, at
low priority, and afterwards rests for twenty times as long as it took, and for `gru.autoInterval` (2m) at least where there was
something to do: it never takes more than a twentieth of the time. Models that Git only looks at do not wait for that (`Upkeep`).

Settings: `gru.autoMaintenance` (true), `gru.autoPack` (50 packs; 0 leaves repacking out), `gru.autoInterval` (2m).
"""

import contextlib
import fcntl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from git_gru.errors import InputError
from git_gru.git.collecting import collection_rules, parse_duration, plan_collection, run_collection
from git_gru.git.history import model_history
from git_gru.git.repository import Repository
from git_gru.git.run import start_apart
from git_gru.store.collect import Collected
from git_gru.store.pack_reader import Pack
from git_gru.store.repack import RepackReport, repack
from git_gru.store.rewrite import LARGE_PACK, free_of_garbage, mostly_used
from git_gru.store.store import Store
from git_gru.store.upkeep import Upkeep

PACKS = 50
"""Packs that are joined: opening so many costs each git command 2 ms, and finding a chunk in them 0.01 ms (measured)."""

INTERVAL = 120.0
_SHARE = 20
_AFTER_FAILURE = 3600.0
_LOG = "maintenance.log"
_LONGEST_LOG = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the repository's settings say."""

    enabled: bool
    packs: int
    interval: float


@dataclass(frozen=True, kw_only=True)
class Maintained:
    """What one maintenance did: what it dropped and repacked, if anything, and the seconds it took."""

    collected: Collected | None
    repacked: RepackReport | None
    seconds: float


class MaintenanceRunningError(InputError):
    """Another maintenance of the same store is under way."""


def maintenance_settings(repo: Repository) -> Settings:
    """The settings. Raises `InputError` for one that cannot be."""
    listed = repo.git("config", "--null", "--get-regexp", r"^gru\.auto", check=False).decode(
        "utf-8", "replace"
    )
    found = {key.lower(): value for key, _, value in (item.partition("\n") for item in listed.split("\0"))}
    packs = found.get("gru.autopack", str(PACKS))
    if not packs.isdecimal():
        raise InputError(
            f"gru.autoPack: {packs!r} is not a number of packs", hint="Set it: git config gru.autoPack 50"
        )
    interval = found.get("gru.autointerval")
    return Settings(
        enabled=found.get("gru.automaintenance", "true").lower() not in ("false", "no", "off", "0", ""),
        packs=int(packs),
        interval=INTERVAL if interval is None else parse_duration(interval, where="gru.autoInterval"),
    )


def start_if_due(repo: Repository, store: Store, program: Sequence[str]) -> bool:
    """Starts `program` (an argument list) in the background where maintenance is due; whether it did."""
    settings = maintenance_settings(repo)
    if not Upkeep(store.lookup).claim(settings.interval) or not settings.enabled:
        return False
    with _log(store) as log:
        start_apart(program, cwd=repo.common_dir, log=log)
    return True


def maintain(repo: Repository, store: Store) -> Maintained:
    """Drops what nothing needs, and repacks when there are many packs. Raises `MaintenanceRunningError`."""
    settings = maintenance_settings(repo)
    upkeep = Upkeep(store.lookup)
    with _alone(store):
        began = time.monotonic()
        pause = _AFTER_FAILURE
        upkeep.begin()
        try:
            collected = repacked = None
            plan = plan_collection(repo, store, collection_rules(repo))
            if plan.drop:
                collected = run_collection(repo, store, plan, keep=_worth_keeping)
            packs = [pack for pack in store.objects.packs() if pack.size < LARGE_PACK]
            if len(packs) >= settings.packs > 0:
                history = model_history(repo, store.stamps)
                repacked = repack(
                    store, history.lineages.values(), history.keep_plain, ranks=history.ranks, anew=False
                )
            seconds = time.monotonic() - began
            idle = collected is None and repacked is None
            pause = max(0.0 if idle else settings.interval, _SHARE * seconds)
        finally:
            upkeep.rest(pause)
        return Maintained(collected=collected, repacked=repacked, seconds=seconds)


def _worth_keeping(pack: Pack, used: int, dead: int) -> bool:
    """Leaves packs without garbage, and large ones with little: moving gigabytes to free megabytes would take longest."""
    return free_of_garbage(pack, used, dead) or mostly_used(pack, used, dead)


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    with open(store.folder / "maintenance.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MaintenanceRunningError(
                "the store's maintenance is under way in another process",
                hint=f"Its log: {store.folder / _LOG}",
            ) from None
        yield


@contextlib.contextmanager
def _log(store: Store) -> Iterator[IO[bytes]]:
    """The log that background processes write, begun anew when it is long."""
    path = store.folder / _LOG
    if path.exists() and path.stat().st_size > _LONGEST_LOG:
        path.replace(path.with_suffix(".log.old"))
    with path.open("ab") as log:
        yield log
