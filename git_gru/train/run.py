"""`git_gru.Run`: a trainer of the user's own writes its run down, and commits its weights, as `git gru train` does.

    with git_gru.Run("models/net.safetensors", config={"lr": 3e-4}, steps=1000) as run:
        for step, batch in enumerate(batches, 1):
            loss = train_on(batch)
            run.log(step, loss=loss)
            if step % 100 == 0:
                run.commit(model, step, val_loss=validate(model))
            if run.should_stop:
                break

Commits are made off the training path, on a branch of the run's own; worktree, index and the checked-out branch stay as they are.
`git gru watch`, `runs show`, `runs compare` and `runs stop` know such a run as any other. With several processes (the variable
`RANK`, as torchrun sets it) only rank 0 writes; the calls of the others do nothing.
"""

import contextlib
import json
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, SupportsFloat

from git_gru.errors import GruError, InputError, MachineError
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.git.run_control import sweep_runs
from git_gru.git.run_folders import LAUNCHER, STOP, hold, run_folder
from git_gru.git.run_refs import METRICS_FILE, write_record
from git_gru.git.sources import push_urls
from git_gru.runs.metrics import VALIDATION_PREFIX, Event, EventWriter, last_validation, parse_events
from git_gru.runs.record import Checkpoint, Failure, RunState
from git_gru.train.beginning import Beginning, beginning, is_tracked, track_hint
from git_gru.train.copies import nonfinite_names, snapshot_of
from git_gru.train.recipe import is_path_inside
from git_gru.train.recorder import CommitRecorder, Destination
from git_gru.train.sharing import Publisher

if TYPE_CHECKING:
    from torch import nn

    from git_gru.train.weights import TensorData

_OWN_FIELDS = ("loss", "lr", "tokens_per_s")


class NonFiniteError(InputError):
    """Weights that are to be committed are NaN or infinite."""


class Run:
    """A run of a trainer of the user's own; a context manager, for one thread.

    `path` is the model's in the repository, and must be tracked (`git gru track`). The run starts from `commit` and commits onto
    the new branch `branch` (by default `gru/<run id>`); every commit has the tree of `commit` with another model in it.
    `config` (JSON values) and `steps` (how many the run is to do, if that is known) are written down. `allow_dirty` starts from
    a snapshot of uncommitted changes, which are refused otherwise; `push` names a remote that commits and record are sent to as
    they are made. `metadata` stands in the model files.

    Leaving the block waits until everything is committed. An exception that leaves it makes the run *failed* (Ctrl-C, or a
    request to stop: *stopped*; `sys.exit()`: as if nothing had been raised); what was committed before stays.

    Entering raises `InputError` for what cannot be: no such commit, a branch that is there already, a path that is not tracked, a
    `config` that is no JSON. Entered again, it is another run.
    """

    def __init__(
        self,
        path: str,
        *,
        commit: str = "HEAD",
        branch: str | None = None,
        config: Mapping[str, Any] | None = None,
        steps: int | None = None,
        allow_dirty: bool = False,
        push: str | None = None,
        metadata: Mapping[str, str] | None = None,
        repository: str | Path | None = None,
    ) -> None:
        self.path = path
        self.id: str | None = None
        """The run's id; None before the block is entered, and on all ranks but 0."""
        self.branch: str | None = None
        """The branch that is committed to; None as `id` is."""
        self._is_writer = os.environ.get("RANK", "0") == "0"
        self._commit, self._branch, self._allow_dirty = commit, branch, allow_dirty
        self._config, self._steps, self._push = dict(config or {}), steps, push
        self._metadata = {"format": "pt", **(metadata or {})}
        self._where = Path(repository) if repository is not None else None
        self._exit = contextlib.ExitStack()
        self._is_open = False
        self._step = 0
        self._speed: float | None = None
        self._asked_to_stop = False

    def __enter__(self) -> Self:
        if not self._is_writer:
            return self
        if self._is_open:
            raise InputError("the run has begun already")
        if not is_path_inside(self.path):
            raise InputError(
                f"the model's path must lead from the repository's top into it, and {self.path!r} does not"
            )
        _check_config(self._config)
        repo = self._repo = Repository.find(self._where) if self._where is not None else Repository.find()
        if self._push is not None:
            push_urls(repo, self._push)  # told now, if there is no such remote
        sweep_runs(repo)
        with contextlib.ExitStack() as entered:
            begun = entered.enter_context(
                beginning(repo, self._commit, self._branch, allow_dirty=self._allow_dirty)
            )
            if not is_tracked(repo, self.path):
                raise InputError(
                    f"git-gru does not track {self.path!r} in this repository", hint=track_hint(self.path)
                )
            try:
                self._open(repo, begun)
            except OSError as error:
                raise MachineError(
                    f"the run cannot be written into {repo.gru_dir}: {error.strerror or error}"
                ) from error
        return self

    def _open(self, repo: Repository, begun: Beginning) -> None:
        folder = self._folder = run_folder(repo, begun.run)
        model = models_at(repo, begun.source).get(self.path)
        self._record = begun.record(
            push=self._push,
            model=self.path,
            parent_model=None if model is None else model.digest,
            recipe_path=None,
            recipe={"config": self._config},
            nproc=int(os.environ.get("WORLD_SIZE", "1")),
            seed=None,
            steps=self._steps,
            trainer=Path(sys.argv[0]).name or "python",
        )
        destination = Destination(
            run=begun.run,
            source=begun.source,
            ref=begun.ref,
            path=self.path,
            metadata=self._metadata,
            parent_model=self._record.parent_model,
        )
        with contextlib.ExitStack() as opened:
            opened.callback(shutil.rmtree, folder, ignore_errors=True)
            opened.enter_context(hold(folder, LAUNCHER))
            write_record(repo, self._record, b"", {})
            events = folder / METRICS_FILE
            self._recorder = CommitRecorder(repo, destination, EventWriter(events), self._committed)
            self._publisher = (
                Publisher(repo, self._push, run=begun.run, ref=begun.ref, events=events)
                if self._push
                else None
            )
            self._exit = opened.pop_all()
        self._recorder.__enter__()
        self.id, self.branch = begun.run, begun.branch
        self._is_open, self._step, self._speed, self._asked_to_stop = True, 0, None, False
        self._tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_writer:
            return
        self._is_open = False
        with self._exit:
            reason = None if isinstance(error, SystemExit) and not error.code else error
            try:
                self._recorder.__exit__(kind, reason, trace)
            except (
                BaseException
            ) as late:  # the last checkpoint could not be committed, or it was not waited for
                reason = late
                raise
            finally:
                self._end(reason)

    def log(self, step: int, **metrics: SupportsFloat) -> None:
        """Writes down what became known at `step` (steps done so far): `loss` and `lr` of training, `tokens_per_s`, validation
        metrics (`val_…`), and numbers of any other name.

        Raises `CheckpointError` when an earlier checkpoint could not be committed.
        """
        if not self._is_writer:
            return
        recorder, step = self._begun(), int(step)
        numbers = _numbers(metrics)
        own: dict[str, Any] = {name: numbers.pop(name) for name in _OWN_FIELDS if name in numbers}
        validation = {name: value for name, value in numbers.items() if name.startswith(VALIDATION_PREFIX)}
        others = {name: value for name, value in numbers.items() if name not in validation}
        recorder.event(Event(time=time.time(), step=step, validation=validation, metrics=others, **own))
        self._speed = own.get("tokens_per_s", self._speed)
        self._step = max(self._step, step)

    def commit(
        self,
        model: "nn.Module | Mapping[str, Any]",
        step: int,
        *,
        allow_non_finite: bool = False,
        **metrics: SupportsFloat,
    ) -> None:
        """Copies the weights of `model` (a module of PyTorch, or name -> tensor or numpy array) and commits them in time.

        Waits before it copies while two copies are being committed. `metrics` are validation metrics (`val_loss=…`), which stand
        in the commit's message. Raises `NonFiniteError` for weights that are NaN or infinite unless they are asked for,
        `InputError` for metrics of other names and tensors that a safetensors file cannot hold, `CheckpointError` when an
        earlier checkpoint could not be committed.
        """
        if not self._is_writer:
            return
        if wrong := [name for name in metrics if not name.startswith(VALIDATION_PREFIX)]:
            raise InputError(
                f"a commit carries validation metrics, whose names begin with {VALIDATION_PREFIX}, and not {wrong[0]}",
                hint=f"Say {VALIDATION_PREFIX}{wrong[0]}, or log it: run.log(step, {wrong[0]}=…)",
            )
        recorder, step = self._begun(), int(step)

        def snapshot() -> "list[TensorData]":
            tensors = snapshot_of(model)
            if not allow_non_finite and (bad := nonfinite_names(tensors)):
                raise NonFiniteError(
                    f"step {step}: not committed, because weights are NaN or infinite: {', '.join(bad[:3])}",
                    hint="Go back to an earlier commit, or commit them all the same: allow_non_finite=True",
                )
            return tensors

        recorder.checkpoint(step, snapshot, _numbers(metrics))
        self._step = max(self._step, step)

    def wait(self) -> str | None:
        """Waits until everything is committed; the id of the last commit, None where there is none (or this is not rank 0)."""
        if not self._is_writer:
            return None
        if self.id is None:
            raise _not_begun()
        return self._recorder.wait()  # after the block, too

    @property
    def should_stop(self) -> bool:
        """Whether `git gru runs stop` has asked the run to stop: leave the loop, with a last commit if you like."""
        self._asked_to_stop = self._asked_to_stop or (self.id is not None and (self._folder / STOP).exists())
        return self._asked_to_stop

    def _begun(self) -> CommitRecorder:
        if self.id is None:
            raise _not_begun()
        if not self._is_open:
            raise InputError(f"the run {self.id} is over", hint="Log and commit within the block.")
        return self._recorder

    def _committed(self, event: Event) -> None:
        """In the committing thread: the record names a commit as soon as the branch does."""
        assert event.commit is not None
        made = Checkpoint(step=event.step, commit=event.commit, metrics=event.validation)
        self._record = replace(
            self._record,
            step=max(self._record.step, event.step),
            branch=event.branch or self._record.branch,
            checkpoints=(*self._record.checkpoints, made),
            tokens_per_s=self._speed,
        )
        self.branch = self._record.branch
        with contextlib.suppress(GruError, OSError):  # a full disk: the next checkpoint meets it
            self._keep()

    def _keep(self) -> None:
        write_record(self._repo, self._record, (self._folder / METRICS_FILE).read_bytes(), {})
        self._tell()

    def _tell(self) -> None:
        if self._publisher is not None:
            self._publisher.ref = f"refs/heads/{self._record.branch}"
            self._publisher.tell(self._record.step)

    def _end(self, reason: BaseException | None) -> None:
        """Writes the record's last version, and sends it where the run is pushed to."""
        done = self._steps is not None and self._step >= self._steps
        state = RunState.STOPPED if self.should_stop and not done else RunState.FINISHED
        if isinstance(reason, KeyboardInterrupt):
            state = RunState.STOPPED
        elif reason is not None:
            state = RunState.FAILED
        self._record = replace(
            self._record,
            state=state,
            step=self._step,
            ended=time.time(),
            tokens_per_s=self._speed,
            failure=self._failure(reason) if state is RunState.FAILED and reason is not None else None,
        )
        try:
            self._keep()
        finally:
            if self._publisher is not None:
                self._publisher.close()
                if self._publisher.failure is not None:
                    warnings.warn(self._publisher.failure, stacklevel=3)

    def _failure(self, reason: BaseException) -> Failure:
        return Failure(
            message=f"{type(reason).__name__}: {reason}",
            host=self._record.host,
            step=self._step,
            metrics=last_validation(parse_events((self._folder / METRICS_FILE).read_bytes())),
            traceback="".join(traceback.format_exception(reason)),
        )


def _not_begun() -> InputError:
    return InputError("the run has not begun", hint="Use it in a block: with git_gru.Run(…) as run:")


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """As plain numbers; a tensor of torch is detached first, which it wants to be."""
    return {
        name: float(value.detach() if hasattr(value, "detach") else value) for name, value in metrics.items()
    }


def _check_config(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"config: {name!r} cannot be written down: {error}",
                hint="Give texts, numbers, true and false, None, and lists and mappings of these.",
            ) from error
