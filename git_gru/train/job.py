"""What the launcher hands to the workers: one JSON file in the run's folder. Free of torch.

The run's folder is `<common dir>/gru/runs/<id>/`; it holds the job, the prepared data, the event log, the workers' logs
and signs of life, and, when the user has asked to stop, a file `stop`. It goes away when the run is over; after a failure
it stays.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from git_gru.git.run_folders import AGENT_LOG, STOP
from git_gru.train.architecture import Architecture
from git_gru.train.nodes import Generation
from git_gru.train.recipe import Recipe
from git_gru.train.recipe_file import recipe_of

JOB_FILE = "job.json"


def data_folder(run: Path) -> Path:
    """Where the prepared data stands in a run's folder."""
    return run / "data"


@dataclass(frozen=True, kw_only=True)
class Start:
    """The checkpoint that a run goes on from: the commit made after `step`, and the id of the blob that is the manifest of its
    resume state.
    """

    step: int
    commit: str
    state: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run, as its workers see it. `folder` and `repository` are absolute; `source` is the full id of a commit.

    `parent_model` is the digest of the model in the source commit, None when there is none: training then starts from
    seeded weights. `ref` is the full name of the branch that checkpoints go to. `architecture` is the network of recipe and data.
    `start` is None for a run from the beginning; one with `until` ends after that step, as if it had been asked to stop there.
    `generation` is how the machines of a run that has several have come together, None for one machine alone. `push` is the
    remote that it is pushed to, if any; `round` the rounds of sites that the commit it starts or goes on from has behind it.

    With `keeps_rounds` rank 0 writes round snapshots (`git_gru.train.round_snapshots`) into the run's folder. Where workers go on
    from one that is newer than the checkpoint `start`, `round_end` is its step.
    """

    run: str
    folder: Path
    repository: Path
    source: str
    ref: str
    parent_model: str | None
    recipe: Recipe
    architecture: Architecture
    start: Start | None = None
    until: int | None = None
    generation: Generation | None = None
    push: str | None = None
    round: int = 0
    keeps_rounds: bool = False
    round_end: int | None = None

    @property
    def done(self) -> int:
        """The step after which the workers begin."""
        if self.round_end is not None:
            return self.round_end
        return self.start.step if self.start else 0

    @property
    def data(self) -> Path:
        """The folder of the prepared data."""
        return data_folder(self.folder)

    @property
    def events(self) -> Path:
        """The run's event log (`git_gru.runs.metrics`)."""
        return self.folder / "metrics.jsonl"

    @property
    def stop(self) -> Path:
        """The file whose being there asks the workers to stop after the current step."""
        return self.folder / STOP

    @property
    def pause(self) -> Path:
        """The file by which the launcher asks the same, when other nodes than now are to go on."""
        return self.folder / "pause"

    @property
    def is_asked_to_end(self) -> bool:
        """Whether the workers are to leave after the current step, for good or to come together anew."""
        return self.stop.exists() or self.pause.exists()

    @property
    def heartbeats(self) -> Path:
        """The folder of the workers' signs of life (`git_gru.train.heartbeat`)."""
        return self.folder / "heartbeats"

    @property
    def failures(self) -> Path:
        """Where the agent writes which workers failed, and how."""
        return self.folder / "failures.json"

    @property
    def logs(self) -> Path:
        """The folder of what workers print."""
        return self.folder / "logs"

    @property
    def agent_log(self) -> Path:
        """What the agent prints."""
        return self.folder / AGENT_LOG

    def write(self) -> Path:
        """Writes the job into its folder; returns the file."""
        fields = asdict(self) | {
            "folder": str(self.folder),
            "repository": str(self.repository),
            "recipe": self.recipe.as_json(),
        }
        path = self.folder / JOB_FILE
        path.write_text(json.dumps(fields, indent=1))
        return path

    @classmethod
    def read(cls, path: Path) -> "Job":
        """The job in a file that `write` has written."""
        fields = json.loads(path.read_text())
        fields["folder"], fields["repository"] = Path(fields["folder"]), Path(fields["repository"])
        start = None if fields["start"] is None else Start(**fields["start"])
        generation = None if fields["generation"] is None else Generation(**fields["generation"])
        return cls(
            **fields | {"recipe": recipe_of(fields["recipe"]), "start": start, "generation": generation}
        )
