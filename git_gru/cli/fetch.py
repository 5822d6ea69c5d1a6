"""`git gru fetch`."""

import click

from git_gru.cli.background import start_maintenance_if_due
from git_gru.cli.paths import PathsBehindDashes, pathspecs
from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.git.fetching import Wanted, branch_tips, fetch, fetch_tensors
from git_gru.git.repository import Repository
from git_gru.store.bring import Brought


@click.command("fetch", cls=PathsBehindDashes, short_help="Bring models of commits into the store.")
@click.argument("revisions", metavar="[REV]...", nargs=-1)
@click.option(
    "--all", "every", is_flag=True, help="The models that any branch reaches, in all of its history."
)
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="Only models at or below PATH (or that it matches), as after --; may be repeated.",
)
@click.option(
    "--tensor",
    "tensors",
    multiple=True,
    metavar="PATTERN",
    help="Only tensors whose name matches; may be repeated.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    revisions: tuple[str, ...],
    every: bool,
    paths: tuple[str, ...],
    tensors: tuple[str, ...],
    as_json: bool,
) -> None:
    """Bring the models in the commits REV (default HEAD) into the store; the worktree stays as it is.

    A checkout brings what it needs by itself; this is for later, without a network. With --tensor, single tensors can be read
    from then on (git gru cat, open_model) and their models still count as not fetched.

    \b
    --json: {"models", "blobs", "bytes"}, with --tensor: {"tensors"}
    """
    repo = Repository.find()
    wanted = Wanted(
        revisions=branch_tips(repo) if every else revisions or ("HEAD",),
        paths=pathspecs(ctx, repo, paths),
        history=every,
    )
    if tensors:
        count = fetch_tensors(repo, wanted, tensors)
        emit_json({"tensors": count}) if as_json else line(f"{plural(count, 'tensor')} can be read here now")
        return
    done = fetch(repo, wanted, progress=bytes_progress("fetching models"))
    start_maintenance_if_due(repo, repo.store())
    show(done, as_json=as_json)


def show(done: Brought, *, as_json: bool) -> None:
    """Says what was fetched."""
    if as_json:
        emit_json(done._asdict())
    elif done.models:
        line(
            f"fetched {plural(done.models, 'model')}: {human_size(done.bytes)} in {plural(done.blobs, 'chunk')}"
        )
    else:
        line("all of these models are here")
