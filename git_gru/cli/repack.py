"""`git gru repack`."""

import click

from git_gru.cli.progress import progress_bar
from git_gru.cli.render import emit_json, human_size, json_option, line, plural
from git_gru.git.history import model_history
from git_gru.git.repository import Repository
from git_gru.store.columns import DEPTH, WINDOW
from git_gru.store.repack import DEEPEST, repack


@click.command("repack", short_help="Make the store smaller: older versions become deltas.")
@click.option(
    "--depth",
    type=click.IntRange(0, DEEPEST),
    default=DEPTH,
    show_default=True,
    help="Most deltas in a chain.",
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    default=WINDOW,
    show_default=True,
    help="Newer versions tried as a base.",
)
@json_option
def command(depth: int, window: int, as_json: bool) -> None:
    """Make the store smaller: versions that are neither checked out nor at a branch's tip become deltas.

    Their newer neighbours are the bases, so the newest versions stay the fastest to restore. Manifests and commits do not
    change. Safe to interrupt, and to run beside other git commands.

    \b
    --json: {"models", "chunks", "rewritten", "bytes_before", "bytes_after", "packs_before", "packs_after"}
    """
    repo = Repository.find()
    store = repo.store()
    history = model_history(repo, store.stamps)
    with progress_bar("repacking", in_bytes=True) as progress:
        report = repack(
            store,
            history.lineages.values(),
            history.keep_plain,
            ranks=history.ranks,
            depth=depth,
            window=window,
            progress=progress,
        )
    if as_json:
        names = (
            "models",
            "chunks",
            "rewritten",
            "bytes_before",
            "bytes_after",
            "packs_before",
            "packs_after",
        )
        emit_json({name: getattr(report, name) for name in names})
        return
    kept = f"{plural(report.models, 'model')} in {plural(report.chunks, 'chunk')}"
    line(f"{kept}, {report.rewritten} of them encoded anew")
    line(f"store: {human_size(report.bytes_before)} before, {human_size(report.bytes_after)} now")
