"""A run of several machines as node 0's launcher drives it: one generation after the other. Free of torch.

    enough nodes are ready ──> generation: every node's agent starts its workers, from the last checkpoint of node 0's store
        ├─ all steps done, or the user stops           → the run is over, on all nodes
        ├─ a node is ready to join, or wants to leave  → pause: the workers leave after a step, with a checkpoint
        ├─ a node is lost, or its workers were killed  → halt: what is left of the workers is ended
        └─ a worker failed by itself                   → the run has failed, on all nodes
    after a pause or a halt                            → back to the last checkpoint or round snapshot, next generation

The one writer of commits is rank 0, a worker of node 0: a generation begins when the worker of the one before has given up its
lock. Without `MIN:MAX` there is one generation, and a lost node ends the run.
"""

import socket
import time
from dataclasses import dataclass, replace

from git_gru.errors import GruError
from git_gru.git.repository import Repository
from git_gru.git.run_folders import WORKER, hold
from git_gru.runs.metrics import Event, EventWriter
from git_gru.runs.record import Failure
from git_gru.train.failures import LOST_ANOTHER, find_cause, is_loss, stall_cause
from git_gru.train.following import POLL_SECONDS, Command, Ended, Watcher, by_user, follow_agent
from git_gru.train.heartbeat import read_beats
from git_gru.train.interrupts import Interrupts
from git_gru.train.job import Job
from git_gru.train.keeping import Keeper
from git_gru.train.nodes import JoinError, Nodes
from git_gru.train.plan import Plan
from git_gru.train.rewinding import cut_events, rewound, round_end_after
from git_gru.train.roll import Member, Roll
from git_gru.train.round_snapshots import discard
from git_gru.train.welcome import welcome_of

_LAST_WORDS = 3.0
"""Seconds for nodes to say why their workers ended, before they are asked to end them: the first to tell is seldom the cause."""
_LAST_BREATH = 30.0
"""Seconds for which workers that are being ended are waited for."""


class WaitInterruptedError(GruError):
    """The user asked to stop while the run waited for its nodes."""

    exit_code = 130


@dataclass(frozen=True)
class _Change:
    """Why the nodes came together anew, since when training stood still, and the last step before."""

    reasons: tuple[str, ...]
    since: float
    step: int


def calling(plan: Plan, nodes: Nodes) -> Roll:
    """Begins to listen for the nodes of a planned run. Raises `JoinError`."""
    launch = plan.recipe.launch
    batch = plan.recipe.train.batch
    return Roll(nodes, silence=launch.lost_after, batch=batch, workers=launch.nproc)


def lead(
    repo: Repository, job: Job, plan: Plan, nodes: Nodes, roll: Roll, keeper: Keeper, watcher: Watcher,
    interrupts: Interrupts,
) -> tuple[Ended, Failure | None]:  # fmt: skip
    """Trains with the nodes that join; how the last generation ended, and with what the run failed, if it has.

    Raises `JoinError` and `WaitInterruptedError` where it did not begin.
    """
    roll.open(welcome_of(plan, job))
    leader = _Leader(repo, job, nodes, roll, keeper, watcher, interrupts)
    try:
        ended, failure = leader.run()
    except BaseException as error:  # whatever it is: the other nodes wait for word
        state = "stopped" if isinstance(error, WaitInterruptedError) else "failed"
        roll.end(state, str(error) or type(error).__name__)
        raise
    finally:
        discard(job.folder)
    stopped = ended.stopped and keeper.record.step < job.recipe.train.steps
    state = "failed" if failure is not None else "stopped" if stopped or ended.killed else "finished"
    roll.end(state, failure.message if failure else None)
    return ended, failure


def _listening(nodes: Nodes) -> socket.socket:
    """Where the store of a generation is to listen. Raises `JoinError`."""
    try:
        return socket.create_server((nodes.host, 0))
    except OSError as error:
        raise JoinError(
            f"node 0 cannot listen at {nodes.host} any more: {error.strerror or error}",
            hint="The address of --rdzv-endpoint must be this machine's, for as long as the run goes on.",
        ) from error


class _Leader:
    """One run's generations."""

    def __init__(
        self, repo: Repository, job: Job, nodes: Nodes, roll: Roll, keeper: Keeper, watcher: Watcher,
        interrupts: Interrupts,
    ) -> None:  # fmt: skip
        keeps_rounds = nodes.counts.is_elastic and job.recipe.sync.is_local
        self._job = replace(job, keeps_rounds=keeps_rounds)
        self._repo, self._nodes, self._roll = repo, nodes, roll
        self._keeper, self._watcher, self._interrupts = keeper, watcher, interrupts
        self._launch, self._counts = job.recipe.launch, nodes.counts
        self._by_user = by_user(job, interrupts)
        self._others: list[Member] = []
        self._change: _Change | None = None
        self._step = 0
        self._first_failure: float | None = None

    def run(self) -> tuple[Ended, Failure | None]:
        """All generations."""
        index, in_vain = 1, 0
        self._gather(last_call=self._launch.last_call)
        listener = _listening(self._nodes)
        while True:
            ended = self._train(index, listener)
            if ended.killed or (ended.returncode == 0 and self._is_over(ended)):
                return ended, None
            failure, reasons, since = self._judged(ended)
            if failure is not None:
                return ended, failure
            before = self._others
            done = self._job.done
            self._go_back()
            gained = self._job.done > done
            in_vain = 0 if gained or ended.paused else in_vain + 1
            if in_vain > self._launch.retries:
                text = f"{'; '.join(reasons)}: that was {in_vain} times on end without progress that is kept (launch.retries)"
                return ended, Failure(message=text)
            try:
                self._gather(last_call=0.0)
                listener = _listening(self._nodes)
            except JoinError as error:
                lost = f"{'; '.join(reasons)}, and then " if reasons else ""
                return ended, Failure(message=f"{lost}{error}", hint=error.hint)
            except WaitInterruptedError as error:
                self._watcher.waiting(str(error))
                return ended._replace(stopped=True, killed=True), None
            joined = tuple(f"{one} joined" for one in self._roll.chosen if one not in before)
            self._change = _Change((*reasons, *joined), since, self._step)
            index += 1

    def _gather(self, *, last_call: float) -> None:
        """Waits until enough nodes are ready and no workers are left; once enough are, `last_call` seconds for more."""
        began, enough_since, told = time.monotonic(), None, False
        while True:
            self._look()
            now, there = time.monotonic(), len(self._roll.chosen) + 1
            if self._interrupts.count or self._job.stop.exists():
                raise WaitInterruptedError(f"stopped while waiting for nodes: {self._there(there)}")
            if self._roll.refusal is not None and not self._counts.is_elastic:
                raise JoinError(self._roll.refusal, hint="Start this run anew on all nodes.")
            if there < self._counts.least or self._roll.training:
                enough_since = None
            else:
                enough_since = now if enough_since is None else enough_since
                if there >= self._counts.most or now - enough_since >= last_call:
                    return
            if now - began > self._launch.join_timeout:
                raise self._not_enough(there)
            if not told and now - began > 1:
                told = True
                where = f"{self._nodes.host}:{self._nodes.port}"
                self._watcher.waiting(f"waiting for nodes at {where}: {self._there(there)}")
            time.sleep(POLL_SECONDS)

    def _there(self, there: int) -> str:
        least = "at least " if self._counts.is_elastic else ""
        return f"{there} of {least}{self._counts.least} {'is' if there == 1 else 'are'} there"

    def _not_enough(self, there: int) -> JoinError:
        who = ", ".join(["node 0", *map(str, self._roll.chosen)])
        slow = ", ".join(map(str, self._roll.preparing))
        late = f"; still fetching the commit or preparing its data: {slow}" if slow else ""
        asked = f"at least {self._counts.least}" if self._counts.is_elastic else f"the {self._counts.least}"
        where = f"{self._nodes.host}:{self._nodes.port}"
        return JoinError(
            f"only {there} of {asked} nodes came within {self._launch.join_timeout:g} seconds (launch.join_timeout): {who}{late}",
            hint=f"Start the others with the same command; each must reach {where}.",
        )

    def _train(self, index: int, listener: socket.socket) -> Ended:
        """One generation, whose agent keeps its store at `listener`."""
        self._step, self._first_failure = 0, None
        with listener:
            own, self._others = self._roll.train(
                index, listener.getsockname()[1], self._job.start, self._job.round_end
            )
            self._job = replace(self._job, generation=own)
            workers = self._launch.nproc + sum(one.workers for one in self._others)
            self._keeper.keep(replace(self._keeper.record, nodes=own.count, nproc=workers))
            if index == 1:
                self._watcher.started(self._keeper.record)
            return follow_agent(
                self._job, self._watcher, self._keeper.take, self._interrupts, self._command, listener
            )

    def _look(self) -> None:
        """Takes what the nodes said, and tells the user of those that cannot take part."""
        self._roll.poll()
        while self._roll.told:
            self._watcher.waiting(self._roll.told.pop(0))

    def _command(self) -> Command:
        """What is to be done about the workers now."""
        self._look()
        self._step = max([self._step, *(beat.step for beat in read_beats(self._job.heartbeats).values())])
        self._tell_change()
        if self._roll.losses or self._has_failed():
            return Command.HALT
        if (asked := self._by_user()) is not Command.GO:
            return asked
        if any(one.is_leaving for one in self._others):
            return Command.PAUSE if self._counts.is_elastic else Command.STOP
        waiting = [one for one in self._roll.chosen if one not in self._others]
        if waiting and time.monotonic() - waiting[0].since >= self._launch.last_call:
            return Command.PAUSE
        return Command.GO

    def _has_failed(self) -> bool:
        """Whether another node's workers failed: by themselves, or for a while already."""
        failures = [one.failure for one in self._others if one.failure is not None]
        if failures and self._first_failure is None:
            self._first_failure = time.monotonic()
        late = self._first_failure is not None and time.monotonic() - self._first_failure > _LAST_WORDS
        return late or any(failure.own for failure in failures)

    def _tell_change(self) -> None:
        """Says what had changed once training goes on: from where, and after how long."""
        start = self._job.done
        if self._change is None or self._step <= start:
            return
        count = len(self._others) + 1
        nodes = "1 node" if count == 1 else f"{count} nodes"
        seconds = time.monotonic() - self._change.since
        message = (
            f"{'; '.join(self._change.reasons)}; went on with {nodes} from step {start} after {seconds:.1f} s"
        )
        numbers = {"nodes": count, "lost_at": self._change.step, "from": start, "seconds": round(seconds, 3)}
        self._change = None
        self._keeper.record = replace(self._keeper.record, changes=(*self._keeper.record.changes, message))
        writer = EventWriter(self._job.events)
        try:
            writer.write(Event(time=time.time(), step=start, message=message, change=numbers))
        except OSError:
            pass  # the disk is full: the workers say so
        finally:
            writer.close()

    def _is_over(self, ended: Ended) -> bool:
        """Whether workers that left well were through, or asked to stop, rather than to come together anew."""
        return not ended.paused or ended.stopped or self._keeper.record.step >= self._job.recipe.train.steps

    def _judged(self, ended: Ended) -> tuple[Failure | None, tuple[str, ...], float]:
        """What the run has failed with, if it has; else why it goes on with other nodes, and since when training stands still."""
        now = time.monotonic()
        self._await_ends(at_once=ended.halted)
        left = [one for one in self._others if one.is_leaving]
        for one in left:
            self._roll.dismiss(one, "stopped")
        if ended.returncode == 0 and ended.paused:
            return None, tuple(f"{one} left" for one in left), now
        if ended.stall is not None:
            return stall_cause(self._job, ended.stall), (), now
        losses = self._roll.losses  # where there are any, what other workers say comes of that
        if not (losses or ended.halted or is_loss(self._job)):
            return find_cause(self._job, ended.returncode), (), now
        failed = [(one, one.failure) for one in self._others if one.failure is not None]
        for one, report in failed:
            if report.own and not losses:
                failure = Failure(
                    message=f"{one}: {report.message}", host=one.name, hint=report.hint, step=self._step
                )
                return failure, (), now
        reasons = [f"{loss.member} was lost at step {self._step} ({loss.reason})" for loss in losses]
        if not reasons:
            told = [(str(one), report.message) for one, report in failed]
            own = [] if ended.halted else [("node 0", find_cause(self._job, ended.returncode).message)]
            said = [f"{who}, at step {self._step}: {what}" for who, what in (*own, *told)]
            reasons = [text for text in said if LOST_ANOTHER not in text] or said
        if not self._counts.is_elastic:
            cause = None if ended.halted else find_cause(self._job, ended.returncode)
            return replace(cause or Failure(message=""), message="; ".join(reasons), step=self._step), (), now
        return None, tuple(reasons), min((loss.heard for loss in losses), default=now)

    def _await_ends(self, *, at_once: bool) -> None:
        """Waits until the workers of all other nodes are gone, and has them ended where that takes long."""
        began, halted = time.monotonic(), False
        while self._roll.training and time.monotonic() - began < _LAST_BREATH + self._launch.lost_after:
            self._look()
            if not halted and (at_once or time.monotonic() - began > _LAST_WORDS):
                halted = True
                self._roll.halt()
            time.sleep(POLL_SECONDS)

    def _go_back(self) -> None:
        """Brings record, branch and event log to the last checkpoint, or on to the end of a round after it, once nobody commits
        any more.
        """
        with hold(self._job.folder, WORKER, patience=_LAST_BREATH):
            record, start = rewound(self._repo, self._keeper.record)
            round_end = round_end_after(record.step, self._job.folder)
            if round_end is not None:
                record = replace(record, step=round_end)
            cut_events(self._job.events, record)
        self._keeper.record = record
        ref = f"refs/heads/{record.branch}"
        self._job = replace(self._job, start=start, round_end=round_end, ref=ref, generation=None)
