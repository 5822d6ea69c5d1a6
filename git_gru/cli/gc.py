"""`git gru gc`."""

from typing import Any

import click

from git_gru.cli.render import emit_json, human_size, human_span, json_option, line, plural, table
from git_gru.git.collecting import collection_rules, plan_collection, run_collection
from git_gru.git.pruning import collect_hub
from git_gru.git.repository import Repository
from git_gru.store.collect import DAY, Collected, Plan, Reason, Unneeded

_STAYS = {
    Reason.GRACE: "used or needed within the grace time",
    Reason.ADDING: "used just now",
    Reason.ABSENT: "may be named by objects that this partial clone lacks",
}


@click.command("gc", short_help="Drop models that nothing in the repository needs any more.")
@click.option("--grace", metavar="TIME", help="Keep what was needed or used within TIME (14d, 12h, now).")
@click.option("--dry-run", "-n", is_flag=True, help="Only say what would go.")
@click.option("--remote", metavar="NAME", help="Collect on this remote, in place of the store here.")
@json_option
def command(grace: str | None, dry_run: bool, remote: str | None, as_json: bool) -> None:
    """Drop models from the store that no commit, tag, stash, reflog, index, run or unfinished operation names any more.

    A model goes when that was so, and nobody used it, for the grace time (gru.gcGrace, default 14d; counted from the first gc
    that saw it unneeded). What was only looked at (git status during training) goes after gru.gcEarlyGrace (10m). Git's own
    reflogs keep commits for 30 to 90 days: what they name is needed.

    With --remote: models that no reference of that remote reaches. The first run marks them there; one that comes at least the
    grace time (default 14d) later drops those that nobody has pushed again. Safe beside others who push. The server's own
    git gc then frees the space.

    \b
    --remote --json: {"dry_run": bool, "remote", "dropped": [digest], "waiting": [digest]}
    --json: {"dry_run": bool, "models", "dropped": [MODEL], "kept": [MODEL], "rewritten", "bytes_before", "bytes_after",
             "packs_before", "packs_after"}, the last five null with --dry-run
    MODEL: {"digest", "reason", "used", "unneeded_since", "frees"}, times in seconds since 1970
    """
    repo = Repository.find()
    if remote is not None:
        _on_remote(repo, remote, grace, dry_run=dry_run, as_json=as_json)
        return
    store = repo.store()
    plan = plan_collection(repo, store, collection_rules(repo, grace))
    done = None if dry_run else run_collection(repo, store, plan)
    if as_json:
        emit_json(_json(plan, done))
    else:
        _show(plan, done)


def _on_remote(repo: Repository, name: str, grace: str | None, *, dry_run: bool, as_json: bool) -> None:
    done = collect_hub(repo, name, grace=grace, dry_run=dry_run)
    if as_json:
        emit_json(
            {
                "dry_run": dry_run,
                "remote": name,
                "dropped": sorted(done.dropped),
                "waiting": sorted(done.waiting),
            }
        )
        return
    line(f"{'would drop' if dry_run else 'dropped'} {plural(len(done.dropped), 'model')} of {name}")
    if done.waiting:
        line(f"{plural(len(done.waiting), 'unneeded model')} there: kept until the grace time is over")


def _json(plan: Plan, done: Collected | None) -> dict[str, Any]:
    dropped = plan.drop if done is None else done.dropped
    names = ("rewritten", "bytes_before", "bytes_after", "packs_before", "packs_after")
    return {
        "dry_run": done is None,
        "models": plan.models,
        "dropped": [_model(model) for model in plan.unneeded if model.digest in dropped],
        "kept": [_model(model) for model in plan.unneeded if model.digest not in dropped],
        **{name: None if done is None else getattr(done, name) for name in names},
    }


def _model(model: Unneeded) -> dict[str, Any]:
    return {
        "digest": model.digest,
        "reason": model.reason.value,
        "used": model.used,
        "unneeded_since": model.since,
        "frees": model.frees,
    }


def _show(plan: Plan, done: Collected | None) -> None:
    going = [
        model for model in plan.unneeded if (model.goes if done is None else model.digest in done.dropped)
    ]
    if going and done is None:
        table(
            ("model", "last used", "why", "frees"),
            [
                (model.digest[:12], _used(model, plan), model.reason.value, human_size(model.frees))
                for model in going
            ],
            right=("frees",),
        )
    what = f"{len(going)} of {plural(plan.models, 'model')}"
    frees = human_size(sum(model.frees for model in going))
    line(f"{what} would go, {frees}" if done is None else f"dropped {what}, {frees}")
    for reason, text in _STAYS.items():
        kept = [model for model in plan.unneeded if model.reason is reason]
        if kept:
            size = human_size(sum(model.frees for model in kept))
            line(
                f"{plural(len(kept), 'unneeded model')} stay{'s' if len(kept) == 1 else ''} ({size}): {text}"
            )
    if done is not None:
        line(f"store: {human_size(done.bytes_before)} before, {human_size(done.bytes_after)} now")
    if plan.clock_behind > DAY:
        line(
            f"this machine's clock is {human_span(plan.clock_behind)} behind a time noted earlier, and no grace time ends before "
            "that is reached; if the clock had been ahead, delete .git/gru/index.sqlite: all grace times begin anew"
        )


def _used(model: Unneeded, plan: Plan) -> str:
    return "unknown" if model.used is None else f"{human_span(plan.asked - model.used)} ago"
