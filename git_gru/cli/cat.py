"""`git gru cat`."""

import sys

import click

from git_gru.errors import InputError
from git_gru.git.fetching import part_of
from git_gru.git.inspect import find_tensor
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelName, find_model
from git_gru.store.restore import restore


@click.command("cat", short_help="Write a model or one of its tensors to standard output.")
@click.argument("name", metavar="REV:PATH[#TENSOR]")
@click.option("--npy", is_flag=True, help="A tensor as an .npy file, in place of its bytes.")
def command(name: str, npy: bool) -> None:
    """Write the bytes of the model REV:PATH, or of one of its tensors, to standard output.

    Of a tensor only its own chunks are read, and fetched where they are not here.
    """
    repo = Repository.find()
    found, manifest = find_model(repo, ModelName.parse(name))
    if sys.stdout.isatty():
        raise InputError(
            "weights are not for a terminal", hint=f"Write them to a file: git gru cat {name} > FILE"
        )
    out = sys.stdout.buffer
    if found.tensor is None:
        if npy:
            raise InputError("--npy is for a tensor", hint="Name one: REV:PATH#TENSOR")
        for piece in restore(repo.store(), manifest):
            out.write(piece)
        return
    entry = find_tensor(manifest, found.tensor, str(ModelName(found.rev, found.path)))
    part = part_of(repo, manifest)
    part.ensure(entry.chunks)
    if npy:
        from git_gru.tensors.arrays import npy_header

        try:
            out.write(npy_header(entry.dtype, entry.shape))
        except ValueError as error:
            raise InputError(f"{name}: {error}", hint="Leave out --npy: its bytes can be had") from None
    for id in entry.chunks:
        out.write(part.chunk(id))
