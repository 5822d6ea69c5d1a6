"""`git gru du`."""

import datetime
from typing import Any

import click

from git_gru.cli.render import emit_json, human_size, json_option, line, plural, table
from git_gru.git.repository import Repository
from git_gru.git.usage import Share, Totals, Usage, usage

_MOST = 20
"""Rows of a table, unless all are asked for."""


@click.command("du", short_help="Show where the bytes of models go.")
@click.argument("revs", metavar="[REV]...", nargs=-1)
@click.option(
    "--by",
    type=click.Choice(["path", "tensor", "commit"]),
    default="path",
    show_default=True,
    help="What to list.",
)
@click.option(
    "--all", "every", is_flag=True, help=f"List all rows, not the {_MOST} largest (or newest commits)."
)
@json_option
def command(revs: tuple[str, ...], by: str, every: bool, as_json: bool) -> None:
    """Show where the bytes go, of the models in the history of REV (default: of all references).

    Raw counts every version in full; stored is what the store keeps, each chunk once. A chunk belongs to the oldest commit
    that has it; what paths or tensors share counts in each of them.

    \b
    --json: {"paths": [{"path", "versions", "raw", "stored"}],
             "tensors": [{"path", "name", "versions", "raw", "stored"}],
             "commits": [{"commit", "time", "subject", "raw", "stored"}],
             "total": {"versions", "raw", "distinct", "plain", "plain_unknown", "stored", "missing"},
             "unneeded": {"models", "bytes"}, "packs": {"count", "bytes"}}, all sizes in bytes; distinct: after
             deduplication; plain: without deltas (plain_unknown: stored bytes of deltas of which that is not known)
    """
    repo = Repository.find()
    found = usage(repo, repo.store(), revs)
    if as_json:
        emit_json(_json(found))
        return
    _table(found, by, every=every)
    line()
    _summary(found)


def _json(found: Usage) -> dict[str, Any]:
    def share(part: Share) -> dict[str, int]:
        return {"versions": part.versions, "raw": part.raw, "stored": part.stored}

    return {
        "paths": [{"path": path, **share(part)} for path, part in found.paths.items()],
        "tensors": [
            {"path": path, "name": name, **share(part)} for (path, name), part in found.tensors.items()
        ],
        "commits": [vars(commit) for commit in found.commits],
        "total": vars(found.totals),
        "unneeded": {"models": found.unneeded_models, "bytes": found.unneeded_bytes},
        "packs": {"count": found.packs, "bytes": found.pack_bytes},
    }


def _table(found: Usage, by: str, *, every: bool) -> None:
    rows: list[tuple[str, ...]]
    if by == "commit":
        first: tuple[str, ...] = ("commit", "date", "subject")
        rows = [
            (one.commit[:10], _date(one.time), one.subject, human_size(one.raw), human_size(one.stored))
            for one in found.commits
        ]
    else:
        parts = (
            {f"{path}#{name}": part for (path, name), part in found.tensors.items()}
            if by == "tensor"
            else found.paths
        )
        first = (by, "versions")
        rows = [
            (name, str(part.versions), human_size(part.raw), human_size(part.stored))
            for name, part in parts.items()
        ]
    shown = rows if every else rows[:_MOST]
    table((*first, "raw", "stored"), shown, right=("versions", "raw", "stored"))
    if len(shown) < len(rows):
        line(f"… and {len(rows) - len(shown)} more: --all")


def _summary(found: Usage) -> None:
    total = found.totals
    line(f"{plural(total.versions, 'version')}: {human_size(total.raw)} raw")
    if total.raw:
        line(
            f"  shared chunks kept once: {human_size(total.distinct)} ({_percent(total.distinct, total.raw)} of raw)"
        )
        line(f"  compressed:              {_plain(total)}")
        line(
            f"  with deltas, as stored:  {human_size(total.stored)} ({_percent(total.stored, total.raw)} of raw)"
        )
    if total.missing:
        line(f"  not here: {plural(total.missing, 'chunk')}, of unknown size")
    if found.unneeded_models:
        count, size = plural(found.unneeded_models, "unneeded model"), human_size(found.unneeded_bytes)
        line(f"{count}: {size} more (git gru gc)")
    line(f"all of the store: {human_size(found.pack_bytes)} in {plural(found.packs, 'pack')}")


def _plain(total: Totals) -> str:
    if not total.plain_unknown:
        return f"{human_size(total.plain)} ({_percent(total.plain, total.raw)} of raw)"
    return f"{human_size(total.plain)} and what {human_size(total.plain_unknown)} of deltas would take plain (not known)"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _date(time: int) -> str:
    return datetime.datetime.fromtimestamp(time).strftime("%Y-%m-%d")
