"""What each step costs as a repository grows, by versions of one model and by models; measured on small models by Git's commands.

Small models have as many tensors as large ones and a chunk for each: what grows with a repository are its names, not its bytes.
The histories are filled by the library, as after a repack: in few packs.
"""

import io
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from benchmarks.filling import commit_all, emptied, size_of, stored
from benchmarks.http_hub import Server, new_hub
from benchmarks.peers import Repository
from git_gru.store.ingest import ingest
from git_gru.store.store import Store

TENSORS, ELEMENTS = 48, 256
SIZES = (1, 10, 100, 1000)
STEPS = ("add", "status, model touched", "checkout", "push", "git gru status")
WHOLE = (("log",), ("du",), ("gc", "--dry-run"), ("fsck",), ("fsck", "--deep"))
"""What looks at all of a repository."""


def weights(*seed: int, tensors: int = TENSORS, elements: int = ELEMENTS) -> bytes:
    """A small model: so many tensors of fp32, none of them shared with another seed's."""
    values = np.random.default_rng(seed).normal(0, 0.05, (tensors, elements)).astype("<f4")
    return save({f"layers.{at // 4}.weight_{at % 4}": row for at, row in enumerate(values)})


def name_of(model: int) -> str:
    """The path of a model."""
    return f"model-{model:04d}.safetensors"


def filled(folder: Path, hub: Path, versions: int, models: int) -> Repository:
    """A repository with so many versions of so many models, and a hub that has them."""
    repository = Repository("git-gru", folder).begin()
    repository.git("config", "gru.autoMaintenance", "false")
    manifests = stored(repository, (weights(at, model) for at in range(versions) for model in range(models)))
    texts = [manifest.encode() for manifest in manifests]
    names = [name_of(model) for model in range(models)]
    rows = (texts[at : at + models] for at in range(0, len(texts), models))
    commit_all(repository, (dict(zip(names, row, strict=True)) for row in rows))
    new_hub(hub)
    store = str(folder / ".git/gru/store.git")
    repository.git("--git-dir", store, "push", "--quiet", str(hub), "refs/gru/store")
    repository.git("remote", "add", "origin", str(hub))
    repository.git("push", "--quiet", "--no-verify", "--set-upstream", "origin", "main")
    return repository


def measure(repository: Repository, seed: int) -> None:
    """Takes each of `STEPS` once, with one new version of the first model."""
    path = repository.folder / name_of(0)
    path.write_bytes(weights(seed, time.time_ns() % 2**32))
    repository.timed("add", lambda: repository.git("add", path.name))
    repository.git("commit", "--quiet", "--message=new")
    repository.timed("push", lambda: repository.git("push", "--quiet"))
    os.utime(path, (time.time() - 60, time.time() - 60))
    repository.timed("status, model touched", lambda: repository.git("status", "--porcelain"))
    repository.timed("git gru status", lambda: repository.git("gru", "status"))
    repository.timed("checkout", lambda: repository.git("checkout", "--quiet", "HEAD~1"))
    repository.git("checkout", "--quiet", "main")


def growth(work: Path, shapes: Sequence[tuple[int, int]], rounds: int) -> dict[tuple[int, int], Repository]:
    """Fills a repository of each shape (versions, models) and takes `rounds` of steps in each, in turns."""
    emptied(work)
    grown = {}
    for versions, models in shapes:
        folder = work / f"{versions}-versions-of-{models}"
        grown[versions, models] = filled(folder, work / f"{folder.name}.git", versions, models)
    for at in range(rounds + 1):
        for shape in shapes if at % 2 else shapes[::-1]:
            measure(grown[shape], at)
        if at == 0:  # the first round warms up
            for repository in grown.values():
                repository.times.clear()
                repository.cpu.clear()
    return grown


def step_rows(grown: Sequence[Repository]) -> list[list[object]]:
    """A row for each step: wall (CPU) milliseconds of each size, and the largest to the one of 10, median of pairs and CPU."""
    rows: list[list[object]] = []
    for step in STEPS:
        row: list[object] = [step]
        for repository in grown:
            wall, cpu = (statistics.median(taken[step]) * 1e3 for taken in (repository.times, repository.cpu))
            row.append(f"{wall:.0f} ({cpu:.0f})")
        ten, last = grown[1], grown[-1]
        pairs = zip(last.times[step], ten.times[step], strict=True)
        cpu = statistics.median(last.cpu[step]) / statistics.median(ten.cpu[step])
        row.append(f"{statistics.median(a / b for a, b in pairs):.2f} x ({cpu:.2f} x)")
        rows.append(row)
    return rows


def whole_rows(repository: Repository) -> list[list[object]]:
    """Each step, then what looks at everything, once: wall and CPU seconds."""
    for command in WHOLE:
        repository.timed(f"git gru {' '.join(command)}", lambda c=command: repository.git("gru", *c))
    return [
        [step, statistics.median(taken), statistics.median(repository.cpu[step])]
        for step, taken in repository.times.items()
    ]


def overhead_row(repository: Repository, versions: int) -> list[object]:
    """Bytes a version that are not chunks: trees and indexes of the store, the lookup cache, manifests in Git."""
    folder = repository.folder / ".git"
    store = Store.open(folder / "gru")
    stored = sum(row.stored for row in store.lookup.rows().values())
    count = len(store.models())
    store.close()
    objects = size_of(folder / "gru/store.git/objects") - stored
    cache = sum(path.stat().st_size for path in (folder / "gru").glob("index.sqlite*"))
    return [versions, stored / count, objects / count, cache / count, size_of(folder / "objects") / count]


def first_fetch(repository: Repository, server: Server, hub: Path) -> tuple[int, float]:
    """(bytes both ways, seconds) of bringing HEAD's models over HTTP into a clone that has their manifests."""
    clone = Repository("git-gru", hub.with_name("clone"))
    shutil.rmtree(clone.folder, ignore_errors=True)
    repository.git("clone", "--quiet", f"{server.url}/{hub.name}", str(clone.folder))
    before, start = server.received + server.sent, time.perf_counter()
    clone.git("gru", "fetch")
    return server.received + server.sent - before, time.perf_counter() - start


def unpacked(folder: Path, counts: Sequence[int], rounds: int) -> list[list[object]]:
    """Time of `git add` and bytes of the store for an add, behind so many adds whose packs nothing has joined yet."""
    repository = Repository("git-gru", folder).begin()
    repository.git("config", "gru.autoMaintenance", "false")
    path, rows, done = folder / name_of(0), [], 0
    for count in counts:
        store = Store.open(folder / ".git/gru")
        for at in range(done, count):
            ingest(store, io.BytesIO(weights(at)), expect_safetensors=True)
        store.close()
        before, name = size_of(folder / ".git/gru/store.git"), f"behind {count}"
        for at in range(rounds):
            path.write_bytes(weights(at, count))
            repository.timed(name, lambda: repository.git("add", path.name))
        done = count + rounds
        grew = (size_of(folder / ".git/gru/store.git") - before) / rounds
        wall, cpu = (statistics.median(taken[name]) * 1e3 for taken in (repository.times, repository.cpu))
        rows.append([count, f"{wall:.0f} ({cpu:.0f})", grew - len(weights(0)) * _kept_share(folder)])
    return rows


def _kept_share(folder: Path) -> float:
    """What the chunks take as they are kept, of what they are."""
    store = Store.open(folder / ".git/gru")
    rows = store.lookup.rows().values()
    store.close()
    return sum(row.stored for row in rows) / sum(row.raw for row in rows)
