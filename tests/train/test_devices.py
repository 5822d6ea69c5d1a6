"""Workers on every kind of device that this machine has; where it has a GPU, that is NCCL's path."""

import json
from typing import Any

import pytest
import torch

from git_gru.errors import InputError
from git_gru.train.world import choose_device

HERE = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_a_worker_has_a_gpu_of_its_own_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    chosen = [choose_device("auto", local_rank=rank, local_size=2) for rank in range(2)]
    assert chosen == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert choose_device("cpu", local_rank=0, local_size=2) == torch.device("cpu")
    for wanted in ("auto", "cuda"):
        with pytest.raises(
            InputError, match="3 workers need a GPU each, and this machine has 2: use --nproc 2"
        ):
            choose_device(wanted, local_rank=0, local_size=3)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    assert choose_device("auto", local_rank=1, local_size=4) == torch.device("cpu")
    with pytest.raises(InputError, match="this machine has 0"):
        choose_device("cuda", local_rank=0, local_size=1)


@pytest.mark.slow
@pytest.mark.parametrize("device", HERE)
def test_a_run_goes_through_and_its_second_half_comes_out_again(project: Any, device: str) -> None:
    workers = min(2, torch.cuda.device_count()) if device == "cuda" else 2
    made = project.train(
        *("--nproc", str(workers), "--set", f"launch.device={device}", "--set", "train.resume_every=3"),
        *("--set", "sync.strategy=diloco", "--set", "sync.compress=int8", "--set", "sync.warmup=2", "--set", "sync.every=2"),
    )  # fmt: skip
    first, last = (point["commit"] for point in made["checkpoints"])
    done = project.gru("reproduce", last, "--json")
    found = json.loads(done.stdout)
    assert (found["begin"], found["first_step"], found["last_step"]) == (first, 4, 6), done.stderr.decode()
    assert found["relative"] < 1e-5, "a GPU may round differently the second time"
