"""`git gru reproduce`."""

import click

from git_gru.cli.progress import RunProgress
from git_gru.cli.render import emit_json, json_option, line, plural
from git_gru.git.repository import Repository
from git_gru.train.reproduce import Reproduction, Segment, find_segment, reproduce

DIFFERS = 1


@click.command("reproduce", short_help="Run again what made a training commit, and compare.")
@click.argument("commit")
@json_option
def command(commit: str, as_json: bool) -> int:
    """Run again the steps that made the training commit COMMIT, and say whether its weights come out bit for bit.

    They begin at the nearest checkpoint before it whose resume state is kept (the recipe's train.resume_every keeps some),
    else at the commit that the run started from. Exit status 1: other weights came out.

    \b
    --json: {"commit", "run", "begin": commit, "first_step", "last_step", "exact": bool, "max_abs", "relative",
             "environment": {name: [then, now]}} where environment has what differs from the run's
    """
    repo = Repository.find()
    segment = find_segment(repo, commit)
    with RunProgress() as progress:
        progress.segment(_told(segment), segment.step)
        found = reproduce(repo, segment, progress)
    if as_json:
        emit_json(_json(found))
    else:
        _show(found)
    return 0 if found.exact else DIFFERS


def _told(segment: Segment) -> str:
    first = segment.start.step + 1 if segment.start else 1
    begin = "checkpoint" if segment.start else "source"
    return (
        f"runs the steps {first} to {segment.step} of the run {segment.record.id} again, from its {begin} "
        f"{segment.begin[:10]}, with {plural(segment.record.nproc, 'worker')}"
    )


def _json(found: Reproduction) -> dict[str, object]:
    segment = found.segment
    return {
        "commit": segment.commit,
        "run": segment.record.id,
        "begin": segment.begin,
        "first_step": segment.start.step + 1 if segment.start else 1,
        "last_step": segment.step,
        "exact": found.exact,
        "max_abs": found.max_abs,
        "relative": found.relative,
        "environment": found.environment,
    }


def _show(found: Reproduction) -> None:
    commit = found.segment.commit[:10]
    if found.exact:
        line(f"{commit} is reproduced: the same weights, bit for bit")
        return
    relative = "" if found.relative is None else f", ‖Δ‖ / ‖weights‖ {found.relative:.3g}"
    line(f"{commit} is not reproduced: largest |Δ| {found.max_abs:.3g}{relative}")
    for name, (then, now) in found.environment.items():
        line(f"  {name} was {then or 'unknown'} and is {now or 'unknown'}")
