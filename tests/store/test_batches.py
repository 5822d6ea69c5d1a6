"""What travels in one piece."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from git_gru.store.batches import batches, lengths_of
from git_gru.store.chunks import CHUNK_BYTES
from tests.faults.operations import manifest_of


@given(st.lists(st.integers(0, 100)), st.integers(1, 150))
def test_batches_are_runs_that_are_as_long_as_may_be(lengths: list[int], most: int) -> None:
    cut = list(batches(dict(enumerate(lengths)), most))
    assert [key for batch in cut for key in batch] == list(range(len(lengths)))
    for batch in cut:
        assert len(batch) == 1 or sum(lengths[key] for key in batch) <= most
    for batch, after in pairwise(cut):
        assert sum(lengths[key] for key in batch) + lengths[after[0]] > most


def test_chunks_stand_in_the_order_of_the_file_and_bases_last() -> None:
    values = np.arange(CHUNK_BYTES // 4 + 5, dtype="<u4")
    data = save({"b": values, "c": values[:7]})
    manifest = manifest_of(data)
    assert len(manifest.chunks()) == 4
    base = "0" * 64
    found = lengths_of(manifest, [base, *sorted(manifest.chunks())])
    assert list(found) == [*manifest.chunks(), base]
    assert list(found.values()) == [len(data) - values.nbytes - 28, CHUNK_BYTES, 20, 28, CHUNK_BYTES]
    assert list(lengths_of(manifest, manifest.chunks()[:1:-1])) == manifest.chunks()[2:]
