"""`git gru status`."""

import click

from git_gru.cli.render import emit_json, human_size, json_option, line, table
from git_gru.git.attributes import tracked_patterns
from git_gru.git.install import is_installed
from git_gru.git.offering import NoPushHookError, require_push_hook
from git_gru.git.repository import Repository
from git_gru.git.states import State, model_states


@click.command("status", short_help="Show what is tracked and the state of each model.")
@json_option
def command(as_json: bool) -> None:
    """Show whether git-gru is installed here, whether a push sends models, which patterns are tracked, and the state of each
    model.

    States: new, staged, modified, deleted, conflict, clean as in Git; manifest only: the weights are not in the worktree;
    raw: kept, but not readable as safetensors; plain: tracked, yet in Git as a plain file.

    \b
    --json: {"installed": bool, "push_hook": bool, "patterns": [{"pattern", "file", "line"}],
             "models": [{"path", "states": [..], "size", "tensors"}]}; push_hook: a hook sends models along with a push
    """
    repo = Repository.find()
    top = repo.require_worktree()
    installed, patterns, models = is_installed(repo), tracked_patterns(repo), model_states(repo)
    unsent = _push_hook_missing(repo) if installed else None
    if as_json:
        emit_json(
            {
                "installed": installed,
                "push_hook": installed and unsent is None,
                "patterns": [
                    {"pattern": found.pattern, "file": str(found.file), "line": found.line}
                    for found in patterns
                ],
                "models": [
                    {
                        "path": m.path,
                        "states": [str(s) for s in m.states],
                        "size": m.size,
                        "tensors": m.tensors,
                    }
                    for m in models
                ],
            }
        )
        return
    if not installed:
        line("git-gru is not installed for this repository: models in it are manifests, not weights")
        line("  install it: git gru install")
    if unsent is not None:
        line(str(unsent))
        line(f"  {unsent.hint}")
    if not patterns:
        line("nothing is tracked; start with: git gru track '*.safetensors'")
    for found in patterns:
        file = found.file.relative_to(top) if found.file.is_relative_to(top) else found.file
        line(f"tracked: {found.pattern} ({file}, line {found.line})")
    if models:
        line()
        rows = [
            (
                m.path,
                ", ".join(m.states),
                "" if m.size is None else human_size(m.size),
                "" if m.tensors is None else str(m.tensors),
            )
            for m in models
        ]
        table(("model", "state", "size", "tensors"), rows, right=("size", "tensors"))
    if installed and any(State.MANIFEST_ONLY in m.states for m in models):
        line()
        line("for weights in place of manifests: git gru pull")
    if any(State.PLAIN in m.states for m in models):
        line()
        line("to turn plain files into models: git add --renormalize .")


def _push_hook_missing(repo: Repository) -> NoPushHookError | None:
    try:
        require_push_hook(repo)
    except NoPushHookError as error:
        return error
    return None
