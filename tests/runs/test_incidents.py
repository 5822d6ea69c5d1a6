"""Incidents as JSON, and what a run's incidents say of its course."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.runs.incidents import Incident, parse_incident, sentence
from git_gru.runs.metrics import Event, parse_event, parse_events

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INCIDENTS = st.builds(
    Incident,
    kind=st.sampled_from(["loss", "spike"]),
    step=st.integers(0, 1 << 40),
    message=st.text(),
    action=st.sampled_from(["stop", "rollback", "none"]),
    rank=st.none() | st.integers(0, 4095),
    samples=st.lists(st.integers(0, 1 << 40)).map(tuple),
    gradient_norms=st.dictionaries(st.text(), st.none() | NUMBERS),
    back_to=st.none() | st.integers(0, 1 << 40),
    skipped=st.integers(0, 1 << 40),
    lr_scale=NUMBERS,
)


@given(INCIDENTS)
def test_an_incident_comes_back_through_an_event(incident: Incident) -> None:
    event = Event(time=1.0, step=2, incident=incident)
    assert parse_incident(incident.as_json()) == incident
    assert parse_event(event.encode()) == event


@pytest.mark.parametrize("value", [b"1", b"{}", b'{"kind": "loss", "step": "x", "message": ""}', b"null"])
def test_an_incident_that_is_none_is_left_out(value: bytes) -> None:
    assert parse_events(b'{"time": 1, "step": 2, "incident": ' + value + b"}\n") == []


def test_the_sentence_says_what_followed() -> None:
    incident = Incident(kind="loss", step=9, message="the loss is nan", action="rollback", back_to=5)
    assert sentence(incident) == "the loss is nan; back to step 5, leaving out the batches since"
