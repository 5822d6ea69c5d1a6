"""Scale: what steps cost as a repository grows, and what travels; beside git-lfs. `python -m benchmarks.scale [--quick]`.

Prints Markdown tables; docs/benchmarks.md holds the latest, docs/scale.md what follows from them. Times are medians; tools and
sizes take turns. Read the ratios.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks import growth, history, transfer
from benchmarks.filling import emptied
from benchmarks.http_hub import serving
from benchmarks.lfs_hub import LfsHandler
from benchmarks.peers import MODEL
from benchmarks.tables import heading, run_parts, table


def by_versions(work: Path, rounds: int, sizes: tuple[int, ...]) -> None:
    """Growth by versions of one model: steps, overhead, first fetch."""
    shapes = [(size, 1) for size in sizes]
    grown = growth.growth(work, shapes, rounds)
    repositories = [grown[shape] for shape in shapes]
    columns = [f"{size:,}" for size in sizes]
    title = f"Versions of one model of {growth.TENSORS} tensors: wall (CPU) ms"
    table(title, ("step", *columns, f"{columns[-1]} / {columns[1]}"), growth.step_rows(repositories))
    fetched = []
    with serving(work) as server:
        for repository, size in zip(repositories, sizes, strict=True):
            hub = repository.folder.with_name(f"{repository.folder.name}.git")
            count, seconds = growth.first_fetch(repository, server, hub)
            fetched.append([size, count, (count - fetched[0][1]) / (size - 1) if fetched else "", seconds])
    columns = ("versions", "bytes both ways", "for each further version", "seconds")
    table("First fetch of HEAD's model over http", columns, fetched)
    columns = ("versions", "chunks", "trees and indexes", "lookup cache", "manifests in Git")
    table(
        "Bytes a version, in few packs",
        columns,
        [growth.overhead_row(r, size) for r, size in zip(repositories, sizes, strict=True)],
    )


def by_models(work: Path, rounds: int, sizes: tuple[int, ...]) -> None:
    """Growth by models in one commit."""
    shapes = [(1, size) for size in sizes]
    grown = growth.growth(work, shapes, rounds)
    columns = [f"{size:,}" for size in sizes]
    title = f"Models of {growth.TENSORS} tensors, one version each: wall (CPU) ms"
    rows = growth.step_rows([grown[shape] for shape in shapes])
    table(title, ("step", *columns, f"{columns[-1]} / {columns[1]}"), rows)


def by_packs(work: Path, rounds: int, counts: tuple[int, ...]) -> None:
    """Growth by adds that nothing has packed together."""
    rows = growth.unpacked(work, counts, rounds)
    table(
        "Adds behind adds that were not repacked",
        ("adds before", "add, wall (CPU) ms", "bytes beside chunks"),
        rows,
    )


def by_team(work: Path, rounds: int, versions: int, models: int) -> None:
    """A team's repository: all steps, and what looks at everything."""
    shape = (versions, models)
    repository = growth.growth(work, [shape], rounds)[shape]
    title = f"{versions * models:,} versions: {models} models of {growth.TENSORS} tensors, {versions} versions each"
    table(title, ("step", "seconds", "CPU s"), growth.whole_rows(repository))
    hub = work / f"{repository.folder.name}.git"
    with serving(work) as server:
        count, seconds = growth.first_fetch(repository, server, hub)
    table(
        f"First fetch of HEAD's {models} models over http", ("bytes both ways", "seconds"), [[count, seconds]]
    )


def by_transfer(work: Path, models: Path, quick: bool) -> None:
    """What travels between repositories and hubs, beside git-lfs."""
    hubs = emptied(work) / "hubs"
    hubs.mkdir()
    fast = history.series(models, 20)
    pushed = fast[:5] if quick else fast
    with serving(hubs, LfsHandler) as server:
        place = transfer.Place(hubs, server)
        table("Pushes", transfer.COLUMNS, transfer.pushes(work, place, pushed, 1 if quick else 3))
        columns = ("a hub", "bytes / raw", "seconds")
        table("A hub that was fed version by version", columns, transfer.fed_one_by_one(work, place, pushed))
        rows = []
        for step, names, raw, rounds in _hubs_to_clone(work, place, models, quick):
            rows += transfer.clones(work, place, names, step, raw, rounds)
        table("Clones with a checkout of HEAD", transfer.COLUMNS, rows)


def _hubs_to_clone(
    work: Path, place: transfer.Place, models: Path, quick: bool
) -> Iterator[tuple[str, dict[str, str], int, dict[str, int]]]:
    """(what it is, tool -> hub, bytes of HEAD's models, rounds of each kind)."""
    size = history.series(models, 20)[-1].stat().st_size
    count = len(history.series(models, 20)) if quick else 100
    rounds = dict.fromkeys(transfer.RATES, 2 if quick else 7) | {"http, 100 Mbit/s": 1 if quick else 3}
    yield f"45.7 MB, {count} versions", transfer.history_hubs(work, place, models, count), size, rounds
    unlimited = dict.fromkeys(("file", "http"), 2 if quick else 5)
    small = {growth.name_of(at): growth.weights(at, tensors=12, elements=1 << 14) for at in range(100)}
    size = sum(map(len, small.values()))
    yield "100 models of 0.8 MB", transfer.pushed_hubs(work, place, small, "small"), size, unlimited
    large = models / "large-0.safetensors"
    if not quick:
        names = transfer.pushed_hubs(work, place, {MODEL: large}, "large")
        yield "392 MB", names, large.stat().st_size, dict.fromkeys(("file", "http"), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("bench-work"), help="folder for the history and repositories"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller histories")
    parser.add_argument("--only", help="comma-separated parts: versions,models,packs,team,transfer")
    options = parser.parse_args()
    work, quick = options.work.absolute(), options.quick
    sizes = growth.SIZES[:-1] if quick else growth.SIZES
    rounds = 3 if quick else 7
    parts = {
        "versions": lambda: by_versions(work / "scale-versions", rounds, sizes),
        "models": lambda: by_models(work / "scale-models", rounds, sizes),
        "packs": lambda: by_packs(
            work / "scale-packs", rounds, (0, 50, 100) if quick else (0, 50, 100, 1000)
        ),
        "team": lambda: by_team(work / "scale-team", rounds, *((50, 20) if quick else (500, 20))),
        "transfer": lambda: by_transfer(work / "scale-transfer", work / "history", quick),
    }
    history.make(work / "history")
    heading()
    run_parts(parts, options.only)


if __name__ == "__main__":
    main()
