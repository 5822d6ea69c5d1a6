"""`git gru cherry-pick`."""

import click

from git_gru.cli.applied import apply_all
from git_gru.cli.render import json_option


@click.command("cherry-pick", short_help="Apply a commit's weight change here.")
@click.argument("commits", nargs=-1, required=True, metavar="COMMIT…")
@click.option(
    "-m", "--mainline", type=int, metavar="PARENT", help="Of a merge: the parent to compare with, from 1."
)
@json_option
def command(commits: tuple[str, ...], mainline: int | None, as_json: bool) -> int:
    """Apply the changes of commits (or ranges A..B) here, each by a new commit, as git cherry-pick does,
    with a report.

    Weights become H + (C − P): what the commit C did to its parent P is done to HEAD. A tensor that is here
    as it was in P gets C's exact bits.

    \b
    JSON: {"commits": [{source, commit, subject, notes: [text], models: [{path, is_exact,
      exact_tensors, mixed_tensors, other_tensors, elements, elements_kept, elements_rounded,
      error_norm}]}]}
    """
    return apply_all("cherry-pick", commits, mainline, as_json)
