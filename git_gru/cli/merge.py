"""`git gru merge`."""

from typing import Any

import click

from git_gru.cli.drivers import counts_text
from git_gru.cli.render import emit_json, json_option, line, table
from git_gru.git.branches import BranchMerge, Outcome
from git_gru.git.drivers import LABELS, merge_rules
from git_gru.git.merging import Rules
from git_gru.git.octopus import merge_into_head
from git_gru.git.repository import Repository
from git_gru.tensors.combine import WeightsError, normalised
from git_gru.tensors.strategies import STRATEGIES


@click.command("merge", short_help="Merge branches by averaging their models.")
@click.argument("branches", nargs=-1, required=True, metavar="BRANCH…")
@click.option(
    "--weight", type=float, metavar="W", help="Weight of BRANCH, 0 to 1; HEAD has the rest (default 0.5)."
)
@click.option(
    "--weights",
    metavar="W,W,…",
    help="Weights of HEAD and of each BRANCH, in any scale (default: all equal).",
)
@click.option(
    "--strategy",
    type=click.Choice(list(STRATEGIES)),
    help="How tensors changed on several sides are combined.",
)
@click.option("--no-ff", is_flag=True, help="Make a merge commit even where HEAD could just move forward.")
@click.option(
    "--no-commit", is_flag=True, help="Merge into the worktree and index, and leave the commit to you."
)
@click.option("-m", "--message", help="The commit's message; what was done is added in trailers.")
@json_option
def command(
    branches: tuple[str, ...],
    weight: float | None,
    weights: str | None,
    strategy: str | None,
    no_ff: bool,
    no_commit: bool,
    message: str | None,
    as_json: bool,
) -> int:
    """Merge branches into HEAD: models by averaging, all other files as Git does.

    Each tensor by itself: what only one side changed is taken from there, bit for bit; what several changed
    is combined, by default A + W·(B − A); integer counters add up. Several branches make one commit with
    all of them as parents. The commit's trailers Gru-Merge-… say what was done.

    A conflict with one branch leaves a merge for you to finish (git commit) or give up (git merge --abort);
    exit status 1. With several branches nothing is changed then. Settings: gru.merge.strategy,
    gru.merge.weight.

    \b
    JSON: {outcome (merged, fast-forward, up-to-date, staged, conflict), commit, base, branches,
      strategy, weights, conflicts: [path], notes: [text], models: [{path, whole, unchanged,
      taken: [per side], combined, averaged, counted, deleted, conflicts}]}
    """
    repo = Repository.find()
    rules = _rules(repo, branches, weight, weights, strategy)
    result = merge_into_head(
        repo, branches, rules, fast_forward=not no_ff, commit=not no_commit, message=message
    )
    if as_json:
        emit_json(_json(result))
    else:
        _show(result)
    return 1 if result.outcome is Outcome.CONFLICT else 0


def _rules(
    repo: Repository,
    branches: tuple[str, ...],
    weight: float | None,
    weights: str | None,
    strategy: str | None,
) -> Rules:
    """The options as rules. Wrong usage is told by click."""
    if weight is not None and weights is not None:
        raise click.UsageError("--weight and --weights exclude each other.")
    if weight is not None and len(branches) > 1:
        raise click.UsageError("--weight is for one branch; for several: --weights W,W,… (HEAD first).")
    rules = merge_rules(repo, merging=True, strategy=strategy, weight=None if weight is None else str(weight))
    shares = rules.weights
    if weights is not None:
        shares = _parsed(weights, len(branches))
    elif len(branches) > 1:
        shares = normalised([1.0] * (len(branches) + 1))
    labels = ("HEAD", *branches) if len(branches) > 1 else LABELS
    return Rules(strategy=rules.strategy, weights=shares, labels=labels)


def _parsed(text: str, branches: int) -> tuple[float, ...]:
    try:
        shares = normalised([float(word) for word in text.split(",")])
    except (ValueError, WeightsError):
        raise click.BadParameter(
            f"{text!r}: numbers from 0 upwards with commas between.", param_hint="--weights"
        ) from None
    if len(shares) != branches + 1:
        raise click.BadParameter(
            f"{len(shares)} weights for HEAD and {branches} branch{'es' if branches > 1 else ''}: "
            f"{branches + 1} are needed.",
            param_hint="--weights",
        )
    return shares


def _show(result: BranchMerge) -> None:
    names = ", ".join(result.branches)
    told = {
        Outcome.UP_TO_DATE: f"already up to date with {names}",
        Outcome.FAST_FORWARD: f"fast-forward to {names}: HEAD had nothing of its own to merge (--no-ff makes a commit)",
        Outcome.MERGED: f"merged {names}: commit {(result.commit or '')[:12]}",
        Outcome.STAGED: f"merged {names} into the worktree and index; finish with: git commit",
        Outcome.CONFLICT: f"conflicts with {names} in {', '.join(result.conflicts)}",
    }
    line(told[result.outcome])
    if result.models and result.outcome not in (Outcome.UP_TO_DATE, Outcome.FAST_FORWARD):
        weights = ", ".join(f"{weight:.4g}" for weight in result.rules.weights)
        line(f"strategy {result.rules.strategy.name}, weights {weights}, base {result.base[:12]}")
        rows = [
            (model.path, model.whole or counts_text(model.counts, result.rules)) for model in result.models
        ]
        table(("model", "what was done"), rows)
    for sentence in result.sentences:
        line(sentence)
    if result.outcome is Outcome.CONFLICT:
        line("resolve them, git add them, then: git commit; or give up: git merge --abort")


def _json(result: BranchMerge) -> dict[str, Any]:
    return {
        "outcome": result.outcome.value,
        "commit": result.commit,
        "base": result.base,
        "branches": list(result.branches),
        "strategy": result.rules.strategy.name,
        "weights": list(result.rules.weights),
        "conflicts": list(result.conflicts),
        "notes": list(result.sentences),
        "models": [
            {
                "path": model.path,
                "whole": model.whole,
                "unchanged": model.counts.unchanged,
                "taken": list(model.counts.taken),
                "combined": model.counts.combined,
                "averaged": model.counts.averaged,
                "counted": model.counts.counted,
                "deleted": model.counts.deleted,
                "conflicts": model.counts.conflicts,
            }
            for model in result.models
        ],
    }
