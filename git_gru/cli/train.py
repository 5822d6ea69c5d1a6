"""`git gru train`."""

import contextlib
from pathlib import Path

import click
from click.core import ParameterSource

from git_gru.cli.background import start_maintenance_if_due
from git_gru.cli.boundary import INTERRUPTED, say
from git_gru.cli.exporting import TensorBoardExport
from git_gru.cli.progress import RunProgress
from git_gru.cli.recipe_options import recipe_option, set_option
from git_gru.cli.render import emit_json, json_option, line
from git_gru.git.repository import Repository
from git_gru.git.run_refs import find_run
from git_gru.runs.record import RunRecord, RunState
from git_gru.train.assisting import assist
from git_gru.train.detaching import detach_plan, detach_run
from git_gru.train.following import Watcher
from git_gru.train.launch import fast_forward, run_plan
from git_gru.train.launchers import LAUNCHERS, plan_launch, script
from git_gru.train.nodes import Nodes, counts_of, nodes_of
from git_gru.train.plan import Plan, Request, make_plan
from git_gru.train.recipe_sync import COMPRESSORS
from git_gru.train.resuming import resume
from git_gru.train.sites import begin_site
from git_gru.train.welcome import Joining

_OF_NODE_0 = ("branch", "here", "site", "allow_dirty", "push", "resumed", "tensorboard")
"""Options that only the node counts by which keeps the run."""


_HELP = """\
Train the model of COMMIT (default HEAD) by its recipe; every checkpoint becomes a commit.

The data are the commit's own files; the worktree is not touched, go on editing. When the commit holds the model,
training goes on from it, otherwise it starts from seeded weights. Ctrl-C stops after the current step and commits
a last checkpoint (exit status 130); a second Ctrl-C ends at once. A failed run exits with 7, one that
diverged with 8.

With --resume, the run's record says what it trains and how: it goes on from its last checkpoint, under the same id and
on the same branch, to the weights that it would have reached without the interruption.

With --push, a thread publishes each checkpoint as it is made. A push that fails is told, tried again with the next one,
and never stops the run. Others see the run by `git gru runs fetch` and its commits by `git fetch`.

With --nnodes, several machines train together: the same command on each, in a clone of its own, with --node-rank 0 on the one
that the endpoint names. Node 0 commits and keeps the record, and says which commit is trained, by which recipe; the others
fetch it where they do not have it. With MIN:MAX the run begins with MIN nodes, goes on from the last checkpoint when one is
lost, and takes in those that come later; with N, each has a number of its own, and a lost one ends the run. With --resume on
node 0 it goes on, with any number of nodes. Whoever reaches the endpoint can disturb the run: keep it inside your network
(docs/security.md).

With --launcher, a script for Slurm's sbatch, or a PyTorchJob for Kubernetes, is printed that starts exactly this run: each
node clones the remote of --push (origin), and node 0 pushes what is committed.

With --sync git --site NAME, this clone is one of several sites that train one model through nothing but commits on the
remote of --push (origin): each trains for a round (sync.every steps), pushes what it has learnt to its branch
gru/GROUP/NAME, and goes on from the average with what the others have pushed. The same command goes on after any
interruption.

With --detach, the command ends once the run has begun: `git gru runs` shows, follows and stops it.

\b
--json: {"id", "state", "branch", "source", "step", "steps", "initial": {"val_loss"},
         "checkpoints": [{"step", "commit", "metrics": {"val_loss"}}], "tokens_per_s",
         "fast_forwarded": bool or null, and more of the run's record}; on a node that is not node 0
         {"node", "nodes": "N" or "MIN:MAX", "state": "finished" | "stopped"}
"""


@click.command("train", short_help="Train from a commit into new commits.", help=_HELP)
@click.argument("commit", default="HEAD")
@recipe_option
@click.option("--branch", metavar="NAME", help="The new branch for checkpoints (by default gru/<run id>).")
@click.option("--here", is_flag=True, help="At the end, fast-forward the current branch and its worktree.")
@click.option(
    "--nproc", type=click.IntRange(min=1), metavar="N", help="Workers on this machine (launch.nproc)."
)
@click.option(
    "--nnodes", metavar="N|MIN:MAX", help="Machines that train together; with MIN:MAX they may come and go."
)
@click.option(
    "--node-rank", type=click.IntRange(min=0), metavar="K", help="Which of them this is; 0 keeps the run."
)
@click.option("--rdzv-endpoint", "endpoint", metavar="HOST:PORT", help="Where node 0 listens for the others.")
@click.option(
    "--local-addr", "address", metavar="ADDR", help="This machine's IPv4 address, if it has several."
)
@click.option(
    "--launcher",
    type=click.Choice(LAUNCHERS),
    help="Print a script for this scheduler that starts --nnodes machines.",
)
@click.option(
    "--sync", type=click.Choice(tuple(COMPRESSORS)), help="How workers agree on weights (sync.strategy)."
)
@click.option(
    "--site", metavar="NAME", help="With --sync git: train as this site of several that share a Git host."
)
@click.option("--allow-dirty", is_flag=True, help="Start from a snapshot of the worktree with its changes.")
@set_option
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
    nnodes: str | None, node_rank: int | None, endpoint: str | None, address: str | None, launcher: str | None,
    sync: str | None, site: str | None,
    allow_dirty: bool, overrides: tuple[str, ...], push: str | None, resumed: str | None, detach: bool,
    tensorboard: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """See `_HELP`."""
    if site is not None and (branch is not None or here):
        raise click.UsageError("--site has a branch of its own: --branch and --here do not go with it")
    if branch is not None and here:
        raise click.UsageError("--branch and --here exclude each other")
    if launcher is not None:
        return _print_script(context, launcher)
    nodes = _nodes(nnodes, node_rank, endpoint, address)
    if nodes is not None and detach:
        raise click.UsageError("--nnodes and --detach exclude each other")
    launch = overrides if nproc is None else (*overrides, f"launch.nproc={nproc}")
    repo = Repository.find()
    if nodes is not None and not nodes.is_first:
        words = launch if sync is None else (*launch, f"sync.strategy={sync}")
        return _assist(context, repo, nodes, words, as_json=as_json)
    if resumed is not None:
        _refuse_others(context)
        request: Request | str = resumed
    else:
        overrides += () if sync is None else (f"sync.strategy={sync}",)
        overrides += () if site is None else (f"sync.site={site}",)
        request = Request(
            commit=commit, recipe_path=recipe_path, overrides=overrides, branch=branch, here=here, nproc=nproc,
            allow_dirty=allow_dirty, push=push, nodes=nodes,
        )  # fmt: skip
    if site is not None and isinstance(request, Request):
        request = begin_site(repo, request)
        # of a run that goes on, no more may change
        launch = tuple(one for one in launch if one.startswith("launch."))
    plan = make_plan(repo, request) if isinstance(request, Request) else str(request)
    if detach:
        _detach(repo, plan, launch, tensorboard, as_json=as_json)
        return 0
    return _train(repo, plan, nodes, launch, tensorboard, as_json=as_json)


def _train(
    repo: Repository, plan: Plan | str, nodes: Nodes | None, launch: tuple[str, ...], tensorboard: Path | None,
    *, as_json: bool,
) -> int:  # fmt: skip
    """Trains by a plan, or goes on with the run of an id."""
    with contextlib.ExitStack() as stack:
        watcher: Watcher = stack.enter_context(RunProgress())
        if tensorboard is not None:
            watcher = stack.enter_context(TensorBoardExport(watcher, tensorboard))
        if isinstance(plan, Plan):
            record = run_plan(repo, plan, watcher)
        else:
            _, record = resume(repo, plan, watcher, nodes=nodes, overrides=launch)
    forwarded = fast_forward(repo, record) if record.here and record.checkpoints else None
    start_maintenance_if_due(repo, repo.store())
    if as_json:
        emit_json({**record.as_json(), "fast_forwarded": forwarded})
    else:
        _summary(record, forwarded)
    return 0 if record.state is RunState.FINISHED else INTERRUPTED


def _detach(
    repo: Repository, plan: Plan | str, launch: tuple[str, ...], tensorboard: Path | None, *, as_json: bool
) -> None:
    """Starts a planned run, or the one with an id again, in a process of its own."""
    options = [] if tensorboard is None else ["--tensorboard", str(tensorboard.absolute())]
    if isinstance(plan, Plan):
        begun = detach_plan(repo, plan, options)
    else:
        options += [word for one in launch for word in ("--set", one)]
        begun = detach_run(repo, find_run(repo, plan), options)
    _show_detached(begun, as_json=as_json)


def _print_script(context: click.Context, launcher: str) -> int:
    """The scheduler's script for the run that the other options ask for."""
    given = context.params
    if given["nnodes"] is None:
        raise click.UsageError("--launcher needs --nnodes")
    passed_on = ("recipe_path", "branch", "nproc", "overrides", "sync")
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        if name not in (*passed_on, "commit", "nnodes", "launcher", "push"):
            raise click.UsageError(f"{parameter.opts[-1]} does not go with --launcher")
        if name in passed_on:
            values = given[name] if parameter.multiple else (given[name],)
            words += [word for value in values for word in (parameter.opts[0], str(value))]
    launch = plan_launch(
        Repository.find(),
        given["commit"],
        counts=counts_of(given["nnodes"]),
        remote=given["push"] or "origin",
        words=words,
    )
    click.echo(script(launcher, launch), nl=False)
    return 0


def _nodes(counts: str | None, number: int | None, endpoint: str | None, address: str | None) -> Nodes | None:
    if counts is None:
        if (number, endpoint, address) != (None, None, None):
            raise click.UsageError("--node-rank, --rdzv-endpoint and --local-addr go with --nnodes")
        return None
    known = counts_of(counts)
    if endpoint is None or (number is None and not known.is_elastic):
        needs = "--rdzv-endpoint" if known.is_elastic else "--node-rank and --rdzv-endpoint"
        raise click.UsageError(f"--nnodes needs {needs}")
    nodes = nodes_of(known, number, endpoint, address)
    if nodes.is_public:
        say(f"{endpoint} is a public address: whoever reaches it can disturb the run (docs/security.md)")
    if nodes.is_loopback:
        say(
            f"{endpoint} is the loopback interface here, so no other machine reaches it: name node 0's address in your network "
            "(where its name means a loopback address, as in many an /etc/hosts)"
        )
    return nodes


def _say_what_counts_elsewhere(context: click.Context) -> None:
    """Names what was said on a node other than 0 that makes no difference there: a launcher gives all nodes one command."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in _OF_NODE_0
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        say(f"{', '.join(given)}: counts on node 0 alone, not here")


def _assist(
    context: click.Context, repo: Repository, nodes: Nodes, overrides: tuple[str, ...], *, as_json: bool
) -> int:
    """Trains for node 0; what was not said on the command line, that says."""
    _say_what_counts_elsewhere(context)

    def said(name: str) -> str | None:
        is_said = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        return context.params[name] if is_said else None

    joining = Joining(
        nodes=nodes, commit=said("commit"), recipe_path=said("recipe_path"), overrides=overrides
    )
    with RunProgress() as progress:
        number, finished = assist(repo, joining, progress)
    state = RunState.FINISHED if finished else RunState.STOPPED
    if as_json:
        emit_json({"node": number, "nodes": str(joining.nodes.counts), "state": str(state)})
    else:
        line(f"node {number} {state}; the commits are on node 0")
    return 0 if finished else INTERRUPTED


def _show_detached(record: RunRecord, *, as_json: bool) -> None:
    if as_json:
        emit_json({**record.as_json(), "fast_forwarded": None})
        return
    line(f"run {record.id} goes on by itself, commits go to {record.branch}")
    line(f"watch it: git gru runs logs -f {record.id}; stop it: git gru runs stop {record.id}")


def _refuse_others(context: click.Context) -> None:
    """Raises `UsageError` for what cannot be said of a run that is resumed: its record says it."""
    for name in (
        "commit",
        "recipe_path",
        "branch",
        "here",
        "allow_dirty",
        "push",
        "sync",
        "site",
    ):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--resume takes source, recipe and branch from the run's record: say RUN, and maybe --nproc or --nnodes"
            )
    if not all(one.startswith("launch.") for one in context.params["overrides"]):
        raise click.UsageError("with --resume, --set takes keys of the recipe's section launch alone")


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
