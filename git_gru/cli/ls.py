"""`git gru ls`."""

import click

from git_gru.cli.render import emit_json, human_shape, human_size, json_option, line, table
from git_gru.git.inspect import joined, sizes, tensor_sizes
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store


@click.command("ls", short_help="List the models of a commit with their sizes.")
@click.argument("rev", default="HEAD")
@click.option("--tensors", is_flag=True, help="List each model's tensors as well.")
@json_option
def command(rev: str, tensors: bool, as_json: bool) -> None:
    """List the models in the commit REV (default HEAD): raw bytes as in the file, stored bytes as kept.

    What several models share is counted once in the total.

    \b
    --json: {"models": [{"path", "digest", "size", "stored", "missing_chunks", "raw": bool,
             "tensors": [{"name", "dtype", "shape", "size", "stored"}]}], "total": {"size", "stored"}}
    """
    repo = Repository.find()
    models = models_at(repo, rev)
    store = repo.store()
    if as_json:
        whole = sizes(store, joined(models.values()))
        emit_json(
            {
                "models": [_json(store, path, manifest) for path, manifest in models.items()],
                "total": {"size": sum(manifest.size for manifest in models.values()), "stored": whole.stored},
            }
        )
    elif not models:
        line(f"no models in {rev}")
    else:
        _show(store, models, tensors=tensors)


def _json(store: Store, path: str, manifest: Manifest) -> dict[str, object]:
    found = sizes(store, manifest.chunk_lengths())
    return {
        "path": path,
        "digest": manifest.digest,
        "size": manifest.size,
        "stored": found.stored,
        "missing_chunks": found.missing,
        "raw": manifest.is_raw,
        "tensors": [
            {
                "name": name,
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "size": entry.nbytes,
                "stored": tensor_sizes(store, entry).stored,
            }
            for name, entry in manifest.tensors.items()
        ],
    }


def _show(store: Store, models: dict[str, Manifest], *, tensors: bool) -> None:
    rows = []
    incomplete = False
    for path, manifest in models.items():
        found = sizes(store, manifest.chunk_lengths())
        incomplete = incomplete or found.missing > 0
        count = "raw" if manifest.is_raw else str(len(manifest.tensors))
        stored = human_size(found.stored) + (" *" if found.missing else "")
        rows.append((path, count, human_size(manifest.size), stored))
        if tensors:
            for name, entry in manifest.tensors.items():
                kept = human_size(tensor_sizes(store, entry).stored)
                rows.append(
                    (f"  {name}", f"{entry.dtype} {human_shape(entry.shape)}", human_size(entry.nbytes), kept)
                )
    if len(models) > 1:
        whole = sizes(store, joined(models.values()))
        size = sum(manifest.size for manifest in models.values())
        rows.append(("total", "", human_size(size), human_size(whole.stored)))
    table(("model", "tensors", "size", "stored"), rows, right=("tensors", "size", "stored"))
    if incomplete:
        line("* not all of this model's chunks are in the store")
