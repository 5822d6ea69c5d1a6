"""What node 0 tells a node that joins a run, and what that makes of it. Free of torch.

A node needs a clone of the repository and nothing else: which commit to train, and by which recipe, node 0 says. What the user
says on that node's own command line is compared with it, but for the section `launch` of the recipe, which is each node's own.
"""

import dataclasses
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import git_gru
from git_gru.errors import InputError
from git_gru.git.commits_elsewhere import bring_commit, is_full_id
from git_gru.git.repository import Repository
from git_gru.git.revisions import UnbornBranchError, UnknownRevisionError, resolve_commit
from git_gru.train.architecture import Architecture, check_recipe, metadata_of, parse_architecture
from git_gru.train.corpus import prepare
from git_gru.train.devices import device_kind
from git_gru.train.job import Job, Start, data_folder
from git_gru.train.line import Message
from git_gru.train.nodes import Generation, JoinError, Nodes
from git_gru.train.plan import Plan, read_recipe
from git_gru.train.recipe import Recipe
from git_gru.train.recipe_file import DEFAULT_PATH, recipe_of, tables_of
from git_gru.train.recipe_sync import SyncRecipe
from git_gru.train.section import RecipeError

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


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A run as a welcome tells of it, checked. What the values mean: `welcome_of`.

    A stranger may have said it: each value goes on to git, into paths and command lines as it is.
    """

    run: str
    commit: str
    ref: str
    parent_model: str | None
    recipe: Recipe
    recipe_path: str
    overrides: tuple[str, ...]
    architecture: Architecture
    device: str
    lost_after: float


def offer_in(welcome: Message, who: str) -> Offer:
    """What a welcome offers, once it is known to come from the same versions as here. `who` is how people know this node.

    Raises `DisagreementError` for other versions, `JoinError` for what no node 0 says, and what is wrong with the recipe.
    """
    theirs = welcome.get("versions")
    _compare("version of ", versions(), theirs if isinstance(theirs, dict) else {"git-gru": "unknown"}, who)
    for name, is_valid in _VALID.items():
        if not is_valid(welcome.get(name)):
            raise no_node_0(f"the {name} {welcome.get(name)!r:.80}")
    recipe = recipe_of(welcome["recipe"], where="node 0's recipe")
    architecture = parse_architecture(welcome["architecture"], where="node 0's model")
    check_recipe(recipe.model, architecture, where="node 0's model")
    fields = {field.name: welcome[field.name] for field in dataclasses.fields(Offer)}
    fields |= {"overrides": tuple(welcome["overrides"]), "recipe": recipe, "architecture": architecture}
    return Offer(**fields)


def generation_in(told: Message, nodes: Nodes, number: int) -> Generation:
    """This node's part, as node `number`, in the generation that it is told to begin. Raises `JoinError`."""
    names = ("index", "rank", "count", "port")
    is_whole = all(_is_whole(told.get(name)) for name in names)
    if not (is_whole and told["rank"] < told["count"] and told["port"] < 1 << 16):
        raise no_node_0(f"a generation {[told.get(name) for name in names]!r:.80}")
    return Generation(
        index=told["index"], node=number, rank=told["rank"], count=told["count"],
        host=nodes.host, port=told["port"], address=nodes.address,
    )  # fmt: skip


def beginning_in(told: Message) -> tuple[Start | None, int | None]:
    """The checkpoint and the round's end that a generation goes on from, if any. Raises `JoinError`."""
    start, round_end = told.get("start"), told.get("round_end")
    if not (round_end is None or _is_whole(round_end)):
        raise no_node_0(f"the end of a round {round_end!r:.80}")
    if start is None:
        return None, round_end
    if not isinstance(start, dict) or not (
        _is_whole(start.get("step")) and _is_id(start.get("commit")) and _is_id(start.get("state"))
    ):
        raise no_node_0(f"a checkpoint {start!r:.80}")
    return Start(step=start["step"], commit=start["commit"], state=start["state"]), round_end


def no_node_0(what: str) -> JoinError:
    """For `what` no node 0 says."""
    return JoinError(
        f"what answers at the endpoint says what no node 0 does: {what}",
        hint="See what listens there, and that --rdzv-endpoint is the same on all nodes.",
    )


def problem_here(repo: Repository, joining: Joining) -> str | None:
    """What is wrong with the command line of a node that joins, by the recipe of this clone; None where nothing is, or its clone
    has none. Another commit's recipe may make it right: node 0 says which is trained.

    Raises `RecipeError` where that cannot be: the command line names the commit, or strategy and compressor.
    """
    own = tables_of(joining.overrides).get(SyncRecipe.name, {})
    if own.keys() >= {"strategy", "compress"}:
        SyncRecipe(strategy=own["strategy"], compress=own["compress"])
    commit, path = _known_commit(repo, joining.commit or "HEAD"), joining.recipe_path or DEFAULT_PATH
    if commit is None or repo.completed("cat-file", "-e", f"{commit}:{path}").returncode != 0:
        return None
    try:
        read_recipe(repo, commit, path, joining.overrides)
    except RecipeError as error:
        if joining.commit is not None:
            raise
        return str(error)
    return None


def job_told(repo: Repository, joining: Joining, offer: Offer, who: str, folder: Path) -> Job:
    """Brings the commit and prepares the data of an offer; the run as this node's workers see it.

    `who` is how people know this node. Raises `DisagreementError` and `CommitElsewhereError`, and what reading the commit raises.
    """
    commit, theirs = offer.commit, offer.recipe
    if (asked := _known_commit(repo, joining.commit)) is not None:  # before another one is fetched
        _compare("", {"commit": asked}, {"commit": commit}, who)
    bring_commit(repo, commit)
    if joining.commit is not None:
        _compare("", {"commit": resolve_commit(repo, joining.commit)}, {"commit": commit}, who)
    path = joining.recipe_path or offer.recipe_path
    mine = read_recipe(repo, commit, path, (*offer.overrides, *joining.overrides))
    _compare("key ", _keys(mine), _keys(theirs), who)
    device = device_kind(mine.launch.device)
    _compare("kind of ", {"device (launch.device)": device}, {"device (launch.device)": offer.device}, who)
    prepare(repo, commit, theirs.data, data_folder(folder), offer.architecture)
    return Job(
        run=offer.run,
        folder=folder,
        repository=repo.top,
        source=commit,
        ref=offer.ref,
        parent_model=offer.parent_model,
        recipe=replace(theirs, launch=mine.launch),
        architecture=offer.architecture,
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_override(value: object) -> bool:
    """Of the recipe, but for what each node says for itself."""
    return isinstance(value, str) and not value.lstrip().startswith(f"{_OWN}.")


def _is_id(value: object) -> bool:
    return isinstance(value, str) and is_full_id(value)


def _is_whole(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 63


_VALID: dict[str, Callable[[Any], bool]] = {
    "run": lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-z-]{1,64}", value) is not None,
    "commit": _is_id,
    "ref": _is_text,
    "parent_model": lambda value: value is None or _is_text(value),
    "recipe": lambda value: isinstance(value, dict),
    "recipe_path": _is_text,
    "overrides": lambda value: isinstance(value, list) and all(map(_is_override, value)),
    "architecture": lambda value: isinstance(value, dict),
    "device": _is_text,
    "lost_after": lambda value: type(value) in (int, float) and 0 < value < threading.TIMEOUT_MAX,
    "number": _is_whole,
}
"""By field of a welcome: whether a value of it can be. (A run's id names folders.)"""


def _known_commit(repo: Repository, said: str | None) -> str | None:
    """The full id of the commit that was said on this node, where it can be told before that is fetched."""
    if said is None or is_full_id(said):
        return said
    try:
        return resolve_commit(repo, said)
    except (UnknownRevisionError, UnbornBranchError):
        return None


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
