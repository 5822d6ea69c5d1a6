"""The guard: notices that a run goes wrong, says what caused it, and brings it back to its last good checkpoint.

Every step leaves its loss and its gradients' norms in a small buffer on the device; nothing waits for them. Every
`guard.check_every` steps, and before each validation and checkpoint, `check` reads the buffer, the ranks exchange what
they saw (one small collective; it waits for a step in which they meet anyway), and all of them judge the same numbers by the
same rules, so all come to the same end:

    NaN or Inf in a loss, a gradient, a weight         →  `DivergedError` at once
    a loss or a gradient norm far off (`judging`)      →  `DivergedError` after `guard.patience` such steps on end

`recover` then does what the recipe says: it stops the run, or it puts back the state that `keep` copied after the last
checkpoint and leaves the batches out that were used since. Weights that are no numbers are never kept or committed.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from git_gru.errors import RunDivergedError
from git_gru.runs.incidents import MOST_SAMPLES, Course, Incident, finite
from git_gru.train.judging import Window
from git_gru.train.recipe import GuardRecipe
from git_gru.train.sharding import Indices
from git_gru.train.state import State
from git_gru.train.sync import SyncStrategy
from git_gru.train.world import World

ADVICE = "lower train.lr, or set train.clip"
EARLY_ADVICE = "nothing was trained yet, so look at the model that it starts from, the data and the loss"


class DivergedError(RunDivergedError):
    """Training went wrong; `incident` says how."""

    def __init__(self, incident: Incident) -> None:
        super().__init__(f"{incident.message}: {ADVICE if incident.step else EARLY_ADVICE}")
        self.incident = incident


class Guard:
    """One rank's guard. `tell` takes the incidents to write down; `samples(step, rank)` names what a step used; `apart` is the
    number of steps from one in which the ranks meet to the next.
    """

    def __init__(
        self,
        recipe: GuardRecipe,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        strategy: SyncStrategy,
        *,
        tell: Callable[[Incident], None],
        samples: Callable[[int, int | None], Indices],
        apart: int = 1,
    ) -> None:
        self.course = Course()
        self._strategy = strategy
        self._recipe, self._network, self._optimizer, self._world = recipe, network, optimizer, world
        self._tell, self._samples = tell, samples
        self._names, self._parameters = zip(*network.named_parameters(), strict=True)
        self._absent = torch.zeros(1, device=world.device)
        room = recipe.check_every + apart - 1
        self._losses = torch.zeros(room, device=world.device)
        self._norms = torch.zeros(room, len(self._names), device=world.device)
        self._steps: list[int] = []
        self._terms: list[int] = []
        self._usual_loss, self._usual_norm = Window(recipe.window), Window(recipe.window)
        self._suspect: Incident | None = None
        self._suspicious = 0
        self._good: State | None = None

    def gradient_norms(self) -> torch.Tensor:
        """The norm of each parameter's gradient, on the device: float32 [parameters]."""
        gradients = [self._absent if p.grad is None else p.grad for p in self._parameters]
        return torch.stack(list(torch._foreach_norm(gradients)))  # as clip_grad_norm_ computes them

    def saw(self, step: int, loss: torch.Tensor, terms: int, norms: torch.Tensor) -> None:
        """Notes a step: this rank's loss summed over its `terms`, and `gradient_norms` of before the clipping."""
        place = len(self._steps)
        self._losses[place] = loss
        self._norms[place] = norms
        self._steps.append(step)
        self._terms.append(terms)

    def due(self) -> bool:
        """Whether `check` must come at the next chance."""
        return len(self._steps) >= self._recipe.check_every

    def check(self) -> None:
        """Judges the steps since the last check. Raises `DivergedError`, the same one on every rank."""
        if not self._steps:
            return
        seen, broken = self._exchange()
        loss_usual, norm_usual = self._usual_loss.baseline(), self._usual_norm.baseline()
        for place, step in enumerate(self._steps):
            losses, terms, norms = seen[:, place].T.tolist()
            if (incident := self._unreal(place, step, losses, norms)) is not None:
                raise DivergedError(incident)
            loss, norm = sum(losses) / sum(terms), max(norms)
            kind = message = ""
            if loss_usual and self._recipe.spike and (z := loss_usual.z(loss)) > self._recipe.spike:
                kind = "spike"
                message = f"the loss rose to {loss:.4g} at step {step}, {z:.0f} deviations above {loss_usual.median:.4g}"
            elif norm_usual and 0 < self._recipe.explosion * norm_usual.median < norm:
                kind = "explosion"
                message = f"the gradient's norm rose to {norm:.4g} at step {step}, and {norm_usual.median:.4g} is usual"
            if not kind:
                self._went_by()
                self._usual_loss.add([loss])
                self._usual_norm.add([norm])
                continue
            self._suspect = self._suspect or self._incident(kind, place, step, message)
            self._suspicious += 1
            if self._suspicious >= self._recipe.patience:
                raise DivergedError(self._suspect)
        if broken:
            step = self._steps[-1]
            message = f"the weights {broken[0]} are not all numbers after step {step}"
            raise DivergedError(self._incident("weights", -1, step, message))
        self._forget()

    def is_sound(self) -> bool:
        """Whether the network's weights are all numbers on this rank; no collective."""
        return not bool(torch.stack([_broken(parameter) for parameter in self._parameters]).any())

    def diverged(self, step: int, loss: float) -> DivergedError:
        """The error for a validation loss that is no number."""
        return DivergedError(
            Incident(kind="validation", step=step, message=f"the validation loss is {loss} after step {step}")
        )

    def keep(self, step: int) -> None:
        """Copies the state after a good checkpoint, if the recipe wants to be able to come back to it."""
        if self._recipe.on_divergence == "rollback":
            self._good = State.capture(step, self._network, self._optimizer, self._strategy)

    def recover(self, error: DivergedError, step: int) -> int:
        """Brings everything back to the last good state and returns its step. `step` is the last one done.

        Raises `error` when the recipe says stop, or when there were `guard.most_rollbacks` already.
        """
        self._forget()
        self._suspect, self._suspicious = None, 0
        course, recipe = self.course, self._recipe
        if self._good is None or course.rollbacks >= recipe.most_rollbacks:
            self._tell(replace(error.incident, action="stop"))
            raise error
        state, back = self._good, self._good.step
        state.restore(self._network, self._optimizer, self._strategy)
        self._optimizer.zero_grad()
        self.course = Course(
            rollbacks=course.rollbacks + 1,
            skipped=course.skipped + step - back,
            lr_scale=course.lr_scale * recipe.lr_factor,
        )
        self._tell(
            replace(
                error.incident,
                action="rollback",
                back_to=back,
                skipped=self.course.skipped,
                lr_scale=self.course.lr_scale,
            )
        )
        return back

    def _exchange(self) -> tuple[torch.Tensor, list[str]]:
        """What all ranks saw: float64 [ranks, steps, (loss summed, terms, gradient norm)]; parameters that are no numbers."""
        count = len(self._steps)
        seen = torch.zeros(self._world.size, count, 3, dtype=torch.float64)
        mine = seen[self._world.rank]
        mine[:, 0] = self._losses[:count].double().cpu()
        mine[:, 1] = torch.tensor(self._terms, dtype=torch.float64)
        mine[:, 2] = torch.linalg.vector_norm(self._norms[:count].double(), dim=1).cpu()
        broken = torch.stack([_broken(parameter) for parameter in self._parameters]).double().cpu()
        self._world.add_up(seen)
        self._world.add_up(broken)
        return seen, [name for name, bad in zip(self._names, broken.tolist(), strict=True) if bad]

    def _unreal(self, place: int, step: int, losses: list[float], norms: list[float]) -> Incident | None:
        """The incident of a step whose loss or gradients are no numbers; a loss tells the rank, gradients are summed."""
        for rank, loss in enumerate(losses):
            if not math.isfinite(loss):
                who = f" on worker {rank}" if self._world.size > 1 else ""
                return self._incident(
                    "loss", place, step, f"the loss is {loss} at step {step}{who}", rank=rank
                )
        if all(math.isfinite(norm) for norm in norms):
            return None
        return self._incident("gradients", place, step, f"the gradients are not all numbers at step {step}")

    def _incident(
        self, kind: str, place: int, step: int, message: str, *, rank: int | None = None
    ) -> Incident:
        norms = self._norms[: len(self._steps)][place].tolist()
        return Incident(
            kind=kind,
            step=step,
            message=message,
            rank=rank,
            samples=tuple(self._samples(step, rank)[:MOST_SAMPLES].tolist()),
            gradient_norms={name: finite(norm) for name, norm in zip(self._names, norms, strict=True)},
        )

    def _went_by(self) -> None:
        """A suspicious loss or norm that is usual again is worth a line, no more."""
        if self._suspect is not None:
            self._tell(replace(self._suspect, action="none", message=f"{self._suspect.message}; it went by"))
        self._suspect, self._suspicious = None, 0

    def _forget(self) -> None:
        """Empties the buffer."""
        self._steps.clear()
        self._terms.clear()


def _broken(weights: torch.Tensor) -> torch.Tensor:
    """Whether not all of the weights are numbers: bool [], on their device.

    By minimum and maximum, which a NaN or an infinity comes through: on a CPU they take a twentieth of the time of the
    infinity norm, and nothing overflows in them as it may in the other norms.
    """
    return ~torch.stack(torch.aminmax(weights.detach())).isfinite().all()
