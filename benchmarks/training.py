"""What a run costs beside its training: `python -m benchmarks.training [--quick] [--only PART,…]`.

Prints Markdown tables; docs/benchmarks.md holds the latest. What is compared takes turns, and is compared pair by pair.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.bare import TURN, turns
from benchmarks.runs import LARGE, SMALL, Project, Size, spread
from benchmarks.tables import heading, run_parts, table
from git_gru.runs.metrics import Event

INTERVAL_SECONDS = 30.0
"""Training time between two checkpoints."""

LOG_EVERY = 10


def committing(work: Path, pairs: int, intervals: int, threads: int) -> None:
    """The same run with a checkpoint every `INTERVAL_SECONDS` and with none.

    A run is `intervals` and a half long. Its first half interval is left out, so that the rest has a checkpoint for each whole
    interval, in its middle, with all that goes on behind it. Both runs validate at the same steps.
    """
    project = Project(work / "committing", LARGE, threads)
    every = _steps_of_an_interval(project)
    steps = every * intervals + every // 2
    with_commits = {"steps": steps, "checkpoint_every": every}
    without = {"steps": steps, "eval_every": every}
    ratios: list[float] = []
    cpu: list[float] = []
    blocked: list[float] = []
    for pair in range(pairs):
        seconds: dict[bool, float] = {}
        used: dict[bool, float] = {}
        for committed in (True, False) if pair % 2 else (False, True):
            events, used[committed] = project.whole(with_commits if committed else without)
            seconds[committed] = _log_time(events, steps) - _log_time(events, every // 2)
            if committed:
                blocked += [event.blocked_s for event in events if event.blocked_s is not None]
        ratios.append(seconds[True] / seconds[False])
        cpu.append((used[True] - used[False]) / intervals)
    rows = [
        ("time with commits / without", spread(ratios)),
        ("CPU s of a checkpoint, all processes", spread(cpu, 2)),
        ("training waited for a checkpoint, s", spread(blocked)),
    ]
    title = f"Committing: {LARGE.name}, a checkpoint every {every} steps ({INTERVAL_SECONDS:.0f} s), {pairs} pairs of runs"
    table(title, ("what", "median (range)"), rows)


def _steps_of_an_interval(project: Project) -> int:
    """How many steps take `INTERVAL_SECONDS`, by a short run; the half is still a multiple of the log's lines."""
    steps = 3 * LOG_EVERY
    events, _ = project.whole({"steps": steps})
    seconds = (_log_time(events, steps) - _log_time(events, LOG_EVERY)) / (steps - LOG_EVERY)
    return max(1, round(INTERVAL_SECONDS / seconds / (2 * LOG_EVERY))) * 2 * LOG_EVERY


def _log_time(events: list[Event], step: int) -> float:
    """When the line of the log at a step was written."""
    return next(event.time for event in events if event.step == step and event.loss is not None)


def starting(work: Path, rounds: int, threads: int) -> None:
    """From the command to the end of the first step, of a new run and of one that is resumed."""
    rows: list[list[object]] = []
    for size in (SMALL, LARGE):
        project = Project(work / "starting", size, threads)
        imports, began, resumed = [], [], []
        for _ in range(rounds):
            imports.append(_import_torch())
            run, seconds = project.until_step("--set=train.log_every=1")
            began.append(seconds)
            resumed.append(project.until_step("--resume", run, run=run)[1])
            project.remove(run)
        for name, times in (("git gru train", began), ("git gru train --resume", resumed)):
            ratios = [one / alone for one, alone in zip(times, imports, strict=True)]
            rows.append([size.name, name, spread(times, 2), spread(imports, 2), spread(ratios, 1)])
    columns = ("model", "command", "seconds", "import torch alone, seconds", "ratio")
    title = f"From the command to the end of its first step, {rounds} rounds: median (range)"
    table(title, columns, rows)


def _import_torch() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - start


def throughput(work: Path, pairs: int, threads: int) -> None:
    """Tokens a second of the engine and of a bare loop."""
    rows: list[list[object]] = []
    for size in (SMALL, LARGE):
        rows.append(_throughput_row(Project(work / "throughput", size, threads), size, pairs))
    columns = ("model", "engine, tokens/s", "bare loop, tokens/s", "speed, bare loop = 1", "by CPU time")
    title = f"One process beside a bare PyTorch loop, {pairs} pairs of turns: median (range)"
    table(title, columns, rows)


def _throughput_row(project: Project, size: Size, pairs: int) -> list[object]:
    found = turns(project, pairs)
    tokens = TURN * size.batch * size.window
    engine, bare = (
        statistics.median(tokens / turn.wall for turn in column) for column in zip(*found, strict=True)
    )
    by_clock = spread([theirs.wall / ours.wall for ours, theirs in found])
    by_cpu = spread([theirs.cpu / ours.cpu for ours, theirs in found])
    return [size.name, engine, bare, by_clock, by_cpu]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="folder for the repositories")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and shorter runs")
    parser.add_argument("--threads", type=int, default=0, help="of a worker (0: the machine's cores)")
    parser.add_argument("--only", help="comma-separated parts: committing,starting,throughput")
    options = parser.parse_args()
    work, quick, threads = options.work.absolute(), options.quick, options.threads
    parts = {
        "committing": lambda: committing(work, 2 if quick else 10, 1 if quick else 2, threads),
        "starting": lambda: starting(work, 2 if quick else 10, threads),
        "throughput": lambda: throughput(work, 10 if quick else 30, threads),
    }
    heading()
    run_parts(parts, options.only)


if __name__ == "__main__":
    main()
