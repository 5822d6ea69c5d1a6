"""`git gru convert`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.train.plan import require_torch

if TYPE_CHECKING:
    from git_gru.train.convert import Conversion

_SHOWN = 10


@click.command("convert", short_help="Make a safetensors file of a PyTorch checkpoint.")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", required=False, type=click.Path(path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="The key of the weights in the checkpoint; once for each level, outermost first.",
)
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@json_option
def command(model: Path, out: Path | None, keys: tuple[str, ...], force: bool, as_json: bool) -> None:
    """Write the tensors of the PyTorch checkpoint MODEL to OUT (by default MODEL with the ending .safetensors).

    MODEL is what torch.save has written: a state dict, or a dict that holds one under state_dict, model_state_dict or model.
    Tensors keep their bits. What else it holds (step, optimizer state) is left out and listed. Tied tensors are written once for
    each of their names; the store keeps them once.

    Nothing in MODEL is run: a file that needs code to be read, such as a pickled network, is refused.

    \b
    --json: {"source", "target", "keys": [text], "size", "tensors", "tied": [[name]],
             "left_out": [{"name", "what"}]}
    """
    require_torch()
    from git_gru.train.convert import convert

    done = convert(model, out, keys=keys, force=force, progress=bytes_progress("writing"))
    if as_json:
        emit_json(_json(done))
    else:
        _show(done)


def _show(done: "Conversion") -> None:
    taken = f", the state dict at {'.'.join(done.keys)}" if done.keys else ""
    line(f"{done.target}: {plural(done.tensors, 'tensor')}, {human_size(done.size)}{taken}")
    for names in done.tied[:_SHOWN]:
        line(f"tied, and written for each name: {', '.join(names)}")
    if len(done.tied) > _SHOWN:
        line(f"and {plural(len(done.tied) - _SHOWN, 'more group')} of tied tensors (--json lists them)")
    for left in done.left_out[:_SHOWN]:
        line(f"left out: {left.name} ({left.what})")
    if len(done.left_out) > _SHOWN:
        line(f"and {len(done.left_out) - _SHOWN} more left out (--json lists them)")


def _json(done: "Conversion") -> dict[str, Any]:
    return dataclasses.asdict(done) | {"source": str(done.source), "target": str(done.target)}
