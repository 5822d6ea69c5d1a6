"""The references of a migration: which it rewrites, how they move, and where the old ones are kept.

All of them move in one transaction of Git, each from the value that it had when the migration began: one that somebody else has
moved meanwhile stops all. The same transaction writes `refs/gru/migrate/<id>/old/<name>` and `…/new/<name>` (`<name>` without
`refs/`), which keep the old history alive and say what a later `undo` has to find unchanged.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.git.commits import RefMovedError
from git_gru.git.repository import Repository
from git_gru.git.revisions import UnknownRevisionError

KEPT = "refs/gru/migrate/"
_SCOPE = ("refs/heads/", "refs/tags/")
_NOTES = "refs/notes/"


class NoMigrationError(InputError):
    """There is no such migration to undo."""


class Ref(NamedTuple):
    """A reference: its full name, the object that it names (40 hex digits) and that object's kind."""

    name: str
    oid: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Move:
    """A reference that goes from one object (40 hex digits) to another."""

    ref: str
    old: str
    new: str


def scope(repo: Repository, names: Sequence[str]) -> list[Ref]:
    """The branches and tags that `names` stand for; by default all of this repository. Raises `UnknownRevisionError`."""
    there = {ref.name: ref for ref in _listed(repo, *_SCOPE)}
    if not names:
        return list(there.values())
    found: dict[str, Ref] = {}
    for name in names:
        full = repo.git(
            "rev-parse", "--symbolic-full-name", "--verify", "--quiet", "--end-of-options", name, check=False
        )
        ref = there.get(
            full.decode("utf-8", "surrogateescape").strip().splitlines()[-1] if full.strip() else ""
        )
        if ref is None:
            raise UnknownRevisionError(
                f"{name} is no branch or tag of this repository",
                hint="See what there is: git branch, git tag. Others, such as origin/main, are not rewritten.",
            )
        found[ref.name] = ref
    return list(found.values())


def notes(repo: Repository) -> list[Ref]:
    """The references of notes."""
    return [ref for ref in _listed(repo, _NOTES) if ref.kind == "commit"]


def new_id(repo: Repository) -> str:
    """An id for a migration that begins now; later ones sort behind."""
    id = now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    taken, count = set(ids(repo)), 1
    while id in taken:
        count += 1
        id = f"{now}-{count}"
    return id


def ids(repo: Repository) -> list[str]:
    """The ids of the migrations that can be undone, oldest first."""
    found = {ref.name.removeprefix(KEPT).partition("/")[0] for ref in _listed(repo, KEPT)}
    return sorted(found, key=lambda id: (id.partition("-")[0], len(id), id))


def kept(repo: Repository, id: str) -> list[Move]:
    """What a migration moved. Raises `NoMigrationError`."""
    sides: dict[str, dict[str, str]] = {"old": {}, "new": {}}
    for ref in _listed(repo, f"{KEPT}{id}/"):
        side, _, name = ref.name.removeprefix(f"{KEPT}{id}/").partition("/")
        sides.setdefault(side, {})[f"refs/{name}"] = ref.oid
    moves = [
        Move(ref=name, old=oid, new=sides["new"][name])
        for name, oid in sides["old"].items()
        if name in sides["new"]
    ]
    if not moves:
        known = ids(repo)
        raise NoMigrationError(
            f"there is no migration {id}" if id else "there is no migration to undo",
            hint=f"There are: {', '.join(known)}"
            if known
            else "The references that it kept have been deleted.",
        )
    return moves


def move(repo: Repository, moves: Sequence[Move], id: str, message: str) -> None:
    """Moves all references or none, and keeps their old and new values. Raises `RefMovedError`."""
    lines = [f"update {move.ref}\0{move.new}\0{move.old}\0" for move in moves]
    for move in moves:
        name = move.ref.removeprefix("refs/")
        lines.append(f"create {KEPT}{id}/old/{name}\0{move.old}\0")
        lines.append(f"create {KEPT}{id}/new/{name}\0{move.new}\0")
    _transaction(repo, lines, moves, message)


def move_back(repo: Repository, moves: Sequence[Move], id: str, message: str) -> None:
    """Takes `move` back. Raises `RefMovedError` when one of the references is not where it left it."""
    lines = [f"update {move.ref}\0{move.old}\0{move.new}\0" for move in moves]
    for move in moves:
        name = move.ref.removeprefix("refs/")
        lines.append(f"delete {KEPT}{id}/old/{name}\0{move.old}\0")
        lines.append(f"delete {KEPT}{id}/new/{name}\0{move.new}\0")
    expected = [Move(ref=move.ref, old=move.new, new=move.old) for move in moves]
    _transaction(repo, lines, expected, message)


def _transaction(repo: Repository, lines: Sequence[str], moves: Sequence[Move], message: str) -> None:
    text = "".join(["start\0", *lines, "prepare\0", "commit\0"])
    with _undisturbed():
        done = repo.completed(
            "update-ref", "-m", message, "--stdin", "-z", input=text.encode("utf-8", "surrogateescape")
        )
    if done.returncode:
        now = {ref.name: ref.oid for ref in _listed(repo, "refs/")}
        for move in moves:
            if now.get(move.ref) != move.old:
                raise RefMovedError(
                    f"{move.ref} is at {now.get(move.ref, 'no commit')[:12]}, not at {move.old[:12]}: it was moved "
                    "meanwhile; nothing was changed",
                    hint=f"See where it is: git log {move.ref}; the old history is below {KEPT}",
                )
        raise InputError(
            f"Git does not move the branches: {done.stderr.decode('utf-8', 'replace').strip()}",
            hint="Nothing was changed. If another git command was running, wait for it and run this again.",
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignores Ctrl-C, in the child as well, for the moment in which the references move."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _listed(repo: Repository, *prefixes: str) -> list[Ref]:
    """The references below these prefixes, without symbolic ones."""
    format = "%(refname) %(objectname) %(objecttype) %(symref)"
    lines = repo.git("for-each-ref", f"--format={format}", *prefixes).decode("utf-8", "surrogateescape")
    rows = (line.split(" ") for line in lines.splitlines())
    return [Ref(name, oid, kind) for name, oid, kind, symbolic in rows if not symbolic]
