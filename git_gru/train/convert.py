"""Converting a PyTorch checkpoint to safetensors, bit for bit, without running code from it.

Tensors are written in full, tied ones once for each of their names, so that the file loads as the checkpoint did; the store keeps
equal bytes once. Wider dtypes come first, each in the state dict's order, so that every tensor is aligned: readers map it.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from git_gru.errors import InputError, MachineError
from git_gru.formats.safetensors import parse_header, write_header
from git_gru.store.packs import sync_folder
from git_gru.train.state_dict import DTYPES, LeftOut, find_state_dict
from git_gru.train.torch_file import read_torch_file

SUFFIX = ".safetensors"
_PIECE = 1 << 26  # bytes written between two reports of progress

Progress = Callable[[int, int], None]
"""Called with the bytes written so far, and the bytes in all."""


class TargetError(InputError):
    """A file that may not be written."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was done. `keys` led to the state dict; `size` is the new file's, in bytes; each of `tied` is a group of names."""

    source: Path
    target: Path
    keys: tuple[str, ...]
    size: int
    tensors: int
    tied: tuple[tuple[str, ...], ...]
    left_out: tuple[LeftOut, ...]


def convert(
    source: Path,
    target: Path | None = None,
    *,
    keys: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Writes the tensors of the checkpoint `source` to `target` (by default beside it), which appears in full or not at all.

    `keys` lead to the state dict; without any it is looked for. Memory: the checkpoint is mapped where it can be, and a tensor
    that is not contiguous is copied. Raises `TorchFileError`, `StateDictError`, `TargetError`, `HeaderError`, `MachineError`.
    """
    target = target or source.with_suffix(SUFFIX)
    _check_target(source, target, force)
    state = find_state_dict(read_torch_file(source), keys, source)
    tensors = sorted(state.tensors.items(), key=lambda entry: -entry[1].element_size())
    header = write_header(
        [(name, DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors], {"format": "pt"}
    )
    size = parse_header(header, file_size=None, where=str(target)).file_size
    if size > (free := shutil.disk_usage(target.parent).free):
        raise MachineError(
            f"{target} would take {size:,} bytes, and {free:,} are free there",
            hint="Free some space, or name another folder.",
        )
    with _appearing(target) as file:
        file.write(header)
        written = len(header)
        for _, tensor in tensors:
            for piece in _pieces(tensor):
                written += file.write(piece)
                if progress is not None:
                    progress(written, size)
        _check_target(source, target, force)  # it may have come meanwhile
    return Conversion(
        source=source,
        target=target,
        keys=state.keys,
        size=size,
        tensors=len(tensors),
        tied=state.tied,
        left_out=state.left_out,
    )


def _check_target(source: Path, target: Path, force: bool) -> None:
    if source.suffix == SUFFIX:
        raise TargetError(f"{source} is named as a safetensors file: there is nothing to convert")
    if not target.parent.is_dir():
        raise TargetError(f"there is no folder {target.parent}")
    if target.is_dir():
        raise TargetError(
            f"{target} is a folder", hint=f"Name the file: {target / source.with_suffix(SUFFIX).name}"
        )
    if not (target.exists() or target.is_symlink()):
        return
    if not force:
        raise TargetError(f"{target} is there already", hint="Name another file, or replace it with --force.")
    if source.exists() and target.exists() and target.samefile(source):
        raise TargetError(f"{target} is the checkpoint itself", hint="Name another file.")


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    """A new file that takes the name `target` once it is complete and durable; after a failure nothing is left of it."""
    temporary = target.with_name(f".gru-convert-{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _pieces(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The tensor's bytes in C order."""
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = dense.view(torch.uint8).numpy().data
    for start in range(0, len(data), _PIECE):
        yield data[start : start + _PIECE]
