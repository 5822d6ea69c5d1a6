"""`git gru untrack`."""

from pathlib import Path

import click

from git_gru.cli.render import line, plural
from git_gru.git.attributes import tracked_files, tracked_patterns, untrack
from git_gru.git.repository import Repository


@click.command("untrack", short_help="Stop keeping matching files as models.")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN…")
def command(patterns: tuple[str, ...]) -> int:
    """Take PATTERN out of the current folder's .gitattributes.

    PATTERN is a line's own pattern as `git gru status` shows it. Files stay models in the commits that have them; `git add
    --renormalize` makes them plain files from the next commit on.
    """
    repo = Repository.find()
    repo.require_worktree()
    folder = Path.cwd()
    before = set(tracked_files(repo, folder))
    removed, missing = untrack(folder, patterns, repo=repo)
    for pattern in removed:
        line(f"no longer tracked: {pattern}")
    for pattern in missing:
        line(f"not tracked in {folder / '.gitattributes'}: {pattern}")
    if missing and (elsewhere := [found for found in tracked_patterns(repo) if found.pattern in missing]):
        for found in elsewhere:
            line(f"  {found.pattern} is tracked in {found.file}, line {found.line}: go to that folder")
    if changed := sorted(before - set(tracked_files(repo, folder))):
        line(
            f"{plural(len(changed), 'file')} in Git {'is a model' if len(changed) == 1 else 'are models'} still; as plain files:"
        )
        line("  git add --renormalize .")
    return 1 if missing else 0
