"""What concerns processes: dying with the one that started them (no orphan trains on after a `kill -9`), and threads."""

import ctypes
import os
import signal
import sys

from git_gru.train.recipe import LaunchRecipe

_PR_SET_PDEATHSIG = 1


def worker_threads(recipe: LaunchRecipe) -> int:
    """Threads of one worker: what the recipe says, or an even share of the cores that this process may use.

    Evaluation takes as many, so that it rounds as training did; and more threads than cores, all spinning, are slow.
    """
    if recipe.threads:
        return recipe.threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // recipe.nproc)


def die_with_parent(parent: int, sign: signal.Signals) -> None:
    """Has the kernel send this process `sign` when the process `parent` (its parent) ends.

    Ends this process at once when the parent is gone already. Only Linux can do this; elsewhere nothing happens.
    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sign), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
