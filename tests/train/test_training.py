"""From a commit to commits: whole runs with real workers, on a tiny model."""

import json
from typing import Any

import pytest

from git_gru.runs.trailers import parse_checkpoint

pytestmark = pytest.mark.slow


def test_a_run_makes_commits_that_change_only_the_model(project: Any) -> None:
    source = project.git("rev-parse", "HEAD").strip()
    project.work.write("notes.txt", b"untracked work of the user's")

    record = project.train("--branch", "trained")

    assert (record["state"], record["step"], record["branch"], record["source"]) == (
        "finished",
        6,
        "trained",
        source,
    )
    first, last = record["checkpoints"]
    assert [made["step"] for made in (first, last)] == [3, 6]
    assert project.git("rev-list", "--reverse", f"{source}..trained").split() == [
        first["commit"],
        last["commit"],
    ]
    for made in (first, last):
        assert project.git("diff", "--name-only", source, made["commit"]).split() == ["model.safetensors"]
    message = project.git("log", "-1", "--format=%B", "trained")
    loss = last["metrics"]["val_loss"]
    assert message.startswith(f"train: step 6, val_loss {loss:.3f}\n")
    info = parse_checkpoint(message)
    assert info is not None
    assert (info.run, info.step, info.parent_model) == (record["id"], 6, None)
    assert info.metrics["val_loss"] == pytest.approx(loss, rel=1e-6)
    assert last["metrics"]["val_loss"] < record["initial"]["val_loss"]

    # the user's side is as it was, and nothing temporary stays
    assert project.git("rev-parse", "HEAD").strip() == source
    assert project.work.status() == "?? notes.txt\n"
    assert project.git("worktree", "list").count("\n") == 1
    assert not list((project.work.repository.gru_dir / "runs").iterdir())

    check_record(project, record)
    check_eval_and_sample(project, loss)


def check_record(project: Any, record: dict[str, Any]) -> None:
    ref = f"refs/gru/runs/{record['id']}/record"
    assert set(project.git("ls-tree", "--name-only", ref).split()) >= {"run.json", "metrics.jsonl"}
    lines = [json.loads(line) for line in project.git("show", f"{ref}:metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6]
    assert [line["commit"] for line in lines if "commit" in line] == [
        made["commit"] for made in record["checkpoints"]
    ]
    shown = json.loads(project.gru("runs", "show", record["id"], "--json").stdout)
    assert shown == {key: value for key, value in record.items() if key != "fast_forwarded"}
    assert json.loads(project.gru("runs", "list", "--json").stdout) == {"runs": [shown]}


def check_eval_and_sample(project: Any, loss: float) -> None:
    found = json.loads(project.gru("eval", "trained", "trained:model.safetensors", "--json").stdout)[
        "evaluations"
    ]
    assert [one["metrics"]["val_loss"] for one in found] == [pytest.approx(loss, rel=1e-6)] * 2
    texts = [
        json.loads(project.gru("sample", "trained", "--length", "20", "--seed", seed, "--json").stdout)[
            "text"
        ]
        for seed in ("1", "1", "2")
    ]
    assert texts[0] == texts[1] != texts[2]


def test_the_same_seed_gives_the_same_weights(project: Any) -> None:
    # dropout and two layers, so that every source of randomness is in it
    options = ("--set", "model.layers=2", "--set", "model.dropout=0.3", "--set", "train.steps=3")
    digests = [
        project.digests([made["commit"] for made in project.train(*options, "--set", seed)["checkpoints"]])
        for seed in ("train.seed=1", "train.seed=1")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 1


def test_fine_tuning_here_goes_on_from_the_commits_model(project: Any) -> None:
    project.train("--here", "--nproc", "1", "--set", "train.steps=2")
    assert project.git("branch", "--format=%(refname:short)").split() == ["main"]
    assert project.work.status() == ""
    parent = project.digests(["HEAD"])[0]
    before = json.loads(project.gru("eval", "--json").stdout)["evaluations"][0]["metrics"]["val_loss"]

    record = project.train("--here", "--nproc", "1", "--set", "train.steps=1", "--set", "train.lr=0.001")

    assert record["parent_model"] == parent
    assert record["initial"]["val_loss"] == pytest.approx(before, rel=1e-6)
    assert record["fast_forwarded"] is True
    head = project.git("rev-parse", "HEAD").strip()
    assert [made["commit"] for made in record["checkpoints"]] == [head]
    info = parse_checkpoint(project.git("log", "-1", "--format=%B"))
    assert info is not None
    assert info.parent_model == parent


def test_an_unclean_worktree_is_refused_or_snapshotted(project: Any) -> None:
    recipe = project.work.read("gru.toml").replace(b"steps = 6", b"steps = 1")
    project.work.write("gru.toml", recipe)
    assert "--allow-dirty" in project.refused("train")
    for mistake in ("train.stepz=1", "data.files=none/*"):
        project.refused("train", "--allow-dirty", "--set", mistake)
    assert project.git("for-each-ref", "refs/gru/runs") == ""

    record = project.train("--allow-dirty", "--nproc", "1")

    assert (record["steps"], record["dirty"]) == (1, True)
    source = project.git("rev-parse", f"refs/gru/runs/{record['id']}/source").strip()
    assert record["source"] == source
    assert project.git("show", f"{source}:gru.toml").encode() == recipe
    assert project.work.status() == " M gru.toml\n"


def test_bf16_models_are_validated_as_they_are_kept(project: Any) -> None:
    record = project.train(
        "--nproc", "1", "--set", "model.dtype=bf16", "--set", "train.precision=bf16", "--branch", "short"
    )
    (model,) = json.loads(project.gru("ls", "short", "--json").stdout)["models"]
    assert {tensor["dtype"] for tensor in model["tensors"]} == {"BF16"}
    found = json.loads(project.gru("eval", "short", "--json").stdout)["evaluations"][0]
    assert found["metrics"]["val_loss"] == pytest.approx(
        record["checkpoints"][-1]["metrics"]["val_loss"], rel=1e-6
    )
