"""Synchronisation strategies: the contract, with real gloo processes on a batch that the ranks cannot share evenly.

Validation, which the ranks share by batches, gives exactly what one process gives.
"""

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

SGD = {"optimizer": "sgd", "momentum": 0.0, "clip": 0.0, "lr": 0.1}
"""The optimizer without a state: what is linear in the gradients shows how they were averaged."""

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "fp16": ({"compress": "fp16"}, SGD),
    "int8": ({"compress": "int8"}, SGD),
    "powersgd": ({"compress": "powersgd", "rank": 2, "warmup": 3}, {}),
    "topk": ({"compress": "topk", "density": 0.05, "warmup": 4}, {"optimizer": "sgd"}),
    "topk-adamw": ({"compress": "topk", "density": 0.05, "warmup": 0}, {}),
    "local-sgd": ({"strategy": "local-sgd", "warmup": 2, "every": 3}, {}),
    "diloco": ({"strategy": "diloco", "warmup": 2, "every": 3}, SGD),
    "diloco-cold": ({"strategy": "diloco", "warmup": 0, "every": 4}, {}),
    "diloco-fp16": ({"strategy": "diloco", "warmup": 2, "every": 3, "compress": "fp16"}, SGD),
    "diloco-int8": ({"strategy": "diloco", "warmup": 2, "every": 3, "compress": "int8"}, SGD),
    "streaming": ({"strategy": "diloco", "warmup": 1, "every": 4, "fragments": 3}, {}),
    "overlapped": (
        {"strategy": "diloco", "warmup": 1, "every": 5, "fragments": 2, "overlap": 2, "compress": "int8"}, {},
    ),
    "sgd": ({}, SGD),
    "exact-topk": ({"compress": "topk", "density": 1.0}, SGD),
    "exact-local-sgd": ({"strategy": "local-sgd", "warmup": 0, "every": 1}, SGD),
    "exact-diloco": (
        {"strategy": "diloco", "warmup": 2, "every": 1, "outer_lr": 1.0, "outer_momentum": 0.0}, SGD,
    ),
}  # fmt: skip
SIZES = (1, 2, 3)

Outcomes = Callable[[str, int], list[dict[str, Any]]]


def make_outcomes(folder: Path) -> None:
    """Has real ranks write what came of every case."""
    cases = [{"name": name, "sync": sync, "train": train} for name, (sync, train) in CASES.items()]
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("sync_ranks.py")
    command = [sys.executable, str(script), str(folder / "cases.json"), str(folder), *map(str, SIZES)]
    subprocess.run(command, check=True, timeout=300)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Outcomes:
    """`outcomes(case, size)`: what `sync_ranks.outcome` gave on each rank. The case "" has what belongs to none."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "ranks"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest's workers make it once between them
        if not (folder / "done").exists():
            make_outcomes(folder)
            (folder / "done").touch()
    loaded = {
        (size, rank): dict(np.load(folder / f"{size}-{rank}.npz")) for size in SIZES for rank in range(size)
    }

    def of(case: str, size: int) -> list[dict[str, Any]]:
        prefix = f"{case}/" if case else ""
        return [
            {
                name.removeprefix(prefix): value
                for name, value in loaded[size, rank].items()
                if name.startswith(prefix)
            }
            for rank in range(size)
        ]

    return of


def near(found: np.ndarray, expected: np.ndarray) -> None:
    """Weights are float64 here, but tasks take their losses in float32, so gradients are off by 1e-7 of themselves."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_validation_does_not_depend_on_the_number_of_ranks(outcomes: Outcomes) -> None:
    assert len({float(rank["validation"]) for size in SIZES for rank in outcomes("", size)}) == 1


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_consolidated_weights_are_the_same_and_change_nothing(
    outcomes: Outcomes, case: str, size: int
) -> None:
    first, *others = ranks = outcomes(case, size)
    assert all(np.array_equal(first["same"], other["same"]) for other in others)
    assert all((rank["short"] == 1).all() for rank in ranks), "buffers are rank 0's"
    for rank in ranks:
        assert np.array_equal(rank["after"], rank["own"])
        assert np.array_equal(rank["looked"], rank["own"])
        assert np.isfinite(rank["own"]).all()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_a_state_brings_all_back_bit_for_bit(outcomes: Outcomes, case: str, size: int) -> None:
    for rank in outcomes(case, size):
        assert np.array_equal(rank["rewound"], rank["own"])
        assert np.array_equal(rank["resumed"], rank["own"])


@pytest.mark.parametrize(
    "case", [name for name in CASES if "diloco" not in name and name not in ("streaming", "overlapped")]
)
def test_one_worker_trains_as_if_alone(outcomes: Outcomes, case: str) -> None:
    """What is compressed is what is sent; and one worker sends nothing."""
    (found,) = outcomes(case, 1)
    reference = {json.dumps({}): "plain", json.dumps(SGD): "sgd"}.get(json.dumps(CASES[case][1]))
    if reference is not None:
        assert np.array_equal(found["own"], outcomes(reference, 1)[0]["own"])
    assert found["sent"] == found["waited"] == 0


@pytest.mark.parametrize("case", ["plain", "sgd"])
def test_one_worker_trains_as_a_plain_loop_does(outcomes: Outcomes, case: str) -> None:
    (found,) = outcomes(case, 1)
    near(found["own"], found["loop"])
    assert np.abs(found["own"] - found["start"]).max() > 0.01


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", ["sgd", "exact-topk", "exact-local-sgd", "exact-diloco"])
def test_with_exact_arithmetic_all_are_the_same(outcomes: Outcomes, case: str, size: int) -> None:
    (alone,) = outcomes("sgd", 1)
    for rank in outcomes(case, size):
        near(rank["same"], alone["own"])


@pytest.mark.parametrize("case", ["fp16", "int8", "diloco-fp16", "diloco-int8"])
def test_fewer_bits_change_little(outcomes: Outcomes, case: str) -> None:
    finer = outcomes("sgd" if "diloco" not in case else "diloco", 2)[0]
    coarser = outcomes(case, 2)[0]
    off = np.linalg.norm(coarser["same"] - finer["same"])
    assert 0 < off < 0.05 * np.linalg.norm(finer["same"] - finer["start"])


@pytest.mark.parametrize("size", [2, 3])
def test_bytes_by_what_is_sent(outcomes: Outcomes, size: int) -> None:
    """Of the four steps 8 to 11, in float64; a ring sends (W − 1) / W of everything twice."""
    ring = 2 * (size - 1) / size
    sent = {case: float(outcomes(case, size)[0]["sent"]) for case in CASES}
    count = int(outcomes("plain", size)[0]["numbers"])
    assert sent["plain"] == pytest.approx(4 * ring * count * 8, abs=4)
    assert sent["fp16"] == pytest.approx(4 * ring * count * 2, abs=4)
    blocks = -(-count // (size * 512))
    assert sent["int8"] == 4 * 2 * (size - 1) * blocks * (512 + 4)
    assert (
        sent["diloco"] == sent["local-sgd"] == pytest.approx(2 * ring * count * 8, abs=4)
    )  # rounds end at 8 and 11
    assert sent["diloco-fp16"] == pytest.approx(sent["diloco"] / 4, abs=4)
    assert sent["diloco-int8"] == sent["int8"] / 2
    message = 2 * 0.05 * count + count / 255 + 4 * 0.05 * count / 128
    assert sent["topk"] == sent["topk-adamw"] == pytest.approx(4 * (size - 1) * message, rel=0.02)
    assert 0 < sent["powersgd"] < 0.7 * sent["plain"]
