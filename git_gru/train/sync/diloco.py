"""DiLoCo (arXiv 2311.08105): the change of a round's weights is a gradient for an outer optimizer.

    anchor     the weights that all ranks agreed on last; it and the outer momentum are the same on every rank
    Δ          the mean over the ranks of anchor − weights: the outer gradient, sent in full, in float16 or in int8
    outer step momentum ← μ · momentum + Δ,   anchor ← anchor − η · (Δ + μ · momentum)   (SGD with Nesterov's momentum)

Then each rank goes on from the anchor. A run's last outer step is without momentum (anchor ← anchor − η · Δ): that takes the
weights ahead of what the ranks have found, and no round comes that would bring them back.

Streaming (arXiv 2501.18512): the weights are cut into `sync.fragments` parts, of which one at a time is exchanged, evenly over
the round, so that the network is used all the time instead of in bursts. With `sync.overlap` = τ the ranks take τ steps while a
part is on its way, and then go on half-way between their own weights and the anchor (the paper's α = 1/2); without it they
wait, and go on from the anchor.

Which part goes out after which step, and when it must be back, follows from the step's number: so the weights do not depend on
how fast the network is.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

import torch
from torch import nn

from git_gru.train.recipe import SyncRecipe, TrainRecipe
from git_gru.train.sync.local import LocalSteps, Tally
from git_gru.train.sync.means import ExactMean, HalfMean, Int8Mean, Mean
from git_gru.train.sync.strategy import SyncState
from git_gru.train.sync.wire import Wire
from git_gru.train.world import World

KEPT_OF_OWN = 0.5
"""α: the part of its own weights that a rank keeps which did not wait."""


class Fragment:
    """The weights from `start` to `end`: they go out after the local step `first`, and a round later again, and so on."""

    def __init__(self, *, start: int, end: int, first: int, mean: Mean) -> None:
        self.start, self.end, self.first, self.mean = start, end, first, mean
        self.tally = Tally()
        self.coming: Future[torch.Tensor] | None = None

    @property
    def range(self) -> slice:
        """Where it stands in the vector of all weights."""
        return slice(self.start, self.end)


class DiLoCo(LocalSteps):
    """With rounds of one step, η = 1 and μ = 0, what `LocalSgd` does."""

    def __init__(self, recipe: SyncRecipe, train: TrainRecipe, network: nn.Module, world: World) -> None:
        super().__init__(recipe, train, network, world)
        self._local_steps = train.steps - recipe.warmup
        self._outer = Wire(world)
        self._anchor = self._flat.weights()
        self._momentum = torch.zeros_like(self._anchor)
        self._fragments = self._cut()

    def bytes_sent(self) -> int:
        """Of the warm-up and of the outer gradients."""
        return super().bytes_sent() + self._outer.sent

    def seconds_waited(self) -> float:
        """In the warm-up, and for outer gradients that were not there in time."""
        return super().seconds_waited() + (0.0 if self._recipe.overlap else self._outer.waited)

    def state(self) -> SyncState:
        """Beside `LocalSteps.state`: anchor, momentum, what has come and is not yet due, what the compressor owes."""
        self._settle()
        base = super().state()
        shared = {"anchor": self._anchor, "momentum": self._momentum}
        own = {**base.own}
        for number, fragment in enumerate(self._fragments):
            own[f"{number}.tally"] = fragment.tally.tensor()
            own |= {f"{number}.{name}": tensor for name, tensor in fragment.mean.own.items()}
            if fragment.coming is not None:
                shared[f"{number}.coming"] = fragment.coming.result()
        return SyncState(shared=shared, own=own)

    def restore(self, step: int, state: SyncState) -> None:
        """See `SyncStrategy`."""
        self._settle()
        super().restore(step, state)
        self._anchor.copy_(state.shared["anchor"])
        self._momentum.copy_(state.shared["momentum"])
        for number, fragment in enumerate(self._fragments):
            fragment.tally.put(state.own[f"{number}.tally"])
            for name, tensor in fragment.mean.own.items():
                tensor.copy_(state.own[f"{number}.{name}"])
            coming = state.shared.get(f"{number}.coming")
            fragment.coming = None if coming is None else _done(coming.to(self._anchor.device, copy=True))

    @contextmanager
    def agreed(self) -> Iterator[Mapping[str, torch.Tensor]]:
        """The anchor and its momentum. A part that is under way is not in them: its rank's steps are a round's more to lose."""
        own = self._flat.weights()
        self._flat.put_weights(self._anchor)
        try:
            yield {"anchor": self._anchor, "momentum": self._momentum}
        finally:
            self._flat.put_weights(own)

    def _begin(self) -> None:
        self._anchor.copy_(self._flat.weights())

    def _local_step(self, number: int, local: int, whole: int) -> None:
        every, overlap = self._recipe.every, self._recipe.overlap
        for fragment in self._fragments:
            fragment.tally.add(local, whole)
        # what comes back before what goes out: two exchanges at once could come to be in another order on another rank
        for fragment in self._fragments:
            if overlap and fragment.coming is not None and (number - fragment.first) % every == overlap:
                self._receive(fragment, number - overlap)
        for fragment in self._fragments:
            if (number - fragment.first) % every == 0:
                self._send(fragment)
                if not overlap:
                    self._receive(fragment, number)

    def _cut(self) -> list[Fragment]:
        """Equal parts; the first is exchanged at the end of a round, the others before it."""
        every, length = self._recipe.every, self._flat.length
        count = min(self._recipe.fragments, length)
        ends = [length * number // count for number in range(count + 1)]
        return [
            Fragment(
                start=ends[number], end=ends[number + 1], first=every * (number or count) // count,
                mean=self._mean(self._anchor[ends[number] : ends[number + 1]]),
            )
            for number in range(count)
        ]  # fmt: skip

    def _mean(self, like: torch.Tensor) -> Mean:
        if self._wire.size == 1 or self._recipe.compress == "none":
            return ExactMean(self._outer)
        return HalfMean(self._outer) if self._recipe.compress == "fp16" else Int8Mean(self._outer, like)

    def _send(self, fragment: Fragment) -> None:
        change = self._anchor[fragment.range] - self._flat.weights(fragment.start, fragment.end)
        share = fragment.tally.share
        fragment.tally.clear()
        if self._recipe.overlap:
            fragment.coming = _beside(lambda: fragment.mean.mean(change, share))
        else:
            fragment.coming = _done(fragment.mean.mean(change, share))

    def _receive(self, fragment: Fragment, sent: int) -> None:
        """The outer step of a fragment that went out after the local step `sent`."""
        assert fragment.coming is not None
        self._await(fragment)
        gradient, fragment.coming = fragment.coming.result(), None
        anchor, momentum = self._anchor[fragment.range], self._momentum[fragment.range]
        is_last = sent + self._recipe.every > self._local_steps
        decay = 0.0 if is_last else self._recipe.outer_momentum
        momentum.mul_(decay).add_(gradient)
        anchor -= self._recipe.outer_lr * (gradient + decay * momentum)
        if not self._recipe.overlap:
            self._flat.put_weights(anchor, fragment.start)
            if len(self._fragments) == 1:
                self._apart.clear()
            return
        own = self._flat.weights(fragment.start, fragment.end)
        self._flat.put_weights(torch.lerp(anchor, own, KEPT_OF_OWN), fragment.start)

    def _settle(self) -> None:
        for fragment in self._fragments:
            self._await(fragment)

    def _await(self, fragment: Fragment) -> None:
        if fragment.coming is not None and not fragment.coming.done():
            with self._wire.waiting():
                fragment.coming.result()


def _done(tensor: torch.Tensor) -> Future[torch.Tensor]:
    future: Future[torch.Tensor] = Future()
    future.set_result(tensor)
    return future


def _beside(work: Callable[[], torch.Tensor]) -> Future[torch.Tensor]:
    """Does `work` in a thread of its own, which does not hold up the end of the process when other ranks are gone."""
    future: Future[torch.Tensor] = Future()

    def run() -> None:
        try:
            with torch.no_grad():
                future.set_result(work())
        except BaseException as error:  # raised where training waits for it
            future.set_exception(error)

    threading.Thread(target=run, name="git-gru-outer-gradient", daemon=True).start()
    return future
