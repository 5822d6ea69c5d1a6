"""Round snapshots: what a run of several nodes goes on from when one is lost between two checkpoints. Free of torch.

With a strategy whose workers take steps by themselves, all of them know the same weights at the end of a round. There rank 0
writes these into the run's folder, `round.safetensors`, with as much of a resume state as it has without asking anyone
(`git_gru.train.resume` says the names; each rank's own is left out). It is no commit, and nobody but the run's next generation
reads it: a later one replaces it, and it goes when a checkpoint has overtaken it, or the run is over.

The file is written beside and then renamed, so that a process killed meanwhile leaves the one before whole. Metadata: `step`.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from git_gru.formats.safetensors import (
    LENGTH_BYTES,
    HeaderError,
    TensorInfo,
    json_length,
    parse_header,
    write_header,
)

if TYPE_CHECKING:
    from git_gru.train.weights import TensorData

SNAPSHOT_FILE = "round.safetensors"
WEIGHTS = "weights."
LEAST_SECONDS = 5.0
"""From one snapshot to the next: coming together anew takes as long, so steps that are lost beside it do not weigh more."""
_REST = 10
"""How many times as long as a write takes there is none: a slow disk is left to the checkpoints."""


class SnapshotWriter:
    """Writes a run's round snapshots beside training, one at a time. Rank 0 has it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SNAPSHOT_FILE
        self._thread: threading.Thread | None = None
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether the next snapshot is to be written: not while another is, nor right after it."""
        busy = self._thread is not None and self._thread.is_alive()
        return not busy and time.monotonic() >= self._next

    def write(self, step: int, tensors: "Sequence[TensorData]") -> None:
        """Has a thread write the snapshot after `step`, in place of the one before; for when `is_due`.

        On a full or broken disk the one before stays.
        """
        self._thread = threading.Thread(
            target=self._write, args=(step, tensors), name="git-gru-rounds", daemon=True
        )
        self._thread.start()

    def settle(self) -> None:
        """Waits until what is being written is written."""
        if self._thread is not None:
            self._thread.join()

    def forget(self) -> None:
        """Deletes the snapshot: training does not go on from there."""
        self.settle()
        discard(self._path.parent)

    def _write(self, step: int, tensors: "Sequence[TensorData]") -> None:
        began = time.monotonic()
        beside = _beside(self._path)
        try:
            with beside.open("wb") as file:
                file.write(write_header([one[:3] for one in tensors], {"step": str(step)}))
                for *_, data in tensors:
                    file.write(data)
            beside.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        now = time.monotonic()
        self._next = now + max(LEAST_SECONDS, _REST * (now - began))


@dataclass(frozen=True, kw_only=True)
class FileTensors:
    """Tensors of a safetensors file, under names of their own; the file's data begins at `begin`."""

    path: Path
    begin: int
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> bytearray:
        """A tensor's bytes. Raises OSError."""
        info = self.tensors[name]
        data = bytearray(info.nbytes)
        with self.path.open("rb") as file:
            file.seek(self.begin + info.begin)
            if file.readinto(data) != len(data):
                raise OSError(f"{self.path} has become shorter")
        return data


@dataclass(frozen=True, kw_only=True)
class RoundSnapshot:
    """A snapshot that was found whole: the weights after `step`, by their names in the network, and the rest."""

    step: int
    weights: FileTensors
    state: FileTensors


def read_snapshot(folder: Path) -> RoundSnapshot | None:
    """The round snapshot in a run's folder; None where there is none, or none that is whole."""
    path = folder / SNAPSHOT_FILE
    try:
        with path.open("rb") as file:
            head = file.read(LENGTH_BYTES)
            head += file.read(json_length(head, where=SNAPSHOT_FILE))
            header = parse_header(head, file_size=path.stat().st_size, where=SNAPSHOT_FILE)
        step = int((header.metadata or {})["step"])
    except (OSError, HeaderError, KeyError, ValueError):
        return None

    def those(keep: Callable[[str], bool]) -> FileTensors:
        found = {info.name.removeprefix(WEIGHTS): info for info in header.tensors if keep(info.name)}
        return FileTensors(path=path, begin=header.length, tensors=found)

    return RoundSnapshot(
        step=step,
        weights=those(lambda name: name.startswith(WEIGHTS)),
        state=those(lambda name: not name.startswith(WEIGHTS)),
    )


def discard(folder: Path) -> None:
    """Deletes a run's round snapshot, and what is left of one that was being written."""
    path = folder / SNAPSHOT_FILE
    for one in (path, _beside(path)):
        with contextlib.suppress(OSError):
            one.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
