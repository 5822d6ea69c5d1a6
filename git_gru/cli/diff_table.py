"""A model's difference as text and as JSON: what `git gru diff` and Git's diff driver print."""

import math
from typing import Any

from git_gru.cli.render import human_number, human_shape, human_size, line, plural, table
from git_gru.formats.dtypes import DTYPES
from git_gru.git.comparing import ModelDiff, TensorRow
from git_gru.tensors.diff import Measures

_COLUMNS = ("tensor", "shape", "‖Δ‖", "relative", "cosine", "max |Δ|", "changed")
_NUMBERS = _COLUMNS[2:]
_GATE_NAMES = {"r": "reset r", "z": "update z", "n": "new n"}


def show(diff: ModelDiff) -> None:
    """Prints the heading, the table of tensors, and what the table cannot say."""
    line(heading(diff))
    if diff.rows:
        rows = [cells for row in diff.rows for cells in _cells(row)]
        noted = any(cells[-1] for cells in rows)
        columns = (*_COLUMNS, "note") if noted else _COLUMNS
        table(columns, [cells[: len(columns)] for cells in rows], right=_NUMBERS)
    if diff.metadata:
        line(f"__metadata__ differs in: {', '.join(diff.metadata)}")


def stat_cells(diff: ModelDiff) -> tuple[str, str, str]:
    """The row of `--stat`: the model, what happened to its tensors, and how many bytes of chunks are new."""
    return _name(diff), _summary(diff), human_size(_changed_bytes(diff))


def heading(diff: ModelDiff) -> str:
    """One line: the model and what happened to it. Its ‖Δ‖ is over the float tensors that changed."""
    return f"{_name(diff)}: {_summary(diff)}"


def model_json(diff: ModelDiff) -> dict[str, Any]:
    """The stable keys that `git gru diff --json` prints for a model."""
    return {
        "path": diff.path,
        "old_path": diff.old_path,
        "status": _status(diff),
        "old_bytes": diff.old.size if diff.old else None,
        "new_bytes": diff.new.size if diff.new else None,
        "changed_bytes": _changed_bytes(diff),
        "raw": diff.raw,
        "unchanged_tensors": diff.unchanged,
        "metadata_changed": list(diff.metadata),
        "tensors": [_row_json(row) for row in diff.rows],
    }


def _name(diff: ModelDiff) -> str:
    return diff.path if diff.path == diff.old_path else f"{diff.old_path} → {diff.path}"


def _status(diff: ModelDiff) -> str:
    if diff.old is None or diff.new is None:
        return "added" if diff.old is None else "removed"
    if diff.old.digest == diff.new.digest:
        return "renamed"
    return "changed"


def _summary(diff: ModelDiff) -> str:
    status = _status(diff)
    whole = diff.new or diff.old
    if whole is None or status == "renamed":
        return "same bytes under another path"
    if status != "changed":
        kind = "not safetensors" if whole.is_raw else plural(len(whole.tensors), "tensor")
        return f"{status}, {kind}, {human_size(whole.size)}"
    if diff.raw:
        return "changed, not safetensors on both sides: no tensors to compare"
    total = len(diff.new.tensors) if diff.new else 0
    counts = {status: sum(row.status == status for row in diff.rows) for status in _WORDS}
    parts = [f"{count} {_WORDS[status]}" for status, count in counts.items() if count]
    text = f"{', '.join(parts) or 'none changed'} of {plural(total, 'tensor')}"
    # a counter such as num_batches_tracked moves by thousands and would drown the weights
    norms = [row.diff.total.delta_norm for row in diff.rows if row.diff and _is_float(row)]
    return f"{text}, ‖Δ‖ {human_number(math.hypot(*norms))}" if norms else text


_WORDS = {
    "changed": "changed",
    "reshaped": "with another shape or dtype",
    "added": "added",
    "renamed": "renamed",
    "removed": "removed",
}


def _is_float(row: TensorRow) -> bool:
    dtype = DTYPES.get(row.new.dtype) if row.new else None
    return dtype is not None and dtype.kind == "float" and row.diff is not None and row.diff.total.numeric


def _changed_bytes(diff: ModelDiff) -> int:
    """Raw bytes of the new side's tensors in chunks that the old side does not have there; whole files if
    raw.
    """
    if diff.new is None:
        return 0
    if diff.raw:
        return 0 if diff.old and diff.old.digest == diff.new.digest else diff.new.size
    total = 0
    for row in diff.rows:
        if row.new is not None and row.new.chunks:
            total += row.new.nbytes * row.changed_chunks // max(len(row.new.chunks), row.changed_chunks)
    return total


def _cells(row: TensorRow) -> list[tuple[str, ...]]:
    entry = row.new or row.old
    shape = f"{entry.dtype} {human_shape(entry.shape)}" if entry else ""
    if row.diff is None:
        return [(row.name, shape, *[""] * len(_NUMBERS), _note(row))]
    rows = [(row.name, shape, *_numbers(row.diff.total), _finiteness(row.diff.total))]
    for gate, measures in row.diff.gates.items():
        if measures.changed:
            rows.append((f"  {_GATE_NAMES[gate]}", "", *_numbers(measures), ""))
    return rows


def _numbers(measures: Measures) -> tuple[str, ...]:
    changed = f"{100 * measures.changed_share:.3g} %"
    if not measures.numeric:
        return "", "", "", "", changed
    relative = "–" if measures.relative is None else human_number(measures.relative)
    cosine = "–" if measures.cosine is None else f"{measures.cosine:.6f}"
    return human_number(measures.delta_norm), relative, cosine, human_number(measures.max_abs), changed


def _note(row: TensorRow) -> str:
    if row.status == "renamed":
        return f"renamed from {row.old_name}"
    if row.status == "reshaped" and row.old is not None:
        return f"was {row.old.dtype} {human_shape(row.old.shape)}"
    return "" if row.status == "changed" else row.status


def _finiteness(measures: Measures) -> str:
    sides = (("old", measures.old_nan, measures.old_inf), ("new", measures.new_nan, measures.new_inf))
    return ", ".join(f"{side}: {nan} NaN, {inf} Inf" for side, nan, inf in sides if nan or inf)


def _row_json(row: TensorRow) -> dict[str, Any]:
    entry = row.new or row.old
    assert entry is not None
    shown: dict[str, Any] = {
        "name": row.name,
        "status": row.status,
        "old_name": row.old_name,
        "dtype": entry.dtype,
        "shape": list(entry.shape),
        "old_dtype": row.old.dtype if row.old else None,
        "old_shape": list(row.old.shape) if row.old else None,
        "changed_chunks": row.changed_chunks,
        "measures": _measures_json(row.diff.total) if row.diff else None,
        "gates": {gate: _measures_json(measures) for gate, measures in row.diff.gates.items()}
        if row.diff
        else {},
    }
    return shown


def _measures_json(measures: Measures) -> dict[str, Any]:
    return {
        "elements": measures.elements,
        "changed": measures.changed,
        "changed_share": measures.changed_share,
        "delta_norm": measures.delta_norm,
        "relative": measures.relative,
        "cosine": measures.cosine,
        "max_abs": measures.max_abs,
        "old_norm": measures.old_norm,
        "new_norm": measures.new_norm,
        "old_nan": measures.old_nan,
        "old_inf": measures.old_inf,
        "new_nan": measures.new_nan,
        "new_inf": measures.new_inf,
    }
