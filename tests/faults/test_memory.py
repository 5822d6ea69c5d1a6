"""Memory does not grow with the model, in any step with one of 270 MB. (With one of 4 GB: docs/reliability.md.)"""

import sys
from pathlib import Path

import pytest

from benchmarks.memory import OURS, large_model, measure

TENSORS = 4
MOST = 200
"""MB. Each step takes 30 to 90; with the model in memory it would take 270 more."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc"),
]


def test_no_step_holds_the_model(quick: Path) -> None:
    model = quick / "large.safetensors"
    large_model(model, TENSORS)
    assert model.stat().st_size > 268_000_000
    found = {step: peaks[OURS] for step, peaks in measure(quick, model)}
    assert len(found) == 6
    assert all(20 < peak < MOST for peak in found.values()), found
