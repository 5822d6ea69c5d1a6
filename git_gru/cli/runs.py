"""`git gru runs`; `runs_logs` and `runs_compare` hold two of its verbs."""

import time

import click

from git_gru.cli import runs_compare, runs_logs
from git_gru.cli.boundary import printable
from git_gru.cli.render import emit_json, json_option, line, plural, table
from git_gru.git.repository import Repository
from git_gru.git.run_control import remove_run, request_stop
from git_gru.git.run_following import RunFollower
from git_gru.git.run_refs import find_run, read_events, read_record, run_ids
from git_gru.git.run_sharing import fetch_runs
from git_gru.runs.export import metrics_csv, metrics_json
from git_gru.runs.incidents import Incident, sentence
from git_gru.runs.record import Failure, RunRecord
from git_gru.runs.snapshot import Snapshot, snapshot_of

_SHOWN_SAMPLES = 16


@click.group(
    "runs", short_help="List, stop, compare, share and remove training runs.", invoke_without_command=True
)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """List the training runs of this repository, or show one (refs/gru/runs/<id>/record).

    \b
    --json: as `git gru runs list --json`
    """
    if context.invoked_subcommand is None:
        context.invoke(list_runs, as_json=as_json)


@command.command("list")
@json_option
def list_runs(as_json: bool) -> None:
    """List all runs, oldest first.

    \b
    --json: {"runs": [the same keys as `git gru runs show --json`]}
    """
    repo = Repository.find()
    records = [read_record(repo, run) for run in run_ids(repo)]
    if as_json:
        emit_json({"runs": [record.as_json() for record in records]})
        return
    if not records:
        line("no runs yet: git gru train starts one")
        return
    rows = [
        (
            record.id, str(record.state), record.fraction, _last_loss(record),
            str(len(record.checkpoints)), record.branch,
        )
        for record in records
    ]  # fmt: skip
    table(
        ("run", "state", "steps", "val_loss", "commits", "branch"),
        rows,
        right=("steps", "val_loss", "commits"),
    )


@command.command("show")
@click.argument("run", metavar="ID")
@click.option(
    "--metrics",
    type=click.Choice(["csv", "json"]),
    help="Print all metrics of the run, as far as it has gone.",
)
@json_option
def show_run(run: str, metrics: str | None, as_json: bool) -> None:
    """Show the run ID (its beginning is enough).

    --metrics csv prints a row for each event: time, step, rank, loss, lr, tokens_per_s, the validation metrics, what else a
    trainer logged, rate_0, share_0, sent_0, waited_0 and so on (of each worker: tokens per second without waiting, samples of a
    step, bytes sent and seconds waited to keep the weights together), commit, branch, blocked_s, incident, message.

    \b
    --metrics json: {"id", "metrics": [{"time", "step", "rank", and of these what there is: "loss", "lr", "tokens_per_s",
             "rates", "shares", "sent", "waited", "round", "sites", "metrics", "val_…", "commit", "branch", "blocked_s",
             "incident", "message"}]}
    --json: {"id", "state": "running" | "finished" | "stopped" | "failed", "started", "ended", "source", "dirty",
             "branch", "model", "parent_model", "recipe_path", "recipe", "overrides", "nproc", "seed", "steps", "step",
             "initial", "checkpoints": [{"step", "commit", "metrics"}], "tokens_per_s", "environment", "host", "pid",
             "incidents": [{"kind", "step", "message", "action": "stop" | "rollback" | "none", "rank", "samples",
             "gradient_norms", "back_to", "skipped", "lr_scale"}],
             "failure": {"message", "rank", "host", "log", "step", "metrics", "traceback", "hint"} or null,
             "trainer"}
    """
    repo = Repository.find()
    record = read_record(repo, find_run(repo, run))
    if metrics is not None:
        _, events = RunFollower(repo, record.id).poll()
        if metrics == "csv":
            click.echo(metrics_csv(events), nl=False)
        else:
            emit_json({"id": record.id, "metrics": metrics_json(events)})
        return
    if as_json:
        emit_json(record.as_json())
        return
    _show(record)
    _show_sites(snapshot_of(record, read_events(repo, record.id), time.time()))


@command.command("stop")
@click.argument("runs", metavar="ID...", nargs=-1, required=True)
def stop_runs(runs: tuple[str, ...]) -> None:
    """Ask running runs of this machine to stop as a Ctrl-C does: after the current step, with a last commit."""
    repo = Repository.find()
    for run in [find_run(repo, name) for name in runs]:
        request_stop(repo, run)
        trainer = read_record(repo, run).trainer
        then = (
            f"when {trainer} next asks"
            if trainer is not None
            else "after its current step, with a last commit"
        )
        line(f"run {run} stops {then}")


@command.command("rm")
@click.argument("runs", metavar="ID...", nargs=-1, required=True)
@click.option("--branch", is_flag=True, help="Remove the run's branch, too.")
def remove_runs(runs: tuple[str, ...], branch: bool) -> None:
    """Remove the records of runs, with what a resume would need; their branches stay unless --branch is given.

    The models that nothing names any more are dropped by git gru gc.
    """
    repo = Repository.find()
    for run in [find_run(repo, name) for name in runs]:
        remove_run(repo, run, branch=branch)
        line(f"removed the run {run}")


@command.command("fetch")
@click.argument("remote")
@json_option
def fetch_records(remote: str, as_json: bool) -> None:
    """Fetch the records of the runs that were pushed to REMOTE (git gru train --push); git fetch brings their commits.

    \b
    --json: {"runs": [the ids of those that are new here, or newer than they were]}
    """
    found = fetch_runs(Repository.find(), remote)
    if as_json:
        emit_json({"runs": found})
    else:
        line(f"{plural(len(found), 'run')} of {remote} {'is' if len(found) == 1 else 'are'} new or newer")
        for run in found:
            line(run)


for _part in (runs_logs, runs_compare):
    command.add_command(_part.command)


def _show(record: RunRecord) -> None:
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
    seconds = f", {record.ended - record.started:.0f} s" if record.ended else ""
    line(f"run      {record.id}")
    line(f"state    {record.state}, {record.progress}")
    line(f"started  {started}{seconds}, on {record.host} with {plural(record.nproc, 'worker')}")
    line(f"source   {record.source[:10]}{' (a snapshot of the worktree)' if record.dirty else ''}")
    if record.trainer is not None:
        line(f"trainer  {record.trainer}")
    else:
        line(f"recipe   {record.recipe_path}{''.join(f', {override}' for override in record.overrides)}")
    line(f"branch   {record.branch}")
    if record.tokens_per_s:
        line(f"speed    {record.tokens_per_s:,.0f} tokens/s")
    if record.failure:
        _show_failure(record.failure)
    for change in record.changes:
        line(f"nodes    {change}")
    for incident in record.incidents:
        _show_incident(incident)
    if not record.checkpoints:
        return
    line()
    metrics = list(dict.fromkeys(name for made in record.checkpoints for name in made.metrics))
    rows = [
        (
            str(made.step),
            made.commit[:10],
            *(f"{made.metrics.get(name, float('nan')):.4f}" for name in metrics),
        )
        for made in record.checkpoints
    ]
    table(("step", "commit", *metrics), rows, right=("step", *metrics))


def _show_sites(snapshot: Snapshot) -> None:
    """Of a site that trains with others: how far they are, as the end of its last round saw them."""
    if not snapshot.sites:
        return
    line()
    line(f"round {snapshot.round}")
    rows = [
        (
            printable(name),
            f"{seen['round']:.0f}",
            f"{seen['weight']:.3f}",
            f"{seen.get('val_loss', float('nan')):.4f}",
        )
        for name, seen in snapshot.sites.items()
    ]
    table(("site", "round", "weight", "val_loss"), rows, right=("round", "weight", "val_loss"))


def _show_failure(failure: Failure) -> None:
    """Why it failed: the sentence, where and when, what it mostly comes from, the traceback."""
    who = "" if failure.rank is None else f"worker {failure.rank}: "
    first, *rest = failure.message.splitlines() or [""]
    line(f"failure  {who}{first}")
    for more in rest:
        line(f"         {more}")
    where = [f"on {failure.host}"] if failure.host else []
    where += [f"step {failure.step}"] if failure.step is not None else []
    where += [f"{name} {value:.4g}" for name, value in failure.metrics.items()]
    if where:
        line(f"where    {', '.join(where)}")
    if failure.hint:
        line(f"hint     {failure.hint}")
    if failure.log:
        line(f"log      {failure.log}")
    if failure.traceback:
        line()
        for text in failure.traceback.splitlines():
            line(text)


def _show_incident(incident: Incident) -> None:
    """What the guard caught: the sentence, then what led there."""
    line()
    line(f"guard    step {incident.step}: {sentence(incident)}")
    if incident.samples:
        who = "" if incident.rank is None else f" of worker {incident.rank}"
        more = f" … ({len(incident.samples)} in all)" if len(incident.samples) > _SHOWN_SAMPLES else ""
        line(f"samples  {' '.join(str(sample) for sample in incident.samples[:_SHOWN_SAMPLES])}{more}{who}")
    for name, norm in incident.gradient_norms.items():
        line(f"gradient {'no number' if norm is None else f'{norm:.4g}':>9}  {name}")


def _last_loss(record: RunRecord) -> str:
    return f"{record.checkpoints[-1].metrics.get('val_loss', float('nan')):.3f}" if record.checkpoints else ""
