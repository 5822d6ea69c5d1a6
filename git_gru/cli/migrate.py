"""`git gru migrate`: import, export, undo."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

from git_gru.cli.boundary import printable, say
from git_gru.cli.render import emit_json, human_size, json_option, line, plural, table
from git_gru.git.history import model_history
from git_gru.git.install import program_command
from git_gru.git.migrate.migration import Migration, Request, Stage, migrate, undo
from git_gru.git.migrate.refs import KEPT, Move
from git_gru.git.migrate.trees import Direction
from git_gru.git.repository import Repository
from git_gru.store.locking import RewriteRunningError
from git_gru.store.repack import repack

_SHOWN = 20
_REPACK = "repacking"


@click.group("migrate", short_help="Make a history's files models, or its models files again.")
def command() -> None:
    """Rewrite history: files that Git or git-lfs keeps become models in every commit (import), or models become plain files again
    (export). The old history is kept, and undo puts it back.
    """


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(
        (
            click.argument("patterns", nargs=-1, required=True, metavar="PATTERN…"),
            click.option(
                "--ref", "refs", multiple=True, metavar="REF",
                help="Rewrite this branch or tag only (may be given again). Default: all local ones, and notes.",
            ),
            click.option("--dry-run", is_flag=True, help="Say what would be rewritten and change nothing."),
            click.option(
                "--map", "map_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
                help="Write the old and the new id of every commit to FILE, one pair a line.",
            ),
            json_option,
        )
    ):  # fmt: skip
        function = option(function)
    return function


@command.command("import", short_help="Make matching files models, in every commit.")
@click.option(
    "--from", "source", type=click.Choice(["lfs", "git"]), required=True, help="What keeps the files now."
)
@_options
@click.option("--no-repack", is_flag=True, help="Leave the store as it is, without deltas between versions.")
def import_models(
    source: str,
    patterns: tuple[str, ...],
    refs: tuple[str, ...],
    dry_run: bool,
    map_file: Path | None,
    as_json: bool,
    no_repack: bool,
) -> int:
    """Make the files that match PATTERN models, in every commit.

    PATTERN is written as in .gitattributes: '*.safetensors', 'models/*.pt'. Each commit's .gitattributes gets the line that
    git gru track writes, from the first commit on that has such a file; git-lfs's line for it is replaced. Dates, authors,
    messages, merges, tags, notes and all other files stay; a signature does not survive a change of what it signs.

    \b
    --json: {"id": null or str, "dry_run": bool, "commits": {"examined", "rewritten"}, "files", "bytes",
             "models": [{"path", "versions", "bytes"}], "refs": [{"ref", "old", "new"}], "signatures_lost": [ids],
             "left": {path: filter}, "raw": {path: why}, "map": {old: new}}
    """
    direction = Direction.FROM_LFS if source == "lfs" else Direction.FROM_GIT
    repo, done = _run(Request(
        direction=direction, patterns=patterns, refs=refs, dry_run=dry_run, map_file=map_file, program=_program(),
    ))  # fmt: skip
    _show(done, as_json=as_json, dry_run=dry_run)
    if done.id and not no_repack and any(model.count > 1 for model in done.models):
        _repack(repo)
    return 0 if done.matched else 1


@command.command("export", short_help="Make models plain files again, in every commit.")
@_options
def export_models(
    patterns: tuple[str, ...], refs: tuple[str, ...], dry_run: bool, map_file: Path | None, as_json: bool
) -> int:
    """Make the models that match PATTERN plain files again, in every commit, and take the pattern out of .gitattributes.

    After an import from git, this gives the original commits back, ids included (but for signatures).

    \b
    --json: the same keys as `git gru migrate import --json`
    """
    _, done = _run(Request(
        direction=Direction.EXPORT, patterns=patterns, refs=refs, dry_run=dry_run, map_file=map_file, program=_program(),
    ))  # fmt: skip
    _show(done, as_json=as_json, dry_run=dry_run)
    return 0 if done.matched else 1


@command.command("undo", short_help="Put the branches and tags back.")
@click.argument("id", required=False)
@json_option
def undo_migration(id: str | None, as_json: bool) -> None:
    """Put the branches and tags back where they were before the migration ID (default: the last one).

    Refused when one of them was moved since.

    \b
    --json: {"id", "refs": [{"ref", "old", "new"}]}
    """
    found, moves = undo(Repository.find(), id)
    if as_json:
        back = [Move(ref=move.ref, old=move.new, new=move.old) for move in moves]
        emit_json({"id": found, "refs": _refs_json(back)})
        return
    for move in moves:
        line(f"{_short(move.ref)}  {move.new[:12]} -> {move.old[:12]}")
    line(f"the migration {found} is undone")


def _program() -> str:
    return program_command(os.environ.get("PATH", os.defpath))


def _run(request: Request) -> tuple[Repository, Migration]:
    repo = Repository.find()
    with _Progress() as progress:
        return repo, migrate(repo, request, progress.stage)


def _repack(repo: Repository) -> None:
    store = repo.store()
    history = model_history(repo, store.stamps)
    try:
        with _Progress() as progress:
            repack(
                store,
                history.lineages.values(),
                history.keep_plain,
                ranks=history.ranks,
                progress=lambda done, every: progress.show(_REPACK, done, every),
            )
    except RewriteRunningError as error:
        say(f"the models are imported, and not repacked: {error}")


def _show(done: Migration, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        emit_json(_json(done, dry_run=dry_run))
        return
    if done.models:
        rows = [(model.path, str(model.count), human_size(model.bytes)) for model in done.models[:_SHOWN]]
        table(("model", "versions", "bytes"), rows, right=("versions", "bytes"))
        _more(len(done.models))
        line()
    _show_exceptions(done, dry_run=dry_run)
    if not done.matched:
        line("no file in this history matches: nothing to do")
    elif not done.rewritten:
        line("nothing to do: every matching file is in the wanted form already")
    else:
        would = "would be " if dry_run else ""
        commits = f"{done.rewritten} of {plural(done.examined, 'commit')} {would}rewritten"
        line(f"{commits}; {plural(done.files, 'distinct file')}, {human_size(done.bytes)}")
    for move in done.moves[:_SHOWN]:
        line(f"  {_short(move.ref)}  {move.old[:12]}" + ("" if dry_run else f" -> {move.new[:12]}"))
    _more(len(done.moves))
    if done.id:
        kept = f"{KEPT}{done.id}"
        line()
        line(f"the old history is kept below {kept}/old; back to it: git gru migrate undo")
        line("once you are sure, this lets it go (and git gc then frees its space):")
        line(f"  git for-each-ref --format='delete %(refname)' {kept} | git update-ref --stdin")
        line("what was pushed before has to be replaced: git push --force, and everyone clones anew")


def _show_exceptions(done: Migration, *, dry_run: bool) -> None:
    """What was not done as one might expect."""
    if done.unsigned:
        verb = "would lose" if dry_run else "lost"
        line(f"{plural(len(done.unsigned), 'commit or tag')} {verb} a signature (it signed the old content):")
        for oid in done.unsigned[:_SHOWN]:
            line(f"  {oid[:12]}")
        _more(len(done.unsigned))
    for path, filter in list(done.stays.items())[:_SHOWN]:
        line(
            f"left as it is: {path} (another line of .gitattributes gives it the filter {filter}: name its pattern)"
        )
    _more(len(done.stays))
    for path, why in list(done.raw.items())[:_SHOWN]:
        line(f"kept as raw bytes, because it is no valid safetensors file: {path}: {why}")
    _more(len(done.raw))


def _more(count: int) -> None:
    if count > _SHOWN:
        line(f"  … and {count - _SHOWN} more")


def _json(done: Migration, *, dry_run: bool) -> dict[str, object]:
    return {
        "id": done.id,
        "dry_run": dry_run,
        "commits": {"examined": done.examined, "rewritten": done.rewritten},
        "files": done.files,
        "bytes": done.bytes,
        "models": [
            {"path": model.path, "versions": model.count, "bytes": model.bytes} for model in done.models
        ],
        "refs": [{**entry, "new": None} if dry_run else entry for entry in _refs_json(done.moves)],
        "signatures_lost": list(done.unsigned),
        "left": dict(done.stays),
        "raw": dict(done.raw),
        "map": dict(done.commits),
    }


def _refs_json(moves: "tuple[Move, ...] | list[Move]") -> list[dict[str, object]]:
    return [{"ref": move.ref, "old": move.old, "new": move.new} for move in moves]


def _short(ref: str) -> str:
    return ref.removeprefix("refs/heads/").removeprefix("refs/")


class _Progress:
    """One live line on stderr for each stage, in a terminal only."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stderr, highlight=False)
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def stage(self, stage: Stage, done: int, every: int) -> None:
        """What a migration tells."""
        self.show(stage.value, done, every, sizes=stage is Stage.FILES)

    def show(self, what: str, done: int, every: int, *, sizes: bool = True) -> None:
        """Moves the line `what` on."""
        if self._live.disable:
            return
        if what not in self._tasks:
            self._tasks[what] = self._live.add_task(printable(what), total=every, count="")
        count = f"{human_size(done)} of {human_size(every)}" if sizes else f"{done} of {every}"
        self._live.update(self._tasks[what], completed=done, total=every, count=count)
