"""Reproducing a training commit: the *segment* that made it is run again, and the weights are compared.

A segment begins at the nearest checkpoint before the commit whose resume state is kept, else at the run's source. It runs with
the run's recipe and number of workers, in a folder and under references of its own that go away afterwards: nothing of the run
changes.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from git_gru.errors import InputError, RunFailedError
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at, resolve_commit
from git_gru.git.run_control import forget_run, sweep_runs
from git_gru.git.run_folders import LAUNCHER, hold, run_folder
from git_gru.git.run_refs import PREFIX, UnknownRunError, read_checkpoints, read_record
from git_gru.git.run_states import read_state, read_states
from git_gru.runs.record import RunRecord
from git_gru.runs.trailers import CheckpointInfo, parse_checkpoint
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store
from git_gru.tensors.diff import TensorComparison
from git_gru.train.beginning import environment
from git_gru.train.failures import find_cause
from git_gru.train.following import Watcher, follow_agent
from git_gru.train.interrupts import counted_interrupts
from git_gru.train.job import Job, Start
from git_gru.train.launch import prepare_data
from git_gru.train.plan import known_architecture, require_torch
from git_gru.train.recipe_file import recipe_of


class NotReproducibleError(InputError):
    """A commit that no run known here made."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What made `commit`: the steps after `start` (None: after the source) to `step` of a run."""

    commit: str
    record: RunRecord
    start: Start | None
    step: int

    @property
    def begin(self) -> str:
        """The commit at which the segment begins."""
        return self.start.commit if self.start else self.record.source


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """How the weights came out. `max_abs` is the largest |Δ| of an element, `relative` ‖Δ‖ / ‖the commit's weights‖ over all
    tensors (None where that norm is zero); `environment` has what differs from the run's: name → (then, now).
    """

    segment: Segment
    exact: bool
    max_abs: float
    relative: float | None
    environment: Mapping[str, tuple[str | None, str | None]]


def find_segment(repo: Repository, rev: str) -> Segment:
    """The segment that made the commit `rev`. Raises `NotReproducibleError`."""
    commit = resolve_commit(repo, rev)
    info = _info(repo, commit)
    if info is None:
        raise NotReproducibleError(
            f"the commit {commit[:10]} was not made by a training run",
            hint="Commits of git gru train have the trailer Gru-Run.",
        )
    try:
        record = read_record(repo, info.run)
    except UnknownRunError as error:
        raise NotReproducibleError(
            f"the record of the run {info.run}, which made the commit {commit[:10]}, is not here",
            hint="If it was pushed: git gru runs fetch REMOTE",
        ) from error
    if record.trainer is not None:
        raise NotReproducibleError(
            f"the commit {commit[:10]} was made by {record.trainer}, which git-gru cannot start",
            hint=f"Its run says how it was set: git gru runs show {info.run} --json",
        )
    if recipe_of(record.recipe).sync.is_git:
        raise NotReproducibleError(
            f"the run {record.id} was that of a site: what other sites had pushed is in the weights that it trained on"
        )
    if record.nodes > 1:
        raise NotReproducibleError(
            f"the commit {commit[:10]} was made by a run of {record.nodes} machines, and this repeats runs of one machine only",
            hint="Which worker summed what, and where, is not kept of several machines. To train the same on this one: git gru "
            f"train {record.source[:10]} --nproc {record.nproc}",
        )
    return Segment(commit=commit, record=record, start=_start(repo, record, commit), step=info.step)


def reproduce(repo: Repository, segment: Segment, watcher: Watcher) -> Reproduction:
    """Runs a segment again and compares what comes out with what was committed.

    Raises `RunFailedError` when it fails, and KeyboardInterrupt when it is stopped.
    """
    require_torch()
    sweep_runs(repo)
    run = f"reproduce-{segment.commit[:10]}-{os.getpid()}"
    with hold(run_folder(repo, run), LAUNCHER):
        try:
            job = _job(repo, segment, run)
            if segment.start is not None:
                repo.git("update-ref", job.ref, segment.start.commit)
            with counted_interrupts() as interrupts:
                ended = follow_agent(job, watcher, lambda event: None, interrupts)
            if ended.returncode != 0 and not ended.killed:
                failure = find_cause(job, ended.returncode)
                raise RunFailedError(f"the run of the segment failed: {failure.message}")
            if ended.stopped:
                raise KeyboardInterrupt
            return _compared(repo, segment, models_at(repo, job.ref)[job.recipe.model.path])
        finally:
            forget_run(repo, run)


def _job(repo: Repository, segment: Segment, run: str) -> Job:
    """Prepares the data; returns what the workers are told."""
    record, folder = segment.record, run_folder(repo, run)
    recipe = recipe_of(record.recipe, where=f"the recipe of the run {record.id}")
    known = known_architecture(repo, segment.commit, recipe)  # its tokenizer or scaling among it
    return Job(
        run=run,
        folder=folder,
        repository=repo.top,
        source=record.source,
        ref=f"{PREFIX}{run}/reproduced",
        parent_model=record.parent_model,
        recipe=recipe,
        architecture=prepare_data(repo, record.source, recipe, known, folder),
        start=segment.start,
        until=segment.step,
    )


def _start(repo: Repository, record: RunRecord, commit: str) -> Start | None:
    states = read_states(repo, record.id)
    if states is None:
        return None
    for made in reversed(read_checkpoints(repo, record.id, record.source, f"{commit}^")):
        blob = states.blobs.get(made.step)
        info = _info(repo, made.commit)
        if blob is not None and info is not None and info.resume == read_state(repo, blob).digest:
            return Start(step=made.step, commit=made.commit, state=blob)
    return None


def _info(repo: Repository, commit: str) -> CheckpointInfo | None:
    return parse_checkpoint(repo.git("log", "-1", "--format=%B", commit, "--").decode("utf-8", "replace"))


def _compared(repo: Repository, segment: Segment, found: Manifest) -> Reproduction:
    expected = models_at(repo, segment.commit)[segment.record.model]
    max_abs, relative = 0.0, 0.0 if expected == found else None
    if expected != found:
        max_abs, relative = _distance(repo.store(), expected, found)
    then, now = segment.record.environment, environment()
    names = sorted({*then, *now})
    return Reproduction(
        segment=segment,
        exact=expected == found,
        max_abs=max_abs,
        relative=relative,
        environment={n: (then.get(n), now.get(n)) for n in names if then.get(n) != now.get(n)},
    )


def _distance(store: Store, expected: Manifest, found: Manifest) -> tuple[float, float | None]:
    """The largest |Δ|, and ‖Δ‖ / ‖expected‖; both models have the same tensors."""
    measures = []
    for name, entry in expected.tensors.items():
        comparison = TensorComparison(entry.dtype)
        for old, new in zip(store.tensor(expected, name), store.tensor(found, name), strict=True):
            comparison.add(old, new)
        measures.append(comparison.result().total)
    norm = sum(one.old_norm**2 for one in measures) ** 0.5
    delta = sum(one.delta_norm**2 for one in measures) ** 0.5
    return max(one.max_abs for one in measures), delta / norm if norm else None
