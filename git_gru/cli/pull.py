"""`git gru pull`."""

import click

from git_gru.cli.background import start_maintenance_if_due
from git_gru.cli.paths import from_top
from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.git.repository import Repository
from git_gru.git.worktree_models import pull


@click.command("pull", short_help="Put weights in place of manifests in the worktree.")
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@json_option
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """Put weights in place of the manifests in the worktree, fetching the models that are not here.

    For worktrees that were checked out with GIT_GRU_SKIP_SMUDGE=1, without git-gru, or under gru.fetchExclude. Files are
    written one chunk at a time, so that a model larger than the memory is no matter. Without PATH: all manifests in the
    worktree but those that the settings leave out. With PATH (a file, folder or pattern), models that are missing there are
    written as well; of what a sparse checkout leaves out, only the files that PATH names.

    \b
    --json: {"written": [path, ..], "models", "blobs", "bytes"}
    """
    repo = Repository.find()
    done = pull(repo, from_top(repo, paths), progress=bytes_progress("fetching models"))
    start_maintenance_if_due(repo, repo.store())
    if as_json:
        emit_json({"written": list(done.written), **done.brought._asdict()})
        return
    for path in done.written:
        line(path)
    fetched = f"; fetched {human_size(done.brought.bytes)}" if done.brought.models else ""
    line(f"{plural(len(done.written), 'model')} written{fetched}")
