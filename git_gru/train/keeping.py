"""The record of a run while it goes on: kept by the launcher alone, written at every commit and at the end. Free of torch."""

from dataclasses import replace

from git_gru.errors import GruError
from git_gru.git.repository import Repository
from git_gru.git.run_refs import write_record
from git_gru.runs.metrics import Event
from git_gru.runs.record import Checkpoint, RunRecord, RunState
from git_gru.train.failures import collect_logs
from git_gru.train.job import Job
from git_gru.train.plan import Plan
from git_gru.train.sharing import Publisher


class Keeper:
    """Keeps `record`; a `publisher`, if there is one, is told whenever it was written."""

    def __init__(self, repo: Repository, job: Job, record: RunRecord, publisher: Publisher | None) -> None:
        self._repo, self._job, self._publisher = repo, job, publisher
        self.record = record
        self.has_begun = False
        """Whether the record was written: what became of the run is to be told from then on."""

    def keep(self, record: RunRecord) -> None:
        """Writes the record. A full disk must not end the launcher while workers still run: they meet it themselves."""
        self.record, self.has_begun = record, True
        metrics = self._job.events.read_bytes() if self._job.events.exists() else b""
        try:
            write_record(self._repo, record, metrics, collect_logs(self._job))
        except (GruError, OSError):
            if record.state is RunState.FINISHED:
                raise
        if self._publisher is not None:
            if self._publisher.ref is not None:
                self._publisher.ref = f"refs/heads/{record.branch}"
            self._publisher.tell(record.step)

    def take(self, event: Event) -> None:
        """Takes an event into the record, and writes it down with every commit."""
        self.record = _with_event(self.record, event)
        if event.commit:
            self.keep(self.record)


def first_record(plan: Plan) -> RunRecord:
    """The record of a run that begins."""
    return plan.record(
        here=plan.here,
        push=plan.push,
        model=plan.recipe.model.path,
        parent_model=plan.model.digest if plan.model else None,
        recipe_path=plan.recipe_path,
        recipe=plan.recipe.as_json(),
        overrides=plan.overrides,
        nproc=plan.recipe.launch.nproc,
        seed=plan.recipe.train.seed,
        steps=plan.recipe.train.steps,
    )


def _with_event(record: RunRecord, event: Event) -> RunRecord:
    changes: dict[str, object] = {"step": max(record.step, event.step)}
    if event.step == 0 and event.validation:
        changes["initial"] = event.validation
    if event.tokens_per_s is not None:
        changes["tokens_per_s"] = event.tokens_per_s
    if event.incident is not None:
        changes["incidents"] = (*record.incidents, event.incident)
        if event.incident.back_to is not None:
            changes["step"] = event.incident.back_to
    if event.commit is not None:
        made = Checkpoint(step=event.step, commit=event.commit, metrics=event.validation)
        changes["checkpoints"] = (*record.checkpoints, made)
    if event.branch is not None:
        changes["branch"] = event.branch
    return replace(record, **changes)  # type: ignore[arg-type]
