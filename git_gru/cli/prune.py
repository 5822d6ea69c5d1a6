"""`git gru prune`."""

import click

from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.git.pruning import prune
from git_gru.git.repository import Repository
from git_gru.git.sources import default_remote


@click.command("prune", short_help="Drop local copies of models that a remote has.")
@click.option("--remote", metavar="NAME", help="The remote to look at (default: the branch's).")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would go.")
@json_option
def command(remote: str | None, dry_run: bool, as_json: bool) -> None:
    """Drop the models from the store that the remote was just seen to have, but for those checked out or at a branch's tip.

    Whoever needs one later fetches it again.

    \b
    --json: {"dry_run": bool, "remote", "dropped": [digest], "bytes_before", "bytes_after"}
    """
    repo = Repository.find()
    name = remote or default_remote(repo)
    done = prune(repo, name, dry_run=dry_run)
    if as_json:
        emit_json(
            {
                "dry_run": dry_run,
                "remote": name,
                "dropped": sorted(done.dropped),
                "bytes_before": done.bytes_before,
                "bytes_after": done.bytes_after,
            }
        )
        return
    what = f"{plural(len(done.dropped), 'model')} that {name} has"
    line(f"would drop {what}" if dry_run else f"dropped {what}")
    if done.bytes_after is not None:
        line(f"store: {human_size(done.bytes_before)} before, {human_size(done.bytes_after)} now")
