"""The training loop, the same on every rank.

    step:  batch of this rank → loss → backward (the strategy synchronises) → clip → optimizer
    every `guard.check_every` steps and before what follows: the guard looks at losses, gradients and weights
    every `log_every` steps: the loss and the throughput are written down (rank 0)
    every `eval_every` and `checkpoint_every` steps, and at the end: validation, sharded over the ranks
    every `checkpoint_every` steps and at the end: rank 0's recorder makes a commit, with a resume state beside it

What the guard catches ends the run or takes it back to the last checkpoint, and on from there with other data.

Where they meet anyway (`SyncStrategy.meets`; with the default strategy at every step) the ranks ask each other whether one of
them was told to stop (`job.is_asked_to_end`), so all leave after the same step; the last one is then made a checkpoint. The
guard's look and the log wait for such a step as well: nothing else may hold up workers that go by themselves.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn

from git_gru.git.repository import Repository
from git_gru.git.revisions import read_model
from git_gru.git.run_refs import read_checkpoints
from git_gru.runs.incidents import Incident, sentence
from git_gru.runs.metrics import VALIDATION_PREFIX, Event
from git_gru.train.balance import Balancer
from git_gru.train.corpus import TRAIN, VALIDATION
from git_gru.train.failures import step_noted
from git_gru.train.guard import DivergedError, Guard
from git_gru.train.heartbeat import Heartbeat, Phase
from git_gru.train.job import Job
from git_gru.train.meeting import Meetings
from git_gru.train.patience import Patience
from git_gru.train.recipe import TrainRecipe
from git_gru.train.recorder import Recorder
from git_gru.train.restoring import kept_for, restore, seed_after
from git_gru.train.resume import balance_state, capture, capture_round, rank_states
from git_gru.train.round_snapshots import SnapshotWriter
from git_gru.train.schedule import learning_rate
from git_gru.train.sharding import Indices, batch_plan, order_seed
from git_gru.train.sync import build_strategy
from git_gru.train.sync.local import LocalSteps
from git_gru.train.tasks import Batch, Samples, Task, moved, task_of
from git_gru.train.validation import validate
from git_gru.train.weights import as_kept, load, snapshot
from git_gru.train.world import World


@dataclass
class Meter:
    """Sums between two lines of the log. Of `seconds`, `computing` is what this rank did not spend waiting for others; `sent` and
    `waited` are what the strategy had counted at the first line.
    """

    loss: torch.Tensor
    sent: int
    waited: float
    terms: int = 0
    steps: int = 0
    seconds: float = 0.0
    computing: float = 0.0


class Engine:
    """One rank's part in a run. `recorder` is None on every rank but 0."""

    def __init__(self, job: Job, world: World, repo: Repository, recorder: Recorder | None) -> None:
        recipe = job.recipe
        self._job, self._recipe, self._world, self._recorder = job, recipe, world, recorder
        torch.use_deterministic_algorithms(recipe.train.deterministic)
        # it also fills all new memory with NaN, to show up who reads memory before writing it: 3 % of a step's time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.manual_seed(recipe.train.seed)
        self._task: Task = task_of(job.architecture, job.data)
        network = self._task.build(dropout=recipe.model.dropout)
        if job.parent_model is not None and job.start is None:
            name = f"{job.source}:{recipe.model.path}"
            load(network, repo.store(), read_model(repo, name), where=name)
        self._network = network.to(world.device)
        torch.manual_seed(order_seed(recipe) + 1 + world.rank)  # dropout differs by rank
        self._strategy = build_strategy(recipe.sync, recipe.train, self._network, world)
        self._optimization = self._strategy.optimization(recipe.train)
        self._optimizer = build_optimizer(self._network, self._optimization, world.device)
        self._train: Samples = self._task.samples(job.data, TRAIN, recipe.data)
        self._validation: Samples = self._task.samples(job.data, VALIDATION, recipe.data)
        self._batches = batch_plan(recipe, samples=len(self._train))
        self._batch_terms = recipe.train.batch * self._train.terms
        self._meter = self._fresh_meter()
        self._balance = Balancer(recipe.balance, batch=recipe.train.batch, ranks=world.size, rank=world.rank)
        self._met = job.done
        self._rounds = SnapshotWriter(job.folder) if job.keeps_rounds and world.rank == 0 else None
        self._heart = Heartbeat(job.heartbeats / str(world.rank), world.local_rank)
        losses = _earlier_losses(job, repo) if world.rank == 0 else None
        self._patience = Patience(recipe.train.patience, world.tell(losses))
        self._guard = Guard(
            recipe.guard,
            self._network,
            self._optimizer,
            world,
            self._strategy,
            tell=self._tell_incident,
            samples=self._samples,
            apart=recipe.sync.every if recipe.sync.is_local else 1,
        )
        self._meetings = Meetings(job, world, self._network, repo, recorder) if recipe.sync.is_git else None
        if job.done:
            self._go_on(repo)

    def run(self) -> None:
        """Trains to the last step, or until it is told to stop."""
        step = self._job.done
        end, stopping = self._job.until or self._recipe.train.steps, self._patience.is_over
        with self._heart, step_noted(lambda: step):
            try:
                if not step:
                    with self._strategy.consolidated():
                        self._tell(0, validation=self._validate(0))
                else:
                    self._meet_sites(step)
            except DivergedError as error:
                self._guard.recover(error, 0)  # there is nothing to go back to: told, and raised again
            self._guard.keep(step)
            while step < end and not stopping:
                step += 1
                self._heart.at(step, Phase.DATA)
                last = step == end
                meeting = (
                    last or self._strategy.meets(step) or self._checkpointing(step) or self._evaluating(step)
                )
                # asked before the step, so that no one waits for the network after it
                asked = self._world.ask(self._job.is_asked_to_end) if meeting else None
                self._step(step)
                self._heart.at(step, Phase.UPDATE)
                if asked is None:
                    continue
                stopping = asked()
                try:
                    stopping = self._after_step(step, last=stopping or last) or stopping
                    self._met = step
                    if not (stopping or last or self._checkpointing(step)):
                        self._keep_round(step)
                except DivergedError as error:
                    step = self._met = self._guard.recover(error, step)
                    if self._rounds is not None:
                        self._rounds.forget()
                    self._task.carried = {}  # it comes from the batches that are left out, and may be NaN
                    self._meter = self._fresh_meter()

    def _after_step(self, step: int, *, last: bool) -> bool:
        """What is due after a step in which the ranks meet: a look by the guard, a line of the log, a validation, a checkpoint.

        Whether that was one checkpoint without progress too many.
        """
        logging = last or step // self._recipe.train.log_every > self._met // self._recipe.train.log_every
        checkpointing = last or self._checkpointing(step)
        evaluating = not checkpointing and self._evaluating(step)
        balancing = self._strategy.meets(step) and self._balance.due(step)
        if self._guard.due() or balancing or logging or checkpointing or evaluating:
            self._guard.check()  # before shares change, by which it names samples
        if balancing:
            self._balance.rebalance(self._world.sum(self._balance.measured(step)))
        if logging:
            self._log(step)
        if checkpointing or evaluating:
            self._heart.at(step, Phase.CHECKPOINT)
        if evaluating:
            with self._strategy.consolidated():
                self._tell(step, validation=self._validate(step))
        if not checkpointing:
            return False
        self._patience.saw(self._checkpoint(step))
        self._meet_sites(step)
        self._guard.keep(step)
        if self._patience.is_over and not last and self._recorder is not None:
            self._recorder.event(Event(time=time.time(), step=step, message=f"ends early: {self._patience}"))
        return self._patience.is_over

    def _meet_sites(self, step: int) -> None:
        """Of a site, where a round ends with the checkpoint after `step`: goes on from what all sites have learnt."""
        if self._meetings is not None and self._meetings.meet(step) and step == self._recipe.train.steps:
            self._tell(step, validation=self._validate(step))

    def _checkpointing(self, step: int) -> bool:
        meetings, every = self._meetings, self._recipe.train.checkpoint_every
        return meetings.due(step) if meetings is not None else step % every == 0

    def _evaluating(self, step: int) -> bool:
        return self._recipe.train.eval_every > 0 and step % self._recipe.train.eval_every == 0

    def _keep_round(self, step: int) -> None:
        """Where a round ends with `step`, has a snapshot of it written, in case a node is lost before the next checkpoint."""
        strategy = self._strategy
        if self._rounds is None or not isinstance(strategy, LocalSteps):
            return
        if strategy.ends_round(step) and self._rounds.is_due():
            with strategy.agreed() as shared:
                if self._guard.is_sound():
                    balance, course = self._balance.state(), self._guard.course
                    taken = capture_round(self._network, self._optimizer, shared, balance, course)
                    self._rounds.write(step, taken)

    def _go_on(self, repo: Repository) -> None:
        """Brings everything to where it was after the job's checkpoint or round's end."""
        done = self._job.done
        if self._world.size > 1:
            # DistributedDataParallel arranges its buckets after the first backward pass it sees, and sums over more than
            # two ranks round by their place in a bucket. So it sees one here, as it had when the checkpoint was made.
            self._backward(*self._batch(done))
            self._optimizer.zero_grad()
        kept = kept_for(self._job, repo) if self._world.rank == 0 else None
        seed = seed_after(self._recipe.train.seed, done)
        restored = restore(self._network, self._optimizer, self._strategy, self._world, kept, seed=seed)
        self._task.carried, self._guard.course = restored.carried, restored.course
        self._strategy.restore(done, restored.sync)
        self._balance.restore(restored.balance)

    def _step(self, step: int) -> None:
        start, waited = time.perf_counter(), self._strategy.seconds_waited()
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(step)
        batch, terms = self._batch(step)
        self._heart.at(step, Phase.COMPUTE)
        loss = self._backward(batch, terms)
        self._strategy.after_backward()
        norms = self._guard.gradient_norms()
        if clip := self._optimization.clip:
            whole = torch.linalg.vector_norm(norms)
            nn.utils.clip_grads_with_norm_(self._network.parameters(), clip, whole)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._strategy.after_step(step, terms, self._batch_terms)
        self._guard.saw(step, loss, terms, norms)
        self._meter.loss += loss  # stays on the device: reading it would wait for a GPU at every step
        self._meter.terms += terms
        self._meter.steps += 1
        seconds = time.perf_counter() - start
        computing = seconds - (self._strategy.seconds_waited() - waited)
        self._meter.seconds += seconds
        self._meter.computing += computing
        self._balance.took(computing)

    def _batch(self, step: int) -> tuple[Batch, int]:
        """This rank's part of a step's batch, and how many terms its loss has."""
        mine = self._samples(step, self._world.rank)
        return moved(self._train.batch(mine), self._world.device), len(mine) * self._train.terms

    def _backward(self, batch: Batch, terms: int) -> torch.Tensor:
        """The gradients of a batch; returns this rank's loss, summed over its terms."""
        precision = self._recipe.train.precision
        self._network.train()
        with torch.autocast(self._world.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = self._task.loss(self._strategy.module, batch)
        (loss * self._strategy.weight(terms, self._batch_terms)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _log(self, step: int) -> None:
        """Writes the training loss and the throughput since the last such line down."""
        start = time.perf_counter()
        meter, self._meter = self._meter, self._fresh_meter()
        shares = self._balance.shares if self._world.size > 1 else ()
        by_rank = torch.zeros(self._world.size, 3, dtype=torch.float64)
        sent, waited = self._meter.sent - meter.sent, self._meter.waited - meter.waited
        own = (meter.terms / meter.computing, sent, waited)
        by_rank[self._world.rank] = torch.tensor(own, dtype=torch.float64)
        self._world.add_up(by_rank)
        loss, terms = self._world.sum([float(meter.loss), meter.terms])
        rates, all_sent, all_waited = by_rank.T.tolist() if self._world.size > 1 else ((), (), ())
        seconds = meter.seconds + time.perf_counter() - start
        if self._recorder is None:
            return
        rate = round(meter.steps * self._batch_terms / seconds, 1)
        self._recorder.event(
            Event(
                time=time.time(), step=step, loss=loss / terms, lr=self._learning_rate(step),
                tokens_per_s=rate, rates=tuple(round(own, 1) for own in rates), shares=shares,
                sent=tuple(int(own) for own in all_sent), waited=tuple(round(own, 4) for own in all_waited),
            )
        )  # fmt: skip

    def _samples(self, step: int, rank: int | None) -> Indices:
        """The samples of a step: those of one rank, or of the whole batch."""
        batch = self._batches.indices(step + self._guard.course.skipped)
        return batch if rank is None else batch[self._balance.slice_of(rank)]

    def _learning_rate(self, step: int) -> float:
        scale = self._guard.course.lr_scale * self._strategy.lr_scale(step)
        return learning_rate(self._recipe.train, step) * scale

    def _fresh_meter(self) -> Meter:
        sent, waited = self._strategy.bytes_sent(), self._strategy.seconds_waited()
        return Meter(torch.zeros((), device=self._world.device), sent, waited)

    def _checkpoint(self, step: int) -> float:
        """Has a checkpoint made; its validation loss."""
        network, dtype, course = self._network, self._recipe.model.dtype, self._guard.course
        ranks = rank_states(network, self._optimizer, self._strategy, self._world, self._task.carried)
        ranks |= balance_state(self._balance.state())
        with self._strategy.consolidated():
            metrics = self._validate(step)
            if self._recorder is not None:
                self._recorder.checkpoint(
                    step,
                    lambda: snapshot(network, dtype),
                    metrics,
                    lambda: capture(network, ranks, course, dtype),
                )
        return metrics["val_loss"]

    def _validate(self, step: int) -> dict[str, float]:
        """The validation metrics now. Raises `DivergedError` when the loss is no number: such weights are never kept."""
        with as_kept(self._network, self._recipe.model.dtype):
            metrics = validate(self._task, self._network, self._validation, self._world)
        if not math.isfinite(loss := metrics["val_loss"]):
            raise self._guard.diverged(step, loss)
        return {name: value for name, value in metrics.items() if name.startswith(VALIDATION_PREFIX)}

    def _tell_incident(self, incident: Incident) -> None:
        if self._recorder is not None:
            self._recorder.event(
                Event(time=time.time(), step=incident.step, incident=incident, message=sentence(incident))
            )

    def _tell(self, step: int, *, validation: dict[str, float]) -> None:
        if self._recorder is not None:
            self._recorder.event(Event(time=time.time(), step=step, validation=validation))


def _earlier_losses(job: Job, repo: Repository) -> list[float]:
    """The validation losses of the checkpoints before the one that a job goes on from, and of that."""
    if job.start is None:
        return []
    made = read_checkpoints(repo, job.run, job.source, job.start.commit)
    return [checkpoint.metrics["val_loss"] for checkpoint in made if "val_loss" in checkpoint.metrics]


def build_optimizer(network: nn.Module, recipe: TrainRecipe, device: torch.device) -> torch.optim.Optimizer:
    """The recipe's optimizer; matrices decay, biases do not."""
    matrices = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.beta1, recipe.beta2), fused=True)
