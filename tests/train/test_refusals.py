"""What keeps a run from starting: a sentence each, before any worker starts and with nothing left behind."""

from typing import Any

import pytest


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--recipe", "other.toml"), "there is no recipe other.toml in the commit"),
        (("--set", "train.stepz=3"), "there is no key train.stepz"),
        (("--set", "data.files=none/**"), 'data.files: no file of the commit matches "none/**"'),
        (
            ("--set", 'data.files=["data/*", "more.txt"]'),
            'data.files: no file of the commit matches "more.txt"',
        ),
        (("--set", "data.window=5000"), "too few for one window of 5000"),
        (("--set", "data.validation=0.001"), "the validation data has 2 bytes"),
        (("--nproc", "7"), "train.batch is 6, and each of the 7 workers needs a sample"),
        (("--branch", "main"), "the branch main is there already"),
        (("--branch", "main/x"), "there cannot be a branch main/x beside the branch main"),
        (("--branch", "a..b"), "'a..b' cannot be the name of a branch"),
        (("no-such-commit",), "no-such-commit names no commit"),
    ],
)
def test_requests_that_cannot_be_met(project: Any, args: tuple[str, ...], said: str) -> None:
    assert said in project.refused("train", *args)
    assert project.git("for-each-ref", "refs/gru", "refs/heads/gru") == ""
    runs = project.work.repository.gru_dir / "runs"
    assert not runs.exists() or not list(runs.iterdir())


def test_branch_and_here_exclude_each_other(project: Any) -> None:
    assert "exclude each other" in project.refused("train", "--here", "--branch", "x", status=2)


def test_here_needs_a_branch_and_its_commit(project: Any) -> None:
    project.work.write("more.txt", b"more")
    project.work.commit("more")
    assert "the run would start from another commit" in project.refused("train", "HEAD~1", "--here")
    project.git("checkout", "-q", "--detach")
    assert "HEAD is detached" in project.refused("train", "--here")


def test_an_unborn_branch(repo: Any) -> None:
    done = repo.gru("train")
    assert done.returncode == 4
    assert b"has no commit yet" in done.stderr


def test_no_recipe_says_how_to_get_one(repo: Any) -> None:
    repo.commit("nothing in it")
    done = repo.gru("train")
    assert done.returncode == 4
    assert b"there is no recipe gru.toml in the commit" in done.stderr
    assert b"hint: Write one with git gru new (docs/recipe.md" in done.stderr


def test_a_model_of_another_architecture(project: Any, make_model: Any, make_arrays: Any) -> None:
    metadata = {
        "git-gru.model": '{"kind": "gru", "task": "language-model", "symbols": 256, "embedding": 8, "hidden": 32, '
        '"layers": 1, "tied": false}'
    }
    project.work.write("model.safetensors", make_model(make_arrays(0), metadata))
    project.work.commit("a model")
    assert "model.hidden is 16 in the recipe and 32 in" in project.refused("train")


def test_a_model_that_git_keeps_as_a_plain_file(project: Any) -> None:
    project.work.write(".gitattributes", b"")
    project.work.write("model.safetensors", b"plain")
    project.work.commit("not tracked")
    assert "is in Git as a plain file, not as a model" in project.refused("train")


def test_models_that_cannot_be_run(project: Any, make_model: Any, make_arrays: Any) -> None:
    assert "there is no model in HEAD" in project.refused("sample", "HEAD")
    project.work.write("model.safetensors", make_model(make_arrays(0)))
    project.work.commit("a model from elsewhere")
    assert "does not say which network it holds" in project.refused("sample", "HEAD")
    metadata = {
        "git-gru.model": '{"kind": "gru", "task": "language-model", "symbols": 256, "embedding": 8, '
        '"hidden": 1000000000, "layers": 60, "tied": false}'
    }
    project.work.write("model.safetensors", make_model(make_arrays(0), metadata))
    project.work.commit("a model that claims to be huge")
    assert "model.safetensors" in project.refused("eval", "HEAD")


def test_a_run_that_is_not_there(project: Any) -> None:
    assert "there is no run 999" in project.refused("runs", "show", "999")


def test_a_model_path_that_is_not_tracked(project):
    """Its checkpoints would be manifests that no checkout turns back into a model."""
    said = project.refused("train", "--set", "model.path=model.bin")
    assert "does not track 'model.bin'" in said
    assert "git gru track 'model.bin'" in said
