"""Finding the commit that made a metric bad, in real histories with made-up values, and once with a real run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_gru.cli.bisect import command
from git_gru.errors import InputError
from git_gru.runs.trailers import CheckpointInfo, checkpoint_message
from git_gru.train.bisecting import BisectError, Question, Trial, bisect, candidates

RECIPE = b'[data]\nfiles = ["data/*.txt"]\n'


class History:
    """Commits with a value of `val_loss` each; None: cannot be evaluated."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.values: dict[str, float | None] = {}
        self.tried: list[Trial] = []
        work.write("gru.toml", RECIPE)
        work.write("data/a.txt", b"text")

    def commit(self, value: float | None, name: str = "data/a.txt", message: str = "x") -> str:
        self.work.write(name, repr((value, len(self.values))).encode())
        commit = self.work.commit(message)
        self.values[commit] = value
        return commit

    def measure(self, commit: str) -> dict[str, float]:
        value = self.values[commit]
        if value is None:
            raise InputError("there is no model in it")
        return {"val_loss": value, "perplexity": 1.0}

    def ask(self, good: str, bad: str, **changes: Any) -> Any:
        question = Question(
            **{"metric": "val_loss", "limit": 2.0, "above": True, "good": good, "bad": bad, **changes}
        )
        return bisect(self.work.repository, question, self.measure, self.tried.append)

    def state(self) -> tuple[str, str, str]:
        """All that a bisection might leave behind."""
        worktrees = self.work.git("worktree", "list").count("\n")
        return (
            self.work.git("for-each-ref"),
            self.work.status(),
            f"{worktrees} {self.work.git('rev-parse', 'HEAD')}",
        )


@pytest.fixture
def history(plain_repo: Any) -> History:
    return History(plain_repo)


@pytest.mark.parametrize("at", [1, 5, 11])
def test_the_first_bad_commit_in_few_trials(history: History, at: int) -> None:
    commits = [history.commit(1.0 if n < at else 3.0) for n in range(12)]
    before = history.state()
    answer = history.ask(commits[0], "HEAD")
    assert answer.culprit.trial.commit == commits[at]
    assert answer.culprit.before == 1.0
    assert answer.culprit.files == ("M data/a.txt",)
    assert len(answer.trials) <= 2 + 4
    assert history.tried[: len(answer.trials)] == list(answer.trials)
    assert history.state() == before


def test_below_and_nan(history: History) -> None:
    commits = [history.commit(value) for value in (0.9, 0.8, 0.3, 0.2)]
    answer = history.ask(commits[0], commits[3], above=False, limit=0.5)
    assert answer.culprit.trial.commit == commits[2]
    commits = [history.commit(value) for value in (1.0, float("nan"), float("nan"))]
    assert history.ask(commits[0], commits[2]).culprit.trial.commit == commits[1]


def test_commits_that_cannot_matter_are_not_tried(history: History) -> None:
    first = history.commit(1.0)
    for _ in range(6):
        history.commit(9.0, "notes.txt")  # would be bad, were it tried
    bad = history.commit(3.0)
    repo = history.work.repository
    question = Question(metric="val_loss", limit=2.0, above=True, good=first, bad=bad)
    assert candidates(repo, question) == [(bad, "x")]
    answer = history.ask(first, bad)
    assert [trial.commit for trial in answer.trials] == [first, bad]
    assert answer.culprit.trial.commit == bad


def test_a_training_commit_names_its_run(history: History) -> None:
    first = history.commit(1.0)
    info = CheckpointInfo(run="260412-101530-k3f", step=40, metrics={"val_loss": 3.0})
    bad = history.commit(3.0, "model.safetensors", checkpoint_message(info))
    assert history.ask(first, bad).culprit.checkpoint == info


def test_a_merge_may_be_to_blame(history: History) -> None:
    base = history.commit(1.0)
    work = history.work
    work.git("checkout", "-q", "-b", "side")
    history.commit(1.1, "data/side.txt")
    work.git("checkout", "-q", "main")
    history.commit(1.2)
    work.git("merge", "-q", "--no-edit", "side")
    merge = work.git("rev-parse", "HEAD").strip()
    history.values[merge] = 5.0
    bad = history.commit(5.0)
    culprit = history.ask(base, bad).culprit
    assert culprit.trial.commit == merge
    assert len(culprit.parents) == 2
    assert culprit.checkpoint is None


def test_commits_that_cannot_be_evaluated_are_skipped(history: History) -> None:
    values = (1.0, None, 1.0, None, 3.0, None, 3.0)
    commits = [history.commit(value) for value in values]
    answer = history.ask(commits[0], commits[-1])
    assert answer.culprit is None
    assert set(answer.among) == {commits[3], commits[4]}
    assert "no model" in next(trial.problem for trial in answer.trials if trial.verdict == "skip")


@pytest.mark.parametrize(
    ("good", "bad", "changes", "said"),
    [
        (3, 0, {}, "is no ancestor"),
        (0, 1, {}, "HEAD~2 is good, not bad"),
        (2, 3, {}, "HEAD~1 is bad, not good"),
        (0, 3, {"metric": "bleu"}, "no metric bleu"),
        (0, 3, {"above": False}, "HEAD~3 is bad, not good"),
        (0, 3, {"recipe_path": "nowhere.toml"}, "no recipe nowhere.toml"),
        (3, 3, {}, "no commit between"),
    ],
)
def test_questions_that_make_no_sense(history: History, good: int, bad: int, changes: Any, said: str) -> None:
    for value in (1.0, 1.0, 3.0, 3.0):
        history.commit(value)
    before = history.state()
    with pytest.raises(InputError, match=said):
        question = Question(
            **{
                "metric": "val_loss", "limit": 2.0, "above": True, "good": f"HEAD~{3 - good}",
                "bad": f"HEAD~{3 - bad}", **changes,
            }
        )  # fmt: skip
        candidates(history.work.repository, question)
        bisect(history.work.repository, question, history.measure, history.tried.append)
    assert history.state() == before


def test_an_end_that_cannot_be_evaluated(history: History) -> None:
    commits = [history.commit(value) for value in (None, 1.0, 3.0)]
    with pytest.raises(BisectError, match="cannot be evaluated: there is no model"):
        history.ask(commits[0], commits[2])


def test_ctrl_c_leaves_nothing_behind_and_a_users_own_bisection_alone(history: History) -> None:
    commits = [history.commit(1.0 if n < 9 else 3.0) for n in range(12)]
    history.work.git("bisect", "start", commits[11], commits[0])  # checks a commit out
    before, own = history.state(), history.work.git("bisect", "log")
    measure, left = history.measure, [4]

    def interrupted(commit: str) -> dict[str, float]:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return measure(commit)

    history.measure = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        history.ask(commits[0], commits[11])
    assert (history.state(), history.work.git("bisect", "log")) == (before, own)
    history.measure = measure  # type: ignore[method-assign]
    assert history.ask(commits[0], commits[11]).culprit.trial.commit == commits[9]
    assert (history.state(), history.work.git("bisect", "log")) == (before, own)
    assert not list(Path(history.work.repository.gru_dir / "worktrees").iterdir())


@given(st.floats(allow_nan=True), st.floats(allow_nan=False), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_bad(value: float, limit: float, above: bool) -> None:
    question = Question(metric="m", limit=limit, above=above, good="a", bad="b")
    assert question.is_bad(value) == (value != value or (value > limit if above else value < limit))


@pytest.mark.slow
def test_the_checkpoint_of_a_real_run_is_found(project: Any) -> None:
    record = project.train(
        "--branch", "trained", "--set", "train.checkpoint_every=1", "--set", "launch.nproc=1"
    )
    losses = [made["metrics"]["val_loss"] for made in record["checkpoints"]]
    limit = (losses[2] + losses[3]) / 2  # below it from step 4 on
    words = (record["checkpoints"][0]["commit"], "trained", "--metric", "val_loss", "--below", str(limit))
    done = project.gru("bisect", *words)
    said = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert f"commit   {record['checkpoints'][3]['commit']}" in said
    assert f"run      {record['id']}, step 4" in said
    assert "changed  M model.safetensors" in said
    assert "evaluating some of 5 commits:" in done.stderr.decode()
    assert project.work.status() == ""


def test_its_json(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = [history.commit(value) for value in (1.0, 1.0, 3.0)]

    def evaluate(repo: Any, names: list[str], **options: Any) -> list[Any]:
        return [SimpleNamespace(metrics=history.measure(name)) for name in names]

    monkeypatch.setattr("git_gru.cli.bisect.evaluate", evaluate)
    monkeypatch.chdir(history.work.path)
    words = ["HEAD~2", "HEAD", "--metric", "val_loss", "--above", "2", "--json"]
    done = CliRunner().invoke(command, words)
    answer = json.loads(done.stdout)
    assert answer["culprit"]["trial"]["commit"] == commits[2]
    assert (answer["culprit"]["before"], answer["culprit"]["checkpoint"]) == (1.0, None)
    assert [trial["verdict"] for trial in answer["trials"]] == ["good", "bad", "good"]
    assert "evaluating some of" in done.stderr
    assert CliRunner().invoke(command, [*words, "--below", "1"]).exit_code == 2
