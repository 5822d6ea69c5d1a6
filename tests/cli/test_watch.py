"""`git gru watch`: the canvas, the screen at any size, and the verb on a terminal, a pipe, and a run elsewhere."""

import json
import math
import os
import pty
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.cli.canvas import Canvas, chart
from git_gru.cli.watch_screen import WIDE, clock, screen
from git_gru.git.run_refs import write_record
from git_gru.runs.incidents import Incident
from git_gru.runs.metrics import Event, EventWriter
from git_gru.runs.record import Failure, RunRecord, RunState
from git_gru.runs.snapshot import snapshot_of

RECORD = RunRecord(
    id="260412-101530-k3f", state=RunState.RUNNING, started=100.0, source="a" * 40, branch="gru/x", model="m",
    recipe_path="gru.toml", recipe={}, nproc=2, seed=0, steps=100, host="elsewhere", pid=1,
)  # fmt: skip
FAILURE = Failure(message="RuntimeError: boom \x1b[2J", rank=1)
EVENTS = [
    Event(time=100, step=0, validation={"val_loss": 5.0}),
    *(Event(time=100 + n, step=n, loss=5 - n / 20, lr=0.01, tokens_per_s=1e4 + n) for n in range(10, 70, 10)),
    Event(time=165, step=60, tokens_per_s=1e4, rates=(7e3, 4e3, 1.0), shares=(16, 11, 5)),
    Event(time=170, step=60, commit="c" * 40, validation={"val_loss": 2.25}),
    Event(
        time=171, step=61, incident=Incident(kind="spike", step=61, message="the loss rose", action="none")
    ),
]


def test_a_canvas_dot_by_dot() -> None:
    canvas = Canvas(2, 1)
    canvas.draw([(0, 0), (1, 1)], x_range=(0, 1), y_range=(0, 1), style="red")
    assert [line.plain for line in canvas.lines()] == [
        "\u2860\u280a"
    ]  # from the lower left to the upper right
    flat = Canvas(1, 1)
    flat.draw([(5, 7)], x_range=(5, 5), y_range=(7, 7), style="")
    assert flat.lines()[0].plain.strip()


def test_a_chart_has_its_scale() -> None:
    lines = [line.plain for line in chart([([(0, 1.0), (50, 3.0)], "red")], 30, 4)]
    assert len(lines) == 4
    assert lines[0].startswith("     3 │")
    assert lines[2].startswith("     1 │")
    assert lines[3].split() == ["0", "50"]


def test_workers_of_unequal_speed_show_their_shares() -> None:
    text = "\n".join(line.plain for line in screen(snapshot_of(RECORD, EVENTS, 180.0), 120, 30))
    assert "7,000, share 16" in text
    assert "1, share 5" in text


def test_what_is_no_number_is_left_out_of_a_chart() -> None:
    points = [(0, 1.0), (25, 2.0), (50, 3.0)]
    broken = [*points[:2], (30, math.nan), (40, math.inf), points[2]]
    assert chart([(broken, "red")], 30, 4) == chart([(points, "red")], 30, 4)
    events = [Event(time=100, step=1, loss=math.nan, validation={"val_loss": math.nan})]
    assert len(screen(snapshot_of(RECORD, events, 180.0), 60, 24)) == 24


@given(st.integers(40, 200), st.integers(12, 60), st.integers(0, len(EVENTS)), st.booleans())
def test_the_screen_fits_any_terminal(width: int, height: int, events: int, failed: bool) -> None:
    snapshot = snapshot_of(RECORD, EVENTS[:events], 180.0)
    if failed:
        snapshot = snapshot_of(
            RunRecord(**{**vars(RECORD), "state": RunState.FAILED, "failure": FAILURE}),
            EVENTS[:events],
            180.0,
        )
    lines = screen(snapshot, width, height)
    assert len(lines) == height
    assert max(line.cell_len for line in lines) <= width
    text = "\n".join(line.plain for line in lines)
    assert RECORD.id in text
    assert "\x1b" not in text
    if events > 1:
        assert "loss" in text
        assert "│" in text


@pytest.mark.parametrize(("width", "height"), [(60, 24), (WIDE, 30)])
def test_everything_is_told_at_usual_sizes(width: int, height: int) -> None:
    text = "\n".join(line.plain for line in screen(snapshot_of(RECORD, EVENTS, 180.0), width, height))
    for part in (
        "loss 2.0000",
        "val_loss 2.2500",
        "60/100",
        "learning rate 0.01",
        "tokens/s",
        "c" * 10,
        "the loss rose",
    ):
        assert part in text
    assert "1:20 gone, 0:40 left" in text


def test_what_each_worker_sent_and_waited_is_told() -> None:
    told = Event(
        time=172,
        step=61,
        tokens_per_s=9e3,
        rates=(5e3, 2e3),
        shares=(8, 8),
        sent=(3_400_000, 1700),
        waited=(0.25, 65.0),
    )
    for width in (60, WIDE):
        shown = screen(snapshot_of(RECORD, [*EVENTS, told], 180.0), width, 40)
        text = [line.plain.split() for line in shown]
        (first,) = [words for words in text if "3.4" in words]
        (second,) = [words for words in text if "1:05" in words]
        assert first[-4:] == ["5,000", "3.4", "MB", "0:00"]
        assert second[-4:] == ["2,000", "1.7", "kB", "1:05"]


@pytest.mark.parametrize("width", [60, WIDE])
def test_a_site_shows_the_others(width: int) -> None:
    seen = {
        "home": {"round": 7, "weight": 0.75, "val_loss": 1.5},
        "lab": {"round": 6, "weight": 0.25},
        "out": {"round": 2, "weight": 0.0},
    }
    told = Event(time=172, step=61, round=7, sites=seen)
    shown = screen(snapshot_of(RECORD, [*EVENTS, told], 180.0), width, 40)
    text = [line.plain[: width // 2 if width == WIDE else None].rstrip() for line in shown]
    start = text.index("round 7 with 3 sites")
    assert [line.split() for line in text[start + 1 : start + 4]] == [
        ["home", "round", "7", "weight", "0.75", "val_loss", "1.5000"],
        ["lab", "round", "6", "weight", "0.25"],
        ["out", "round", "2", "not", "merged"],
    ]


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 3600, 3725)] == ["0:00", "1:00", "1:00:00", "1:02:05"]


def finished(**changes: Any) -> RunRecord:
    return RunRecord(**{**vars(RECORD), "state": RunState.FINISHED, "ended": 200.0, "step": 60, **changes})


def test_a_pipe_gets_lines_and_json_a_snapshot(repo: Any) -> None:
    said = repo.gru("watch")
    assert said.returncode == 4
    assert b"no run here" in said.stderr
    metrics = b"".join(event.encode() for event in EVENTS)
    write_record(repo.repository, finished(), metrics, {})
    lines = repo.gru("watch", "2604").stdout.decode().splitlines()
    assert len(lines) == len(EVENTS) + 1
    assert lines[1].split() == ["step", "10", "loss", "4.5", "lr", "0.01", "tokens/s", "10010"]
    assert lines[-1] == f"{RECORD.id} finished, step 60 of 100"
    snapshot = json.loads(repo.gru("watch", "--json").stdout)
    assert snapshot["loss"][0] == [10, 4.5]
    assert snapshot["state"] == "finished"


def test_a_run_elsewhere_is_seen_as_its_record_comes(repo: Any) -> None:
    from git_gru.git.run_following import RunFollower

    write_record(repo.repository, RECORD, EVENTS[0].encode(), {})
    follower = RunFollower(repo.repository, RECORD.id)
    assert follower.poll()[1] == EVENTS[:1]
    write_record(repo.repository, finished(), b"".join(event.encode() for event in EVENTS[:5]), {})
    record, events = follower.poll()
    assert (record.state, events) == (RunState.FINISHED, EVENTS[:5])


def test_the_log_in_the_folder_is_ahead_of_the_record(repo: Any) -> None:
    from git_gru.git.run_following import RunFollower

    write_record(repo.repository, RECORD, EVENTS[0].encode(), {})
    folder = repo.repository.gru_dir / "runs" / RECORD.id
    folder.mkdir(parents=True)
    writer = EventWriter(folder / "metrics.jsonl")
    follower = RunFollower(repo.repository, RECORD.id)
    for event in EVENTS[:3]:
        writer.write(event)
    assert follower.poll()[1] == EVENTS[:3]
    writer.write(EVENTS[3])
    writer.close()
    assert follower.poll()[1] == EVENTS[:4]


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_a_key_leaves_and_the_run_goes_on(repo: Any, key: bytes) -> None:
    write_record(repo.repository, RECORD, b"".join(event.encode() for event in EVENTS), {})
    before = repo.git("for-each-ref")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(repo.path)
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "24"}
        os.execv(sys.executable, [sys.executable, "-m", "git_gru", "watch"])
    seen, end = b"", time.monotonic() + 60
    while "val_loss" not in seen.decode("utf-8", "ignore") and time.monotonic() < end:
        seen += os.read(terminal, 65536)
    os.write(terminal, key)
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the terminal closes with its last process
            break
        if not piece:
            break
        seen += piece
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    if (
        key == b"q"
    ):  # at Ctrl-C the kernel signals first and then throws away what the terminal has not shown yet: maybe this
        assert b"\x1b[?1049l" in seen  # back from the full screen
    assert b"Traceback" not in seen
    assert repo.git("for-each-ref") == before
