"""`git gru eval`."""

import dataclasses

import click

from git_gru.cli.render import emit_json, json_option, table
from git_gru.git.repository import Repository
from git_gru.train.plan import require_torch
from git_gru.train.recipe import DEFAULT_PATH


@click.command("eval", short_help="Evaluate a model on the recipe's validation data.")
@click.argument("names", metavar="[REV[:PATH]]...", nargs=-1)
@click.option(
    "--recipe",
    "recipe_path",
    default=DEFAULT_PATH,
    show_default=True,
    metavar="PATH",
    help="The recipe in the commit.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe; may be repeated.",
)
@json_option
def command(names: tuple[str, ...], recipe_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Evaluate the models of commits (default HEAD) on the validation data of their own commit's recipe.

    \b
    --json: {"evaluations": [{"name", "commit", "path", "samples",
             "metrics": {"val_loss", "perplexity", "bits_per_byte"}}]}
    """
    require_torch()
    from git_gru.train.evaluate import evaluate

    found = list(
        evaluate(Repository.find(), names or ("HEAD",), recipe_path=recipe_path, overrides=overrides)
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
