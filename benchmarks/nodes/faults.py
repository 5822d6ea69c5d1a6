"""Faults: what the death of one node of three costs a run, by the run's own log.

Every node has a clone of its own and runs `git gru train --nnodes 2:3`, as a user would start it. Node 2 is killed (`kill -9` of
everything on it) between two checkpoints; what is lost is the time until the others take a new step, and the steps since the
checkpoint, or since the end of a round, which they do again.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.nodes.network import Link, Node, network
from benchmarks.nodes.text import Training
from git_gru.runs.metrics import Event, parse_events

NODES = 3
PATIENCE_SECONDS = 300


@dataclass(frozen=True)
class Death:
    """Seconds until the others went on; steps that they did again; seconds of a step before."""

    waited: float
    steps: int
    step_seconds: float

    @property
    def lost(self) -> float:
        """Seconds in all."""
        return self.waited + self.steps * self.step_seconds


def death(training: Training, sync: Mapping[str, object], *, checkpoint_every: int) -> Death:
    """One run, in which node 2 is killed when three quarters of the way from its first checkpoint to its second are done."""
    settings = {"train.steps": 1_000_000, "train.checkpoint_every": checkpoint_every, "train.log_every": 1}
    settings |= {f"sync.{key}": value for key, value in sync.items()}
    with ExitStack() as stack:
        nodes = stack.enter_context(network(NODES, Link()))
        for node in nodes:
            stack.callback(node.kill)
        clones = [_clone(training, number) for number in range(NODES)]
        for number in range(NODES):
            _start(training, nodes, number, clones[number], settings)
        events = _await(clones[0], lambda events: events[-1].step >= 1.75 * checkpoint_every)
        nodes[2].kill()
        after = _await(clones[0], lambda events: any(event.change for event in events))
    change = next(event.change for event in after if event.change)
    first, *_, last = [event for event in events if event.loss is not None and event.step > checkpoint_every]
    step_seconds = (last.time - first.time) / (last.step - first.step)  # a line may be of many steps
    return Death(change["seconds"], int(change["lost_at"] - change["from"]), step_seconds)


def _clone(training: Training, number: int) -> Path:
    """A node's clone, made anew."""
    path = training.repository.folder.with_name(f"{training.repository.folder.name}-node-{number}")
    subprocess.run(["rm", "-rf", str(path)], check=True)
    training.repository.git("clone", "--quiet", ".", str(path))
    return path


def _start(
    training: Training, nodes: Sequence[Node], number: int, clone: Path, settings: Mapping[str, object]
) -> None:
    words = [
        "--nnodes",
        f"{NODES - 1}:{NODES}",
        "--rdzv-endpoint",
        f"{nodes[0].address}:29400",
        "--nproc",
        "1",
    ]
    words += ["--set", "launch.last_call=30"] + (["--node-rank", "0"] if number == 0 else [])
    if number == 0:
        words += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = (*nodes[number].command, sys.executable, "-m", "git_gru", "train", *words)
    environment = training.repository.environment()
    subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _await(clone: Path, wanted: Callable[[list[Event]], bool]) -> list[Event]:
    """The events of the run in `clone`, once they are `wanted`."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        for log in (clone / ".git/gru/runs").glob("*/metrics.jsonl"):
            if (events := parse_events(log.read_bytes())) and wanted(events):
                return events
        time.sleep(0.1)
    raise SystemExit("the run did not get where it should")
