"""`git gru revert`."""

import click

from git_gru.cli.applied import apply_all
from git_gru.cli.render import json_option


@click.command("revert", short_help="Take a commit's weight change out again.")
@click.argument("commits", nargs=-1, required=True, metavar="COMMIT…")
@click.option(
    "-m", "--mainline", type=int, metavar="PARENT", help="Of a merge: the parent whose line is kept, from 1."
)
@json_option
def command(commits: tuple[str, ...], mainline: int | None, as_json: bool) -> int:
    """Take the changes of commits (or ranges A..B) out again, each by a new commit, as git revert does,
    with a report.

    Weights become H − (C − P): what the commit C did to its parent P goes, what was done since stays. A
    tensor that nobody changed since gets its parent's exact bits. Where later commits changed it too, the
    result is rounded once to the tensor's dtype, and the report says how many elements that concerns. For a
    bitwise undo: git checkout REV -- PATH. Where a merge averaged C's line with another, the branch holds only a part of C's
    change: the report says so, and how to undo the merge instead.

    \b
    JSON: {"commits": [{source, commit, subject, notes: [text], models: [{path, is_exact,
      exact_tensors, mixed_tensors, other_tensors, elements, elements_kept, elements_rounded,
      error_norm}]}]}
    """
    return apply_all("revert", commits, mainline, as_json)
