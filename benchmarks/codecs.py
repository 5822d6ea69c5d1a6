"""The codec alone: sizes and single-core speeds beside zipnn and z4ai (PyPI), and the distance to the entropy of the planes."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from git_gru.formats.dtypes import dtype_of
from git_gru.formats.safetensors import parse_header
from git_gru.ids import digest
from git_gru.store import transform
from git_gru.store.chunks import CHUNK_BYTES
from git_gru.store.codec import decode, encode_delta, encode_plain, inspect

BLOCK = 1 << 17


def chunks(path: Path) -> Iterator[tuple[str, bytes]]:
    """(dtype, bytes) of every chunk of a safetensors file."""
    data = path.read_bytes()
    header = parse_header(data, file_size=len(data), where=str(path))
    for info in header.tensors:
        tensor = data[header.length + info.begin : header.length + info.end]
        for at in range(0, len(tensor), CHUNK_BYTES):
            yield info.dtype, tensor[at : at + CHUNK_BYTES]


def entropy_bytes(planes: list[bytearray]) -> float:
    """The planes' order-0 entropy in blocks of 128 KiB, in bytes."""
    import numpy as np

    total = 0.0
    for plane in planes:
        for at in range(0, len(plane), BLOCK):
            counts = np.bincount(np.frombuffer(plane, np.uint8)[at : at + BLOCK], minlength=256)
            shares = counts[counts > 0] / counts.sum()
            total -= float((shares * np.log2(shares)).sum() * counts.sum() / 8)
    return total


def measure(path: Path, base: Path, rounds: int) -> dict[str, Any]:
    """Ratios (kept/raw) and speeds (MB/s of raw data, one core) of this codec on one checkpoint and its neighbour."""
    transform.keep_memory()  # as the store does
    new, old = list(chunks(path)), list(chunks(base))
    raw = sum(len(data) for _, data in new)
    names = [digest(data) for _, data in old]
    plain = [b"".join(encode_plain(data, dtype)) for dtype, data in new]
    delta = [
        b"".join(encode_delta(data, before, name, dtype))
        for (dtype, data), (_, before), name in zip(new, old, names, strict=True)
    ]
    limit = sum(
        entropy_bytes(
            transform.split_delta(data, before, dtype_of(dtype).coded_width, dtype_of(dtype).rotated)
        )
        for (dtype, data), (_, before) in zip(new, old, strict=True)
    )
    speeds = {
        "plain": lambda: [encode_plain(data, dtype) for dtype, data in new],
        "plain decode": lambda: [decode(blob, inspect(blob, where=""), None, where="") for blob in plain],
        "delta": lambda: [
            encode_delta(data, before, name, dtype)
            for (dtype, data), (_, before), name in zip(new, old, names, strict=True)
        ],
        "delta decode": lambda: [
            decode(blob, inspect(blob, where=""), before, where="")
            for blob, (_, before) in zip(delta, old, strict=True)
        ],
    }
    return {
        "plain": sum(map(len, plain)) / raw,
        "delta": sum(map(len, delta)) / raw,
        "delta over entropy": sum(map(len, delta)) / limit,
        "speed": {name: raw / 1e6 / _median(work, rounds) for name, work in speeds.items()},
    }


def measure_peers(path: Path, base: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The same ratios and encoding speeds for the peers that are installed (`pip install zipnn z4ai`)."""
    data, before = (b"".join(part for _, part in chunks(file)) for file in (path, base))
    dtype = next(chunks(path))[0]
    found: dict[str, dict[str, float]] = {}
    try:
        import zipnn
    except ImportError:
        pass
    else:
        kind = {"F32": "float32", "BF16": "bfloat16"}[dtype]
        tool = zipnn.ZipNN(bytearray_dtype=kind, threads=1)
        size = len(tool.compress(bytearray(data)))
        seconds = _median(lambda: tool.compress(bytearray(data)), rounds)
        found["zipnn"] = {"plain": size / len(data), "plain speed": len(data) / 1e6 / seconds}
    try:
        import z4ai
    except ImportError:
        pass
    else:
        kind = {"F32": "fp32", "BF16": "bf16"}[dtype]
        found["z4ai"] = {
            "plain": len(z4ai.compress(data, dtype=kind)) / len(data),
            "plain speed": len(data) / 1e6 / _median(lambda: z4ai.compress(data, dtype=kind), 1),
            "delta": len(z4ai.compress_delta(data, before, dtype=kind)) / len(data),
        }
    return found


def _median(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
