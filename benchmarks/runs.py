"""Projects and runs for the training benchmarks: a GRU language model on the standard library's sources, trained by commands."""

import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import history
from benchmarks.peers import Repository
from git_gru.runs.metrics import Event, EventFollower, parse_events

RECIPE = """\
[model]
embedding = {embedding}
hidden = {hidden}
layers = 2

[data]
files = ["text/train.txt"]
validation_files = ["text/validation.txt"]
window = {window}

[train]
steps = 1000000
batch = {batch}
lr = 0.001
schedule = "constant"
checkpoint_every = 1000000

[launch]
device = "cpu"
threads = {threads}
"""

VALIDATION_BYTES = 1025
"""Little, so that validation, which every run does before its first step, is no part of what is measured."""

PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Size:
    """A model of two layers and the batches that it learns from."""

    name: str
    embedding: int
    hidden: int
    window: int
    batch: int


SMALL = Size("1.7 MB, batches of 16 × 32", embedding=64, hidden=192, window=32, batch=16)
LARGE = Size(
    "50 MB, batches of 8 × 16", embedding=512, hidden=1080, window=history.WINDOW, batch=history.BATCH
)


class RunMissingError(SystemExit):
    """A run that should have got somewhere and did not."""


class Project:
    """A repository with a recipe and its data committed. Runs in it leave nothing behind."""

    def __init__(self, folder: Path, size: Size, threads: int) -> None:
        self.size = size
        self.repository = Repository("git-gru", folder).begin()
        text = history.corpus()
        (folder / "text").mkdir()
        (folder / "text" / "train.txt").write_bytes(text[VALIDATION_BYTES:])
        (folder / "text" / "validation.txt").write_bytes(text[:VALIDATION_BYTES])
        recipe = RECIPE.format(**vars(size), threads=threads)
        (folder / "gru.toml").write_text(recipe)
        self.repository.git("config", "gru.autoMaintenance", "false")
        self.repository.git("add", "--all")
        self.repository.git("commit", "--quiet", "--message=a recipe and its data")

    def whole(self, overrides: dict[str, int]) -> tuple[list[Event], float]:
        """Trains to the end; the run's events, and the CPU seconds of all its processes."""
        sets = [f"--set=train.{key}={value}" for key, value in overrides.items()]
        self.repository.timed("train", lambda: self.repository.git("gru", "train", *sets))
        (run,) = self._recorded()
        events = parse_events(
            self.repository.git("show", f"refs/gru/runs/{run}/record:metrics.jsonl").encode()
        )
        self.remove(run)
        return events, self.repository.cpu["train"][-1]

    def until_step(self, *arguments: str, run: str | None = None) -> tuple[str, float]:
        """`git gru train ARGUMENTS` until it has done a step that was not done before, and stopped then.

        Returns the run's id, and the seconds from the command to the step's end, as the worker's clock has it.
        """
        done = 0 if run is None else self._step(run)
        start = time.time()
        command = ("git", "gru", "train", *arguments)
        process = subprocess.Popen(
            command, cwd=self.repository.folder, env=self.repository.environment(), stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        event, run = self._first(process, lambda event: event.loss is not None and event.step > done)
        self.repository.git("gru", "runs", "stop", run)
        process.wait(PATIENCE_SECONDS)
        return run, event.time - start

    def remove(self, run: str) -> None:
        """Removes a run, its branch and its resume states."""
        self.repository.git("gru", "runs", "rm", run, "--branch")

    def _first(
        self, process: "subprocess.Popen[bytes]", wanted: Callable[[Event], bool]
    ) -> tuple[Event, str]:
        """The first event of the one run that is going on which is `wanted`, and the run's id."""
        followers: dict[Path, EventFollower] = {}
        runs = self.repository.folder / ".git" / "gru" / "runs"
        give_up = time.monotonic() + PATIENCE_SECONDS
        while process.poll() is None and time.monotonic() < give_up:
            for path in runs.glob("*/metrics.jsonl"):
                for event in followers.setdefault(path, EventFollower(path)).poll():
                    if wanted(event):
                        return event, path.parent.name
            time.sleep(0.02)
        raise RunMissingError("the run ended, or hangs, before its first step")

    def _recorded(self) -> Sequence[str]:
        names = self.repository.git("for-each-ref", "--format=%(refname)", "refs/gru/runs/*/record")
        return [name.split("/")[3] for name in names.split()]

    def _step(self, run: str) -> int:
        """The last step of a run that was stopped."""
        log = self.repository.git("show", f"refs/gru/runs/{run}/record:metrics.jsonl")
        return max(event.step for event in parse_events(log.encode()))


def spread(numbers: Sequence[float], digits: int = 3) -> str:
    """A median and its range, as text."""
    middle = statistics.median(numbers)
    return f"{middle:.{digits}f} ({min(numbers):.{digits}f}–{max(numbers):.{digits}f})"
