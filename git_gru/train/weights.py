"""Weights between a network and the store: taking a snapshot, and loading a stored model.

A tensor's name in the file is its name in the network's state_dict, in that order; its dtype there is the recipe's
`model.dtype`, whatever the network computes in.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import nn

from git_gru.errors import InputError
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store

TensorData = tuple[str, str, tuple[int, ...], memoryview]
"""Name, dtype as safetensors names it, shape, bytes (little-endian, C order)."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
STATE_DTYPES = DTYPES | {"U8": torch.uint8, "I64": torch.int64}
_OTHER_DTYPES = {
    "BOOL": torch.bool,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in (STATE_DTYPES | _OTHER_DTYPES).items()}
RECIPE_DTYPES = {"fp32": "F32", "bf16": "BF16"}


class Described(Protocol):
    """A tensor as a manifest or the header of a file describes it: its dtype as safetensors names it, its shape."""

    @property
    def dtype(self) -> str:
        """`F32`, …."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


class HasTensors(Protocol):
    """What names tensors, in order: a manifest, a part of a file."""

    @property
    def tensors(self) -> Mapping[str, Described]:
        """By name."""


class WeightsError(InputError):
    """A stored model that does not fit the network."""


def snapshot(network: nn.Module, dtype: str) -> list[TensorData]:
    """A copy of the network's weights on the CPU, as `dtype` (`fp32`, `bf16`); later steps do not change it."""
    kept = DTYPES[RECIPE_DTYPES[dtype]]
    return [copied(key, tensor, kept) for key, tensor in network.state_dict().items()]


def copied(name: str, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> TensorData:
    """A copy of a tensor on the CPU, as `dtype` (by default its own); later changes to the tensor do not reach it.

    Raises `WeightsError` for a dtype that safetensors does not have.
    """
    if (dtype or tensor.dtype) not in _NAMES:
        raise WeightsError(f"the tensor {name} is {tensor.dtype}, which a safetensors file cannot hold")
    copy = tensor.detach().to("cpu", dtype or tensor.dtype, copy=True).contiguous()
    data = memoryview(copy.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return name, _NAMES[copy.dtype], tuple(copy.shape), data


def loaded(store: Store, manifest: Manifest, name: str) -> torch.Tensor:
    """A tensor of a stored model, on the CPU. Raises KeyError for a name or dtype that it does not have."""
    return tensor_of(manifest.tensors[name], bytearray().join(store.tensor(manifest, name)))


def tensor_of(described: Described, data: bytearray) -> torch.Tensor:
    """A tensor of these bytes, which it shares. Raises KeyError for a dtype that no resume state has."""
    dtype = STATE_DTYPES[described.dtype]
    if not data:
        return torch.empty(described.shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(described.shape)


@contextmanager
def as_kept(network: nn.Module, dtype: str) -> Iterator[None]:
    """Within this block the network computes with its weights rounded to `dtype`, as a commit keeps them.

    So a validation metric in a commit is that of the commit's model, not of the finer weights that training goes on with.
    """
    kept = DTYPES[RECIPE_DTYPES[dtype]]
    finer = [(p, p.detach().clone()) for p in network.parameters() if p.dtype != kept]
    with torch.no_grad():
        for parameter, _ in finer:
            parameter.copy_(parameter.to(kept))
        try:
            yield
        finally:
            for parameter, original in finer:
                parameter.copy_(original)


def load(network: nn.Module, store: Store, manifest: Manifest, *, where: str) -> None:
    """Copies a stored model's weights into the network, converting floats. `where` names the model in messages.

    Raises `WeightsError` when names, shapes or dtypes do not fit, before a weight is changed.
    """
    own = dict(network.state_dict())
    check_fits({key: tuple(tensor.shape) for key, tensor in own.items()}, manifest, where=where)
    with torch.no_grad():
        for key, target in own.items():
            target.copy_(loaded(store, manifest, key))


def check_fits(wanted: Mapping[str, Sequence[int]], manifest: HasTensors, *, where: str) -> None:
    """Raises `WeightsError` unless a manifest, or a file's tensors, are exactly those `wanted` (name → shape), as floats."""
    if missing := sorted(wanted.keys() - manifest.tensors.keys()):
        raise WeightsError(f"{where} has no tensor {missing[0]}, which the network needs")
    if extra := sorted(manifest.tensors.keys() - wanted.keys()):
        raise WeightsError(f"{where} has a tensor {extra[0]}, for which the network has no place")
    for key, shape in wanted.items():
        entry = manifest.tensors[key]
        if tuple(entry.shape) != tuple(shape):
            raise WeightsError(
                f"{where}#{key} has the shape {list(entry.shape)}, and the network needs {list(shape)}"
            )
        if entry.dtype not in DTYPES:
            raise WeightsError(
                f"{where}#{key} is {entry.dtype}, and a network's weights must be F64, F32, F16 or BF16"
            )
