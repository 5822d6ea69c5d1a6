"""The same GRU, data, batch and optimizer by what users would pick, on one machine: plain DistributedDataParallel under torchrun,
Accelerate, Lightning, and `git gru train`; tokens a second between two moments of each run, taken in turns.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.nodes.text import Training

SCRIPT = Path(__file__).with_name("launched_script.py")
FRAMEWORKS = ("ddp", "accelerate", "lightning")


def speeds(training: Training, workers: int, *, steps: int, rounds: int) -> Mapping[str, list[float]]:
    """Tokens a second of each, by name: `git-gru` and the frameworks."""
    found: dict[str, list[float]] = {name: [] for name in ("git-gru", *FRAMEWORKS)}
    for turn in range(rounds):
        names = list(found)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            own = name == "git-gru"
            speed = _own(training, workers, steps) if own else _theirs(training, name, workers, steps)
            found[name].append(speed)
    return found


def _own(training: Training, workers: int, steps: int) -> float:
    """By the times of the lines of the log, which are as many steps apart."""
    events = training.run({"train.steps": steps, "train.log_every": steps // 4}, workers)
    times = {event.step: event.time for event in events if event.loss is not None}
    first, last = min(times), max(times)
    return (last - first) * training.model.tokens / (times[last] - times[first])


def _theirs(training: Training, framework: str, workers: int, steps: int) -> float:
    settings = {**vars(training.model), "framework": framework, "steps": steps}
    settings["data"] = str(training.repository.folder / "data")
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"),
        *(str(SCRIPT), json.dumps(settings)),
    )
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=training.repository.environment() | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{framework}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["tokens_per_s"])


def shown(speeds: Mapping[str, list[float]]) -> list[list[object]]:
    """Rows: name, median tokens a second, median of the paired ratios of git-gru to it."""
    own = speeds["git-gru"]
    return [
        [name, statistics.median(values), statistics.median(a / b for a, b in zip(own, values, strict=True))]
        for name, values in speeds.items()
    ]
