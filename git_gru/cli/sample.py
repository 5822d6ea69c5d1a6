"""`git gru sample`."""

import unicodedata

import click

from git_gru.cli.render import emit_json, json_option
from git_gru.git.repository import Repository
from git_gru.train.plan import require_torch


@click.command("sample", short_help="Let a model write text.")
@click.argument("name", metavar="[REV[:PATH]]", default="HEAD")
@click.option("--prompt", default="", help="The text to go on from.")
@click.option(
    "--length",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    help="Symbols to write (bytes, unless the model has a tokenizer).",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.8,
    show_default=True,
    help="0 takes the likeliest symbol.",
)
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True)
@json_option
def command(name: str, prompt: str, length: int, temperature: float, seed: int, as_json: bool) -> None:
    """Let the language model of a commit (default HEAD) write text. The same seed gives the same text.

    \b
    --json: {"name", "prompt", "text"}
    """
    require_torch()
    from git_gru.train.sample import sample

    written = sample(
        Repository.find(), name, prompt=prompt.encode(), length=length, temperature=temperature, seed=seed
    )
    text = written.decode("utf-8", "replace")
    if as_json:
        emit_json({"name": name, "prompt": prompt, "text": text})
    else:
        click.echo(prompt + _shown(text))


def _shown(text: str) -> str:
    """`text` without control characters: a model may write any byte, and a terminal would obey some."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "�" for c in text)
