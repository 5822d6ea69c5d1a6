"""Whether a model's weights are all numbers: what the pre-commit hook asks about the models of a commit.

Only chunks that an earlier version does not have are looked at, and of a plain chunk only the plane that holds the exponents,
where that tells enough: it is one search for a byte.

The hook asks only where this store was once given such a chunk (`Store.note_nonfinite`). One that came from a remote stands in a
commit already, and is not noticed when it is committed once more.
"""

from git_gru.formats.dtypes import dtype_of
from git_gru.store.codec import is_nonfinite_top
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store


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
    if dtype != "F64" and (plane := store.top_plane(id)) is not None:
        return is_nonfinite_top(plane, dtype)
    import numpy as np  # late: few models need it, and the commit waits for this

    from git_gru.tensors.arrays import BLOCK, layout_of

    layout = layout_of(dtype)
    if layout.kind != "float":  # scales, or narrower than a byte
        return False
    values = np.frombuffer(store.chunk(id), dtype=layout.numpy)
    return not all(np.isfinite(values[at : at + BLOCK]).all() for at in range(0, len(values), BLOCK))
