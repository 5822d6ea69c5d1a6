"""`git gru reproduce`: the steps that made a commit give its weights again, and other weights are told apart."""

import json
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_a_commit_is_reproduced_or_the_distance_is_told(project: Any) -> None:
    source = project.git("rev-parse", "HEAD").strip()
    record = project.train(
        "--nproc", "1", "--set", "model.dropout=0.2", "--set", "train.checkpoint_every=2", "--set", "train.resume_every=2",
    )  # fmt: skip
    second, third = (made["commit"] for made in record["checkpoints"][1:])
    before = project.git("for-each-ref")

    done = project.gru("reproduce", third, "--json")
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert (found["exact"], found["max_abs"], found["relative"]) == (True, 0, 0)
    assert (found["run"], found["begin"], found["first_step"], found["last_step"]) == (
        record["id"],
        second,
        5,
        6,
    )
    assert project.git("for-each-ref") == before
    assert not list((project.work.repository.gru_dir / "runs").iterdir())

    # other weights under the same message, and no state: the steps come from the source, and do not fit
    message = project.git("log", "-1", "--format=%B", second)
    tree = project.git("rev-parse", f"{record['checkpoints'][0]['commit']}^{{tree}}").strip()
    wrong = project.git("commit-tree", tree, "-p", source, "-m", message).strip()
    done = project.gru("reproduce", wrong)
    assert done.returncode == 1, done.stderr.decode()
    assert f"runs the steps 1 to 4 of the run {record['id']} again, from its source" in done.stderr.decode()
    assert f"{wrong[:10]} is not reproduced: largest |Δ| 0.0" in done.stdout.decode()
    assert project.git("for-each-ref") == before


def test_commits_of_no_run_are_refused(project: Any) -> None:
    assert "was not made by a training run" in project.refused("reproduce", "HEAD")
    message = "train: step 1\n\nGru-Run: far\nGru-Step: 1\n"
    made = project.git("commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", message).strip()
    assert "the record of the run far" in project.refused("reproduce", made)
