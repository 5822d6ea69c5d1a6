"""Following a run as it goes: its events from the run's own folder on this machine, or else what its record's ref holds.

The ref of a run on another machine moves with `git gru runs fetch`; nothing here fetches, writes, or touches the run.
"""

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.run_refs import METRICS_FILE, find_run, read_events, read_record, record_ref, run_ids
from git_gru.runs.metrics import Event, EventFollower
from git_gru.runs.record import RunRecord, RunState


class NoRunError(InputError):
    """There is no run to watch."""


class RunFollower:
    """Reads one run again and again."""

    def __init__(self, repo: Repository, run: str) -> None:
        self.run = run
        self._repo = repo
        self._file = EventFollower(repo.gru_dir / "runs" / run / METRICS_FILE)
        self._live: list[Event] = []
        self._recorded: list[Event] = []
        self._seen = ""

    def poll(self) -> tuple[RunRecord, list[Event]]:
        """The record and all events as they are now. Raises `UnknownRunError` when the run was removed."""
        commit = self._repo.git(
            "rev-parse", "--verify", "--quiet", record_ref(self.run), check=False
        ).decode()
        new = self._file.poll()
        self._live = new if self._file.is_cut else [*self._live, *new]
        record = read_record(self._repo, self.run)
        if commit != self._seen:
            self._seen, self._recorded = commit, read_events(self._repo, self.run)
        # The folder's log is ahead of the record's; of a run elsewhere, or one that is over, there is only the latter
        return record, max(self._live, self._recorded, key=len)


def choose_run(repo: Repository, name: str | None) -> str:
    """The run that `name` stands for; without a name the newest that runs, or else the newest. Raises `NoRunError`."""
    if name is not None:
        return find_run(repo, name)
    runs = run_ids(repo)
    if not runs:
        raise NoRunError("there is no run here to watch", hint="Start one: git gru train")
    running = [run for run in runs if read_record(repo, run).state is RunState.RUNNING]
    return (running or runs)[-1]
