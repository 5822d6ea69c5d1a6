"""`git gru track`."""

import os
from pathlib import Path

import click

from git_gru.cli.install import hook_lines
from git_gru.cli.render import line, plural
from git_gru.git import install
from git_gru.git.attributes import track, tracked_files
from git_gru.git.repository import Repository

_SHOWN = 20


@click.command("track", short_help="Keep the files that match a pattern as models.")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN…")
def command(patterns: tuple[str, ...]) -> None:
    """Keep the files that match PATTERN as models: writes the current folder's .gitattributes.

    Quote the pattern, so that the shell leaves it alone: git gru track '*.safetensors'. If Git does not know git-gru yet,
    this installs it for this repository.
    """
    repo = Repository.find()
    repo.require_worktree()
    repo.require_sha1()
    folder = Path.cwd()
    added, present = track(folder, patterns)
    for pattern in added:
        line(f"tracking {pattern}")
    for pattern in present:
        line(f"already tracked: {pattern}")
    if not install.is_installed(repo):
        program = install.program_command(os.environ.get("PATH", os.defpath))
        done = install.install(repo, install.Scope.LOCAL, program)
        line(f"Git did not know git-gru here: installed it for this repository, called as: {program}")
        for text in hook_lines(done):
            line(text)
    _concerned(repo, folder)
    line("commit the file .gitattributes, so that everyone's Git knows: git add .gitattributes")


def _concerned(repo: Repository, folder: Path) -> None:
    """Which files are models now, and which of them Git still holds as plain files."""
    files = tracked_files(repo, folder, others=True)
    if not files:
        line("no file matches yet")
        return
    line(f"{plural(len(files), 'file')} concerned:")
    for path in files[:_SHOWN]:
        line(f"  {path}")
    if len(files) > _SHOWN:
        line(f"  … and {len(files) - _SHOWN} more")
    if tracked_files(repo, folder):
        line("those that Git holds already become models with: git add --renormalize .")
