"""Markdown tables, as the benchmarks print them."""

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence


def heading() -> None:
    """Prints when and on what this ran."""
    cores = len(os.sched_getaffinity(0))
    print(f"{datetime.date.today()}, {platform.machine()}, {cores} cores, Python {platform.python_version()}")
    print(subprocess.run(["git", "--version"], capture_output=True, text=True, check=True).stdout.strip())


def run_parts(parts: Mapping[str, Callable[[], object]], only: str | None) -> None:
    """Runs all parts, or those that `only` names (separated by commas)."""
    wanted = only.split(",") if only else parts
    for name, part in parts.items():
        if name in wanted:
            part()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("| " + " | ".join(["---"] * len(columns)) + " |")
    for row in rows:
        cells = [f"{cell:.3f}" if isinstance(cell, float) and cell < 10 else _text(cell) for cell in row]
        print("| " + " | ".join(cells) + " |")
    sys.stdout.flush()


def _text(cell: object) -> str:
    return f"{cell:.0f}" if isinstance(cell, float) else str(cell)
