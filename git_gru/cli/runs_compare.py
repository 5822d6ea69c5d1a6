"""`git gru runs compare`."""

import click

from git_gru.cli.curves import draw
from git_gru.cli.render import emit_json, human_number, json_option, line, table
from git_gru.git.repository import Repository
from git_gru.git.run_refs import find_run, read_events, read_record
from git_gru.runs.comparing import compare, curve


@click.command("compare")
@click.argument("runs", metavar="ID...", nargs=-1, required=True)
@click.option("--metric", default="val_loss", show_default=True, help="What the curves show.")
@json_option
def command(runs: tuple[str, ...], metric: str, as_json: bool) -> None:
    """Compare runs: the keys of their recipes that differ, their last metrics, and their curves.

    A curve is that of a validation metric, of loss, lr or tokens_per_s, or of what else a trainer logged.

    \b
    --json: {"runs": [id], "recipe": {key: [a value for each run]}, "metrics": {name: [a number or null for each run]},
             "metric", "curves": {id: [[step, value]]}}
    """
    repo = Repository.find()
    ids = list(dict.fromkeys(find_run(repo, run) for run in runs))
    records = [read_record(repo, id) for id in ids]
    compared = compare(records)
    curves = {id: curve(read_events(repo, id), metric) for id in ids}
    if as_json:
        emit_json(
            {
                "runs": compared.runs,
                "recipe": compared.recipe,
                "metrics": compared.metrics,
                "metric": metric,
                "curves": curves,
            }
        )
        return
    steps = tuple(record.fraction for record in records)
    rows = [("state", *map(str, (record.state for record in records))), ("steps", *steps)]
    rows += [(key, *(_shown(key, value) for value in values)) for key, values in compared.recipe.items()]
    rows += [(name, *(_shown(name, value) for value in values)) for name, values in compared.metrics.items()]
    table(("", *compared.runs), rows, right=compared.runs)
    if picture := draw(curves):
        line()
        line(metric)
        for text in picture:
            line(text)
    else:
        line()
        line(f"none of them tells of {metric}")


def _shown(key: str, value: object) -> str:
    if value is None:
        return ""
    if key == "source":
        return str(value)[:10]
    if isinstance(value, float):
        return human_number(value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
