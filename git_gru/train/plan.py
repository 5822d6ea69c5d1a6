"""Everything that is checked before a run starts: the commit, the worktree, the recipe, the branch, the model.

Free of torch, so that a mistake is told at once. Nothing is written but, for an unclean worktree that the user allows, its
snapshot.
"""

import importlib.util
from dataclasses import dataclass

from git_gru.errors import InputError, MachineError
from git_gru.git.repository import Repository
from git_gru.git.revisions import models_at, resolve_commit
from git_gru.git.sources import push_urls
from git_gru.runs.record import RunRecord
from git_gru.store.manifest import Manifest
from git_gru.train.architecture import METADATA_KEY, Architecture, check_recipe, parse_architecture
from git_gru.train.beginning import (
    Beginning,
    BranchError,
    DirtyWorktreeError,
    beginning,
    is_tracked,
    track_hint,
)
from git_gru.train.job import Start
from git_gru.train.nodes import Nodes
from git_gru.train.recipe import Recipe
from git_gru.train.recipe_file import DEFAULT_PATH, parse_recipe
from git_gru.train.section import RecipeError


class TorchMissingError(MachineError):
    """PyTorch is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "this needs PyTorch, which is not installed here",
            hint="Install it beside git-gru: pip install torch (the extra `train` of git-gru's own sources does it too).",
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; see `git gru train --help`. `recipe_path` is a path in the commit."""

    commit: str = "HEAD"
    recipe_path: str = DEFAULT_PATH
    overrides: tuple[str, ...] = ()
    branch: str | None = None
    here: bool = False
    nproc: int | None = None
    allow_dirty: bool = False
    push: str | None = None
    nodes: Nodes | None = None


@dataclass(frozen=True, kw_only=True)
class Plan(Beginning):
    """A run that may start.

    `here` is the branch to be fast-forwarded at the end, if any. `model` is the model in the source commit, if any, and `known`
    its architecture, if it says one. `before` is the record of the run that goes on with this, None for a new one, and `start`
    the checkpoint that it goes on from, None when that is the source. `push` is the remote that the run is pushed to, if any.
    `nodes` are its machines, None for this one alone; this one is node 0.
    """

    here: str | None
    recipe_path: str
    recipe: Recipe
    overrides: tuple[str, ...]
    model: Manifest | None
    known: Architecture | None
    before: RunRecord | None = None
    start: Start | None = None
    push: str | None = None
    nodes: Nodes | None = None


def require_torch() -> None:
    """Raises `TorchMissingError` unless torch is installed; does not import it."""
    if importlib.util.find_spec("torch") is None:
        raise TorchMissingError


def make_plan(repo: Repository, request: Request) -> Plan:
    """Checks a request. Raises what is wrong with it, as a `GruError`."""
    require_torch()
    if request.push is not None:
        push_urls(repo, request.push)  # told now, if there is no such remote
    with beginning(repo, request.commit, request.branch, allow_dirty=request.allow_dirty) as begun:
        here = _current_branch(repo, begun.source) if request.here else None
        if request.nodes is not None and begun.dirty:
            raise DirtyWorktreeError(
                "the worktree has uncommitted changes, and other nodes cannot have a snapshot of them",
                hint="Commit and push them first.",
            )
        if here is not None and begun.dirty:
            raise DirtyWorktreeError(
                "--here moves the current branch and its worktree at the end, and the worktree has uncommitted changes",
                hint="Commit or stash them first.",
            )
        return _plan_from(repo, request, begun, here)


def _plan_from(repo: Repository, request: Request, begun: Beginning, here: str | None) -> Plan:
    """The rest of the checks: what the source commit holds."""
    source = begun.source
    recipe = read_recipe(repo, source, request.recipe_path, _all_overrides(request))
    workers = recipe.launch.nproc * (request.nodes.counts.least if request.nodes else 1)
    if recipe.train.batch < workers:
        raise RecipeError(
            f"train.batch is {recipe.train.batch}, and each of the {workers} workers needs a sample of it",
            where=request.recipe_path,
            hint="Make train.batch larger, or use fewer workers (--nproc).",
        )
    model = _model_to_continue(repo, source, recipe)
    if recipe.sync.is_git:
        _check_site(request, recipe, model)
    if not is_tracked(repo, recipe.model.path):
        raise RecipeError(
            f"model.path: git-gru does not track {recipe.model.path!r} in this repository",
            where=request.recipe_path,
            hint=track_hint(recipe.model.path),
        )
    return Plan(
        run=begun.run,
        source=source,
        dirty=begun.dirty,
        branch=begun.branch,
        here=here,
        recipe_path=request.recipe_path,
        recipe=recipe,
        overrides=request.overrides,
        model=model,
        known=known_architecture(repo, source, recipe),
        push=request.push,
        nodes=request.nodes,
    )


def _check_site(request: Request, recipe: Recipe, model: Manifest | None) -> None:
    """Raises `RecipeError` for what `sync.strategy = "git"` cannot do."""
    strategy = 'sync.strategy = "git"'
    where = request.recipe_path
    if not recipe.sync.site:
        raise RecipeError(f"{strategy} needs a name for this site", where=where, hint="Say it: --site NAME")
    if request.nodes is not None:
        raise RecipeError(
            f"{strategy}: a site is one machine, and --nnodes {request.nodes.counts} are several", where=where,
            hint="Make each of them a site, or use another strategy.",
        )  # fmt: skip
    if model is None:
        raise RecipeError(
            f"{strategy}: the commit has no {recipe.model.path}, and sites must start from one and the same model", where=where,
            hint="Make it in one place and push it: git gru train --here --set train.steps=1 --set sync.strategy=allreduce",
        )  # fmt: skip


def read_recipe(repo: Repository, commit: str, path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe at `path` in the commit `commit` (a full id). Raises `RecipeError`."""
    result = repo.completed("cat-file", "blob", f"{commit}:{path}")
    if result.returncode != 0:
        raise RecipeError(
            f"there is no recipe {path} in the commit {commit[:10]}",
            hint="Write one with git gru new (docs/recipe.md lists its keys), git add it and commit it; or name another "
            "with --recipe.",
        )
    return parse_recipe(result.stdout, where=path, overrides=overrides)


def _all_overrides(request: Request) -> tuple[str, ...]:
    return request.overrides + (() if request.nproc is None else (f"launch.nproc={request.nproc}",))


def _current_branch(repo: Repository, source: str) -> str:
    branch = repo.git("symbolic-ref", "--quiet", "--short", "HEAD", check=False).decode().strip()
    repo.require_worktree()
    if not branch:
        raise BranchError(
            "--here needs a current branch, and HEAD is detached", hint="Use --branch NAME instead."
        )
    if resolve_commit(repo, "HEAD") != source:
        raise BranchError(
            f"--here moves the current branch {branch}, and the run would start from another commit",
            hint="Leave COMMIT out, or use --branch NAME instead.",
        )
    return branch


def _model_to_continue(repo: Repository, source: str, recipe: Recipe) -> Manifest | None:
    """The model at the recipe's path in the source commit; None when there is none."""
    path = recipe.model.path
    manifest = models_at(repo, source).get(path)
    where = f"{source[:10]}:{path}"
    if manifest is None:
        if repo.completed("cat-file", "-e", f"{source}:{path}").returncode == 0:
            raise InputError(
                f"{where} is in Git as a plain file, not as a model",
                hint=f"Track it and add it again: git gru track '{path}', git add --renormalize .",
            )
        return None
    if manifest.is_raw:
        raise InputError(
            f"{where} is no safetensors file", hint="Remove it, or set model.path to another file."
        )
    return manifest


def known_architecture(repo: Repository, commit: str, recipe: Recipe) -> Architecture | None:
    """What the model in a commit says of itself, checked against the recipe; None where there is no model.

    A model from elsewhere says nothing; its shapes are checked when it is loaded.
    """
    model = models_at(repo, commit).get(recipe.model.path)
    metadata = {} if model is None else repo.store().header(model).metadata
    if METADATA_KEY not in metadata:
        return None
    where = f"{commit[:10]}:{recipe.model.path}"
    found = parse_architecture(metadata, where=where)
    check_recipe(recipe.model, found, where=where)
    return found
