"""`git gru maintenance`."""

import os
import time

import click

from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.git.maintenance import Maintained, MaintenanceRunningError, maintain
from git_gru.git.repository import Repository

_LOWEST = 19


@click.command("maintenance", short_help="Do now what is otherwise done in the background.")
@click.option("--background", is_flag=True, hidden=True)
@json_option
def command(background: bool, as_json: bool) -> None:
    """Drop what nothing needs any more (as git gru gc does), and repack when there are many packs.

    This runs by itself, at low priority, when enough has gathered after git add, git commit or git gru train. Settings:
    gru.autoMaintenance (true), gru.autoPack (50 packs), gru.autoInterval (2m). Its log is .git/gru/maintenance.log.

    \b
    --json: {"seconds", "dropped": [digest], "repacked": bool, "rewritten", "bytes_before", "bytes_after"}, the sizes null when
            nothing was done
    """
    repo = Repository.find()
    if background:
        os.nice(_LOWEST)
        line(f"{time.strftime('%Y-%m-%d %H:%M:%S')} begins, process {os.getpid()}")
    try:
        done = maintain(repo, repo.store())
    except MaintenanceRunningError:
        if background:
            return
        raise
    if as_json:
        emit_json(_json(done))
        return
    if done.collected is not None:
        line(f"dropped {plural(len(done.collected.dropped), 'model')}")
    if done.repacked is not None:
        line(f"repacked: {plural(done.repacked.rewritten, 'chunk')} encoded anew")
    before, after = _sizes(done)
    line(
        "nothing to do"
        if before is None or after is None
        else f"store: {human_size(before)} before, {human_size(after)} now"
    )
    if background:
        line(f"{time.strftime('%Y-%m-%d %H:%M:%S')} ends after {done.seconds:.1f} s")


def _json(done: Maintained) -> dict[str, object]:
    before, after = _sizes(done)
    parts = [part for part in (done.collected, done.repacked) if part is not None]
    return {
        "seconds": done.seconds,
        "dropped": sorted(done.collected.dropped) if done.collected is not None else [],
        "repacked": done.repacked is not None,
        "rewritten": sum(part.rewritten for part in parts),
        "bytes_before": before,
        "bytes_after": after,
    }


def _sizes(done: Maintained) -> tuple[int | None, int | None]:
    parts = [part for part in (done.collected, done.repacked) if part is not None]
    return (parts[0].bytes_before, parts[-1].bytes_after) if parts else (None, None)
