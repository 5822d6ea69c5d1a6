"""`git gru install`."""

import os

import click

from git_gru.cli.render import line
from git_gru.git.hooks import HookAction
from git_gru.git.install import Installation, Scope, install, install_server, program_command
from git_gru.git.repository import NotARepositoryError, Repository
from git_gru.store.transform import NATIVE

scope_options = (
    click.option("--system", "scope", flag_value="system", help="Every repository of this machine."),
    click.option("--global", "scope", flag_value="global", help="Your user's repositories."),
    click.option(
        "--local", "scope", flag_value="local", default="local", help="This repository (the default)."
    ),
)


def repository_if_any() -> Repository | None:
    """The repository of the current folder, if it is in one."""
    try:
        return Repository.find()
    except NotARepositoryError:
        return None


def hook_lines(done: Installation) -> list[str]:
    """What was done to each hook, as lines."""
    lines = []
    for hook in done.hooks:
        if hook.action is HookAction.UNCHANGED:
            continue
        kept = f" (yours is kept as {hook.kept.name} and still runs)" if hook.kept else ""
        lines.append(f"hook {hook.path.name} {hook.action.value} in {hook.path.parent}{kept}")
    return lines


@click.command("install", short_help="Tell Git about git-gru: filter, drivers, hooks.")
@scope_options[0]
@scope_options[1]
@scope_options[2]
@click.option("--server", is_flag=True, help="In a bare repository: check that pushes bring their models.")
def command(scope: str, server: bool) -> None:
    """Tell Git about git-gru: the filter, the diff and merge drivers, and this repository's hooks.

    Works from any shell, editor or GUI afterwards, also when git-gru lives in a virtual environment. A hook of your own is
    kept and called. Running it again changes nothing.

    With --server, in a bare repository that is pushed to: a hook that refuses branches whose models were not pushed, and the
    settings that let clones fetch single models. A hub works without it.
    """
    repo = repository_if_any()
    program = program_command(os.environ.get("PATH", os.defpath))
    if server:
        done = install_server(repo, program)
        for text in (*hook_lines(done), *(f"set {key}" for key in done.changed)):
            line(text)
        line("pushes are checked: a branch comes in only with its models complete")
        return
    done = install(repo, Scope(scope), program)
    if done.changed:
        line(f"git-gru is installed ({done.scope.value} settings), called as: {done.program}")
    else:
        line(f"git-gru was installed already ({done.scope.value} settings)")
    for text in hook_lines(done):
        line(text)
    if repo is None:
        line(
            "not in a repository: its hooks come into each with the first model that is added or checked out there"
        )
    if not NATIVE:
        line("the C extension was not built: everything works, its inner loops take two to six times as long")
