"""What the distributed benchmark's verdicts rest on."""

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks.nodes import accuracy
from benchmarks.nodes.accuracy import Outcome, Variant, paired, tuned
from benchmarks.nodes.scaling import Scaling, scaling
from benchmarks.nodes.strategies import STEPS, STRATEGIES, whole_run_bytes
from benchmarks.nodes.target import Curve, Pace


def test_a_paired_difference_has_students_interval() -> None:
    center, half = paired([1.0, 2.0, 3.0, 4.0, 5.0])
    assert center == 3.0
    assert half == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5))
    assert paired([0.5]) == (0.5, math.inf)


@pytest.mark.parametrize(
    ("percent", "half", "verdict"),
    [(0.4, 0.5, "shown"), (0.4, 0.7, "not shown"), (1.4, 0.5, "not shown"), (1.6, 0.5, "missed")],
)
def test_a_threshold_within_the_interval_counts_as_not_shown(
    percent: float, half: float, verdict: str
) -> None:
    outcome = Outcome(Variant("any", threshold=1.0), 0.1, [], percent, half)
    assert outcome.verdict == f"≤ 1 %: {verdict}"


@pytest.mark.parametrize("best", [0.001, 0.008, 0.0113, 0.016, 0.1])
def test_the_best_rate_is_found_beyond_the_ends_and_between(
    monkeypatch: pytest.MonkeyPatch, best: float
) -> None:
    tried: list[float] = []

    def loss(training: Any, variant: Variant, lr: float, steps: int, seed: int) -> float:
        tried.append(lr)
        return abs(math.log(lr / best))

    monkeypatch.setattr(accuracy, "_loss", loss)
    found = tuned(None, Variant("any"), (0.008, 0.016), 10, fine=True)  # type: ignore[arg-type]
    assert abs(math.log(found / best)) <= math.log(2) / 4 + 1e-3
    assert len(tried) == len(set(tried))


def test_a_target_is_reached_between_two_validations() -> None:
    curve = Curve([0, 20, 40], [3.0, 2.0, 1.0])
    assert curve.reaches(1.5) == 30
    assert curve.reaches(3.0) == 0
    assert curve.reaches(0.5) is None
    assert Pace(warmup=2.0, after=1.0).seconds(30, warmup=10) == 40
    assert Pace(warmup=2.0, after=1.0).seconds(5, warmup=10) == 10


def test_the_model_of_scaling_finds_what_a_ring_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(model: Any, sync: Any, ranks: int, link: Any, *, compute: float, steps: int) -> Any:
        seconds = compute + 0.1 + 4.0 * (ranks - 1) / ranks + 0.01 * (ranks - 1)
        return type("Cost", (), {"seconds": seconds})

    monkeypatch.setattr("benchmarks.nodes.scaling.step_cost", cost)
    found: Scaling = scaling(None, {}, (2, 4, 8, 16, 32), None, compute=0.5, steps=1)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.fitted, [0.1, 4.0, 0.01], atol=1e-9)
    assert found.held_out == 32
    assert found.error == pytest.approx(0, abs=1e-9)
    assert found.efficiency(2) == pytest.approx(0.5 / 2.61)


def test_bytes_of_a_run_have_the_warm_up_in_them() -> None:
    sent = dict.fromkeys(STRATEGIES, 1.0) | {"allreduce": 100.0}
    assert whole_run_bytes(sent, "allreduce") == STEPS * 100
    assert whole_run_bytes(sent, "allreduce int8") == STEPS
    assert whole_run_bytes(sent, "diloco") == STEPS / 8 * 100 + STEPS * 7 / 8
    topk = whole_run_bytes(sent, "allreduce topk")
    assert STEPS * 7 / 8 + STEPS / 8 * 5 < topk < STEPS * 7 / 8 + STEPS / 8 * 26, (
        "its stages begin at a quarter of all numbers"
    )
