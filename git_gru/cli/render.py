"""How results are shown: tables for people, `--json` for programs, sizes and numbers in one way everywhere.

JSON has stable keys, sizes in bytes, and one document per command. Tables are cut to the width of a terminal and never
when the output is a pipe or file.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence

import click

from git_gru.cli.boundary import printable

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON (its keys are listed above).")
"""The option that every verb has that prints data; the verb's help documents the keys."""

_WIDE = 1_000  # columns, where there is no terminal to fit


def line(text: str = "") -> None:
    """One line on stdout; control characters in it, line breaks included, are shown as escapes."""
    click.echo(printable(text))


def emit_json(value: object) -> None:
    """`value` as one indented JSON document on stdout; NaN and infinities, which JSON does not have, as null."""
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=True, allow_nan=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """A table on stdout without rules; the columns named in `right` are aligned to the right.

    Control characters in the cells are shown as escapes, so that a row stays one.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    aligned = frozenset(right)
    for column in columns:
        shown.add_column(printable(column), justify="right" if column in aligned else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    with console.capture() as capture:
        console.print(shown)
    # rich fills every cell to its column's width; nobody wants those spaces in a pipe
    click.echo("\n".join(text.rstrip() for text in capture.get().splitlines()))


def human_size(count: int) -> str:
    """Bytes for people, in powers of 1,000: `45.7 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def human_span(seconds: float) -> str:
    """A span of time for people, in its largest unit: `3 hours`."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return plural(int(seconds // length), unit)
    return plural(max(0, int(seconds)), "second")


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 model`, `2 models`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def human_shape(shape: Sequence[int]) -> str:
    """A shape for people: `3072×1024`; a scalar is `scalar`."""
    return "×".join(str(n) for n in shape) or "scalar"


def human_number(value: float) -> str:
    """Four significant digits; whole numbers in full."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value
