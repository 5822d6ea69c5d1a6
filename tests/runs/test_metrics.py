"""The event log: what is written is read, torn and foreign lines do no harm."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from git_gru.runs.metrics import Event, EventFollower, EventWriter, last_validation, parse_event, parse_events

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
events = st.builds(
    Event,
    time=st.integers(0, 10**10).map(float),
    step=st.integers(0, 10**9),
    rank=st.integers(0, 1000),
    loss=st.none() | numbers,
    lr=st.none() | numbers,
    tokens_per_s=st.none() | numbers,
    blocked_s=st.none() | numbers,
    rates=st.lists(numbers).map(tuple),
    sent=st.lists(st.integers(0, 2**60)).map(tuple),
    waited=st.lists(numbers).map(tuple),
    validation=st.dictionaries(st.sampled_from(["val_loss", "val_accuracy"]), numbers),
    commit=st.none() | st.text("0123456789abcdef", min_size=40, max_size=40),
    branch=st.none() | st.text(),
    round=st.integers(0, 10**9),
    sites=st.dictionaries(
        st.text(), st.dictionaries(st.sampled_from(["round", "weight"]), numbers), max_size=2
    ),
    message=st.none() | st.text(),
)


@given(st.lists(events))
def test_what_is_written_is_read(written: list[Event]) -> None:
    assert parse_events(b"".join(event.encode() for event in written)) == written


@given(st.lists(events, min_size=1), st.data())
def test_a_torn_last_line_is_left_out(written: list[Event], data: st.DataObject) -> None:
    lines = [event.encode() for event in written]
    torn = data.draw(st.integers(0, len(lines[-1]) - 1))
    assert parse_events(b"".join(lines[:-1]) + lines[-1][:torn]) == written[:-1]


@given(st.binary())
def test_any_bytes_are_an_event_or_none(line: bytes) -> None:
    event = parse_event(line)
    assert event is None or parse_event(event.encode()) is not None


def test_the_line_of_a_checkpoint() -> None:
    event = Event(time=12.0004, step=40, validation={"val_loss": 1.5}, commit="ab" * 20, blocked_s=0.25)
    assert event.encode() == (
        b'{"time": 12.0, "step": 40, "blocked_s": 0.25, "commit": "' + b"ab" * 20 + b'", "val_loss": 1.5}\n'
    )


def test_a_follower_gives_each_event_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = EventFollower(path)
    assert follower.poll() == []
    writer = EventWriter(path)
    first, second = Event(time=1.0, step=1, loss=2.0), Event(time=2.0, step=2, loss=1.0)
    writer.write(first)
    writer.close()
    with path.open("ab") as file:
        file.write(second.encode()[:7])
        file.flush()
        assert follower.poll() == [first]
        assert follower.poll() == []
        file.write(second.encode()[7:])
    assert follower.poll() == [second]


def test_a_log_that_a_resume_has_cut_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = [Event(time=float(step), step=step, loss=1.0) for step in range(5)]
    path.write_bytes(b"".join(event.encode() for event in log))
    follower = EventFollower(path)
    assert (follower.poll(), follower.is_cut) == (log, False)
    path.write_bytes(b"".join(event.encode() for event in log[:2]))
    assert (follower.poll(), follower.is_cut) == (log[:2], True)
    assert (follower.poll(), follower.is_cut) == ([], False)


def test_last_validation_is_the_newest_that_has_one() -> None:
    log = [Event(time=0, step=0, validation={"val_loss": 5.0}), Event(time=1, step=1, loss=4.0)]
    assert last_validation(log) == {"val_loss": 5.0}
    assert last_validation([]) == {}
