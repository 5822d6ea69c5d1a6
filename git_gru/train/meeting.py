"""Where the round of a site ends: its workers go on from what the sites have learnt together (`git_gru.train.sites`)."""

import time

from torch import nn

from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at
from git_gru.runs.metrics import Event
from git_gru.train.job import Job
from git_gru.train.recorder import Recorder
from git_gru.train.sites import SiteLink
from git_gru.train.sync.wire import Wire
from git_gru.train.weights import load
from git_gru.train.world import World


class Meetings:
    """One rank's part in them. Rank 0 has the recorder, and talks to the host; the others get the weights from it."""

    def __init__(
        self, job: Job, world: World, network: nn.Module, repo: Repository, recorder: Recorder | None
    ) -> None:
        self._world, self._network, self._repo, self._recorder = world, network, repo, recorder
        self._wire, self._path, self._every = Wire(world), job.recipe.model.path, job.recipe.sync.every
        self._end = job.recipe.train.steps
        self._link: SiteLink | None = None
        if recorder is not None:
            assert job.push is not None  # `begin_site` sees to it
            self._link = SiteLink(
                repo, remote=job.push, path=self._path, sync=job.recipe.sync, stop=job.stop.exists
            )

    def due(self, step: int) -> bool:
        """Whether a round ends after `step`."""
        return step % self._every == 0 or step == self._end

    def meet(self, step: int) -> bool:
        """Where a round ends after `step`, brings its checkpoint to the other sites and merges what they have; whether the
        weights are others now.
        """
        if not self.due(step):
            return False
        merged = self._world.any(self._merged(step))
        if merged:
            self._wire.share([*self._network.parameters(), *self._network.buffers()])
        return merged

    def _merged(self, step: int) -> bool:
        """On rank 0: does it all, and loads the merge."""
        if self._recorder is None or self._link is None:
            return False
        commit = self._recorder.settle()
        if commit is None:
            return False
        met = self._link.meet(commit)
        messages = [met.message] if met.message else []
        if met.commit != commit:
            model = models_at(self._repo, met.commit)[self._path]
            load(self._network, self._repo.store(), model, where=f"{met.commit}:{self._path}")
            self._recorder.go_on_from(met.commit, met.round)
            if step == self._end:
                self._recorder.end_at(met.commit)
                messages += filter(None, [self._link.push(met.commit)])
        self._recorder.event(
            Event(
                time=time.time(),
                step=step,
                round=met.round,
                sites=met.sites,
                message="; ".join(messages) or None,
            )
        )
        return met.commit != commit
