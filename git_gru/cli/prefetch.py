"""`git gru prefetch`."""

import click

from git_gru.cli.background import start_maintenance_if_due
from git_gru.cli.fetch import show
from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import json_option
from git_gru.git.fetching import Wanted, branch_tips, fetch
from git_gru.git.repository import Repository


@click.command("prefetch", short_help="Bring the models at all branch tips into the store.")
@json_option
def command(as_json: bool) -> None:
    """Bring the models at the tips of all branches, local ones and those of remotes, into the store.

    After a `git fetch`, say from a timer at night: switching branches then needs no network.

    \b
    --json: {"models", "blobs", "bytes"}
    """
    repo = Repository.find()
    wanted = Wanted(revisions=branch_tips(repo))
    done = fetch(repo, wanted, progress=bytes_progress("fetching models"))
    start_maintenance_if_due(repo, repo.store())
    show(done, as_json=as_json)
