"""Scale: what steps cost as a repository grows, and what travels; beside git-lfs. `python -m benchmarks.scale [--quick]`.

Prints Markdown tables; docs/benchmarks.md holds the latest, docs/scale.md what follows from them. Times are medians; tools and
sizes take turns. Read the ratios.
"""

import argparse
from pathlib import Path

from benchmarks import growth
from benchmarks.http_hub import serving
from benchmarks.tables import heading, table


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("bench-work"), help="folder for the history and repositories"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller histories")
    parser.add_argument("--only", help="comma-separated parts: versions,models,packs,…")
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
    }
    heading()
    only = set(options.only.split(",")) if options.only else None
    for name, part in parts.items():
        if only is None or name in only:
            part()


if __name__ == "__main__":
    main()
