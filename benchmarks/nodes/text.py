"""A project with a byte-level GRU and real text, and runs of the engine in it by forked workers, as `git gru train` has them.

The text is that of the demo: the running Python's own standard library, a tenth of its modules kept for validation.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.nodes.network import Node
from benchmarks.nodes.ranks import fork_ranks
from benchmarks.peers import Repository
from git_gru.git.repository import Repository as GruRepository
from git_gru.runs.metrics import Event, parse_events
from git_gru.train import worker
from git_gru.train.demo import write_files
from git_gru.train.launch import job_of
from git_gru.train.plan import Request, make_plan

RECIPE = """\
[model]
embedding = {embedding}
hidden = {hidden}
layers = {layers}

[data]
files = ["data/a/*.py", "data/b/*.py"]
validation_files = ["data/validation/*.py"]
window = {window}

[train]
batch = {batch}
checkpoint_every = 1000000
eval_every = 0

[launch]
device = "cpu"
threads = 1
"""


@dataclass(frozen=True)
class Model:
    """A network and its batches: `batch` samples of `window` bytes, over all workers together."""

    embedding: int
    hidden: int
    layers: int
    window: int
    batch: int

    @property
    def weights(self) -> int:
        inputs = [self.embedding, *[self.hidden] * (self.layers - 1)]
        gates = sum(3 * self.hidden * (size + self.hidden + 2) for size in inputs)
        return 256 * self.embedding + gates + 256 * (self.hidden + 1)

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch * self.window

    def __str__(self) -> str:
        size = f"{self.weights / 1e6:.1f} M" if self.weights > 1e6 else f"{self.weights / 1e3:.0f} k"
        layers = "layer" if self.layers == 1 else "layers"
        return f"{size} weights ({self.layers} {layers}, hidden {self.hidden}), {self.batch} × {self.window} bytes a step"


class Training:
    """A repository whose recipe trains `model`; runs in it leave nothing behind."""

    def __init__(self, folder: Path, model: Model, validation_bytes: int = 64_000) -> None:
        self.model = model
        self.repository = Repository("git-gru", folder).begin()
        write_files(folder)
        kept = folder / "data" / "validation"
        text = b"".join(path.read_bytes() for path in sorted(kept.iterdir()))
        shutil.rmtree(kept)
        kept.mkdir()
        (kept / "text.py").write_bytes(text[:validation_bytes])
        (folder / "gru.toml").write_text(RECIPE.format(**vars(model)))
        self.repository.git("config", "gru.autoMaintenance", "false")
        self.repository.git("config", "user.name", "bench")
        self.repository.git("config", "user.email", "bench@localhost")
        self.repository.git("add", "--all")
        self.repository.git("commit", "--quiet", "--message=a recipe and its data")

    def run(
        self,
        settings: Mapping[str, object],
        workers: int,
        nodes: Sequence[Node] | None = None,
        prepare: Callable[[int], None] | None = None,
    ) -> list[Event]:
        """Trains by the recipe with `settings` (`section.key` → value); the run's events. The rest as for `fork_ranks`."""
        overrides = tuple(f"{key}={value}" for key, value in settings.items())
        repo = GruRepository.find(self.repository.folder)
        plan = make_plan(repo, Request(overrides=overrides))
        job = job_of(repo, plan)
        try:
            file = job.write()

            def work(rank: int, count: int) -> None:
                worker.train(file)

            fork_ranks(workers, work, nodes, prepare=prepare)
            return parse_events(job.events.read_bytes())
        finally:
            shutil.rmtree(job.folder)
            for ref in (plan.ref, f"refs/gru/runs/{plan.run}/resume"):
                self.repository.git("update-ref", "-d", ref)

    def loss(self, settings: Mapping[str, object], workers: int) -> float:
        """The validation loss at the end, in nats a byte."""
        (last,) = [e.validation["val_loss"] for e in self.run(settings, workers) if e.validation][-1:]
        return last
