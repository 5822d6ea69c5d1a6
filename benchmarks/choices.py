"""The measurements behind the store's constants: depth cap, window, chunk size, cuts by content, threads."""

import io
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from benchmarks import history
from git_gru.store import chunks
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.repack import repack
from git_gru.store.restore import restore
from git_gru.store.store import Store

Rows = list[list[object]]


def _fill(store: Store, files: Sequence[Path]) -> list[Manifest]:
    manifests = []
    for file in files:
        with open(file, "rb", buffering=0) as source:
            manifests.append(ingest(store, source, expect_safetensors=True).manifest)
    return manifests


def _fresh(folder: Path) -> Store:
    shutil.rmtree(folder, ignore_errors=True)
    return Store.open(folder)


def _restore_seconds(store: Store, manifest: Manifest) -> float:
    start = time.perf_counter()
    for _ in restore(store, manifest):
        pass
    return time.perf_counter() - start


def depth_and_window(models: Path, work: Path) -> tuple[Sequence[str], Rows]:
    """Size and restore speed by depth cap and window, on the 20-step history."""
    rows: Rows = []
    for suffix, dtype in (("", "fp32"), ("-bf16", "bf16")):
        files = history.series(models, 20, suffix)
        raw = sum(file.stat().st_size for file in files)
        for depth, window in ((1, 6), (2, 6), (3, 1), (3, 3), (3, 6), (3, 10), (4, 6), (6, 6), (8, 6)):
            store = _fresh(work / "choices")
            manifests = _fill(store, files)
            start = time.perf_counter()
            report = repack(store, [manifests[::-1]], frozenset(), depth=depth, window=window)
            seconds = time.perf_counter() - start
            slowest = max(
                statistics.median(_restore_seconds(store, manifest) for _ in range(3))
                for manifest in manifests
            )
            store.close()
            size = files[0].stat().st_size
            rows.append(
                [dtype, depth, window, report.bytes_after / raw, raw / 1e6 / seconds, size / 1e6 / slowest]
            )
    return ("dtype", "depth", "window", "kept / raw", "repack MB/s", "slowest restore MB/s"), rows


def chunk_size(models: Path, work: Path) -> tuple[Sequence[str], Rows]:
    """Size and speed by chunk size; the constant is replaced for the measurement only."""
    rows: Rows = []
    files = history.series(models, 20)[:3]
    raw = sum(file.stat().st_size for file in files)
    for mebibytes in (1, 2, 4, 8):
        with mock.patch.object(chunks, "CHUNK_BYTES", mebibytes << 20):
            store = _fresh(work / "choices")
            start = time.perf_counter()
            manifests = _fill(store, files)
            seconds = time.perf_counter() - start
            kept = sum(pack.size for pack in store.objects.packs())
            restored = statistics.median(_restore_seconds(store, manifests[0]) for _ in range(3))
            count = len(manifests[0].chunks())
            store.close()
        size = files[0].stat().st_size / 1e6
        rows.append([f"{mebibytes} MiB", count, kept / raw, raw / 1e6 / seconds, size / restored])
    return ("chunk", "chunks a model", "kept / raw", "add MB/s", "restore MB/s"), rows


def raw_average(work: Path) -> tuple[Sequence[str], Rows]:
    """What changes of a `.pt` file of 170 tensors cost, and speed, by the usual length of chunks cut by content."""
    first, *others = _torch_files()
    rows: Rows = []
    for kibibytes in (64, 128, 256, 512, 1024):
        average = kibibytes << 10
        with mock.patch.multiple(chunks, RAW_AVERAGE=average, RAW_SHORTEST=average // 4):
            store = _fresh(work / "choices")
            start = time.perf_counter()
            manifest = ingest(store, io.BytesIO(first), expect_safetensors=False).manifest
            seconds = time.perf_counter() - start
            restored = statistics.median(_restore_seconds(store, manifest) for _ in range(3))
            costs = []
            for other in others:
                before = sum(pack.size for pack in store.objects.packs())
                ingest(store, io.BytesIO(other), expect_safetensors=False)
                costs.append((sum(pack.size for pack in store.objects.packs()) - before) / len(other))
            store.close()
        size = len(first) / 1e6
        rows.append([f"{kibibytes} KiB", len(manifest.chunks()), size / seconds, size / restored, *costs])
    columns = ("usual chunk", "chunks", "add MB/s", "restore MB/s")
    return (*columns, "one tensor inserted", "all biases changed", "a seventh of the tensors changed"), rows


def _torch_files() -> list[bytes]:
    """A checkpoint of 335 MB by `torch.save`; then with a tensor inserted, all small tensors changed, some large ones changed."""
    import torch

    random = torch.Generator().manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.05

    def saved(tensors: dict[str, torch.Tensor]) -> bytes:
        file = io.BytesIO()
        torch.save(tensors, file)
        return file.getvalue()

    shapes = {"qkv": (1536, 512), "o": (512, 512), "up": (2048, 512), "down": (512, 2048)}
    shapes |= {"norm1": (512,), "norm2": (512,), "bias": (2048,)}
    first = {f"{layer}.{name}": new(*shape) for layer in range(24) for name, shape in shapes.items()}
    first = {"embedding": new(8000, 512), **first, "head": new(8000, 512)}
    names = list(first)
    inserted = {name: first.get(name, new(300, 512)) for name in (*names[:85], "new", *names[85:])}
    small = {name: tensor + 1e-3 if tensor.dim() == 1 else tensor for name, tensor in first.items()}
    large = {name: tensor + 1e-3 if name.endswith("qkv") else tensor for name, tensor in first.items()}
    return [saved(tensors) for tensors in (first, inserted, small, large)]


def threads(models: Path, work: Path) -> tuple[Sequence[str], Rows]:
    """Speed of adding and restoring by the number of coding threads."""
    rows: Rows = []
    files = history.series(models, 20)
    for count in (1, 2, 3, 4):
        store = _fresh(work / "choices")
        store.__dict__["cores"] = count  # what `Store.cores` has found out
        start = time.perf_counter()
        manifests = _fill(store, files)
        seconds = time.perf_counter() - start
        restored = statistics.median(_restore_seconds(store, manifest) for manifest in manifests)
        store.close()
        size = files[0].stat().st_size / 1e6
        rows.append([count, size * len(files) / seconds, size / restored])
    return ("threads", "add MB/s", "restore MB/s"), rows
