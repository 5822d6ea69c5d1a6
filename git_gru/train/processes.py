"""What concerns processes: how they start and end (no orphan trains on after `kill -9`; a signal leaves time), threads."""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def collector_off() -> Iterator[None]:
    """For imports of torch, whose modules stay for good: looking through them again and again takes a seventh of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


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


def end_only_by(parent: int) -> None:
    """Lets a SIGTERM end this process only when the process `parent` sent it. To be called before any other thread is started.

    A scheduler that ends a job signals all of its processes at once. The launcher then asks for a last checkpoint, and the
    workers, and the git commands that they run, must live for that. Where the system does not tell who sent a signal (macOS),
    nothing happens.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    own = {signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, own)
    os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, own))

    def wait() -> None:
        while signal.sigwaitinfo(own).si_pid != parent:
            pass
        signal.pthread_sigmask(signal.SIG_UNBLOCK, own)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="git-gru-sigterm", daemon=True).start()
