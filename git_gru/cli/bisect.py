"""`git gru bisect`."""

import dataclasses

import click

from git_gru.cli.boundary import say
from git_gru.cli.recipe_options import recipe_option
from git_gru.cli.render import emit_json, json_option, line, plural
from git_gru.git.repository import Repository
from git_gru.train.bisecting import Answer, Culprit, Question, Trial, bisect, candidates
from git_gru.train.evaluations import evaluate
from git_gru.train.plan import require_torch

_LISTED = 20


@click.command("bisect", short_help="Find the commit that made a metric bad.")
@click.argument("good")
@click.argument("bad")
@click.option("--metric", required=True, metavar="NAME", help="What git gru eval calls it, such as val_loss.")
@click.option("--above", type=float, metavar="X", help="A metric above X is bad.")
@click.option("--below", type=float, metavar="X", help="A metric below X is bad.")
@recipe_option
@json_option
def command(
    good: str, bad: str, metric: str, above: float | None, below: float | None, recipe_path: str, as_json: bool
) -> int:  # fmt: skip
    """Find the commit between GOOD and BAD that made a metric bad.

    Git's bisection chooses among the commits that touch the model, the recipe or the data; each is evaluated as `git gru eval`
    does it. They are listed first. Nothing of the worktree is touched, nor a `git bisect` of yours; Ctrl-C leaves nothing behind.
    Exit status 1: too many commits cannot be evaluated to name one.

    \b
    --json: {"metric", "limit", "above", "trials": [{"commit", "subject", "value", "verdict", "problem"}],
             "culprit": {"trial", "before", "parents", "checkpoint": {"run", "step", "metrics", "parent_model"} or null,
             "files"} or null, "among": [commit ids]}
    """
    if (above is None) == (below is None):
        raise click.UsageError("say what is bad: either --above X or --below X")
    limit = above if above is not None else below
    assert limit is not None
    question = Question(
        metric=metric, limit=limit, above=above is not None, good=good, bad=bad, recipe_path=recipe_path
    )
    require_torch()
    repo = Repository.find()
    commits = candidates(repo, question)
    _list(commits)

    def measure(commit: str) -> dict[str, float]:
        (found,) = evaluate(repo, [commit], recipe_path=recipe_path)
        return dict(found.metrics)

    def tell(trial: Trial) -> None:
        if not as_json:
            line(_row(trial, metric))

    answer = bisect(repo, question, measure, tell)
    if as_json:
        emit_json({"metric": metric, "limit": limit, "above": question.above, **dataclasses.asdict(answer)})
    else:
        _show(answer, metric)
    return 0 if answer.culprit else 1


def _list(commits: list[tuple[str, str]]) -> None:
    rows = [f"  {commit[:10]} {subject}" for commit, subject in commits]
    if len(rows) > _LISTED:
        half = _LISTED // 2
        rows = [*rows[:half], f"  … {len(rows) - 2 * half} more …", *rows[-half:]]
    say("\n".join([f"evaluating some of {plural(len(commits), 'commit')}:", *rows]))


def _row(trial: Trial, metric: str) -> str:
    value = trial.problem if trial.value is None else f"{metric} {trial.value:.6g}"
    return f"{trial.commit[:10]}  {trial.verdict:<4}  {value}  {trial.subject}"


def _show(answer: Answer, metric: str) -> None:
    line()
    if answer.culprit is not None:
        _show_culprit(answer.culprit, metric)
        return
    line("too many commits could not be evaluated; it is one of these:")
    for commit in answer.among:
        line(f"  {commit[:10]}")


def _show_culprit(culprit: Culprit, metric: str) -> None:
    trial = culprit.trial
    before = "" if culprit.before is None else f"{culprit.before:.6g} → "
    value = "not evaluated" if trial.value is None else f"{trial.value:.6g}"
    line(f"commit   {trial.commit}")
    line(f"subject  {trial.subject}")
    line(f"{metric:<8} {before}{value}")
    if culprit.checkpoint is not None:
        line(f"run      {culprit.checkpoint.run}, step {culprit.checkpoint.step}")
    if len(culprit.parents) > 1:
        line(f"merges   {' '.join(parent[:10] for parent in culprit.parents)}")
    for at, name in enumerate(culprit.files):
        line(f"{'' if at else 'changed':<8} {name}")
    if culprit.parents:
        line(f"see      git gru diff {culprit.parents[0][:10]} {trial.commit[:10]}")
    if culprit.checkpoint is not None:
        line(f"         git gru runs show {culprit.checkpoint.run}")
