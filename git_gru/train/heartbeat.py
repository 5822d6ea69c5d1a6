"""Signs of life: how the launcher sees a worker that stands still. Free of torch.

Each worker has a small file that it maps into memory (`<run's folder>/heartbeats/<rank>`): the step and the phase it is in
and since when, written by the training thread as it goes on, and the time, written every second by a thread of its own. A
store into memory a few times a step costs nothing. Times are those of the machine's monotonic clock, so only the launcher
on the same machine reads them.

A worker is *stalled* when it showed no sign of life for `guard.stall` seconds (it is stopped, or hangs in a system call or
in native code), or when it stood in one phase of one step for so long. One worker's stall holds all others up, which
wait for its gradients: so the blame goes to the one that is least far. Validation and checkpoints take as long as they take.

Where several machines train, whoever is alive and past its data may wait for a worker elsewhere. It began to wait at most as much
earlier as a step takes, and counts as stalled after twice the time: by then that machine's launcher has told of the one at fault.
"""

import contextlib
import mmap
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

_BEAT = struct.Struct("=ddqqq")  # sign of life, since when, step, phase, local rank
ALIVE_EVERY = 1.0
SURE_AFTER = 20
"""Looks in a row that must find a stall: a machine that was frozen looks stalled when it thaws, until everyone woke up."""


class Phase(IntEnum):
    """Where in a step a worker is, in the order that it goes through them."""

    DATA = 0
    COMPUTE = 1
    UPDATE = 2
    CHECKPOINT = 3


@dataclass(frozen=True)
class Beat:
    """What a worker's file says."""

    alive: float
    since: float
    step: int
    phase: Phase
    local_rank: int


@dataclass(frozen=True, kw_only=True)
class Stall:
    """A worker that stands still, by its rank and that on its machine; both are None when all stand at the same point."""

    rank: int | None
    local_rank: int | None
    step: int
    seconds: float

    def __str__(self) -> str:
        who = "it" if self.rank is not None else "no worker got on; the run"
        return f"stalled: {who} stands at step {self.step} for {self.seconds:.0f} seconds (guard.stall)"


class Heartbeat:
    """A worker's own file, there as long as the context lasts."""

    def __init__(self, path: Path, local_rank: int) -> None:
        self._path, self._local_rank = path, local_rank
        self._memory: mmap.mmap | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="git-gru-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w+b") as file:
            now = time.monotonic()
            file.write(_BEAT.pack(now, now, 0, Phase.CHECKPOINT, self._local_rank))
            file.flush()
            self._memory = mmap.mmap(file.fileno(), _BEAT.size)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def at(self, step: int, phase: Phase) -> None:
        """The worker comes to `phase` of `step`."""
        if self._memory is not None:
            struct.pack_into("=dqq", self._memory, 8, time.monotonic(), step, phase)

    def _live(self) -> None:
        assert self._memory is not None
        while not self._over.wait(ALIVE_EVERY):
            struct.pack_into("=d", self._memory, 0, time.monotonic())


class StallWatch:
    """The launcher's side: `poll` once in a while. `elsewhere` says whether other machines have workers, too."""

    def __init__(self, folder: Path, limit: float, *, elsewhere: bool) -> None:
        self._folder, self._limit, self._elsewhere = folder, limit, elsewhere
        self._found = 0

    def poll(self) -> Stall | None:
        """The stall, once it is sure."""
        if not self._limit or not self._folder.is_dir():
            return None
        stall = find_stall(read_beats(self._folder), self._limit, time.monotonic(), elsewhere=self._elsewhere)
        self._found = self._found + 1 if stall else 0
        return stall if self._found >= SURE_AFTER else None


def find_stall(beats: Mapping[int, Beat], limit: float, now: float, *, elsewhere: bool) -> Stall | None:
    """The stall that `beats` (by rank) show at the time `now`, or None; `elsewhere` as in `StallWatch`."""
    for rank, beat in sorted(beats.items()):
        if now - beat.alive > limit:
            return Stall(rank=rank, local_rank=beat.local_rank, step=beat.step, seconds=now - beat.alive)
    if not beats:
        return None
    least = min((beat.step, beat.phase) for beat in beats.values())
    last = [rank for rank, beat in beats.items() if (beat.step, beat.phase) == least]
    seconds = now - max(beats[rank].since for rank in last)
    may_wait = elsewhere and least[1] is not Phase.DATA
    if seconds <= limit * (2 if may_wait else 1) or least[1] is Phase.CHECKPOINT:
        return None
    if len(last) > 1 or (may_wait and len(beats) == 1):
        return Stall(rank=None, local_rank=None, step=least[0], seconds=seconds)
    return Stall(rank=last[0], local_rank=beats[last[0]].local_rank, step=least[0], seconds=seconds)


def read_beats(folder: Path) -> dict[int, Beat]:
    """The beats of this machine's workers, by rank; none where they are not there yet."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError, struct.error):  # one that is just being made, or taken away
            alive, since, step, phase, local_rank = _BEAT.unpack(path.read_bytes())
            found[int(path.name)] = Beat(alive, since, step, Phase(phase), local_rank)
    return found
