"""`git gru completion`."""

import click
from click.shell_completion import get_completion_class

# Git's own completion asks a function named after the sub-command; it hands the words to git-gru's.
_AFTER_GIT = {
    "bash": """
_git_gru() {
    local COMP_WORDS=("git-gru" "${COMP_WORDS[@]:2}") COMP_CWORD=$((COMP_CWORD - 1))
    _git_gru_completion git-gru
}
""",
}


@click.command("completion", short_help="Print a script that completes git-gru in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that completes `git-gru` in SHELL; under bash with Git's own completion `git gru` as well.

    For bash: git gru completion bash > ~/.local/share/bash-completion/completions/git-gru
    """
    from git_gru.cli.main import COMPLETION_VARIABLE, cli

    found = get_completion_class(shell)
    assert found is not None  # the choice above lists what click has
    script = found(cli, {}, "git-gru", COMPLETION_VARIABLE)
    click.echo(script.source_template % script.source_vars() + _AFTER_GIT.get(shell, ""))
