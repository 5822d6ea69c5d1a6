"""A push or a fetch that was killed goes on where it stopped: what has arrived of a model in many batches stays."""

import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from safetensors.numpy import load, save

from git_gru.store.batches import batches, lengths_of
from git_gru.store.bring import missing
from git_gru.store.publish import publish
from git_gru.store.store import REF, Store
from git_gru.store.trees import StoreTree, model_blobs
from tests.faults.dying import attempt
from tests.faults.operations import (
    BATCH,
    Publish,
    add,
    bring_large,
    hub_of,
    manifest_of,
    publish_large,
    require_whole,
    versions,
)

MODEL = versions(1, seed=5, size=1_500, tensors=16)[0]
"""A header and 16 chunks, of which two fit into a batch."""

MANIFEST = manifest_of(MODEL)
CHUNKS = len(set(MANIFEST.chunks()))
BATCHES = len(list(batches(lengths_of(MANIFEST, MANIFEST.chunks()), BATCH))) + 1
"""The last one names the model."""

DEATHS = 4

pytestmark = pytest.mark.slow


def states(hub: Path) -> int:
    """How many states a hub has had: one for each batch that has arrived."""
    counted = subprocess.run(
        ["git", "-C", str(hub), "rev-list", "--count", REF], capture_output=True, text=True, check=True
    )
    return int(counted.stdout)


def test_a_push_goes_on(quick: Path) -> None:
    Publish().prepare(quick)
    before = states(quick / "hub.git")
    add(quick / "gru", [MODEL])
    arrived = 0
    for _ in range(DEATHS):
        attempt(
            publish_large, quick, MODEL, die_at=random.randint(10, 45)
        )  # in the first or second of its batches
        store = Store.open(quick / "gru")
        incoming = StoreTree(store.objects, hub_of(store, quick).look()).incoming
        here = len(model_blobs(store.objects, incoming[MANIFEST.digest])) if incoming else 0
        store.close()
        assert here >= arrived
        arrived = here
    done = publish_large(quick, MODEL)
    assert (done.models, done.blobs) == (1, CHUNKS - arrived)
    assert states(quick / "hub.git") - before == BATCHES


def test_a_fetch_goes_on(quick: Path) -> None:
    Publish().prepare(quick)
    add(quick / "gru", [MODEL])
    publish_large(quick, MODEL)
    for _ in range(DEATHS):
        attempt(bring_large, quick, MODEL, die_at=random.randint(8, 20))
    store = Store.open(quick / "clone")
    remote = hub_of(store, quick)
    tree = StoreTree(store.objects, remote.look()).model(MANIFEST.digest)
    assert tree is not None
    remote.trees([tree])
    absent = missing(store.objects, model_blobs(store.objects, tree))
    store.close()
    done = bring_large(quick, MODEL)
    assert (done.models, done.blobs) == (1, len(absent))
    require_whole(quick / "clone", [MODEL], only=True)


def test_each_blob_travels_once(quick: Path) -> None:
    """In parts, killed in between, and again in a later version that shares all chunks but one."""
    Publish().prepare(quick)
    hub = quick / "hub.git"
    subprocess.run(
        ["git", "-C", str(hub), "config", "receive.unpackLimit", "1"], check=True
    )  # each push a pack
    before = packed_blobs(hub)
    arrays = load(MODEL)
    later = save({**arrays, "w0": arrays["w0"] + 1}, {"step": "later"})
    add(quick / "gru", [MODEL, later])
    attempt(publish_large, quick, MODEL, die_at=45)
    publish_large(quick, MODEL)
    sent = packed_blobs(hub) - before
    assert sent.total() == CHUNKS
    store = Store.open(quick / "gru")
    done = publish(store, hub_of(store, quick), [[manifest_of(later)]], related=lambda: [MANIFEST])
    store.close()
    assert done.blobs == 2  # its header and a tensor
    assert (packed_blobs(hub) - before - sent).total() == 2


def packed_blobs(hub: Path) -> Counter[str]:
    """How many of the hub's packs hold each chunk's blob."""
    found: Counter[str] = Counter()
    for index in (hub / "objects/pack").glob("*.idx"):
        listed = subprocess.run(
            ["git", "-C", str(hub), "verify-pack", "-v", str(index)],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.split() for line in listed.stdout.splitlines()]
        found.update(line[0] for line in lines if line[1:2] == ["blob"] and int(line[2]) > 100)  # no padding
    return found
