"""The record of a run: `run.json`, what a run was and how it went.

It stands, with `metrics.jsonl` and the workers' logs, in the tree of the commit at `refs/gru/runs/<id>/record`, and is
written anew at every checkpoint and at the end; never on a branch of the user's.

A run's *state* is one of

    running ──> finished    all steps done, or ended early for want of progress; everything committed
           ├──> stopped     asked to stop (Ctrl-C, SIGTERM); the last checkpoint is committed
           └──> failed      a worker or the launcher failed; what was committed before stays

A record that says `running` while its launcher is gone is that of a run whose launcher was killed: `git_gru.git.run_refs`
reports it as failed. A stopped or failed run that is resumed is running again, under the same id.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from git_gru.errors import StoreError
from git_gru.runs.incidents import Incident, parse_incident

VERSION = 1


class RecordError(StoreError):
    """A run record that cannot be read."""


class RunState(StrEnum):
    """See the module's diagram."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A commit that the run made: the step, the commit's id, its validation metrics."""

    step: int
    commit: str
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run failed: a sentence, and where known the rank, its host, the name of its log, and its traceback.

    `step` is the one it failed in, or else the last that was written down; `metrics` are the last that were. `hint` says what
    such a failure mostly comes from.
    """

    message: str
    rank: int | None = None
    host: str | None = None
    log: str | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    traceback: str | None = None
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What `run.json` holds. Times are seconds since the epoch; ids of commits are full.

    `recipe` is the recipe as it took effect (defaults filled in, `overrides` applied). `source` is the commit that the
    run started from (`dirty`: a snapshot of an unclean worktree, kept by `refs/gru/runs/<id>/source`). `steps` is how
    many it was to do, `step` how many it has done; `initial` holds the validation metrics before the first step.
    `here` is the branch that is to follow the run's at the end, `push` the remote that the run is pushed to, if any.
    `incidents` are what the guard caught, oldest first.
    `trainer` names the program of a run that was trained by code of the user's own (`git_gru.Run`); such a run has no recipe
    file, its `recipe` is what the program said of itself, and `seed` and `steps` may be unknown. `nproc` are the workers on all
    `nodes` (machines) together; `changes` are sentences that say when these became others, and what that cost.
    """

    id: str
    state: RunState
    started: float
    ended: float | None = None
    source: str
    dirty: bool = False
    branch: str
    here: str | None = None
    push: str | None = None
    model: str
    parent_model: str | None = None
    recipe_path: str | None
    recipe: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    nproc: int
    seed: int | None
    steps: int | None
    step: int = 0
    initial: Mapping[str, float] = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()
    tokens_per_s: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    host: str
    pid: int
    incidents: tuple[Incident, ...] = ()
    failure: Failure | None = None
    trainer: str | None = None
    nodes: int = 1
    changes: tuple[str, ...] = ()

    @property
    def progress(self) -> str:
        """How far it is: `step 40 of 500`."""
        return f"step {self.step}" if self.steps is None else f"step {self.step} of {self.steps}"

    @property
    def fraction(self) -> str:
        """The same for a table: `40/500`."""
        return str(self.step) if self.steps is None else f"{self.step}/{self.steps}"

    def as_json(self) -> dict[str, Any]:
        """The record as plain JSON values, in the order of the fields."""
        return {"git-gru-run": VERSION, **asdict(self)}

    def encode(self) -> bytes:
        """The bytes of `run.json`."""
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False).encode() + b"\n"


def parse_record(data: bytes, *, where: str) -> RunRecord:
    """The record in the bytes of a `run.json`; `where` names it in messages. Raises `RecordError`."""
    try:
        fields = json.loads(data)
        version = fields.pop("git-gru-run", None)
        if version != VERSION:
            raise RecordError(
                f"{where}: this is a run record of version {version}, and this git-gru reads version {VERSION}",
                hint="Upgrade git-gru.",
            )
        fields["state"] = RunState(fields["state"])
        fields["overrides"] = tuple(fields["overrides"])
        fields["checkpoints"] = tuple(Checkpoint(**checkpoint) for checkpoint in fields["checkpoints"])
        fields["incidents"] = tuple(parse_incident(incident) for incident in fields.get("incidents", ()))
        fields["changes"] = tuple(fields.get("changes", ()))
        if fields["failure"] is not None:
            fields["failure"] = Failure(**fields["failure"])
        return RunRecord(**fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RecordError(f"{where} is not a readable run record: {error}") from error
