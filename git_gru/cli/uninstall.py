"""`git gru uninstall`."""

import click

from git_gru.cli.install import hook_lines, repository_if_any, scope_options
from git_gru.cli.render import line
from git_gru.git.attributes import tracked_patterns
from git_gru.git.install import Scope, is_installed, uninstall


@click.command("uninstall", short_help="Take away what install wrote.")
@scope_options[0]
@scope_options[1]
@scope_options[2]
def command(scope: str) -> None:
    """Take away the settings and hooks that install wrote, and put back the hooks that stood there before.

    The store and all commits stay. To go back to plain Git files first: git gru untrack PATTERN, then git add
    --renormalize and commit.
    """
    repo = repository_if_any()
    done = uninstall(repo, Scope(scope))
    line(
        f"git-gru is uninstalled ({scope} settings)"
        if done.changed
        else f"no git-gru in the {scope} settings"
    )
    for text in hook_lines(done):
        line(text)
    if repo is not None and is_installed(repo):
        line("other settings still tell Git of git-gru here: git gru uninstall --global, or --system")
    if repo is not None and repo.worktree is not None and (patterns := tracked_patterns(repo)):
        names = ", ".join(found.pattern for found in patterns)
        line(f"still tracked in .gitattributes: {names}; without git-gru Git shows those files as changed")
