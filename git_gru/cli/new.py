"""`git gru new`."""

from pathlib import Path

import click

from git_gru.cli.render import emit_json, json_option, line
from git_gru.train.templates import KINDS, write_new


@click.command("new", short_help="Write a recipe for a new model.")
@click.argument("kind", metavar="KIND", type=click.Choice(KINDS))
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(file_okay=False, path_type=Path))
@json_option
def command(kind: str, folder: Path, as_json: bool) -> None:
    """Write a commented gru.toml for a KIND of task into DIR (default: here).

    \b
    KIND is one of
      language-model   predicts the next symbol of text; writes (git gru sample)
      forecaster       predicts the next rows of time series (git gru forecast)
      classifier       gives sequences labels
      entrypoint       your own PyTorch code, with a task.py to start from

    \b
    --json: {"files": [path]}
    """
    written = write_new(kind, folder)
    if as_json:
        emit_json({"files": [str(file) for file in written]})
        return
    for file in written:
        line(f"wrote {file}")
    line(
        "next: set data.files; git gru track '*.safetensors' if it is not done yet; git add and git commit it all; git gru train"
    )
