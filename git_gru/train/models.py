"""A model ready to run, from a commit alone: its architecture stands in the file's metadata, its weights in the store."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelName, read_model, resolve_commit
from git_gru.store.manifest import Manifest
from git_gru.train.architecture import Architecture, parse_architecture
from git_gru.train.tasks import Task, task_of
from git_gru.train.weights import check_fits, load


@dataclass(frozen=True, kw_only=True)
class RunnableModel:
    """A network with a commit's weights, in evaluation mode, and its task."""

    name: ModelName
    task: Task
    network: nn.Module


def known_architecture(repo: Repository, name: ModelName) -> Architecture:
    """What a model's file says of itself. Raises `ArchitectureError`."""
    manifest = read_model(repo, name)
    metadata = {} if manifest.is_raw else repo.store().header(manifest).metadata
    return parse_architecture(metadata, where=str(name))


def open_model(
    repo: Repository, name: ModelName, device: torch.device, data: Path | None = None
) -> RunnableModel:
    """Builds the network and loads its weights; `data` is the folder of prepared data, for a task that is the user's code.

    Raises `InputError` when the file is no model that this git-gru can run.
    """
    commit = resolve_commit(repo, name.rev)
    manifest = read_model(repo, ModelName(commit, name.path))
    store = repo.store()
    task = task_of(known_architecture(repo, ModelName(commit, name.path)), data)
    if data is None:
        _check_sizes(task, manifest, str(name))
    network = task.build()
    load(network, store, manifest, where=str(name))
    return RunnableModel(name=name, task=task, network=network.to(device).eval())


def _check_sizes(task: Task, manifest: Manifest, where: str) -> None:
    """Compares shapes before anything is allocated: metadata may claim any size."""
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in task.build().state_dict().items()}
    check_fits(shapes, manifest, where=where)
