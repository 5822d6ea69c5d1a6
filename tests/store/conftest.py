"""Fixtures for tests of the store: stores in `tmp_path`, files and chunks as exact bytes, an independent reader of blobs.

Helpers come as session-scoped fixtures that return functions, so that hypothesis tests may use them too.
"""

import io
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import zstandard

from git_gru.store.ingest import ingest
from git_gru.store.lookup import Lookup
from git_gru.store.manifest import Manifest
from git_gru.store.restore import restore
from git_gru.store.store import Store

ROOT = Path(__file__).parents[2]
Tensors = Sequence[tuple[str, str, Sequence[int], bytes]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    store = Store.open(tmp_path / "gru")
    yield store
    store.close()


@pytest.fixture(scope="session")
def new_store() -> Iterator[Callable[[], Store]]:
    """Makes a store in a folder of its own (for hypothesis tests, where one test needs many)."""
    with tempfile.TemporaryDirectory() as folder:
        made: list[Store] = []

        def make() -> Store:
            made.append(Store.open(Path(folder) / str(len(made)) / "gru"))
            return made[-1]

        yield make
        for store in made:
            store.close()


@pytest.fixture(scope="session")
def file_of() -> Callable[..., bytes]:
    """`file_of(tensors, metadata=None, padding=0)`: a safetensors file, written without git-gru's own writer."""

    def build(tensors: Tensors, metadata: Mapping[str, str] | None = None, padding: int = 0) -> bytes:
        entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        end = 0
        for name, dtype, shape, data in tensors:
            entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + len(data)]}
            end += len(data)
        text = json.dumps(entries).encode() + b" " * padding
        return struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors)

    return build


@pytest.fixture(scope="session")
def add() -> Callable[..., Manifest]:
    """`add(store, bytes)`: ingests a file and returns its manifest."""

    def run(store: Store, data: bytes, *, expect_safetensors: bool = False) -> Manifest:
        return ingest(store, io.BytesIO(data), expect_safetensors=expect_safetensors).manifest

    return run


@pytest.fixture(scope="session")
def read() -> Callable[[Store, Manifest], bytes]:
    """`read(store, manifest)`: the restored file."""
    return lambda store, manifest: b"".join(restore(store, manifest))


@pytest.fixture(scope="session")
def weights() -> Callable[..., bytes]:
    """`weights(seed, count, dtype="F32")`: bytes that look like trained weights."""

    def make(seed: int, count: int, dtype: str = "F32") -> bytes:
        x = np.random.default_rng(seed).normal(0, 0.05, count).astype(np.float32)
        if dtype == "BF16":
            return (x.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        return x.astype({"F32": np.float32, "F16": np.float16, "F64": np.float64}[dtype]).tobytes()

    return make


@pytest.fixture(scope="session")
def drift() -> Callable[[bytes, int], bytes]:
    """`drift(data, seed)`: F32 weights after a small step of training."""

    def step(data: bytes, seed: int) -> bytes:
        x = np.frombuffer(data, np.float32)
        noise = np.random.default_rng(seed).normal(0, 1e-4, x.size).astype(np.float32)
        return (x + noise * (1 + np.abs(x))).astype(np.float32).tobytes()

    return step


@pytest.fixture(scope="session")
def lineage(
    file_of: Callable[..., bytes], weights: Callable[..., bytes], drift: Callable[[bytes, int], bytes]
) -> Callable[..., list[bytes]]:
    """`lineage(versions, seed=0, count=20_000)`: files of one model in training, oldest first."""

    def make(versions: int, seed: int = 0, count: int = 20_000) -> list[bytes]:
        body, frozen = weights(seed, count), weights(seed + 1, 500)
        files = []
        for version in range(versions):
            files.append(
                file_of([("emb", "F32", [500], frozen), ("w", "F32", [count], body)], {"step": str(version)})
            )
            body = drift(body, 1000 * seed + version)
        return files

    return make


@pytest.fixture(scope="session")
def git() -> Callable[..., str]:
    """`git(repository, *arguments)` in a bare repository; a failure shows what git said."""

    def run(repository: Path, *arguments: str, input: bytes | None = None, check: bool = True) -> str:
        done = subprocess.run(
            ["git", "--git-dir", str(repository), *arguments], input=input, capture_output=True, check=False
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert not check or done.returncode == 0, f"git {arguments}: {said}"
        return said if not check else done.stdout.decode("utf-8", "replace")

    return run


@pytest.fixture(scope="session")
def whole(git: Callable[..., str]) -> Callable[[Store], None]:
    """`whole(store)`: asserts that Git finds nothing wrong with the store."""

    def check(store: Store) -> None:
        said = git(store.repository, "fsck", "--strict", "--full", "--no-dangling", check=False)
        assert said.strip() in ("", "notice: HEAD points to an unborn branch (main)") or all(
            line.startswith(("notice:", "Checking")) for line in said.strip().splitlines()
        ), said
        for index in (store.repository / "objects/pack").glob("*.idx"):
            git(store.repository, "verify-pack", str(index))

    return check


@pytest.fixture(scope="session")
def cache_is_right() -> Iterator[Callable[[Store], None]]:
    """`cache_is_right(store)`: asserts that the lookup cache says what it would say if it were rebuilt from the trees."""
    with tempfile.TemporaryDirectory() as folder:

        def check(store: Store) -> None:
            fresh = Lookup(Path(folder) / f"{os.urandom(8).hex()}.sqlite")
            fresh.sync(store.tree(), store.objects)
            store.sync()
            assert store.lookup.rows() == fresh.rows()
            fresh.close()

        yield check


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """`python(code, *arguments)`: starts a Python process that can import git_gru."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: object) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=tmp_path,
            )
        )
        return started[-1]

    yield start  # type: ignore[misc]
    for process in started:
        process.kill()
        process.communicate()


# ---- an independent reader of stored chunks, after docs/format.md ------------------------------------------------------

WIDTHS = {
    **dict.fromkeys(["F64", "I64", "U64"], 8),
    **dict.fromkeys(["F32", "I32", "U32", "C64"], 4),
    **dict.fromkeys(["F16", "BF16", "I16", "U16"], 2),
}
ROTATED = {"F64", "F32", "C64", "F16", "BF16", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}


@pytest.fixture(scope="session")
def blob_reader() -> Callable[..., tuple[dict[str, str], bytes]]:
    """`blob_reader(blob, base=None)`: (metadata, chunk), by safetensors, zstandard and numpy alone."""

    def run(blob: bytes, base: bytes | None = None) -> tuple[dict[str, str], bytes]:
        (length,) = struct.unpack("<Q", blob[:8])
        meta = json.loads(blob[8 : 8 + length])["__metadata__"]
        tensors = safetensors.numpy.load(blob)
        count = int(meta["bytes"])
        width = WIDTHS.get(meta["dtype"], 1)
        width = width if count % width == 0 else 1
        assert len(tensors) == width
        x: Any = np.zeros(count // width, f"<u{width}")
        for at in range(width):
            if f"plane{at}" in tensors:
                plane = tensors[f"plane{at}"]
            else:
                frame = tensors[f"plane{at}.zst"].tobytes()
                plane = np.frombuffer(zstandard.ZstdDecompressor().decompress(frame), np.uint8)
            x |= plane.astype(x.dtype) << x.dtype.type(8 * at)
        bits, rotated = 8 * width, meta["dtype"] in ROTATED
        one = x.dtype.type(1)
        if meta["codec"] == "plain":
            if rotated:
                x = (x >> one) | (x << x.dtype.type(bits - 1))
            return meta, x.tobytes()
        assert base is not None
        b = np.frombuffer(base, x.dtype)
        key = ((b << one) | (b >> b.dtype.type(bits - 1)) if rotated else b) >> b.dtype.type(bits - 8)
        grouped, x = x, np.empty_like(x)
        x[np.argsort(key, kind="stable")] = (grouped >> one) ^ (~(grouped & one) + one)
        return meta, (x + b).tobytes()

    return run


@pytest.fixture(scope="session")
def nbytes_of() -> Callable[[str, Sequence[int]], int]:
    """`nbytes_of(dtype, shape)` for the dtypes of whole bytes."""
    return lambda dtype, shape: math.prod(shape) * WIDTHS.get(dtype, 1) * (2 if dtype == "C64" else 1)
