"""`git gru diff`."""

from pathlib import Path

import click

from git_gru.cli.diff_table import model_json, show, stat_cells
from git_gru.cli.render import emit_json, json_option, line, table
from git_gru.git.comparing import compare
from git_gru.git.pairs import pairs
from git_gru.git.repository import Repository


@click.command("diff", short_help="Compare two versions of a model, tensor by tensor.")
@click.argument("words", nargs=-1, metavar="[A [B] | A..B] [-- PATH…]")
@click.option("--staged", "--cached", is_flag=True, help="Compare the index with HEAD (or with A).")
@click.option("--stat", is_flag=True, help="One line a model, from the manifests alone: no tensor is read.")
@click.option(
    "--gates/--no-gates", default=True, help="Show a GRU's gates under each of its parameters (default)."
)
@json_option
def command(words: tuple[str, ...], staged: bool, stat: bool, gates: bool, as_json: bool) -> int:
    """Compare versions of models, tensor by tensor, as git diff compares lines.

    Without a revision: the worktree with the index. With one: the worktree with that commit. With two, or
    A..B: these commits; A...B: B with where it left A. Only tensors that differ are read.

    \b
    ‖Δ‖       Euclidean norm of the difference; a model's is over its float tensors
    relative  ‖Δ‖ / ‖old‖
    cosine    of the angle between old and new
    max |Δ|   largest change of one element
    changed   share of the elements whose bits differ

    Elements that are NaN or Inf on a side are counted and left out of the norms.

    \b
    JSON: {"models": [{path, old_path, status (changed, added, removed, renamed), old_bytes, new_bytes,
      changed_bytes, raw, unchanged_tensors, metadata_changed, tensors: [{name, status (changed, added,
      removed, reshaped, renamed), old_name, dtype, shape, old_dtype, old_shape, changed_chunks,
      measures, gates: {r, z, n: measures}}]}]}
    measures: null where a tensor is not on both sides in one shape (or with --stat), else elements,
      changed, changed_share, delta_norm, relative, cosine, max_abs, old_norm, new_norm, old_nan,
      old_inf, new_nan, new_inf
    """
    found = pairs(Repository.find(), words, staged=staged, folder=Path.cwd())
    diffs = [compare(pair, measure=not stat, gates=gates) for pair in found]
    if as_json:
        emit_json({"models": [model_json(diff) for diff in diffs]})
    elif stat:
        if diffs:
            table(
                ("model", "tensors", "changed bytes"),
                [stat_cells(diff) for diff in diffs],
                right=("changed bytes",),
            )
    else:
        for index, diff in enumerate(diffs):
            if index:
                line()
            show(diff)
    return 0
