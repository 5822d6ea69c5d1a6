"""Tasks: what a network learns to do. One file a task, one Protocol (`tasks.task`); the engine knows nothing else of them."""

from git_gru.errors import InputError
from git_gru.train.architecture import Architecture
from git_gru.train.tasks.classifier import ClassifierTask
from git_gru.train.tasks.forecaster import ForecasterTask
from git_gru.train.tasks.language_model import LanguageModelTask
from git_gru.train.tasks.task import Batch, Samples, Task, moved

__all__ = ["TASKS", "Batch", "Samples", "Task", "moved", "task_of"]

TASKS: dict[tuple[str, str], type[Task]] = {
    ("gru", "language-model"): LanguageModelTask,
    ("gru", "forecaster"): ForecasterTask,
    ("gru", "classifier"): ClassifierTask,
}


def task_of(architecture: Architecture) -> Task:
    """The task that an architecture names. Raises `InputError` when this git-gru does not know it."""
    key = (architecture["kind"], architecture["task"])
    if key not in TASKS:
        raise InputError(
            f"this git-gru knows no network {key[0]!r} for the task {key[1]!r}", hint="Upgrade git-gru."
        )
    return TASKS[key](architecture)  # type: ignore[call-arg]
