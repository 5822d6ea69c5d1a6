"""The program's entry point: `git-gru`, and so `git gru`.

What Git itself starts (the filter on every `git add`, hooks on every commit, drivers, the pager's textconv) is dispatched
here before click and rich are imported: its start-up time is felt.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from git_gru.cli.boundary import guarded

Plumbing = Callable[[Sequence[str], Mapping[str, str]], int]


def _filter_process(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from git_gru.cli.filter_process import run

    return run(argv, environ)


def _hook(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from git_gru.cli.hook import run

    return run(argv, environ)


def _merge_driver(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from git_gru.cli.drivers import merge_driver

    return merge_driver(argv, environ)


def _diff_driver(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from git_gru.cli.drivers import diff_driver

    return diff_driver(argv, environ)


def _textconv(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    from git_gru.cli.drivers import textconv

    return textconv(argv, environ)


PLUMBING: dict[str, Plumbing] = {
    "filter-process": _filter_process,
    "hook": _hook,
    "merge-driver": _merge_driver,
    "diff-driver": _diff_driver,
    "textconv": _textconv,
}


def main() -> int:
    """Runs the command line of this process; returns the exit status."""
    argv = sys.argv[1:]
    command = PLUMBING.get(argv[0]) if argv else None
    if command is not None:
        plumbing = command
        return guarded(lambda: plumbing(argv[1:], os.environ), os.environ, name="git-gru")
    from git_gru.cli.main import run

    return guarded(lambda: run(argv), os.environ)


def entry() -> NoReturn:
    """`main` as a process of its own. What git waits for ends at once, without taking the interpreter apart."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader may be gone
            stream.flush()
    if sys.argv[1:2] and sys.argv[1] in PLUMBING:
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()
