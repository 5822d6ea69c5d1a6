"""Copies of the weights of a trainer's own: a module of PyTorch, or any mapping of names to tensors or numpy arrays.

Torch is imported only where the tensors are torch's.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from git_gru.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from git_gru.train.weights import TensorData


def snapshot_of(model: "nn.Module | Mapping[str, Any]") -> "list[TensorData]":
    """Copies of a model's tensors, in their own dtypes. Raises `InputError` for what a safetensors file cannot hold."""
    state: Mapping[str, Any] = model if isinstance(model, Mapping) else model.state_dict()
    return [_copied(name, tensor) for name, tensor in state.items()]


def _copied(name: str, tensor: Any) -> "TensorData":
    if type(tensor).__module__.partition(".")[0] == "torch":
        from git_gru.train.weights import copied

        return copied(name, tensor)
    import numpy as np

    from git_gru.tensors.arrays import dtype_name

    array = np.asarray(tensor)
    dtype = dtype_name(array.dtype)
    if dtype is None:
        raise InputError(f"the tensor {name} is {array.dtype}, which a safetensors file cannot hold")
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=True)
    return name, dtype, array.shape, memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def nonfinite_names(tensors: "Sequence[TensorData]") -> list[str]:
    """The float tensors with a NaN or an infinity in them."""
    import numpy as np

    from git_gru.tensors.arrays import layout_of

    floats = ((name, layout_of(dtype), data) for name, dtype, _, data in tensors)
    with np.errstate(invalid="ignore"):
        return [
            name
            for name, layout, data in floats
            if layout.kind == "float" and not np.isfinite(np.frombuffer(data, layout.numpy)).all()
        ]
