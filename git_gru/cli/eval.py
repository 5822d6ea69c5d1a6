"""`git gru eval`."""

import dataclasses

import click

from git_gru.cli.recipe_options import recipe_option, set_option
from git_gru.cli.render import emit_json, json_option, table
from git_gru.git.repository import Repository
from git_gru.train.evaluations import evaluate
from git_gru.train.plan import require_torch


@click.command("eval", short_help="Evaluate a model on the recipe's validation data.")
@click.argument("names", metavar="[REV[:PATH]]...", nargs=-1)
@recipe_option
@set_option
@click.option("--fresh", is_flag=True, help="Evaluate again what was evaluated before.")
@json_option
def command(
    names: tuple[str, ...], recipe_path: str, overrides: tuple[str, ...], fresh: bool, as_json: bool
) -> None:
    """Evaluate the models of commits (default HEAD) on the validation data of their own commit's recipe.

    Results are kept as Git notes (refs/notes/gru-eval) and answered from there. For model.task = "entrypoint" this runs code
    of the commit, in a process of its own.

    \b
    --json: {"evaluations": [{"name", "commit", "path", "samples",
             "metrics": {"val_loss", more by task}, "cached": bool}]}
    """
    require_torch()
    found = list(
        evaluate(
            Repository.find(), names or ("HEAD",), recipe_path=recipe_path, overrides=overrides, fresh=fresh
        )
    )
    if as_json:
        emit_json({"evaluations": [dataclasses.asdict(one) for one in found]})
        return
    columns = list(dict.fromkeys(metric for one in found for metric in one.metrics))
    rows = [
        (
            one.name,
            one.commit[:10],
            *(f"{one.metrics[key]:.4f}" if key in one.metrics else "" for key in columns),
        )
        for one in found
    ]
    table(("model", "commit", *columns), rows, right=columns)
