"""Paths on the command line: whatever stands behind `--`, as in Git, from the user's folder."""

import os
from collections.abc import Iterable
from pathlib import Path

import click

from git_gru.git.repository import Repository

_PATHS = "git_gru.cli.paths"


class PathsBehindDashes(click.Command):
    """A command whose `--` divides revisions from paths, as in Git; click alone would join the two."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, for what stands before `--`."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_PATHS] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """As click's, and the paths."""
        return [*super().collect_usage_pieces(ctx), "[-- PATH…]"]


def pathspecs(ctx: click.Context, repo: Repository, more: Iterable[str] = ()) -> tuple[str, ...]:
    """The paths behind `--` and `more`, for a git that runs at the worktree's top."""
    return from_top(repo, (*more, *ctx.meta[_PATHS]))


def from_top(repo: Repository, paths: Iterable[str]) -> tuple[str, ...]:
    """`paths`, which the user means from their folder, for a git that runs at the worktree's top."""
    return tuple(
        path if path.startswith(":") else os.path.relpath(Path.cwd() / path, repo.top) for path in paths
    )
