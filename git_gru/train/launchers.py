"""Scripts by which a scheduler starts a run on several machines: exactly the command `git gru train --nnodes …` on each of them.

A node needs Git access to the repository and git-gru, nothing else: it clones, trains, and node 0 pushes what is committed. The
clone goes away with the job.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.repository import Repository
from git_gru.git.revisions import resolve_commit
from git_gru.git.sources import absolute
from git_gru.git.transport import shown
from git_gru.train.nodes import Counts

LAUNCHERS = ("slurm", "kubernetes")
PORT = 29400

_CREDENTIALS = re.compile(r"https?://[^/@]*@|[a-z+]+://[^/@:]*:[^/@]*@", re.IGNORECASE)
"""A user or a token before the host; of ssh, a password alone, for its user is no secret."""


class LauncherError(InputError):
    """A scheduler cannot start this run."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is to be started: `words` are further words for `git gru train`, `url` is where the nodes clone `remote` from."""

    commit: str
    counts: Counts
    url: str
    remote: str
    words: tuple[str, ...] = ()


def plan_launch(
    repo: Repository, commit: str, *, counts: Counts, remote: str, words: Sequence[str]
) -> Launch:
    """Raises `LauncherError` for a remote that is none, lacks the commit, or has an address that no script should have."""
    full = resolve_commit(repo, commit)
    found = repo.completed("remote", "get-url", remote)
    if found.returncode != 0:
        raise LauncherError(
            f"there is no remote {remote}, and each node clones from it",
            hint="Add it (git remote add), or name another: --push REMOTE.",
        )
    known = repo.git("for-each-ref", "--contains", full, "--format=%(refname)", f"refs/remotes/{remote}/")
    if not known.strip():
        raise LauncherError(
            f"the commit {full[:10]} is not on {remote}, as far as is known here, and each node clones from it",
            hint=f"Push it: git push {remote} {commit}:…; if it is there: git fetch {remote}",
        )
    url = found.stdout.decode("utf-8", "surrogateescape").strip()
    _require_portable(repo, remote, url)
    return Launch(commit=full, counts=counts, url=url, remote=remote, words=tuple(words))


def _require_portable(repo: Repository, remote: str, url: str) -> None:
    """Refuses an address that means nothing elsewhere, or holds what may be a secret: a script is kept, and shown around."""
    if absolute(repo, url) != url and not Path(url).is_absolute():
        raise LauncherError(
            f"the address of {remote} is the relative path {url}, which other machines do not have",
            hint=f"Give it one that each node reaches: git remote set-url {remote} URL",
        )
    if _CREDENTIALS.match(url):
        raise LauncherError(
            f"the address of {remote} has a user or password in it, and would stand in the script: {shown(url)}",
            hint=f"Take it out (git remote set-url {remote} {shown(url)}), and give the nodes a credential helper or an ssh key.",
        )


def script(launcher: str, launch: Launch) -> str:
    """The text of an sbatch script, or of a PyTorchJob of Kubeflow's training operator."""
    return {"slurm": slurm, "kubernetes": kubernetes}[launcher](launch)


def slurm(launch: Launch) -> str:
    """For `sbatch`: one task a node; the first node of the job listens. Source: https://slurm.schedmd.com/sbatch.html.

    Slurm gives a job as many of `MIN:MAX` nodes as are free when it starts; one that fails does not end the others then.
    """
    node = _node_script(launch, "$SLURM_NODEID", "$GIT_GRU_HEAD")
    return f"""#!/bin/sh
#SBATCH --job-name=git-gru
#SBATCH --nodes={_slurm_nodes(launch.counts)}
#SBATCH --ntasks-per-node=1
# Written by `git gru train --launcher slurm`.
# Add what your cluster asks for: --partition, --time, --signal=TERM@120, --gpus-per-node, …
set -eu
GIT_GRU_HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export GIT_GRU_HEAD
exec srun --kill-on-bad-exit={0 if launch.counts.is_elastic else 1} sh -c {shlex.quote(node)}
"""


def _slurm_nodes(counts: Counts) -> str:
    return f"{counts.least}-{counts.most}" if counts.is_elastic else str(counts.least)


def kubernetes(launch: Launch) -> str:
    """A PyTorchJob (kubeflow.org/v1), in YAML; its operator tells each pod `RANK` and `MASTER_ADDR`.

    Of `MIN:MAX` nodes MAX are asked for; the run begins with MIN of them, and a lost worker is started again.

    Source: https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/pytorch/.
    """
    # the operator may tell the master that its own address is localhost
    choose = 'head=$MASTER_ADDR; [ "$RANK" != 0 ] || head=$(hostname -i | cut -d " " -f 1)'
    node = f"{choose}\n{_node_script(launch, '$RANK', '$head')}"
    counts = (("Master", 1), ("Worker", launch.counts.most - 1))
    pods = "".join(
        _replicas(kind, count, node, is_elastic=launch.counts.is_elastic) for kind, count in counts
    )
    return f"""# Written by `git gru train --launcher kubernetes`.
# Set `image` to one that has git and git-gru (extra `train`), and what your cluster asks for: resources, secrets for Git.
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata:
  generateName: git-gru-
spec:
  pytorchReplicaSpecs:
{pods}"""


def _replicas(kind: str, count: int, node: str, *, is_elastic: bool) -> str:
    lines = "\n".join(f"                  {line}" for line in node.splitlines())
    restart = "OnFailure" if kind == "Worker" and is_elastic else "Never"
    return f"""    {kind}:
      replicas: {count}
      restartPolicy: {restart}
      template:
        spec:
          terminationGracePeriodSeconds: 120
          containers:
            - name: pytorch
              image: git-gru
              command: [sh, -c]
              args:
                - |
{lines}
              ports:
                - name: pytorchjob-port
                  containerPort: {PORT}
"""


def _node_script(launch: Launch, rank: str, head: str) -> str:
    """What each node runs; `rank` and `head` are variables of the scheduler's.

    A scheduler that ends the job sends SIGTERM, in Kubernetes to the shell alone. It is passed on, and the clone goes away only
    after git-gru has: that makes a last commit, and pushes it. Before there is a `$!`, there is nothing to pass it on to.
    """
    words = shlex.join(launch.words)
    return f"""set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap '[ -n "${{!-}}" ] || exit 143; kill -TERM "$!" || :' INT TERM
GIT_GRU_SKIP_SMUDGE=1 git clone --quiet --origin {shlex.quote(launch.remote)} {shlex.quote(launch.url)} "$work/repository"
cd "$work/repository"
git gru train {launch.commit} --nnodes {launch.counts} --node-rank "{rank}" --rdzv-endpoint "{head}:{PORT}" \\
  --push {shlex.quote(launch.remote)}{" " + words if words else ""} &
# a signal ends `wait`, not what it waits for
while status=0; wait "$!" || status=$?; kill -0 "$!" 2>/dev/null; do :; done
exit "$status\""""
