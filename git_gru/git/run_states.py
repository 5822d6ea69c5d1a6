"""Where the resume states of a run stand: `refs/gru/runs/<id>/resume`.

A *resume state* is what training needs beside a checkpoint's weights to go on from it as if nothing had happened: the optimizer's
state, the random state of every worker. It is a model in the store, named by its manifest, and stands on no branch.

The ref points to a commit whose parent is the newest checkpoint that has a state, and whose tree holds the manifest of that state
and of those that the recipe keeps for good: `<step>.safetensors`. So all references together name what is needed, and collection
needs no rule of its own. A checkpoint's message names its state's digest, and the state's commit the checkpoint: a pair.

Of a pair, the ref of the state is moved BEFORE the branch. Killed between the two, the run is found with a state whose checkpoint
is one step ahead of the branch; whoever resumes it moves the branch on.
"""

from dataclasses import dataclass
from typing import Any

from git_gru.git.repository import Repository
from git_gru.git.revisions import ModelReader
from git_gru.git.run_refs import PREFIX
from git_gru.store.manifest import Manifest

_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class ResumeStates:
    """The states of a run that are kept: the newest belongs to `checkpoint`, a commit; `blobs` gives the ids of the manifests'
    blobs by step.
    """

    checkpoint: str
    blobs: dict[int, str]

    @property
    def newest(self) -> int:
        """The step of the newest state."""
        return max(self.blobs)


def resume_ref(run: str) -> str:
    """The ref of a run's resume states."""
    return f"{PREFIX}{run}/resume"


def keep_state(
    repo: Repository, run: str, *, checkpoint: str, step: int, state: Manifest, every: int
) -> None:
    """Makes `state` the newest resume state of the run: that of the commit `checkpoint` after `step`.

    Earlier ones are let go, but for those whose step is a multiple of `every` (0: of nothing).
    """
    import pygit2

    objects: Any = repo.pygit2
    before = read_states(repo, run)
    kept = {old: blob for old, blob in (before.blobs if before else {}).items() if every and old % every == 0}
    tree = objects.TreeBuilder()
    for old, blob in kept.items():
        if old < step:  # later ones are of a course that the run has left
            tree.insert(f"{old}{_SUFFIX}", pygit2.Oid(hex=blob), pygit2.enums.FileMode.BLOB)
    tree.insert(f"{step}{_SUFFIX}", objects.create_blob(state.encode()), pygit2.enums.FileMode.BLOB)
    who = pygit2.Signature("git-gru", "git-gru@localhost")
    message = f"run {run}: resume state of step {step}\n"
    commit = objects.create_commit(None, who, who, message, tree.write(), [pygit2.Oid(hex=checkpoint)])
    repo.git("update-ref", resume_ref(run), str(commit))


def read_states(repo: Repository, run: str) -> ResumeStates | None:
    """The states that are kept of a run; None where it has none."""
    found = repo.completed("rev-parse", "--verify", "--quiet", f"{resume_ref(run)}^")
    if found.returncode != 0:
        return None
    listed = repo.git("ls-tree", "-z", resume_ref(run)).decode().split("\0")
    entries = (entry.partition("\t") for entry in listed if entry)
    blobs = {int(name.removesuffix(_SUFFIX)): about.split(" ")[2] for about, _, name in entries}
    return ResumeStates(checkpoint=found.stdout.decode().strip(), blobs=blobs)


def read_state(repo: Repository, blob: str) -> Manifest:
    """The state whose manifest is the blob of this id. Raises `ManifestError`."""
    manifest = ModelReader(repo).manifest(blob, "resume state")
    assert manifest is not None  # only `keep_state` makes the trees that name it
    return manifest
