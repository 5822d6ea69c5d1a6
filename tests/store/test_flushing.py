"""Packs are flushed while they are written; what goes wrong then is told at their end."""

import errno
import os
import threading
from pathlib import Path

import pytest

from git_gru.errors import MachineError
from git_gru.store import flushing
from git_gru.store.flushing import FlushAhead
from git_gru.store.packs import PackWriter, make_entry


def test_a_flush_goes_on_while_more_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    begun, may_end = threading.Event(), threading.Event()

    def fsync(descriptor: int) -> None:
        flushed.append(descriptor)
        begun.set()
        may_end.wait()

    monkeypatch.setattr(os, "fsync", fsync)
    ahead = FlushAhead(7)
    ahead.wrote(flushing.FLUSH_BYTES - 1)
    ahead.wait()
    assert flushed == []
    ahead.wrote(1)
    begun.wait()
    ahead.wrote(flushing.FLUSH_BYTES)
    assert flushed == [7], "one at a time"
    may_end.set()
    ahead.wait()
    ahead.wrote(1)
    ahead.wait()
    assert flushed == [7, 7], "what came meanwhile is flushed by the next"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_a_flush_meets_is_told_at_the_end(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of it once: to the flush on the way, and not to the last one."""
    errors = [OSError(number, os.strerror(number))]
    monkeypatch.setattr(flushing, "FLUSH_BYTES", 100)
    monkeypatch.setattr(os, "fsync", lambda descriptor: _raise(errors.pop()) if errors else None)
    writer = PackWriter(tmp_path, 2)
    for content in (bytes(200), bytes(300)):
        writer.add(make_entry("blob", [content]))
    with pytest.raises(MachineError if number == errno.ENOSPC else OSError):
        writer.finish()
    assert not errors
    assert not list(tmp_path.iterdir())


def _raise(error: OSError) -> None:
    raise error
