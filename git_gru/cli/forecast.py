"""`git gru forecast`."""

import dataclasses
import shutil
import sys
from pathlib import Path

import click

from git_gru.cli.chart import chart
from git_gru.cli.recipe_options import recipe_option, set_option
from git_gru.cli.render import emit_json, human_number, json_option, line, table
from git_gru.git.repository import Repository
from git_gru.train.plan import require_torch

_HEIGHT = 10


@click.command("forecast", short_help="Let a model forecast its series.")
@click.argument("name", metavar="[REV[:PATH]]", default="HEAD")
@click.option("--horizon", type=click.IntRange(min=1), metavar="N", help="Rows to forecast (data.horizon).")
@click.option("--series", "only", multiple=True, metavar="NAME", help="Only this series; may be repeated.")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a picture too (by matplotlib).",
)
@recipe_option
@set_option
@json_option
def command(
    name: str, horizon: int | None, only: tuple[str, ...], png: Path | None, recipe_path: str,
    overrides: tuple[str, ...], as_json: bool,
) -> None:  # fmt: skip
    """Let the forecaster of a commit (default HEAD) go on with the series of that commit's data.

    \b
    --json: {"forecasts": [{"series", "target", "past_times": [text], "past": [number],
             "times": [text], "values": [number]}]}
    """
    require_torch()
    from git_gru.train.figure import draw
    from git_gru.train.forecast import forecast

    found = forecast(
        Repository.find(), name, horizon=horizon, only=only, recipe_path=recipe_path, overrides=overrides
    )
    if png is not None:
        draw(found, png)
    if as_json:
        emit_json({"forecasts": [dataclasses.asdict(one) for one in found]})
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    for number, one in enumerate(found):
        if number:
            line()
        line(f"{one.series}  {one.target}".strip() + f"  ({one.past_times[0]} … {one.times[-1]})")
        if _shows_unicode():
            for row in chart([*one.past, *one.values], width=width, height=_HEIGHT, present=len(one.past)):
                line(row)
        rows = [(time, human_number(value)) for time, value in zip(one.times, one.values, strict=True)]
        table(("time", one.target), rows, right=(one.target,))


def _shows_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
