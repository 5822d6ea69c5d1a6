"""Which commit made a metric bad: `git bisect` over the commits that could have, with their models' evaluations as the test.

Candidates are the commits between a good and a bad one that touch the model, the recipe or the data; training and merge
commits are nothing else. Git's own bisection chooses among them and judges the history. It runs in a temporary linked worktree
without checking anything out: a worktree's bisection is its own, so neither the user's worktree and HEAD nor a bisection
of the user's are touched, and what is left of one that was killed goes with its worktree.

A metric is *bad* when it is above (or below) the limit, or no number. A commit that cannot be evaluated, because it holds no
model or its recipe does not fit, is skipped, as `git bisect skip` does. Free of torch: the evaluation is the caller's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from git_gru.errors import GruError, InputError
from git_gru.git.commits import worktree
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.git.run import LOCAL_VARIABLES, GitCommandError
from git_gru.runs.trailers import CheckpointInfo, parse_checkpoint
from git_gru.train.plan import read_recipe
from git_gru.train.recipe_file import DEFAULT_PATH

Metrics = Mapping[str, float]
Verdict = Literal["good", "bad", "skip"]
_FIRST_BAD = re.compile(r"^([0-9a-f]{40,64}) is the first '?bad'? commit$", re.MULTILINE)


class BisectError(InputError):
    """What was asked cannot be bisected."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to look for: a value of `metric` above (`above`) or below `limit`, between the commits `good` and `bad`."""

    metric: str
    limit: float
    above: bool
    good: str
    bad: str
    recipe_path: str = DEFAULT_PATH

    def is_bad(self, value: float) -> bool:
        """Whether `value` is what is looked for; NaN always is."""
        return not (value <= self.limit if self.above else value >= self.limit)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A commit that was tried, its subject, its value (None where it could not be evaluated: `problem` says why)."""

    commit: str
    subject: str
    value: float | None
    verdict: Verdict
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """The commit that was found: what it is and what it changed against its first parent.

    `checkpoint` is set for a training commit, `parents` has more than one for a merge; `before` is the first parent's value
    where it could be evaluated. `files` are lines of status and path, as `git diff --name-status` has them.
    """

    trial: Trial
    before: float | None
    parents: tuple[str, ...]
    checkpoint: CheckpointInfo | None
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came out: all trials in their order, and the culprit, or, where too much was skipped, the commits it is among."""

    trials: tuple[Trial, ...]
    culprit: Culprit | None
    among: tuple[str, ...] = ()


def candidates(repo: Repository, question: Question) -> list[tuple[str, str]]:
    """(id, subject) of the commits that may be tried, newest first, the bad one included. Raises `BisectError`."""
    good, bad = resolve_commit(repo, question.good), resolve_commit(repo, question.bad)
    if repo.completed("merge-base", "--is-ancestor", good, bad).returncode != 0:
        raise BisectError(
            f"{question.good} is no ancestor of {question.bad}",
            hint=f"Name a good commit that {question.bad} descends from: git merge-base {question.good} {question.bad}",
        )
    listed = repo.git(
        "log", "-z", "--full-history", "--format=%H %s", f"{good}..{bad}", "--", *_paths(repo, question, bad)
    )
    lines = [line for line in listed.decode("utf-8", "replace").split("\0") if line]
    if not lines:
        raise BisectError(
            f"no commit between {question.good} and {question.bad} touches the model, the recipe or the data",
            hint="Name a good commit that is older.",
        )
    return [(commit, subject) for commit, _, subject in (line.partition(" ") for line in lines)]


def bisect(
    repo: Repository, question: Question, measure: Callable[[str], Metrics], tell: Callable[[Trial], None]
) -> Answer:
    """Finds the commit. `measure` gives a commit's metrics or raises `GruError`; `tell` is told of each trial.

    Raises `BisectError` when the two ends are not what they are said to be.
    """
    search = _Search(repo, question, measure, tell)
    good, bad = resolve_commit(repo, question.good), resolve_commit(repo, question.bad)
    for commit, name, wanted in ((good, question.good, "good"), (bad, question.bad, "bad")):
        trial = search.trial(commit)
        if trial.value is None:
            raise BisectError(f"{name} cannot be evaluated: {trial.problem}", hint="Name another commit.")
        if trial.verdict != wanted:
            side = "above" if question.above else "below"
            raise BisectError(
                f"{name} is {trial.verdict}, not {wanted}: its {question.metric} is {trial.value:.6g}, and {side} "
                f"{question.limit:g} is bad",
                hint="Name the good commit first, then the bad one; or choose another limit.",
            )
    with worktree(repo, bad, weights=False) as place:
        return search.run(place, good, bad)


class _Search:
    """One bisection: what was tried so far."""

    def __init__(
        self,
        repo: Repository,
        question: Question,
        measure: Callable[[str], Metrics],
        tell: Callable[[Trial], None],
    ) -> None:
        self._repo, self._question, self._measure, self._tell = repo, question, measure, tell
        self._trials: dict[str, Trial] = {}

    def run(self, place: Path, good: str, bad: str) -> Answer:
        """Lets Git choose and judge, in the worktree `place`."""

        def git(*args: str) -> str:
            return self._repo.git(*args, cwd=place, env=LOCAL_VARIABLES).decode("utf-8", "replace")

        said = git(
            "bisect", "start", "--no-checkout", bad, good, "--", *_paths(self._repo, self._question, bad)
        )
        while (found := _FIRST_BAD.search(said)) is None:
            trial = self.trial(git("rev-parse", "--verify", "BISECT_HEAD").strip())
            try:
                said = git("bisect", trial.verdict)
            except GitCommandError:
                # Git gives up, and says so by its exit status, when only skipped commits are left
                left = git("rev-list", "refs/bisect/bad", "--not", "--glob=refs/bisect/good-*").split()
                return Answer(trials=tuple(self._trials.values()), culprit=None, among=tuple(left))
        culprit = self._culprit(found[1])
        return Answer(trials=tuple(self._trials.values()), culprit=culprit)

    def trial(self, commit: str) -> Trial:
        """Evaluates a commit, once."""
        if commit not in self._trials:
            self._trials[commit] = self._try(commit)
            self._tell(self._trials[commit])
        return self._trials[commit]

    def _try(self, commit: str) -> Trial:
        subject = self._repo.git("log", "-1", "--format=%s", commit).decode("utf-8", "replace").strip()
        try:
            metrics = self._measure(commit)
        except GruError as error:
            return Trial(commit=commit, subject=subject, value=None, verdict="skip", problem=str(error))
        value = metrics.get(self._question.metric)
        if value is None:
            raise BisectError(
                f"there is no metric {self._question.metric}", hint=f"There are: {', '.join(metrics)}"
            )
        verdict: Verdict = "bad" if self._question.is_bad(value) else "good"
        return Trial(commit=commit, subject=subject, value=value, verdict=verdict)

    def _culprit(self, commit: str) -> Culprit:
        parents = self._repo.git("rev-parse", f"{commit}^@").decode().split()
        message = self._repo.git("log", "-1", "--format=%B", commit).decode("utf-8", "replace")
        changed = self._repo.git("diff", "--name-status", "-z", parents[0], commit) if parents else b""
        fields = changed.decode("utf-8", "surrogateescape").split("\0")
        return Culprit(
            trial=self.trial(commit),
            before=self._try(parents[0]).value if parents else None,
            parents=tuple(parents),
            checkpoint=parse_checkpoint(message),
            files=tuple(f"{status} {path}" for status, path in zip(fields[::2], fields[1::2], strict=False)),
        )


def _paths(repo: Repository, question: Question, commit: str) -> Sequence[str]:
    """Pathspecs of what an evaluation depends on, by the recipe of `commit`."""
    recipe = read_recipe(repo, commit, question.recipe_path)
    globs = (*recipe.data.files, *recipe.data.validation_files)
    names = (recipe.model.path, question.recipe_path)
    return [*(f":(literal,top){name}" for name in names), *(f":(glob,top){glob}" for glob in globs)]
