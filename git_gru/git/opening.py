"""`open_model`: a committed model as a mapping from names to arrays, of which only what is looked at is read and fetched."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from git_gru.errors import InputError, MachineError
from git_gru.git.fetching import part_of
from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelName, find_model
from git_gru.store.bring import Part
from git_gru.store.manifest import TensorEntry

if TYPE_CHECKING:
    import numpy as np


class OpenModel(Mapping[str, Any]):
    """Tensor name -> array, in file order, each read when it is asked for. Made by `open_model`; a context manager."""

    def __init__(self, part: Part, name: str, framework: str) -> None:
        self.name = name
        self._part = part
        self._framework = framework

    def __getitem__(self, name: str) -> Any:
        """The tensor as a new array (numpy, dtypes that it lacks by ml_dtypes) or torch tensor. Raises KeyError."""
        array = self._array(name)
        if self._framework == "numpy":
            return array
        return _as_torch(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self._part.manifest.tensors)

    def __len__(self) -> int:
        return len(self._part.manifest.tensors)

    def __repr__(self) -> str:
        return f"OpenModel({self.name!r}, {len(self)} tensors)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads and closes the files behind it."""
        self._part.close()

    def describe(self, name: str) -> TensorEntry:
        """A tensor's dtype and shape, without reading it. Raises KeyError."""
        return self._part.manifest.tensors[name]

    def data(self, name: str) -> bytes:
        """A tensor's bytes as they stand in the file, little-endian. Raises KeyError."""
        entry = self._part.manifest.tensors[name]
        self._part.ensure(entry.chunks)
        return b"".join(self._part.chunk(id) for id in entry.chunks)

    def _array(self, name: str) -> "np.ndarray[Any, Any]":
        from git_gru.tensors.arrays import array_of

        entry = self._part.manifest.tensors[name]
        try:
            return array_of(bytearray(self.data(name)), entry.dtype, entry.shape)
        except ValueError as error:
            raise InputError(
                f"{self.name}#{name}: {error}", hint="Its bytes can be had: OpenModel.data, or git gru cat"
            ) from None


def open_model(name: str, *, repository: str | Path | None = None, framework: str = "numpy") -> OpenModel:
    """Opens the model `REV:PATH` of the repository around the folder `repository` (default: the current one).

    `framework` is "numpy" or "torch". Raises `InputError` for names that stand for no model, `ModelMissingError` where it is
    nowhere. Reading a tensor fetches its chunks alone and raises `StoreError` where they are damaged.
    """
    if framework not in ("numpy", "torch"):
        raise InputError(f"the framework {framework!r} is neither numpy nor torch")
    repo = Repository.find(Path(repository) if repository is not None else None)
    reading, manifest = find_model(repo, ModelName.parse(name).whole)
    if manifest.is_raw:
        raise InputError(f"{name} is no safetensors file: it has no tensors to open")
    return OpenModel(part_of(repo, manifest), f"{reading.rev}:{reading.path}", framework)


def _as_torch(array: "np.ndarray[Any, Any]") -> Any:
    import importlib

    try:
        torch = importlib.import_module("torch")  # asked for by the caller; nothing else here needs it
    except ImportError:
        raise MachineError(
            "PyTorch is not installed here",
            hint="Install it: pip install 'git-gru[train]'; or use framework=\"numpy\"",
        ) from None
    if array.dtype.kind == "V":  # one of ml_dtypes', by a name that torch knows too
        bits = array.view({1: "uint8", 2: "int16"}[array.dtype.itemsize])
        return torch.from_numpy(bits).view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array)
