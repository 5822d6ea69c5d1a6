"""`git_gru.Run`: a trainer of the user's own, a plain PyTorch loop first of all."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import git_gru
from git_gru.errors import InputError, MachineError
from git_gru.git.run_refs import read_record, run_ids
from git_gru.runs.record import RunState
from git_gru.runs.trailers import parse_checkpoint
from git_gru.train.beginning import BranchError, DirtyWorktreeError
from git_gru.train.recorder import CheckpointError, CommitRecorder
from git_gru.train.run import NonFiniteError

MODEL = "nets/my net.safetensors"


@pytest.fixture
def place(repo: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A committed repository, which is the current folder."""
    repo.write("train.py", b"print()\n")
    repo.commit("my trainer")
    monkeypatch.chdir(repo.path)
    return repo


def trained(network: nn.Module, steps: int = 5) -> Any:
    """A plain loop: (step, loss) as it goes."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    inputs = torch.linspace(-1, 1, 32).reshape(8, 4)
    for step in range(1, steps + 1):
        loss = (network(inputs) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step, loss


@pytest.mark.filterwarnings("error")
def test_a_plain_loop(place: Any) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, dtype=torch.float32))
    source, expected = place.git("rev-parse", "HEAD").strip(), []
    with git_gru.Run(MODEL, config={"lr": 0.1, "widths": [3, 2]}, steps=5) as run:
        for step, loss in trained(network):
            run.log(step, loss=loss, lr=0.1, grad_norm=2.5)
            if step % 2 == 1:
                run.commit(network, step, val_loss=loss.item(), val_accuracy=0.5)
                expected.append({name: value.clone() for name, value in network.state_dict().items()})
        last = run.wait()
    assert place.status() == ""
    assert place.git("rev-parse", "HEAD").strip() == source
    commits = place.git("rev-list", "--reverse", f"{source}..{run.branch}").split()
    assert commits[-1] == last
    for commit, state in zip(commits, expected, strict=True):
        with git_gru.open_model(f"{commit}:{MODEL}", framework="torch") as model:
            assert list(model) == list(state)
            assert all(torch.equal(model[name], state[name]) for name in state)
        assert place.git("diff", "--name-only", source, commit).strip().strip('"') == MODEL
    infos = [parse_checkpoint(place.git("log", "-1", "--format=%B", commit)) for commit in commits]
    assert [(info.run, info.step, list(info.metrics)) for info in infos if info] == [
        (run.id, step, ["val_loss", "val_accuracy"]) for step in (1, 3, 5)
    ]

    shown = json.loads(place.gru("runs", "show", run.id, "--json").stdout)
    assert (shown["state"], shown["step"], shown["steps"], shown["nproc"]) == ("finished", 5, 5, 1)
    assert shown["recipe"] == {"config": {"lr": 0.1, "widths": [3, 2]}}
    assert [made["commit"] for made in shown["checkpoints"]] == commits
    rows = json.loads(place.gru("runs", "show", run.id, "--metrics", "json").stdout)["metrics"]
    assert [row["metrics"] for row in rows if "loss" in row] == [{"grad_norm": 2.5}] * 5
    table = place.gru("runs", "show", run.id, "--metrics", "csv").stdout.decode().splitlines()
    assert (
        table[0]
        == "time,step,rank,loss,lr,tokens_per_s,val_loss,val_accuracy,grad_norm,commit,branch,blocked_s,incident,message"
    )
    said = place.gru("runs", "show", run.id).stdout.decode()
    assert f"trainer  {Path(sys.argv[0]).name}\n" in said
    assert "step 5 of 5" in said
    assert place.gru("watch", run.id, "--json").returncode == 0
    assert not (place.path / ".git/gru/runs" / run.id).exists()

    # git-gru cannot start a program that it does not know
    for words in (("train", "--resume", run.id), ("reproduce", commits[0])):
        refused = place.gru(*words)
        assert refused.returncode == 4
        assert b"which git-gru cannot start" in refused.stderr
    place.git("merge", "-q", "--ff-only", run.branch)
    with git_gru.Run(MODEL, branch="more") as more:
        assert more.branch == "more"
        more.commit(network, 1)
    assert f"Gru-Parent-Model: {shown_digest(place, 'HEAD')}" in place.git("log", "-1", "--format=%B", "more")
    record = read_record(place.repository, more.id)
    assert (record.steps, record.progress, record.fraction) == (None, "step 1", "1")
    compared = place.gru("runs", "compare", run.id, more.id)
    assert compared.returncode == 0
    assert b"config.lr" in compared.stdout
    assert place.gru("runs", "list").returncode == 0
    assert b"step 1\n" in place.gru("watch", more.id).stdout


def shown_digest(place: Any, commit: str) -> str:
    (model,) = json.loads(place.gru("ls", commit, "--json").stdout)["models"]
    return str(model["digest"])


def test_what_is_committed_is_a_copy(place: Any) -> None:
    weight = torch.zeros(1000)
    with git_gru.Run(MODEL) as run:
        for step in range(1, 9):
            weight += 1
            run.commit({"w": weight}, step)
    commits = place.git("rev-list", "--reverse", f"HEAD..{run.branch}").split()
    for step, commit in enumerate(commits, 1):
        assert (git_gru.open_model(f"{commit}:{MODEL}")["w"] == step).all()


def test_arrays_without_torch_and_every_dtype(place: Any) -> None:
    arrays = {
        "double": np.linspace(0, 1, 7),
        "half": np.float16([1, 2]),
        "brain": np.arange(6, dtype=ml_dtypes.bfloat16).reshape(2, 3),
        "eight": np.arange(4, dtype=ml_dtypes.float8_e5m2),
        "complex": np.complex64([1 + 2j]),
        "flags": np.array([True, False]),
        "count": np.int64(3),
        "big": np.arange(3, dtype=">i4"),
        "column": np.arange(6, dtype=np.uint8).reshape(2, 3).T,
    }
    tensors = {"t" + name: torch.arange(4).to(dtype) for name, dtype in (
        ("b", torch.bool), ("i32", torch.int32), ("c", torch.complex64), ("f8", torch.float8_e4m3fn), ("bf", torch.bfloat16),
    )}  # fmt: skip
    with git_gru.Run(MODEL, metadata={"author": "me"}) as run:
        run.commit(arrays | tensors, 1)
        with pytest.raises(InputError, match=r"text is <U1"):
            run.commit({"text": np.array(["a"])}, 2)
        with pytest.raises(InputError, match=r"z is torch.complex128"):
            run.commit({"z": torch.zeros(1, dtype=torch.complex128)}, 2)
    place.git("checkout", "-q", run.branch)
    model = git_gru.open_model(f"HEAD:{MODEL}")
    for name, array in arrays.items():
        assert np.array_equal(model[name], np.asarray(array))
    import safetensors

    with safetensors.safe_open(place.path / MODEL, "pt") as file:
        assert file.metadata() == {"format": "pt", "author": "me"}
        assert all(
            torch.equal(file.get_tensor(name).float(), tensor.float())
            for name, tensor in tensors.items()
            if name != "tc"
        )


def test_an_exception_fails_the_run_and_keeps_what_was_committed(place: Any) -> None:
    with pytest.raises(ZeroDivisionError), git_gru.Run(MODEL) as run:
        run.commit({"w": torch.ones(3)}, 1, val_loss=0.5)
        run.log(2, loss=0.25)
        1 / 0  # noqa: B018
    record = read_record(place.repository, run.id)
    assert record.state is RunState.FAILED
    assert record.failure is not None
    assert record.failure.message == "ZeroDivisionError: division by zero"
    assert "1 / 0" in (record.failure.traceback or "")
    assert (record.failure.step, dict(record.failure.metrics)) == (2, {"val_loss": 0.5})
    assert [made.commit for made in record.checkpoints] == place.git(
        "rev-list", f"HEAD..{run.branch}"
    ).split()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_unless_asked_for(place: Any, value: float) -> None:
    bad = {"a": torch.ones(3), "b": torch.tensor([1, value]).to(torch.bfloat16), "n": torch.tensor([-1])}
    with git_gru.Run(MODEL) as run:
        with pytest.raises(NonFiniteError, match=r"step 3: .* NaN or infinite: b$"):
            run.commit(bad, 3)
        for _ in range(3):  # none of them takes the place of a checkpoint that is to come
            with pytest.raises(NonFiniteError):
                run.commit({"b": np.array([value])}, 3)
        assert run.wait() is None
        run.commit(bad, 3, allow_non_finite=True)
        assert run.wait() is not None


def test_a_commit_that_fails_is_told_and_stops_nothing_before(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(CheckpointError, match="Input/output error"), git_gru.Run(MODEL) as run:
        run.commit({"w": torch.ones(3)}, 1)
        first = run.wait()
        monkeypatch.setattr("git_gru.train.recorder.ingest_tensors", fail)
        run.commit({"w": torch.zeros(3)}, 2)
    record = read_record(place.repository, run.id)
    assert record.state is RunState.FAILED
    assert [made.commit for made in record.checkpoints] == [first]


def test_a_branch_that_somebody_moves_is_left_alone(place: Any, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "hub.git")], check=True)
    place.git("remote", "add", "hub", str(tmp_path / "hub.git"))
    with git_gru.Run(MODEL, branch="mine", push="hub") as run:
        run.commit({"w": torch.ones(3)}, 1)
        run.wait()
        place.git("update-ref", "refs/heads/mine", "HEAD")
        run.commit({"w": torch.zeros(3)}, 2)
        last = run.wait()
        assert run.branch == "mine-2"
    assert place.git("rev-parse", "mine", "mine-2").split() == [place.git("rev-parse", "HEAD").strip(), last]
    record = read_record(place.repository, run.id)
    assert (record.state, record.branch, len(record.checkpoints)) == (RunState.FINISHED, "mine-2", 2)
    assert place.git("ls-remote", "hub", "refs/heads/mine-2").split()[0] == last


def test_a_run_that_is_over_takes_nothing_more(place: Any) -> None:
    with git_gru.Run(MODEL) as run:
        run.commit({"w": torch.ones(3)}, 1)
        with pytest.raises(InputError, match="has begun already"), run:
            pass
    with pytest.raises(InputError, match=f"the run {run.id} is over"):
        run.log(2, loss=1.0)
    with pytest.raises(InputError, match=f"the run {run.id} is over"):
        run.commit({"w": torch.ones(3)}, 2)
    assert run.wait() == place.git("rev-parse", run.branch).strip()
    first = run.id
    with run:
        run.log(1, loss=1.0, tokens_per_s=7)
    assert run.id != first
    record = read_record(place.repository, run.id)
    assert (record.step, record.tokens_per_s, record.checkpoints) == (1, 7.0, ())


@pytest.mark.parametrize(
    ("code", "state"), [(None, RunState.FINISHED), (0, RunState.FINISHED), (3, RunState.FAILED)]
)
def test_a_program_that_exits_in_the_block(place: Any, code: int | None, state: RunState) -> None:
    with pytest.raises(SystemExit), git_gru.Run(MODEL) as run:
        run.commit({"w": torch.ones(3)}, 1)
        sys.exit(code)
    assert read_record(place.repository, run.id).state is state


def test_ctrl_c_while_the_last_commit_is_waited_for(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    leave = CommitRecorder.__exit__

    def interrupted(self: CommitRecorder, *reason: Any) -> None:
        leave(self, *reason)
        raise KeyboardInterrupt

    monkeypatch.setattr(CommitRecorder, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt), git_gru.Run(MODEL) as run:
        run.log(1, loss=1.0)
    assert read_record(place.repository, run.id).state is RunState.STOPPED


def test_a_third_copy_is_made_when_the_first_is_committed(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from git_gru.train import recorder
    from git_gru.train import run as module

    gate, move, copy, taken = threading.Event(), recorder.move_ref, module.snapshot_of, []
    monkeypatch.setattr(recorder, "move_ref", lambda *args: gate.wait() and move(*args))
    monkeypatch.setattr(module, "snapshot_of", lambda model: taken.append(1) or copy(model))
    with git_gru.Run(MODEL) as run:
        trainer = threading.Thread(
            target=lambda: [run.commit({"w": np.zeros(3)}, step) for step in (1, 2, 3)]
        )
        trainer.start()
        trainer.join(timeout=0.5)
        assert (trainer.is_alive(), len(taken)) == (True, 2)
        gate.set()
        trainer.join()
    assert len(taken) == 3


def test_numbers_of_any_kind_and_name(place: Any) -> None:
    with git_gru.Run(MODEL) as run:
        run.log(
            np.int64(1),
            loss=torch.tensor(float("nan")),
            time=3.0,
            rate_0=np.float32(2),
            val_loss=float("inf"),
        )
        run.log(2, loss=0.5)
        run.commit({"w": torch.ones(1)}, np.int64(2), **{"val_f1/macro\nx": 0.5})
    message = place.git("log", "-1", "--format=%(trailers:only)", run.branch)
    assert "Gru-Metric-val-f1-macro-x: 0.5\n" in message
    row, *_ = csv.DictReader(
        io.StringIO(place.gru("runs", "show", run.id, "--metrics", "csv").stdout.decode())
    )
    assert (row["metrics.time"], row["metrics.rate_0"], row["step"]) == ("3.0", "2.0", "1")
    assert float(row["time"]) > 3
    assert place.gru("runs", "show", run.id).returncode == 0
    said = place.gru("runs", "compare", run.id, "--metric", "rate_0").stdout.decode()
    assert f"* {run.id}" in said
    assert (
        "none of them tells of nothing"
        in place.gru("runs", "compare", run.id, "--metric", "nothing").stdout.decode()
    )
    assert "time 3" in place.gru("watch", run.id).stdout.decode()


def test_what_cannot_be(place: Any) -> None:
    before = place.git("for-each-ref")
    run = git_gru.Run(MODEL)
    with pytest.raises(InputError, match="not begun"):
        run.log(1, loss=1.0)
    for error, match, options in (
        (InputError, "does not track 'net.bin'", {"path": "net.bin"}),
        (InputError, "no such revision|nothing|nosuch", {"path": MODEL, "commit": "nosuch"}),
        (BranchError, "is there already", {"path": MODEL, "branch": place.git("branch", "--show-current").strip()}),
        (InputError, "nowhere", {"path": MODEL, "push": "nowhere"}),
        (InputError, "from the repository's top", {"path": str(place.path / MODEL)}),
        (InputError, "from the repository's top", {"path": f"./{MODEL}"}),
        (InputError, "config: 'out' cannot be written down: .*PosixPath", {"path": MODEL, "config": {"out": Path()}}),
    ):  # fmt: skip
        with pytest.raises(error, match=match), git_gru.Run(**options):  # type: ignore[arg-type]
            pass
    place.write("train.py", b"print(1)\n")
    with pytest.raises(DirtyWorktreeError, match="uncommitted"), git_gru.Run(MODEL):
        pass
    assert place.git("for-each-ref") == before
    with git_gru.Run(MODEL, allow_dirty=True) as run:
        run.commit({"w": torch.ones(1)}, 1)
        with pytest.raises(InputError, match="begin with val_, and not accuracy") as caught:
            run.commit({"w": torch.ones(1)}, 2, accuracy=1.0)
        assert "val_accuracy" in (caught.value.hint or "")
    assert place.git("show", f"{run.branch}:train.py") == "print(1)\n"
    assert place.status() == " M train.py\n"


def test_a_repository_that_cannot_be_written(place: Any, read_only: Any) -> None:
    view = read_only(place.path)
    with (
        pytest.raises(MachineError, match="cannot be written into .*Read-only"),
        git_gru.Run(MODEL, repository=view),
    ):
        pass


def test_only_rank_0_writes(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with git_gru.Run("anything") as run:
        run.log(1, loss=1.0)
        run.commit({"w": torch.ones(1)}, 1)
        assert (run.wait(), run.id, run.should_stop) == (None, None, False)
    assert run_ids(place.repository) == []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with git_gru.Run(MODEL) as run:
        pass
    assert read_record(place.repository, run.id).nproc == 4


TRAINER = f"""
import sys, time
import git_gru
import numpy as np

with git_gru.Run({MODEL!r}, branch=sys.argv[1], push=sys.argv[2] if sys.argv[2:] else None) as run:
    step = 0
    while not run.should_stop:
        step += 1
        run.log(step, loss=1 / step)
        run.commit({{"w": np.full(2000, step, np.float32)}}, step, val_loss=1 / step)
        run.wait()
        time.sleep(0.01)
"""


def start(place: Any, *words: str) -> "subprocess.Popen[bytes]":
    trainer = place.path / ".git/trainer.py"
    trainer.write_text(TRAINER)
    return subprocess.Popen(
        [sys.executable, str(trainer), *words], cwd=place.path, stderr=subprocess.PIPE, env=dict(os.environ)
    )


def begun(place: Any, branch: str, process: "subprocess.Popen[bytes]") -> str:
    """The id of the run, once its branch is there."""
    until = time.monotonic() + 60
    while place.run("git", "rev-parse", "--verify", "-q", f"{branch}~1").returncode != 0:
        assert time.monotonic() < until
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        time.sleep(0.05)
    (run,) = (one for one in run_ids(place.repository) if read_record(place.repository, one).branch == branch)
    return run


def test_it_is_stopped_from_outside(place: Any) -> None:
    process = start(place, "stopped")
    run = begun(place, "stopped", process)
    assert read_record(place.repository, run).state is RunState.RUNNING
    assert place.gru("runs", "stop", run).returncode == 0
    assert process.wait(60) == 0
    record = read_record(place.repository, run)
    assert (record.state, record.trainer) == (RunState.STOPPED, "trainer.py")


def test_a_killed_trainer_leaves_whole_commits(place: Any) -> None:
    for at in range(5):
        branch = f"killed-{at}"
        process = start(place, branch)
        run = begun(place, branch, process)
        time.sleep(0.03 * at)
        process.send_signal(signal.SIGKILL)
        process.wait()
        record = read_record(place.repository, run)
        assert record.state is RunState.FAILED
        assert record.failure is not None
        assert record.failure.message == "trainer.py was killed"
        tip = int(place.git("log", "-1", "--format=%(trailers:key=Gru-Step,valueonly)", branch))
        assert (git_gru.open_model(f"{branch}:{MODEL}")["w"] == tip).all()
        assert place.gru("runs", "rm", "--branch", run).returncode == 0, "nobody holds it any more"
    assert place.gru("fsck", "--deep").returncode == 0


def test_others_see_it(place: Any, tmp_path: Path, at: Any) -> None:
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "hub.git")], check=True)
    place.git("remote", "add", "hub", str(tmp_path / "hub.git"))
    place.git("push", "-q", "hub", "HEAD")
    process = start(place, "shared", "hub")
    run = begun(place, "shared", process)
    place.gru("runs", "stop", run)
    assert process.wait(60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    subprocess.run(["git", "clone", "-q", str(tmp_path / "hub.git"), str(tmp_path / "clone")], check=True)
    clone = at(tmp_path / "clone")
    assert clone.gru("runs", "fetch", "origin").returncode == 0
    record = read_record(clone.repository, run)
    assert record.state is RunState.STOPPED
    assert record.checkpoints[-1].commit == clone.git("rev-parse", "origin/shared").strip()
