"""`git gru repair`."""

import click

from git_gru.cli.progress import bytes_progress
from git_gru.cli.render import emit_json, json_option, line, plural
from git_gru.git.repairing import repair_store
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

    Lost trees are made anew from the chunks that are there; every chunk is decoded and compared with its id; those that are
    damaged or missing are fetched. Nothing is deleted. Exit status 5 while chunks are left that nobody has: add the file
    again where you still have it.

    \b
    --json: {"models", "salvaged": {"whole", "lost": [digest]} or null, "chunks", "left": {chunk id: why}}
    """
    done = repair_store(Repository.find(), read_packs=read_packs, progress=bytes_progress("checking"))
    lost = sorted(done.salvaged.lost) if done.salvaged else []
    if as_json:
        salvaged = done.salvaged and {"whole": len(done.salvaged.whole), "lost": lost}
        emit_json(
            {"models": done.models, "salvaged": salvaged, "chunks": done.chunks, "left": dict(done.left)}
        )
        return 5 if done.left else 0
    if done.salvaged:
        line(f"{plural(len(done.salvaged.whole), 'model')} put together from the chunks that are here")
    if lost:
        count = plural(len(lost), "model")
        line(f"{count} with chunks missing here: fetched again when needed, where a remote has them")
        for name in lost:
            line(f"  {name[:12]}")
        line("after adding files again that had some of these chunks: git gru repair --salvage")
    if done.chunks:
        line(f"{plural(done.chunks, 'damaged chunk')} written anew")
    for id, why in done.left.items():
        line(f"chunk {id[:12]} is damaged, and {why}")
    if not (done.salvaged or done.chunks or done.left):
        line(f"all chunks of {plural(done.models, 'model')} are whole")
    return 5 if done.left else 0
