"""Speed and size beside git-lfs and plain Git, in one run: `make bench`, or `python -m benchmarks.storage [--quick]`.

Prints Markdown tables; docs/benchmarks.md holds the latest. Every time is the median of paired runs: the tools take turns on the
same version, so that a slow moment of the machine meets all of them. Read the ratios.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import choices, codecs, history, memory
from benchmarks.peers import Repository, available
from benchmarks.tables import heading, run_parts, table
from git_gru.store.columns import DEPTH

TOOLS = ("git-gru", "git-lfs", "git")
AT_ONCE = "add + commit within the second in which it was saved"


def sizes(work: Path, models: Path) -> None:
    """Kept/raw of each series, as added and after `git gru repack`, with repack's speed."""
    rows: list[list[object]] = []
    for spacing in history.SERIES:
        for suffix, dtype in (("", "fp32"), ("-bf16", "bf16")):
            files = history.series(models, spacing, suffix)
            repository = Repository("git-gru", work / "sizes").begin()
            for file in files:
                repository.commit(file, "add")
            raw = sum(file.stat().st_size for file in files)
            added = repository.kept() / raw
            start = time.perf_counter()
            repository.git("gru", "repack")
            seconds = time.perf_counter() - start
            row: list[object] = [f"every {spacing} steps", dtype, len(files), added, repository.kept() / raw]
            row.append(raw / 1e6 / seconds)
            if spacing == 20:
                before = repository.kept()
                tuned = models / f"head-only{suffix}.safetensors"
                repository.commit(tuned, "add")
                row.append((repository.kept() - before) / tuned.stat().st_size)
            else:
                row.append("")
            rows.append(row)
    columns = (
        "history",
        "dtype",
        "versions",
        "as added",
        "after repack",
        "repack MB/s",
        "head-only fine-tune",
    )
    table("Kept / raw bytes (git-gru)", columns, rows)


def codec(models: Path, rounds: int) -> None:
    """The codec alone, beside zipnn and z4ai."""
    rows: list[list[object]] = []
    for suffix, dtype in (("", "fp32"), ("-bf16", "bf16")):
        base, path = history.series(models, 20, suffix)[-2:]
        own = codecs.measure(base, path, rounds)
        speed = own["speed"]
        rows.append(
            ["git-gru", dtype, own["plain"], own["delta"], own["delta over entropy"]]
            + [speed[name] for name in ("plain", "plain decode", "delta", "delta decode")]
        )
        for name, found in codecs.measure_peers(base, path, rounds).items():
            rows.append(
                [name, dtype, found["plain"], found.get("delta", ""), "", found["plain speed"], "", "", ""]
            )
    columns = (
        "codec",
        "dtype",
        "plain",
        "delta",
        "delta / entropy",
        "plain MB/s",
        "decode",
        "delta MB/s",
        "decode",
    )
    table("The codec alone, one core, kept / raw and MB/s of raw data", columns, rows)


def speed(
    work: Path, files: Sequence[Path], tools: Sequence[str], title: str, at_once: Sequence[Path] = ()
) -> None:
    """Times of `git add` + `git commit` and of `git checkout`, the tools taking turns.

    The versions `at_once` come first, each added in the second in which it was saved.
    """
    repositories = [Repository(tool, work / f"speed-{tool}").begin() for tool in tools]
    for at, file in enumerate([*at_once, *files]):
        order = repositories if at % 2 == 0 else repositories[::-1]
        is_fresh = at < len(at_once)
        for repository in order:
            repository.commit(file, AT_ONCE if is_fresh else "add + commit", at_once=is_fresh)
    for repository in repositories:
        if repository.tool == "git-gru":
            repository.git("gru", "repack")
    places = {"checkout newest": "main", "checkout oldest": f"main~{len(files) - 1}"}
    if len(files) > DEPTH + 1:
        places["checkout deepest"] = f"main~{DEPTH}"
    for at in range(10):
        for name, revision in places.items():
            for repository in repositories if at % 2 else repositories[::-1]:
                repository.checkout(revision, name)
    for repository in repositories:
        repository.checkout("main", "back")
        # a model written in the same second as the index is looked at again by the next command
        time.sleep(1.1)
        repository.commit_text("settle")
        for _ in range(7):
            repository.commit_text("commit without a model")
    size = files[0].stat().st_size / 1e6
    base = next((r for r in repositories if r.tool == "git-lfs"), repositories[0])
    rows = []
    for name in ("add + commit", *([AT_ONCE] if at_once else ()), *places, "commit without a model"):
        for repository in repositories:
            seconds = statistics.median(repository.times[name])
            ratios = [a / b for a, b in zip(base.times[name], repository.times[name], strict=True)]
            rate = size / seconds if "without" not in name else ""
            cpu = statistics.median(repository.cpu[name])
            rows.append([name, repository.tool, seconds, rate, cpu, f"{statistics.median(ratios):.2f} x"])
    table(title, ("step", "tool", "seconds", "MB/s", "CPU s", "speed, git-lfs = 1 (paired)"), rows)


def constants(models: Path, work: Path) -> None:
    """The measurements behind the store's constants."""
    table("Depth cap and window", *choices.depth_and_window(models, work))
    table("Chunk size (fp32)", *choices.chunk_size(models, work))
    table("Cuts by content (kept / raw of each change)", *choices.raw_average(work))
    table("Coding threads (fp32)", *choices.threads(models, work))


def startup() -> None:
    """Time from the filter's start to its first answer."""
    program = str(Path(sys.executable).with_name("git-gru"))
    hello = b"0016git-filter-client\n000eversion=2\n0000"
    times = []
    for _ in range(15):
        start = time.perf_counter()
        with subprocess.Popen(
            [program, "filter-process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(hello)
            process.stdin.flush()
            process.stdout.read(4)
            times.append(time.perf_counter() - start)
            process.stdin.close()
    table("Start of the filter", ("what", "seconds"), [("start to first answer", statistics.median(times))])


def memory_use(work: Path, tensors: int) -> None:
    """Peak memory on a large model of noise."""
    model = work / "large.safetensors"
    if not model.exists():
        memory.large_model(model, tensors)
    rows = [(name, found[memory.OURS], found[memory.GIT]) for name, found in memory.measure(work, model)]
    size = model.stat().st_size / 1e9
    columns = ("step", "git-gru's largest process, MB", "Git's largest process, MB")
    table(f"Peak memory with a model of {size:.1f} GB", columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=Path("bench-work"), help="folder for the history and repositories"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no large models")
    parser.add_argument(
        "--only", help="comma-separated parts: sizes,codec,speed,large,choices,startup,memory"
    )
    options = parser.parse_args()
    work = options.work.absolute()
    models = work / "history"
    if not options.only or set(options.only.split(",")) - {"startup", "memory"}:
        history.make(models)
    tools = [tool for tool in TOOLS if available(tool)]
    heading()
    fast = history.series(models, 20)
    apart = [file for file in history.series(models, 100) if file not in fast]
    large = [models / f"large-{at}.safetensors" for at in range(history.LARGE_VERSIONS)]
    parts = {
        "sizes": lambda: sizes(work, models),
        "codec": lambda: codec(models, 1 if options.quick else 5),
        "speed": lambda: speed(
            work,
            fast[:5] if options.quick else fast,
            tools,
            "A model of 45.7 MB, fp32",
            at_once=apart[:3] if options.quick else apart,
        ),
        "large": lambda: (
            options.quick
            or speed(work, large, [tool for tool in tools if tool != "git"], "A model of 411 MB, fp32")
        ),
        "choices": lambda: options.quick or constants(models, work),
        "startup": startup,
        "memory": lambda: options.quick or memory_use(work, 64),
    }
    run_parts(parts, options.only)


if __name__ == "__main__":
    main()
