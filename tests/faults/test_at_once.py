"""Many at once: 32 publish to one hub; eight worktrees add and commit while their store is repacked and collected."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

from git_gru.git.install import Scope, install, program_command
from git_gru.git.repository import Repository
from git_gru.store.publish import publish
from git_gru.store.store import Store
from tests.faults.operations import (
    add,
    hub_of,
    make_hub,
    manifest_of,
    require_hub,
    require_whole,
    versions,
)

PUBLISHERS = 32
WORKTREES, COMMITS = 8, 3
MODEL = "model.safetensors"

pytestmark = pytest.mark.slow


def test_32_publish_to_one_hub(quick: Path) -> None:
    make_hub(quick / "hub.git")
    files = [versions(1, seed=at, size=500)[0] for at in range(PUBLISHERS)]
    for at, file in enumerate(files):
        add(quick / f"clone-{at}", [file])
    errors: list[BaseException] = []

    def run(at: int) -> None:
        store = Store.open(quick / f"clone-{at}")
        try:
            publish(store, hub_of(store, quick), [[manifest_of(files[at])]])
        except BaseException as error:
            errors.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=run, args=(at,)) for at in range(PUBLISHERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    require_hub(quick / "hub.git", files)


COMMIT = """
for at in {numbers}; do
    cp ../files/{name}-$at {model} && git add {model} && git commit -q -m {name}-$at || exit
done
"""


def test_eight_worktrees_commit_while_the_store_is_repacked_and_collected(quick: Path) -> None:
    repo, files = quick / "repo", quick / "files"
    files.mkdir()
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    install(Repository.find(repo), Scope.LOCAL, program_command(os.environ["PATH"]))
    (repo / ".gitattributes").write_text("*.safetensors filter=gru diff=gru merge=gru -text\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "attributes")
    written: dict[str, bytes] = {}
    for name in range(WORKTREES):
        git(repo, "worktree", "add", "-q", "-b", f"branch-{name}", str(quick / f"worktree-{name}"))
        for at, file in enumerate(versions(COMMITS, seed=name % 4, size=20_000)):  # pairs add the same
            (files / f"{name}-{at}").write_bytes(file)
            written[f"branch-{name}~{COMMITS - 1 - at}:{MODEL}"] = file
    numbers = " ".join(map(str, range(COMMITS)))
    running = [
        subprocess.Popen(
            ["sh", "-c", COMMIT.format(numbers=numbers, name=name, model=MODEL)],
            cwd=quick / f"worktree-{name}",
            stderr=subprocess.PIPE,
        )
        for name in range(WORKTREES)
    ]
    repacks = 0
    while any(process.poll() is None for process in running):
        git(repo, "gru", "repack")
        git(repo, "gru", "gc", "--grace", "now")
        repacks += 1
    assert repacks
    for process in running:
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
    for name, file in written.items():
        assert git(repo, "cat-file", "--filters", name) == file
    require_whole(repo / ".git/gru", list(written.values()), only=True)


def git(folder: Path, *arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
