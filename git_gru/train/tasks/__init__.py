"""Tasks: what a network learns to do. One file a task, one Protocol (`tasks.task`); the engine knows nothing else of them."""

from pathlib import Path

from git_gru.errors import InputError
from git_gru.train.architecture import Architecture
from git_gru.train.tasks.classifier import ClassifierTask
from git_gru.train.tasks.entrypoint import EntrypointTask
from git_gru.train.tasks.forecaster import ForecasterTask
from git_gru.train.tasks.language_model import LanguageModelTask
from git_gru.train.tasks.task import Batch, Samples, Task, moved

__all__ = ["TASKS", "Batch", "Samples", "Task", "moved", "task_of"]

TASKS: dict[tuple[str, str], type[Task]] = {
    ("gru", "language-model"): LanguageModelTask,
    ("gru", "forecaster"): ForecasterTask,
    ("gru", "classifier"): ClassifierTask,
}


def task_of(architecture: Architecture, data: Path | None = None) -> Task:
    """The task that an architecture names; `data` is the folder of prepared data, where the user's own code stands.

    Raises `InputError` when this git-gru does not know the task, or has no folder to import it from.
    """
    key = (architecture["kind"], architecture["task"])
    if key == ("entrypoint", "entrypoint"):
        if data is None:
            raise InputError(
                "the model's task is code in its commit, which is run by git gru train and eval alone"
            )
        return EntrypointTask(architecture, data)
    if key not in TASKS:
        raise InputError(
            f"this git-gru knows no network {key[0]!r} for the task {key[1]!r}", hint="Upgrade git-gru."
        )
    return TASKS[key](architecture)  # type: ignore[call-arg]
