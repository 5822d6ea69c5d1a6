"""Peak memory of git-gru's processes, and of Git's beside them, in each step that handles a large model.

Linux alone: every process of a command is looked at in /proc while it runs (`VmHWM`, the most that it had resident).
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.peers import MODEL, Repository
from git_gru.formats.safetensors import write_header

INTERVAL = 0.02
"""Seconds between two looks. A peak is kept by the kernel, so that only what a process does last can be missed."""

OURS, GIT = "git-gru", "git"


def large_model(path: Path, count: int) -> None:
    """Writes a model of noise: `count` tensors of 67 MB (10^6 bytes), each from its own seed."""
    import numpy as np

    shape = (4096, 4096)
    with open(path, "wb") as file:
        file.write(write_header([(f"layer{i:03d}.weight", "F32", shape) for i in range(count)]))
        for i in range(count):
            weights = np.random.default_rng(i).standard_normal(shape, dtype=np.float32) * 0.05
            file.write(weights.tobytes())


def peaks(folder: Path, environment: Mapping[str, str], *command: str) -> dict[str, float]:
    """Runs a command and returns the peak of git-gru's largest process and of git's, in MB (10^6 bytes)."""
    found = {OURS: 0.0, GIT: 0.0}
    with subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, stderr=subprocess.PIPE
    ) as process:
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(INTERVAL):
                for name, megabytes in _processes(process.pid):
                    if name in found:
                        found[name] = max(found[name], megabytes)

        watching = threading.Thread(target=look)
        watching.start()
        _, said = process.communicate()
        ended.set()
        watching.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {said.decode()}")
    return found


def _processes(session: int) -> list[tuple[str, float]]:
    """(program, peak in MB) of the processes of a session."""
    found = []
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        try:
            if os.getsid(int(place.name)) != session:
                continue
            fields = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines())
        except (OSError, ValueError):
            continue  # it has ended
        peak = fields.get("VmHWM", "0 kB").split()[0]
        found.append((fields["Name"], int(peak) * 1024 / 1e6))
    return found


def measure(work: Path, model: Path) -> list[tuple[str, dict[str, float]]]:
    """The peaks of each step with `model`, in the order in which a user takes them. `work` holds four copies of it in the end."""
    source, clone = Repository("git-gru", work / "memory"), Repository("git-gru", work / "memory-clone")
    source.begin()
    hub = work / "memory-hub.git"
    for left in (hub, clone.folder):
        shutil.rmtree(left, ignore_errors=True)
    source.git("init", "--quiet", "--bare", str(hub))
    for name in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        source.git("-C", str(hub), "config", name, "true")
    (source.folder / MODEL).hardlink_to(model)
    steps: list[tuple[str, Repository, Callable[[], object], tuple[str, ...]]] = [
        ("git add", source, lambda: None, ("git", "add", MODEL)),
        ("git push", source, lambda: _commit(source), ("git", "push", "--quiet", str(hub), "main")),
        ("git checkout", source, lambda: None, ("git", "checkout", "--quiet", "--force", "HEAD")),
        (
            "git gru fetch, into a clone",
            clone,
            lambda: _clone(source, hub, clone),
            ("git", "gru", "fetch", "HEAD"),
        ),
        ("git gru pull, from its store", clone, lambda: None, ("git", "gru", "pull")),
        ("git gru fsck --deep", clone, lambda: None, ("git", "gru", "fsck", "--deep")),
    ]
    found = []
    for name, repository, prepare, command in steps:
        prepare()
        found.append((name, peaks(repository.folder, repository.environment(), *command)))
    if (clone.folder / MODEL).stat().st_size != model.stat().st_size:
        raise SystemExit("the clone has another model")
    return found


def _commit(source: Repository) -> None:
    """Commits the model and takes it out of the worktree."""
    source.git("commit", "--quiet", "--message=large")
    (source.folder / MODEL).unlink()


def _clone(source: Repository, hub: Path, clone: Repository) -> None:
    """A clone with a manifest in the model's place; the source's own model makes room."""
    (source.folder / MODEL).unlink()
    source.git("clone", "--quiet", "--no-checkout", f"file://{hub}", str(clone.folder))
    clone.run("git-gru", "install", "--local")
    clone.run("env", "GIT_GRU_SKIP_SMUDGE=1", "git", "checkout", "--quiet", "main")
