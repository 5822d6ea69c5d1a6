"""`git gru train`."""

import contextlib
from pathlib import Path

import click
from click.core import ParameterSource

from git_gru.cli.background import start_maintenance_if_due
from git_gru.cli.boundary import INTERRUPTED
from git_gru.cli.exporting import TensorBoardExport
from git_gru.cli.progress import RunProgress
from git_gru.cli.render import emit_json, json_option, line
from git_gru.git.repository import Repository
from git_gru.git.run_refs import find_run
from git_gru.runs.record import RunRecord, RunState
from git_gru.train.detaching import detach_plan, detach_run
from git_gru.train.launch import Watcher, fast_forward, run_plan
from git_gru.train.plan import Request, make_plan
from git_gru.train.recipe_file import DEFAULT_PATH
from git_gru.train.resuming import resume


@click.command("train", short_help="Train from a commit into new commits.")
@click.argument("commit", default="HEAD")
@click.option(
    "--recipe",
    "recipe_path",
    default=DEFAULT_PATH,
    show_default=True,
    metavar="PATH",
    help="The recipe in the commit.",
)
@click.option("--branch", metavar="NAME", help="The new branch for checkpoints (by default gru/<run id>).")
@click.option("--here", is_flag=True, help="At the end, fast-forward the current branch and its worktree.")
@click.option(
    "--nproc", type=click.IntRange(min=1), metavar="N", help="Workers on this machine (launch.nproc)."
)
@click.option("--allow-dirty", is_flag=True, help="Start from a snapshot of the worktree with its changes.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe; may be repeated.",
)
@click.option(
    "--push", metavar="REMOTE", help="Push checkpoints, their models and the run's record as they are made."
)
@click.option(
    "--resume", "resumed", metavar="RUN", help="Go on with a run that stopped, failed or was killed."
)
@click.option(
    "--detach", is_flag=True, help="Let the run go on by itself, after this terminal is closed, too."
)
@click.option(
    "--tensorboard",
    "tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the run's numbers for TensorBoard, into DIR/<run id>.",
)
@json_option
@click.pass_context
def command(
    context: click.Context, commit: str, recipe_path: str, branch: str | None, here: bool, nproc: int | None,
    allow_dirty: bool, overrides: tuple[str, ...], push: str | None, resumed: str | None, detach: bool,
    tensorboard: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Train the model of COMMIT (default HEAD) by its recipe; every checkpoint becomes a commit.

    The data are the commit's own files; the worktree is not touched, go on editing. When the commit holds the model,
    training goes on from it, otherwise it starts from seeded weights. Ctrl-C stops after the current step and commits
    a last checkpoint (exit status 130); a second Ctrl-C ends at once. A failed run exits with 7, one that
    diverged with 8.

    With --resume, the run's record says what it trains and how: it goes on from its last checkpoint, under the same id and
    on the same branch, to the weights that it would have reached without the interruption.

    With --push, a thread publishes each checkpoint as it is made. A push that fails is told, tried again with the next one,
    and never stops the run. Others see the run by `git gru runs fetch` and its commits by `git fetch`.

    With --detach, the command ends once the run has begun: `git gru runs` shows, follows and stops it.

    \b
    --json: {"id", "state", "branch", "source", "step", "steps", "initial": {"val_loss"},
             "checkpoints": [{"step", "commit", "metrics": {"val_loss"}}], "tokens_per_s",
             "fast_forwarded": bool or null, and more of the run's record}
    """
    if branch is not None and here:
        raise click.UsageError("--branch and --here exclude each other")
    if resumed is not None:
        _refuse_others(context)
    repo = Repository.find()
    plan = None
    if resumed is None:
        request = Request(
            commit=commit,
            recipe_path=recipe_path,
            overrides=overrides,
            branch=branch,
            here=here,
            nproc=nproc,
            allow_dirty=allow_dirty,
            push=push,
        )
        plan = make_plan(repo, request)
    if detach:
        options = () if tensorboard is None else ("--tensorboard", str(tensorboard.absolute()))
        begun = (
            detach_plan(repo, plan, options)
            if plan is not None
            else detach_run(repo, find_run(repo, resumed or ""), options)
        )
        _show_detached(begun, as_json=as_json)
        return 0
    with contextlib.ExitStack() as stack:
        watcher: Watcher = stack.enter_context(RunProgress())
        if tensorboard is not None:
            watcher = stack.enter_context(TensorBoardExport(watcher, tensorboard))
        if plan is not None:
            record = run_plan(repo, plan, watcher)
        else:
            _, record = resume(repo, resumed or "", watcher)
    forwarded = fast_forward(repo, record) if record.here and record.checkpoints else None
    start_maintenance_if_due(repo, repo.store())
    if as_json:
        emit_json({**record.as_json(), "fast_forwarded": forwarded})
    else:
        _summary(record, forwarded)
    return 0 if record.state is RunState.FINISHED else INTERRUPTED


def _show_detached(record: RunRecord, *, as_json: bool) -> None:
    if as_json:
        emit_json({**record.as_json(), "fast_forwarded": None})
        return
    line(f"run {record.id} goes on by itself, commits go to {record.branch}")
    line(f"watch it: git gru runs logs -f {record.id}; stop it: git gru runs stop {record.id}")


def _refuse_others(context: click.Context) -> None:
    """Raises `UsageError` for what cannot be said of a run that is resumed: its record says it."""
    for name in ("commit", "recipe_path", "branch", "here", "nproc", "allow_dirty", "overrides", "push"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--resume takes source, recipe and branch from the run's record: say RUN alone"
            )


def _summary(record: RunRecord, forwarded: bool | None) -> None:
    seconds = (record.ended or record.started) - record.started
    rows = [
        ("run", record.id),
        ("state", str(record.state)),
        ("steps", f"{record.step} of {record.steps} in {seconds:.0f} s"),
        ("commits", str(len(record.checkpoints))),
        ("branch", record.here if forwarded and record.here else record.branch),
    ]
    if record.checkpoints and record.initial:
        first, last = record.initial["val_loss"], record.checkpoints[-1].metrics["val_loss"]
        rows.insert(3, ("val_loss", f"{first:.3f} → {last:.3f}"))
    if record.tokens_per_s:
        rows.insert(3, ("tokens/s", f"{record.tokens_per_s:,.0f}"))
    line()
    for name, value in rows:
        line(f"{name:<9} {value}")
    if forwarded is False:
        line(
            f"{record.here} could not be fast-forwarded; the commits are on {record.branch}: git merge {record.branch}"
        )
