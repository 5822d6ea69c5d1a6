"""Every operation of the store, killed at every step: nothing is lost, and it completes when it is run again."""

import itertools
import random
import shutil
from pathlib import Path

import pytest

from tests.faults.dying import attempt
from tests.faults.operations import OPERATIONS

EVERY = {"publish": 4}
"""A publish goes through the same 19 steps for each of four batches. Every fourth step is tried: so each of the 19 once."""


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_step(name: str, quick: Path) -> None:
    operation, every = OPERATIONS[name], EVERY.get(name, 1)
    start = quick / "start"
    start.mkdir()
    operation.prepare(start)
    tried = 0
    for step in itertools.count(random.randint(1, every), every):
        folder = quick / f"{step}"
        shutil.copytree(start, folder)
        if not attempt(operation.act, folder, die_at=step).died:
            break
        operation.check(folder, done=False)
        attempt(operation.act, folder)
        operation.check(folder, done=True)
        shutil.rmtree(folder)
        tried += 1
    assert tried >= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_again_and_again(name: str, quick: Path) -> None:
    """Each death where the last one has left off, its garbage in the way."""
    operation = OPERATIONS[name]
    operation.prepare(quick)
    for _ in range(5):
        attempt(operation.act, quick, die_at=random.randint(1, 25))
    attempt(operation.act, quick)
    operation.check(quick, done=True)


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 8, 10])
def test_a_git_that_outlives_its_process_is_in_nobodys_way(step: int, quick: Path, isolated: Path) -> None:
    """The process dies while its git waits for a slow hub; the next one does not wait for that git to end."""
    operation = OPERATIONS["bring"]
    operation.prepare(quick)
    slow = quick / "slow"
    slow.write_text('#!/bin/sh\nsleep 0.1\nexec "$@"\n')
    slow.chmod(0o755)
    with (isolated / ".gitconfig").open("a") as settings:
        settings.write(f"[uploadpack]\n\tpackObjectsHook = {slow}\n")
    assert attempt(operation.act, quick, die_at=step, alone=True).died
    operation.act(quick)
    operation.check(quick, done=True)
