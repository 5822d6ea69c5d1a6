"""Several processes at one store, and processes killed at any moment: nothing that was acknowledged is lost."""

import random
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from git_gru.ids import digest
from git_gru.store.collect import Needs, Rules, collect, plan
from git_gru.store.manifest import Manifest, parse_manifest
from git_gru.store.repack import repack
from git_gru.store.store import Store

Add = Callable[..., Manifest]
Read = Callable[[Store, Manifest], bytes]
Python = Callable[..., "subprocess.Popen[bytes]"]

ADD = """
import io, sys, random
from pathlib import Path
from git_gru.store.store import Store
from git_gru.store.ingest import ingest
store = Store.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    text = b"the same in all" * 2000 if n == 0 else random.Random(f"{sys.argv[2]} {n}").randbytes(30_000)
    manifest = ingest(store, io.BytesIO(text), expect_safetensors=False).manifest
    print(manifest.encode().hex(), flush=True)
"""


def content_of(name: object, n: int) -> bytes:
    return b"the same in all" * 2000 if n == 0 else random.Random(f"{name} {n}").randbytes(30_000)


def start(python: Python, store: Store, name: object, count: int) -> "subprocess.Popen[bytes]":
    process = python(ADD, store.folder, name, count)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def go(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


def acknowledged(output: bytes) -> list[Manifest]:
    return [parse_manifest(bytes.fromhex(line.decode()), where="x") for line in output.splitlines(keepends=True)
            if line.endswith(b"\n")]  # fmt: skip


@pytest.mark.slow
def test_eight_processes_add_at_once(
    store: Store, python: Python, read: Read, whole: Callable[[Store], None]
) -> None:
    processes = [start(python, store, name, 4) for name in range(8)]
    for process in processes:
        go(process)
    made: list[Manifest] = []
    for name, process in enumerate(processes):
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
        manifests = acknowledged(out)
        for n, manifest in enumerate(manifests):
            assert read(store, manifest) == content_of(name, n)
        made += manifests
    assert len(made) == 8 * 4
    assert set(store.models()) == {manifest.digest for manifest in made}
    assert len(store.models()) == 8 * 3 + 1
    whole(store)
    store.sync()
    assert set(store.lookup.rows()) == {id for manifest in made for id in manifest.chunks()}
    store.lookup.forget()
    assert all(digest(store.chunk(id)) == id for manifest in made for id in manifest.chunks())


@pytest.mark.slow
def test_eight_processes_add_while_collections_and_repacks_run(
    store: Store, python: Python, read: Read, add: Add, whole: Callable[[Store], None]
) -> None:
    now = time.time()
    store.stamps.clock = lambda: now - 7200
    # Two hours ago these were added and then forgotten; half of them are added again, just when they would go.
    old = [add(store, content_of(name, n)) for name in range(8) for n in (1, 2)]
    nothing = Needs(digests=frozenset(), absent=0, adding_since=None, in_git=lambda name: True)
    rules = Rules(grace=3600)
    assert len(plan(store, lambda: nothing, rules).unneeded) == 16
    store.stamps.clock = time.time
    processes = [start(python, store, name, 2) for name in range(8)]
    for process in processes:
        go(process)
    dropped: set[str] = set()
    while any(process.poll() is None for process in processes):
        dropped |= collect(store, plan(store, lambda: nothing, rules), lambda digest: None).dropped
        repack(store, [], set())
    dropped |= collect(store, plan(store, lambda: nothing, rules), lambda digest: None).dropped
    again: set[str] = set()
    for name, process in enumerate(processes):
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error.decode()
        for n, manifest in enumerate(acknowledged(out)):
            assert read(store, manifest) == content_of(name, n)
            again.add(manifest.digest)
    assert len(again) == 9
    assert store.models().keys() == again
    assert dropped >= {manifest.digest for manifest in old} - again
    whole(store)


@pytest.mark.slow
def test_a_killed_writer_leaves_the_store_whole(
    store: Store, python: Python, add: Add, read: Read, whole: Callable[[Store], None]
) -> None:
    chance = random.Random()
    kept: list[tuple[Manifest, bytes]] = []
    for name in range(10):
        process = start(python, store, name, 10_000)
        go(process)
        threading.Event().wait(chance.uniform(0, 0.15))
        process.kill()
        out, _ = process.communicate()
        kept += [(manifest, content_of(name, n)) for n, manifest in enumerate(acknowledged(out))]
        fresh = Store(store.folder)
        for manifest, content in kept:
            assert fresh.has_model(manifest.digest), "acknowledged, so durable and reachable"
            assert read(fresh, manifest) == content
        # What was killed may have had one model in the store that nobody was told of; the next add works.
        text = b"after the kill %d" % name
        kept.append((add(fresh, text), text))
        fresh.close()
    whole(store)
    assert len(store.models()) >= len({manifest.digest for manifest, _ in kept})
    store.lookup.forget()
    for manifest, content in kept:
        assert read(store, manifest) == content
        assert [digest(store.chunk(id)) for id in manifest.chunks()] == manifest.chunks()


def test_a_store_that_two_processes_make_at_once(
    tmp_path_factory: pytest.TempPathFactory, python: Python, read: Read
) -> None:
    folder = tmp_path_factory.mktemp("made") / "gru"
    code = ADD.replace("store = Store.open(Path(sys.argv[1]))\n", "").replace(
        "sys.stdin.readline()\n", "sys.stdin.readline()\nstore = Store.open(Path(sys.argv[1]))\n"
    )
    processes = [python(code, folder, name, 1) for name in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        go(process)
    for process in processes:
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error.decode()
        (manifest,) = acknowledged(out)
    store = Store.open(folder)
    assert read(store, manifest) == content_of(0, 0)
    assert len(store.models()) == 1
    assert not [
        path for path in folder.iterdir() if path.name.startswith("store.") and path.name != "store.git"
    ]
    store.close()
