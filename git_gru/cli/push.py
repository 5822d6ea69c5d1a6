"""`git gru push`."""

import dataclasses

import click

from git_gru.cli.paths import PathsBehindDashes, pathspecs
from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.git.publishing import own_branches, publish_revisions
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.git.sources import default_remote


@click.command("push", cls=PathsBehindDashes, short_help="Send models to a remote, without their branches.")
@click.argument("remote", required=False)
@click.argument("revisions", metavar="[REV]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="The models that any local branch reaches.")
@click.option(
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="Only models at or below PATH (or that it matches), as after --; may be repeated.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    remote: str | None,
    revisions: tuple[str, ...],
    every: bool,
    paths: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send to REMOTE (default: the branch's) all models that the commits REV (default HEAD) reach and it lacks.

    A plain `git push` does this by itself for what it pushes; this is for a remote to which commits went without the hook.

    \b
    --json: {"remote", "models", "blobs", "bytes"}
    """
    repo = Repository.find()
    name = remote or default_remote(repo)
    commits = own_branches(repo) if every else [resolve_commit(repo, rev) for rev in revisions or ("HEAD",)]
    done = publish_revisions(
        repo,
        name,
        commits,
        paths=pathspecs(ctx, repo, paths),
        progress=bytes_progress(f"sending models to {name}"),
    )
    if as_json:
        emit_json({"remote": name, **dataclasses.asdict(done)})
    elif done.models:
        line(
            f"sent {plural(done.models, 'model')} to {name}: {human_size(done.bytes)} in {plural(done.blobs, 'chunk')}"
        )
    else:
        line(f"{name} has all of these models")
