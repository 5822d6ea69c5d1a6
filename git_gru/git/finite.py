"""Whether a model's weights are all numbers: what the pre-commit hook asks about the models of a commit.

Only chunks that an earlier version does not have are looked at, and of a plain F32 or BF16 chunk only the plane that holds
the exponents: a number is NaN or infinite when all bits of its exponent are set (IEEE 754), which is one search for a byte.
"""

from git_gru.formats.dtypes import dtype_of
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store

_EXPONENT_IS_THE_TOP_PLANE = frozenset({"F32", "BF16"})


def nonfinite_tensors(store: Store, manifest: Manifest, before: Manifest | None) -> list[str]:
    """The float tensors of `manifest` with a NaN or an infinity in a chunk that `before` does not have.

    The model must be in the store. Raises `StoreError` for one that is damaged.
    """
    known = set() if before is None else set(before.chunks())
    found = []
    for name, entry in manifest.tensors.items():
        new = [id for id in entry.chunks if id not in known]
        if dtype_of(entry.dtype).kind == "float" and any(_is_bad(store, id, entry.dtype) for id in new):
            found.append(name)
    return found


def _is_bad(store: Store, id: str, dtype: str) -> bool:
    if dtype in _EXPONENT_IS_THE_TOP_PLANE and (plane := store.top_plane(id)) is not None:
        return b"\xff" in bytes(plane)
    import numpy as np  # late: most models are of F32 or BF16, and every commit of one waits for this

    from git_gru.tensors.arrays import BLOCK, layout_of

    layout = layout_of(dtype)
    if layout.kind != "float":  # scales, or narrower than a byte
        return False
    values = np.frombuffer(store.chunk(id), dtype=layout.numpy)
    return not all(np.isfinite(values[at : at + BLOCK]).all() for at in range(0, len(values), BLOCK))
