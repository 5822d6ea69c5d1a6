"""`git gru show`."""

import click

from git_gru.cli.render import emit_json, human_number, human_shape, human_size, json_option, line, table
from git_gru.git.inspect import find_tensor, kept_chunks, sizes, tensor_sizes
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelName, find_model
from git_gru.store.manifest import Manifest, TensorEntry
from git_gru.store.store import Store
from git_gru.tensors.summary import Summary, TensorSummary


@click.command("show", short_help="Show a model or one of its tensors.")
@click.argument("name", metavar="REV:PATH[#TENSOR]")
@json_option
def command(name: str, as_json: bool) -> None:
    """Show the model REV:PATH (metadata, tensors, sizes) or one of its tensors (shape, chunks, statistics).

    An empty REV is the index. Statistics are over finite values, in float64.

    \b
    --json, a model: {"name", "digest", "size", "stored", "raw": bool, "metadata": {..},
                      "tensors": [{"name", "dtype", "shape", "size", "stored"}]}
    --json, a tensor: {"name", "dtype", "shape", "size", "stored",
                      "chunks": [{"id", "encoding", "stored"}],
                      "statistics": {"elements", "mean", "std", "min", "max", "nan", "inf"} or null}
    """
    repo = Repository.find()
    found, manifest = find_model(repo, ModelName.parse(name))
    store = repo.store()
    if found.tensor is None:
        _model(store, found, manifest, as_json=as_json)
    else:
        entry = find_tensor(manifest, found.tensor, str(ModelName(found.rev, found.path)))
        _tensor(store, found, manifest, entry, as_json=as_json)


def _model(store: Store, name: ModelName, manifest: Manifest, *, as_json: bool) -> None:
    whole = sizes(store, manifest.chunk_lengths())
    metadata = {} if manifest.is_raw or whole.missing else store.header(manifest).metadata
    parts = {tensor: tensor_sizes(store, entry) for tensor, entry in manifest.tensors.items()}
    if as_json:
        emit_json(
            {
                "name": str(name),
                "digest": manifest.digest,
                "size": manifest.size,
                "stored": whole.stored,
                "raw": manifest.is_raw,
                "metadata": metadata,
                "tensors": [
                    {
                        "name": tensor,
                        "dtype": entry.dtype,
                        "shape": list(entry.shape),
                        "size": entry.nbytes,
                        "stored": parts[tensor].stored,
                    }
                    for tensor, entry in manifest.tensors.items()
                ],
            }
        )
        return
    line(f"model   {name}")
    line(f"digest  {manifest.digest}")
    line(f"size    {human_size(manifest.size)}, stored in {human_size(whole.stored)}")
    if whole.missing:
        are = "is" if whole.missing == 1 else "are"
        line(f"missing {whole.missing} of its chunks {are} not in the store")
    for key, value in sorted(metadata.items()):
        line(f"  {key}: {value}")
    if manifest.is_raw:
        line("kept as raw bytes: not a safetensors file")
        return
    line()
    rows = [
        (
            tensor,
            entry.dtype,
            human_shape(entry.shape),
            human_size(entry.nbytes),
            human_size(parts[tensor].stored),
        )
        for tensor, entry in manifest.tensors.items()
    ]
    table(("tensor", "dtype", "shape", "size", "stored"), rows, right=("size", "stored"))


def _tensor(store: Store, name: ModelName, manifest: Manifest, entry: TensorEntry, *, as_json: bool) -> None:
    assert name.tensor is not None
    summary = TensorSummary(entry.dtype)
    for piece in store.tensor(manifest, name.tensor):
        summary.add(piece)
    numbers = summary.result()
    whole = tensor_sizes(store, entry)
    chunks = kept_chunks(store, entry)
    if as_json:
        emit_json(
            {
                "name": str(name),
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "size": entry.nbytes,
                "stored": whole.stored,
                "chunks": [
                    {"id": kept.id, "encoding": kept.encoding, "stored": kept.stored} for kept in chunks
                ],
                "statistics": _statistics(numbers),
            }
        )
        return
    line(f"tensor  {name}")
    line(f"dtype   {entry.dtype}")
    line(f"shape   {human_shape(entry.shape)}")
    line(f"size    {human_size(entry.nbytes)}, stored in {human_size(whole.stored)}")
    if (shown := _statistics(numbers)) is not None:
        line(
            "values  "
            + ", ".join(f"{key} {human_number(value)}" for key, value in shown.items() if value is not None)
        )
    line()
    rows = [(kept.id, kept.encoding, human_size(kept.stored)) for kept in chunks]
    table(("chunk", "encoding", "stored"), rows, right=("stored",))


def _statistics(summary: Summary) -> dict[str, float | int | None] | None:
    """The numbers of a tensor by name, None for one that holds no numbers; of no finite element, null."""
    if not summary.numeric:
        return None
    some = summary.elements > summary.nan + summary.inf
    return {
        "elements": summary.elements,
        "mean": summary.mean if some else None,
        "std": summary.std if some else None,
        "min": summary.min if some else None,
        "max": summary.max if some else None,
        "nan": summary.nan,
        "inf": summary.inf,
    }
