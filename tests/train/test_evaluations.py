"""What is evaluated anew, and what is answered from a note."""

from typing import Any

import pytest

from git_gru.git.eval_notes import find_evaluation, keep_evaluation
from git_gru.train import evaluations
from git_gru.train.evaluations import Evaluation, evaluate


@pytest.fixture
def made(project: Any, make_model: Any, make_arrays: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A commit with a model, whose evaluation is a stand-in that writes down each time it is asked."""
    project.work.write("model.safetensors", make_model(make_arrays(0)))
    commit = project.work.commit("a model")
    asked: list[str] = []

    def stand_in(repo: Any, name: str, *rest: Any) -> Evaluation:
        asked.append(name)
        metrics = {"val_loss": 1.0 / len(asked)}
        return Evaluation(name=name, commit=commit, path="model.safetensors", samples=3, metrics=metrics)

    monkeypatch.setattr(evaluations, "_make", stand_in)
    return asked


def one(project: Any, name: str = "HEAD", **options: Any) -> Evaluation:
    (found,) = evaluate(project.work.repository, [name], **options)
    return found


def test_the_same_question_is_answered_from_the_note(project: Any, made: list[str]) -> None:
    first, second = one(project), one(project, "main:model.safetensors")
    assert (first.cached, second.cached, made) == (False, True, ["HEAD"])
    assert (second.metrics, second.samples, second.name) == (first.metrics, 3, "main:model.safetensors")


def test_another_question_is_not(project: Any, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one(project)
    assert not one(project, overrides=("data.window=8",)).cached
    assert one(project, overrides=("data.window=8",)).cached
    assert one(project, overrides=("train.steps=9",)).cached  # how it was trained does not matter
    assert not one(project, fresh=True).cached
    monkeypatch.setattr(evaluations.metadata, "version", lambda name: "another")
    assert not one(project).cached
    project.work.write("data/one.txt", b"other data, the same model" * 99)
    project.work.commit("more")
    assert not one(project).cached
    assert len(made) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"metrics": {"val_loss": float("nan")}},
        {"metrics": {"val_loss": "low"}},
        {"metrics": {}},
        {"samples": None},
        {"path": "other"},
    ],
)
def test_a_note_that_is_no_evaluation_does_not_count(
    project: Any, made: list[str], fields: dict[str, Any]
) -> None:
    repo, commit = project.work.repository, one(project).commit
    key = project.git("notes", "--ref", "gru-eval", "show", commit).partition('"key": "')[2][:32]
    kept = find_evaluation(repo, commit, key)
    assert kept is not None
    keep_evaluation(repo, commit, key, {**{k: v for k, v in kept.items() if k != "key"}, **fields})
    assert not one(project).cached


def test_no_number_is_not_kept(project: Any, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = evaluations._make
    monkeypatch.setattr(
        evaluations,
        "_make",
        lambda *args: Evaluation(**{**vars(real(*args)), "metrics": {"val_loss": float("inf")}}),
    )
    one(project)
    assert not one(project).cached
