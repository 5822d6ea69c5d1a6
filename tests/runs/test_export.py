"""Metrics as CSV, JSON and TensorBoard event files."""

import csv
import io
import struct
from pathlib import Path

import pytest

from git_gru.runs.export import metrics_csv, metrics_json
from git_gru.runs.incidents import Incident
from git_gru.runs.metrics import Event
from git_gru.runs.tensorboard import TensorBoardWriter, _crc

BACK = Incident(kind="loss", step=3, message="the loss is nan", action="rollback", back_to=2)
EVENTS = [
    Event(time=10.0, step=0, validation={"val_loss": 5.5}),
    Event(time=11.0, step=2, loss=4.0, lr=0.1, tokens_per_s=300.0),
    Event(time=11.0, step=2, rank=1, tokens_per_s=100.0),
    Event(time=12.0, step=2, validation={"val_loss": 3.5, "val_top": 0.5}, commit="c" * 40, blocked_s=0.25),
    Event(time=13.0, step=3, incident=BACK, message='it says "back", and more'),
]


def test_csv() -> None:
    text = metrics_csv(EVENTS)
    assert text.splitlines()[0] == (
        "time,step,rank,loss,lr,tokens_per_s,val_loss,val_top,commit,branch,blocked_s,incident,message"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["step"] for row in rows] == ["0", "2", "2", "2", "3"]
    assert (rows[1]["loss"], rows[2]["rank"], rows[2]["loss"]) == ("4.0", "1", "")
    assert (rows[3]["val_top"], rows[3]["commit"]) == ("0.5", "c" * 40)
    assert (rows[4]["incident"], rows[4]["message"]) == ("loss", 'it says "back", and more')
    assert metrics_csv([]).count("\n") == 1


def test_columns_by_rank() -> None:
    event = Event(time=1.0, step=2, rates=(3.0, 4.0), shares=(7, 9), sent=(5, 6), waited=(0.5, 0.25))
    assert metrics_csv([event]).splitlines() == [
        "time,step,rank,loss,lr,tokens_per_s,rate_0,rate_1,share_0,share_1,sent_0,sent_1,waited_0,waited_1,"
        "commit,branch,blocked_s,incident,message",
        "1.0,2,0,,,,3.0,4.0,7,9,5,6,0.5,0.25,,,,,",
    ]


def test_the_round_of_a_site_has_a_column_and_the_sites_are_in_the_json_alone() -> None:
    event = Event(time=1.0, step=2, round=3, sites={"a": {"round": 3, "weight": 1.0}})
    assert metrics_csv([event]).splitlines() == [
        "time,step,rank,loss,lr,tokens_per_s,round,commit,branch,blocked_s,incident,message",
        "1.0,2,0,,,,3,,,,,",
    ]
    assert metrics_json([event])[0]["sites"] == {"a": {"round": 3, "weight": 1.0}}


def test_json() -> None:
    found = metrics_json(EVENTS)
    assert found[0] == {"rank": 0, "time": 10.0, "step": 0, "val_loss": 5.5}
    assert found[4]["incident"]["back_to"] == 2


def test_the_checksum_is_crc32c() -> None:
    crc = 0xE3069283  # of "123456789": RFC 3720's check value
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _crc(b"123456789") == struct.pack("<I", masked)


def test_an_event_file_byte_by_byte(tmp_path: Path) -> None:
    with TensorBoardWriter(tmp_path / "run", 1.0) as writer:
        writer.add(Event(time=2.0, step=300, loss=0.5))
    (file,) = (tmp_path / "run").iterdir()
    assert file.name.startswith("events.out.tfevents.1.")
    first, second = records(file.read_bytes())
    assert first == b"\x09" + struct.pack("<d", 1.0) + b"\x1a\x0dbrain.Event:2"
    value = b"\x0a\x04loss\x15" + struct.pack("<f", 0.5)
    assert second == b"\x09" + struct.pack("<d", 2.0) + b"\x10\xac\x02\x2a\x0d\x0a\x0b" + value


def test_all_numbers_and_the_rollback_are_in_it(tmp_path: Path) -> None:
    with TensorBoardWriter(tmp_path, 1.0) as writer:
        for event in EVENTS:
            writer.add(event)
        assert len(records(next(tmp_path.iterdir()).read_bytes())) == 6  # readable while it is written
    data = next(tmp_path.iterdir()).read_bytes()
    for tag in (b"loss", b"lr", b"tokens_per_s", b"tokens_per_s/rank-1", b"val_loss", b"val_top"):
        assert b"\x0a" + bytes([len(tag)]) + tag in data
    assert records(data)[-1] == b"\x09" + struct.pack("<d", 13.0) + b"\x10\x03\x3a\x02\x08\x01"
    with TensorBoardWriter(tmp_path, 1.0):
        pass
    assert len(list(tmp_path.iterdir())) == 2


def records(data: bytes) -> list[bytes]:
    """TFRecords, taken apart and their checksums compared."""
    found = []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        assert data[8:12] == _crc(data[:8])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert data[:4] == _crc(body)
        data = data[4:]
        found.append(body)
    return found


@pytest.mark.parametrize("host", ["a/b", "", "räume"])
def test_any_host_name_makes_a_file(tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    with TensorBoardWriter(tmp_path, 1.0):
        assert len(list(tmp_path.iterdir())) == 1
