"""Finding the state dict in what a checkpoint holds, and which of its entries safetensors can take.

A *state dict* maps names to tensors. A checkpoint is one, or a dict that holds one among other things (step, optimizer state),
perhaps some levels deep. What it holds may be anyone's: cycles, enormous shapes and odd names end in sentences.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from git_gru.errors import InputError

KNOWN_KEYS = ("state_dict", "model_state_dict", "model")
"""Under which a state dict is looked for, in this order, level by level."""

DTYPES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}

MOST_REPEATED = 1 << 26
"""Bytes that a tensor which repeats its own elements (stride 0) may grow to when it is written in full."""


class StateDictError(InputError):
    """A checkpoint without a state dict, or with tensors that safetensors cannot take."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something in the checkpoint that is no tensor of the state dict: the keys that lead to it, and what it is."""

    name: str
    what: str


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """A state dict, by name in its own order; `keys` led to it."""

    keys: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]
    left_out: tuple[LeftOut, ...]

    @property
    def tied(self) -> tuple[tuple[str, ...], ...]:
        """Groups of names that stand for one and the same tensor, as tied weights do."""
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, tensor in self.tensors.items():
            if tensor.numel():
                memory = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
                groups.setdefault(memory, []).append(name)
        return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def find_state_dict(content: object, keys: Sequence[str], where: Path) -> StateDict:
    """The state dict in `content`: where `keys` lead, or else where `KNOWN_KEYS` do. `where` names the file in messages.

    Raises `StateDictError`.
    """
    level, path, beside = content, list[str](), list[LeftOut]()
    seen = set[int]()
    while True:
        entries = _entries(level, path, where)
        key = _next_key(entries, keys, path, where)
        if key is None or id(level) in seen:
            break
        beside += [_left_out(path, name, value) for name, value in entries.items() if name != key]
        seen.add(id(level))
        path.append(key)
        level = entries[key]
    tensors = {name: value for name, value in entries.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise _no_tensors(entries, path, where)
    for name, tensor in tensors.items():
        if (why := _obstacle(tensor)) is not None:
            raise StateDictError(
                f"{_place(where, path)}: the tensor {name!r} {why}",
                hint="Load the checkpoint in PyTorch, change or drop that tensor, and save it again.",
            )
    beside += [_left_out(path, name, value) for name, value in entries.items() if name not in tensors]
    return StateDict(keys=tuple(path), tensors=tensors, left_out=tuple(beside))


def _next_key(
    entries: Mapping[str, object], keys: Sequence[str], path: Sequence[str], where: Path
) -> str | None:
    """The key to follow from here, None where the state dict should be."""
    if keys:
        if len(path) == len(keys):
            return None
        if keys[len(path)] not in entries:
            raise StateDictError(
                f"{_place(where, path)} has no key {keys[len(path)]!r}", hint=f"It has: {_listed(entries)}."
            )
        return keys[len(path)]
    return next(
        (key for key in KNOWN_KEYS if isinstance(entries.get(key), dict) and _count(entries[key])), None
    )


def _entries(level: object, path: Sequence[str], where: Path) -> Mapping[str, object]:
    if not isinstance(level, dict):
        raise StateDictError(
            f"{_place(where, path)} is no state dict ({_kind(level)}): that is a dict of tensors by their names"
        )
    if (odd := next((name for name in level if not isinstance(name, str)), None)) is not None:
        raise StateDictError(
            f"{_place(where, path)} is no state dict: a key in it is {type(odd).__name__}, not a name"
        )
    return level


def _no_tensors(entries: Mapping[str, object], path: Sequence[str], where: Path) -> StateDictError:
    holding = {key: value for key, value in entries.items() if _count(value)}
    hint = f"These keys lead to tensors; choose with --key: {_listed(holding)}." if holding else None
    return StateDictError(
        f"{_place(where, path)} is no state dict: none of its entries is a tensor", hint=hint
    )


def _obstacle(tensor: torch.Tensor) -> str | None:
    """Why safetensors cannot take the tensor, as the rest of a sentence; None where it can."""
    if tensor.layout is not torch.strided or tensor.is_nested:
        return "is sparse or nested, and safetensors holds dense tensors"
    if tensor.device.type != "cpu":
        return f"has no data (device {tensor.device})"
    if tensor.dtype not in DTYPES:
        return f"is {tensor.dtype}, which safetensors does not have"
    if tensor.nbytes > max(MOST_REPEATED, tensor.untyped_storage().nbytes()):
        return f"repeats a few elements (shape {list(tensor.shape)}) and would take {tensor.nbytes:,} bytes in full"
    return None


def _left_out(path: Sequence[str], name: str, value: object) -> LeftOut:
    return LeftOut(name=".".join((*path, name)), what=_kind(value))


def _kind(value: object) -> str:
    """What `value` is, for people: `Tensor`, `int`, `dict with 24 tensors`."""
    count = 0 if isinstance(value, torch.Tensor) else _count(value)
    return type(value).__name__ + (f" with {count} tensor{'s' if count > 1 else ''}" if count else "")


def _count(value: object) -> int:
    """The number of tensors in `value`, at any depth."""
    return sum(isinstance(one, torch.Tensor) for one in _within(value))


def _within(value: object) -> Iterator[object]:
    """`value` and all that its containers hold, each once (a container may hold itself)."""
    seen, waiting = set[int](), [value]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple | set):
            waiting += one


def _place(where: Path, path: Sequence[str]) -> str:
    return f"{where}: {'.'.join(path)}" if path else str(where)


def _listed(entries: Mapping[str, object]) -> str:
    names = [f"{name:.40}" for name in entries]
    return (
        ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"
    )
