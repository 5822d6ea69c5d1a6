"""What node 0 tells a node that joins a run, and what that makes of it. Free of torch.

A node needs a clone of the repository and nothing else: which commit to train, and by which recipe, node 0 says. What the user
says on that node's own command line is compared with it, but for the section `launch` of the recipe, which is each node's own.
"""

import json
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import git_gru
from git_gru.errors import InputError
from git_gru.git.commits_elsewhere import bring_commit
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.train.architecture import metadata_of, parse_architecture
from git_gru.train.corpus import prepare
from git_gru.train.devices import device_kind
from git_gru.train.job import Job, data_folder
from git_gru.train.line import Message
from git_gru.train.nodes import Nodes
from git_gru.train.plan import Plan, read_recipe
from git_gru.train.recipe import Recipe
from git_gru.train.recipe_file import recipe_of

_OWN = "launch"


class DisagreementError(InputError):
    """A node or worker trains something else than the others, or by other means."""


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What was said on the command line of a node that joins a run; `commit` and `recipe_path` are None where nothing was."""

    nodes: Nodes
    commit: str | None = None
    recipe_path: str | None = None
    overrides: tuple[str, ...] = ()


def versions() -> dict[str, str]:
    """What must be the same on all nodes."""
    return {"git-gru": git_gru.__version__, "torch": metadata.version("torch")}


def welcome_of(plan: Plan, job: Job) -> Message:
    """The welcome of a run, but for the node's number."""
    return {
        "run": job.run,
        "commit": job.source,
        "ref": job.ref,
        "parent_model": job.parent_model,
        "recipe": job.recipe.as_json(),
        "recipe_path": plan.recipe_path,
        "overrides": [one for one in plan.overrides if not one.startswith(f"{_OWN}.")],
        "architecture": metadata_of(job.architecture),
        "versions": versions(),
        "device": device_kind(job.recipe.launch.device),
        "lost_after": job.recipe.launch.lost_after,
    }


def job_told(repo: Repository, joining: Joining, welcome: Message, who: str, folder: Path) -> Job:
    """Brings the commit and prepares the data that a welcome names; the run as this node's workers see it.

    `who` is how people know this node. Raises `DisagreementError` and `CommitElsewhereError`, and what reading the commit raises.
    """
    _compare("version of ", versions(), welcome["versions"], who)
    commit = str(welcome["commit"])
    bring_commit(repo, commit)
    if joining.commit is not None:
        _compare("", {"commit": resolve_commit(repo, joining.commit)}, {"commit": commit}, who)
    theirs = recipe_of(welcome["recipe"], where="node 0's recipe")
    path = joining.recipe_path or str(welcome["recipe_path"])
    mine = read_recipe(repo, commit, path, (*map(str, welcome["overrides"]), *joining.overrides))
    _compare("key ", _keys(mine), _keys(theirs), who)
    device = device_kind(mine.launch.device)
    _compare(
        "kind of ", {"device (launch.device)": device}, {"device (launch.device)": welcome["device"]}, who
    )
    architecture = parse_architecture(welcome["architecture"], where="node 0's model")
    prepare(repo, commit, theirs.data, data_folder(folder), architecture)
    return Job(
        run=str(welcome["run"]),
        folder=folder,
        repository=repo.top,
        source=commit,
        ref=str(welcome["ref"]),
        parent_model=welcome["parent_model"],
        recipe=replace(theirs, launch=mine.launch),
        architecture=architecture,
    )


def _keys(recipe: Recipe) -> dict[str, str]:
    return {
        f"{section}.{key}": json.dumps(value)
        for section, keys in recipe.as_json().items()
        if section != _OWN
        for key, value in keys.items()
    }


def _compare(kind: str, mine: dict[str, Any], theirs: dict[str, Any], who: str) -> None:
    for name, value in theirs.items():
        if mine.get(name) != value:
            raise DisagreementError(
                f"the {kind}{name} on {who} is {mine.get(name)}, and on node 0 {value}",
                hint="All nodes must train the same commit by the same recipe, with the same versions, on the same kind of "
                "device. COMMIT, --recipe and --set may be left out on the nodes other than 0: they take them from there.",
            )
