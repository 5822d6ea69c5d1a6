"""`git gru log`."""

import itertools
import time

import click

from git_gru.cli.paths import PathsBehindDashes, pathspecs
from git_gru.cli.render import emit_json, human_number, human_size, json_option, line, table
from git_gru.git.changes import PathChange
from git_gru.git.inspect import LogEntry, model_log
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit


@click.command("log", cls=PathsBehindDashes, short_help="List the commits that touch models.")
@click.argument("rev", default="HEAD")
@click.option("-n", "--max-count", type=click.IntRange(min=1), help="Show at most this many commits.")
@json_option
@click.pass_context
def command(ctx: click.Context, rev: str, max_count: int | None, as_json: bool) -> None:
    """List the commits reachable from REV (default HEAD; A..B works) that touch models, newest first.

    new: raw bytes of the chunks that the commit's parents do not have, and the bytes that these take in the store.
    Metrics come from the trailers Gru-Metric-NAME of the commit's message.

    \b
    --json: [{"commit", "parents": [..], "time", "author", "subject", "metrics": {..}, "trailers": {..},
              "models": [{"path", "change": "added" | "changed" | "deleted" | "unreadable manifest"}], "new_raw", "new_stored"}]
    """
    repo = Repository.find()
    if ".." not in rev:
        resolve_commit(repo, rev)
    entries = list(itertools.islice(model_log(repo, [rev], pathspecs(ctx, repo)), max_count))
    if as_json:
        emit_json([_json(entry) for entry in entries])
    elif not entries:
        line(f"no commit in {rev} touches a model")
    else:
        _show(entries)


def _models(entry: LogEntry) -> dict[str, str]:
    """Path → what happened to the model there."""
    return {touched.path: _what(touched) for touched in entry.change.paths}


def _what(touched: PathChange) -> str:
    was_unreadable, is_unreadable = touched.unreadable
    if is_unreadable:
        return "unreadable manifest"
    if touched.before is None and not was_unreadable:
        return "added"
    return "deleted" if touched.after is None else "changed"


def _json(entry: LogEntry) -> dict[str, object]:
    change = entry.change
    return {
        "commit": change.commit,
        "parents": list(change.parents),
        "time": change.time,
        "author": change.author,
        "subject": change.subject,
        "metrics": change.metrics,
        "trailers": change.trailers,
        "models": [{"path": path, "change": what} for path, what in _models(entry).items()],
        "new_raw": entry.sizes.raw,
        "new_stored": entry.sizes.stored,
    }


def _show(entries: list[LogEntry]) -> None:
    rows: list[tuple[str, ...]] = []
    for entry in entries:
        change = entry.change
        models = [path if what == "changed" else f"{path} ({what})" for path, what in _models(entry).items()]
        stored = human_size(entry.sizes.stored) + (" *" if entry.sizes.missing else "")
        rows.append(
            (
                change.commit[:10],
                time.strftime("%Y-%m-%d %H:%M", time.localtime(change.time)),
                change.subject,
                ", ".join(f"{name} {human_number(value)}" for name, value in change.metrics.items()),
                ", ".join(models),
                human_size(entry.sizes.raw),
                stored,
            )
        )
    columns: tuple[str, ...] = ("commit", "date", "subject", "metrics", "models", "new", "stored")
    if not any(row[3] for row in rows):
        columns, rows = columns[:3] + columns[4:], [row[:3] + row[4:] for row in rows]
    table(columns, rows, right=("new", "stored"))
    if any(entry.sizes.missing for entry in entries):
        line("* not all of these chunks are in the store")
