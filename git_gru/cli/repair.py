"""`git gru repair`."""

from typing import Any

import click

from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import emit_json, json_option, line, plural
from git_gru.errors import StoreError
from git_gru.git.repairing import Mended, repair_store
from git_gru.git.repository import Repository


@click.command("repair", short_help="Mend a damaged store, with the help of remotes.")
@click.option(
    "--salvage",
    "read_packs",
    is_flag=True,
    help="Look for whole models in the packs even if the trees are whole.",
)
@json_option
def command(read_packs: bool, as_json: bool) -> int:
    """Put a damaged store together from what is intact, and fetch the rest from remotes.

    Packs that are cut short are set aside; lost trees are made anew from the chunks that are there; every chunk is decoded and
    compared with its id; what is damaged or missing is fetched. Nothing is deleted. Exit status 5 while models or chunks are
    lost that nobody has: add the file again where you still have it.

    \b
    --json: {"models", "set_aside": [path], "salvaged": {"whole", "lost": [digest]} or null, "fetched",
             "elsewhere": {digest: remote}, "unreached": {remote: why}, "chunks", "left": {chunk id: why}}
    """
    done = repair_store(Repository.find(), read_packs=read_packs, progress=bytes_progress("checking"))
    if as_json:
        emit_json(_json(done))
    else:
        _show(done)
    return 0 if done.is_whole else StoreError.exit_code


def _json(done: Mended) -> dict[str, Any]:
    return {
        "models": done.models,
        "set_aside": [str(path) for path in done.aside],
        "salvaged": done.salvaged and {"whole": len(done.salvaged.whole), "lost": list(done.lost)},
        "fetched": done.fetched,
        "elsewhere": dict(done.elsewhere.remotes),
        "unreached": dict(done.elsewhere.unreached),
        "chunks": done.chunks,
        "left": dict(done.left),
    }


def _show(done: Mended) -> None:
    for path in done.aside:
        line(f"{path.name} is damaged: what is intact was copied out of it, and it was set aside: {path}")
    if done.salvaged:
        line(f"{plural(len(done.salvaged.whole), 'model')} put together from the chunks that are here")
    if done.fetched:
        line(f"{plural(done.fetched, 'model')} fetched again")
    if there := done.elsewhere.remotes:
        line(f"{plural(len(there), 'model')} not here, but on {', '.join(sorted(set(there.values())))}")
    for remote, why in done.elsewhere.unreached.items():
        line(f"{remote} could not be asked: {why}")
    if done.lost:
        asked = " that could be asked" if done.elsewhere.unreached else ""
        line(f"{plural(len(done.lost), 'model')} with chunks missing, and on no remote{asked}")
        for name in done.lost:
            line(f"  {name[:12]}")
        line("after adding files again that had some of these chunks: git gru repair --salvage")
    if done.chunks:
        line(f"{plural(done.chunks, 'damaged chunk')} written anew")
    for id, why in done.left.items():
        line(f"chunk {id[:12]} is damaged, and {why}")
    if not (done.aside or done.salvaged or done.chunks or done.left or done.lost):
        line(f"all chunks of {plural(done.models, 'model')} are whole")
