"""Import, export and undo, from the first check to the refreshed worktree.

In this order: what stands in the way is refused; the survey; the files (in the store, or as blobs); the rewritten history, in a
pack of its own; Git's check that all of it is there; then, in one transaction, the references. Until that moment nothing that
anybody sees has changed, and a run that is killed leaves only objects that nothing names.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from git_gru.git.install import Scope, install, is_installed
from git_gru.git.migrate import refs
from git_gru.git.migrate.attributes import Filters
from git_gru.git.migrate.commits import HistoryRewriter, changed, rewrite_all
from git_gru.git.migrate.files import export_files, import_files
from git_gru.git.migrate.notes import NotesTrees
from git_gru.git.migrate.objects import AS_STORED, Names, NewPack, ObjectReader, Sink
from git_gru.git.migrate.pointers import LfsObjects
from git_gru.git.migrate.refs import Move, Ref
from git_gru.git.migrate.survey import Survey
from git_gru.git.migrate.trees import Blobs, Direction, Patterns, TreeRewriter
from git_gru.git.migrate.worktree import follow, require_free, require_ready
from git_gru.git.repository import Repository
from git_gru.git.run import GitCommandError
from git_gru.store.store import Store


class Stage(StrEnum):
    """What a migration is doing."""

    SURVEY = "looking at commits"
    FILES = "reading and writing models"
    REWRITE = "rewriting commits"


Progress = Callable[[Stage, int, int], None]
"""Is told the stage, how much of it is done, and how much there is: commits, or bytes of models."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be migrated. `refs` limits it to these branches and tags; `map_file` is where the old and new ids of all
    commits are written; `program` is how Git calls git-gru, for a repository where it is not installed yet.
    """

    direction: Direction
    patterns: tuple[str, ...]
    program: str
    refs: tuple[str, ...] = ()
    dry_run: bool = False
    map_file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Versions:
    """A path that was migrated: how many distinct versions it has, and their bytes as files."""

    path: str
    count: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What a migration did, or would do.

    `id` is None where nothing moved. `commits` maps old ids to new ones, unchanged commits included (empty for a dry run);
    `rewritten` is how many differ. `files` and `bytes` count distinct files. `unsigned` are the commits and tags, by old ids,
    that lose a signature. `stays`: path -> filter, for files that match and that the attributes keep as they are. `raw`: path ->
    why a file that is called safetensors is kept as raw bytes. `matched` says whether any file matched at all.
    """

    id: str | None
    matched: bool
    examined: int
    rewritten: int
    files: int
    bytes: int
    models: tuple[Versions, ...]
    moves: tuple[Move, ...]
    unsigned: tuple[str, ...]
    stays: Mapping[str, str]
    raw: Mapping[str, str]
    commits: Mapping[str, str]


def migrate(repo: Repository, request: Request, progress: Progress) -> Migration:
    """Carries out an import or export.

    Raises an `InputError` where the repository is not ready for it or a file cannot be turned, and a `StoreError` where something
    is missing or damaged; nothing is changed then.
    """
    require_ready(repo)
    tips = refs.scope(repo, request.refs)
    notes = [] if request.refs else refs.notes(repo)
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(ObjectReader(repo))
        filters = stack.enter_context(Filters())
        work = _Work(
            repo, request, reader, Patterns(request.patterns, request.direction, filters), tips, progress
        )
        survey, would = work.survey()
        moves = _moves(tips, would)
        require_free(repo, moves)
        survey.require_lfs_objects()
        survey.require_models(Store.find(repo.gru_dir))
        told = _told(survey, would)
        if request.dry_run:
            return replace(told, moves=tuple(moves))
        if not moves:
            with _map_file(request.map_file, would) as commits:
                return replace(told, commits=commits)
        store = stack.enter_context(contextlib.closing(repo.store()))
        pack = stack.enter_context(NewPack(repo))
        return work.carry_out(told, survey, store, pack, notes)


def undo(repo: Repository, id: str | None) -> tuple[str, list[Move]]:
    """Puts the references of a migration (by default the last) back; returns its id and what it had moved.

    Raises `NoMigrationError`, `RefMovedError` where a reference was moved since, and what stands in the way.
    """
    require_ready(repo)
    found = id or next(reversed(refs.ids(repo)), "")
    moves = refs.kept(repo, found)
    require_free(repo, moves)
    refs.move_back(repo, moves, found, f"gru migrate: undo {found}")
    follow(repo, [Move(ref=move.ref, old=move.new, new=move.old) for move in moves])
    return found, moves


class _Work:
    """One migration under way."""

    def __init__(
        self,
        repo: Repository,
        request: Request,
        reader: ObjectReader,
        patterns: Patterns,
        tips: Sequence[Ref],
        progress: Progress,
    ) -> None:
        self.repo, self.request, self.reader, self.patterns = repo, request, reader, patterns
        self.tips, self.progress = tips, progress
        self.lfs = LfsObjects(repo)
        self.commits = _commits(repo, tips)

    def survey(self) -> tuple[Survey, HistoryRewriter]:
        """What there is to do, with a history that only has names."""
        survey = Survey(self.request.direction, self.reader, self.lfs)
        return survey, self._rewritten(survey, Names(), Stage.SURVEY)

    def carry_out(
        self, told: Migration, survey: Survey, store: Store, pack: NewPack, notes: Sequence[Ref]
    ) -> Migration:
        """Does it, up to the worktree."""
        repo, request = self.repo, self.request
        say = self._counted(told.bytes)
        if request.direction is Direction.EXPORT:
            turned = export_files(survey.blobs, store, self.reader, pack, say)
        else:
            turned = import_files(survey.blobs, store, self.reader, self.lfs, pack, say)
        history = self._rewritten(turned, pack, Stage.REWRITE)
        moves = _moves(self.tips, history) + self._notes(notes, history, pack)
        pack.finish()
        _require_whole(repo, moves)
        id = refs.new_id(repo)
        if repo.worktree is not None and request.direction is not Direction.EXPORT and not is_installed(repo):
            install(repo, Scope.LOCAL, request.program)
        name = "export" if request.direction is Direction.EXPORT else "import"
        with _map_file(request.map_file, history) as commits:
            refs.move(repo, moves, id, f"gru migrate: {name} {' '.join(request.patterns)}")
        follow(repo, moves)
        return replace(
            told,
            id=id,
            moves=tuple(moves),
            raw={_text(place.path): why for place, why in turned.raw},
            commits=commits,
        )

    def _counted(self, every: int) -> Callable[[int], None]:
        """Turns what is told of single reads and writes into progress over all files."""
        done = 0

        def more(count: int) -> None:
            nonlocal done
            done += count
            self.progress(Stage.FILES, done, every)

        more(0)
        return more

    def _rewritten(self, blobs: Blobs, sink: Sink, stage: Stage) -> HistoryRewriter:
        trees = TreeRewriter(self.reader, self.patterns, blobs, sink)
        importing = self.request.direction is not Direction.EXPORT
        history = HistoryRewriter(self.reader, trees, sink, sticky=importing)
        rewrite_all(history, self.commits, lambda done: self.progress(stage, done, len(self.commits)))
        for tip in self.tips:
            if tip.kind == "tag":
                history.tag(bytes.fromhex(tip.oid))
        return history

    def _notes(self, notes: Sequence[Ref], history: HistoryRewriter, sink: Sink) -> list[Move]:
        renamed = changed(history.commits) | changed(history.tags)
        trees = NotesTrees(self.reader, renamed, sink)
        noted = HistoryRewriter(self.reader, trees, sink, sticky=False)
        rewrite_all(noted, _commits(self.repo, notes))
        return _moves(notes, noted)


def _commits(repo: Repository, tips: Sequence[Ref]) -> list[bytes]:
    """All commits that these references reach, parents first."""
    if not tips:
        return []
    feed = "".join(f"{tip.oid}\n" for tip in tips if tip.kind in ("commit", "tag")).encode()
    listed = repo.git("rev-list", "--topo-order", "--reverse", "--stdin", input=feed, env=AS_STORED)
    return [bytes.fromhex(line) for line in listed.decode().splitlines()]


def _moves(tips: Sequence[Ref], history: HistoryRewriter) -> list[Move]:
    moves = []
    for tip in tips:
        oid = bytes.fromhex(tip.oid)
        new = history.tags.get(oid) if tip.kind == "tag" else history.commits.get(oid)
        if new is not None and new != oid:
            moves.append(Move(ref=tip.name, old=tip.oid, new=new.hex()))
    return moves


def _told(survey: Survey, history: HistoryRewriter) -> Migration:
    versions: dict[bytes, list[int]] = {}
    for path, oid in survey.versions:
        versions.setdefault(path, []).append(survey.blobs[oid].size)
    return Migration(
        id=None,
        matched=survey.matched > 0,
        examined=len(history.commits),
        rewritten=len(changed(history.commits)),
        files=len(survey.blobs),
        bytes=sum(found.size for found in survey.blobs.values()),
        models=tuple(
            Versions(path=_text(path), count=len(sizes), bytes=sum(sizes))
            for path, sizes in sorted(versions.items())
        ),
        moves=(),
        unsigned=tuple(oid.hex() for oid in history.unsigned),
        stays={_text(path): filter for path, filter in sorted(survey.stays.items())},
        raw={},
        commits={},
    )


def _require_whole(repo: Repository, moves: Sequence[Move]) -> None:
    """Has Git walk the new history down to the last blob, as it does with what it fetches."""
    feed = "".join(f"{move.new}\n" for move in moves).encode()
    walk = ("rev-list", "--objects", "--quiet", "--exclude-promisor-objects", "--stdin", "--not", "--all")
    done = repo.completed(*walk, input=feed, env=AS_STORED)
    if done.returncode:
        raise GitCommandError(walk, done.returncode, done.stderr.decode("utf-8", "replace"))


@contextlib.contextmanager
def _map_file(file: Path | None, history: HistoryRewriter) -> Iterator[dict[str, str]]:
    """Old id -> new id of all commits. `file` has them too, `<old> <new>` a line, if the block succeeds."""
    commits = {old.hex(): new.hex() for old, new in history.commits.items()}
    if file is None:
        yield commits
        return
    building = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        building.write_text("".join(f"{old} {new}\n" for old, new in commits.items()))
        yield commits
        building.replace(file)
    finally:
        building.unlink(missing_ok=True)


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
