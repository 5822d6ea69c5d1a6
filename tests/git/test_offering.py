"""Hooks that come into a clone with its first model, and what is said where they cannot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.http_hub import new_hub
from git_gru.errors import InputError
from git_gru.git.git_remote import GitRemote
from git_gru.git.install import Scope, install, program_command
from git_gru.git.offering import NoPushHookError, is_settled, offer, require_push_hook
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.store.trees import StoreTree

MODEL = "model.safetensors"
BEHIND = b"git push from here leaves the models behind"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return new_hub(tmp_path / "hub.git")


@pytest.fixture
def pushed(plain_repo, hub, make_arrays):
    """git-gru is installed for the user; a repository with one model, pushed to the hub."""
    install(None, Scope.GLOBAL, program_command(os.environ["PATH"]))
    plain_repo.write(".gitattributes", b"*.safetensors filter=gru diff=gru merge=gru -text\n")
    plain_repo.write(MODEL, make_arrays(0))
    plain_repo.commit("one")
    plain_repo.git("remote", "add", "origin", str(hub))
    plain_repo.git("push", "-q", "-u", "origin", "main")
    return plain_repo


@pytest.fixture
def clone(pushed, hub, tmp_path, at):
    """A clone made with these options of git; `said` is what came on stderr."""

    def make(*options: str, env: dict[str, str] | None = None):
        done = pushed.run("git", "clone", "-q", *options, str(hub), str(tmp_path / "clone"), env=env)
        assert done.returncode == 0, done.stderr
        made = at(tmp_path / "clone")
        made.said = done.stderr
        return made

    return make


def models_in(hub: Path, work) -> int:
    store = work.repository.store()
    remote = GitRemote(store, "look", str(hub), LOCAL_VARIABLES)
    return len(StoreTree(store.objects, remote.look()).models())


def changed(work, make_arrays, seed: int) -> None:
    work.write(MODEL, make_arrays(seed))
    work.git("commit", "-q", "-a", "-m", f"model {seed}")


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_hook_that_stands_there_is_joined(clone, hub, tmp_path, make_arrays) -> None:
    theirs = tmp_path / "template/hooks"
    script(theirs / "pre-push", "cat > told")
    script(theirs / "pre-commit", "exit 0")
    work = clone(f"--template={theirs.parent}")
    assert b"the hook pre-push that stood here is called first now" in work.said
    assert BEHIND not in work.said
    changed(work, make_arrays, 1)
    work.git("push", "-q", "origin", "main")
    assert "refs/heads/main" in work.read("told").decode()
    assert models_in(hub, work) == 2
    assert (work.path / ".git/hooks/pre-commit").read_text() == "#!/bin/sh\nexit 0\n", "not needed for that"


def test_nothing_is_written_into_a_folder_of_the_worktree(pushed, clone, hub, make_arrays) -> None:
    script(pushed.path / ".githooks/commit-msg", "exit 0")
    pushed.commit("hooks for all")
    pushed.git("push", "-q", "origin", "main")
    work = clone("-c", "core.hooksPath=.githooks")
    assert [file.name for file in (work.path / ".githooks").iterdir()] == ["commit-msg"]
    assert work.said.count(BEHIND) == 1
    assert b".githooks/pre-push is not there" in work.said
    assert b'git gru hook pre-push "$@"' in work.said
    (work.path / MODEL).touch()
    assert BEHIND not in work.run("git", "status").stderr, "once a day"
    assert BEHIND in work.gru("status").stdout
    assert json.loads(work.gru("status", "--json").stdout)["push_hook"] is False
    script(work.path / ".githooks/pre-push", 'git gru hook pre-push "$@"')
    assert BEHIND not in work.gru("status").stdout
    assert json.loads(work.gru("status", "--json").stdout)["push_hook"] is True
    changed(work, make_arrays, 1)
    work.git("push", "-q", "origin", "main")
    assert models_in(hub, work) == 2


def test_nor_into_one_that_all_repositories_share(pushed, clone, tmp_path) -> None:
    shared = script(tmp_path / "shared/pre-push", "exit 0")
    pushed.git("config", "--global", "core.hooksPath", str(shared.parent))
    work = clone()
    assert b"shared/pre-push calls no git-gru" in work.said
    assert [file.name for file in shared.parent.iterdir()] == ["pre-push"]
    work.git("config", "gru.hooks", "false")
    require_push_hook(work.repository)


def test_a_clone_with_manifests_alone_gets_them_too(clone) -> None:
    work = clone(env={"GIT_GRU_SKIP_SMUDGE": "1"})
    assert work.read(MODEL).startswith(b'{"git-gru"')
    require_push_hook(work.repository)


def test_a_clone_without_a_worktree_yet_is_told_by_status(clone) -> None:
    work = clone("--no-checkout")
    assert BEHIND in work.gru("status").stdout
    assert work.gru("install").returncode == 0
    assert BEHIND not in work.gru("status").stdout


def test_stubs_taken_away_stay_away_and_are_missed(clone) -> None:
    work = clone()
    hook = work.path / ".git/hooks/pre-push"
    hook.unlink()
    (work.path / MODEL).touch()
    assert BEHIND not in work.run("git", "status").stderr
    work.git("config", "some.thing", "changed")
    (work.path / MODEL).touch()
    said = work.run("git", "status").stderr
    assert BEHIND in said
    assert b"hint: Put it there: git gru install" in said
    assert not hook.exists()


def test_it_is_looked_for_again_a_day_later(clone) -> None:
    work = clone()
    mark = work.path / ".git/gru/hooks-offered"
    assert is_settled(work.repository)
    when = mark.stat().st_mtime - 86_401
    for file in (mark, work.path / ".git/config"):
        os.utime(file, (when, when))
    assert not is_settled(work.repository)
    assert offer(work.repository) == ()
    assert is_settled(work.repository)


def test_a_hook_that_is_switched_off_is_none(clone) -> None:
    work = clone()
    (work.path / ".git/hooks/pre-push").chmod(0o644)
    with pytest.raises(NoPushHookError, match="calls no git-gru"):
        require_push_hook(work.repository)


def test_two_hooks_in_the_way_are_told_of_once(clone, tmp_path) -> None:
    theirs = tmp_path / "template/hooks"
    script(theirs / "pre-push", "exit 0")
    script(theirs / "pre-push.before-git-gru", "exit 0")
    work = clone(f"--template={theirs.parent}")
    assert b"an older hook is kept in" in work.said
    with pytest.raises(InputError, match="leaves the models behind"):
        offer(work.repository)


def test_two_filters_at_once_keep_the_hook_that_stood_there(pushed, clone, tmp_path) -> None:
    work = clone("--no-checkout")
    theirs = script(work.path / ".git/hooks/pre-push", "exit 0")
    program = "from git_gru.git.offering import offer; from git_gru.git.repository import Repository; offer(Repository.find())"
    running = [
        subprocess.Popen([sys.executable, "-c", program], cwd=work.path, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [process.communicate()[1] for process in running] == [b""] * 3
    assert theirs.with_name("pre-push.before-git-gru").read_text() == "#!/bin/sh\nexit 0\n"
    require_push_hook(work.repository)
