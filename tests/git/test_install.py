import os
import shlex
import sys
from pathlib import Path

import pytest

from git_gru.git import hooks
from git_gru.git.install import (
    ForeignSettingError,
    Scope,
    install,
    is_installed,
    program_command,
    settings,
    uninstall,
)
from git_gru.git.repository import NotARepositoryError

PROGRAM = "/opt/my env/bin/git-gru"


def config(work, scope: str = "--local") -> dict[str, str]:
    lines = work.git("config", scope, "--list", check=False).splitlines()
    return dict(line.partition("=")[::2] for line in lines if ".gru" in line)


def test_install_writes_the_settings_and_uninstall_takes_them_away(plain_repo):
    before = (plain_repo.path / ".git" / "config").read_text()
    done = install(plain_repo.repository, Scope.LOCAL, shlex.quote(PROGRAM))
    assert config(plain_repo) == settings(shlex.quote(PROGRAM))
    assert set(done.changed) == set(settings("x"))
    assert is_installed(plain_repo.repository)
    assert install(plain_repo.repository, Scope.LOCAL, shlex.quote(PROGRAM)).changed == ()
    uninstall(plain_repo.repository, Scope.LOCAL)
    assert (plain_repo.path / ".git" / "config").read_text() == before
    assert uninstall(plain_repo.repository, Scope.LOCAL).changed == ()


def test_global_settings_need_no_repository(plain_repo, isolated):
    install(None, Scope.GLOBAL, "git-gru")
    assert config(plain_repo, "--global") == settings("git-gru")
    assert "alias.gru" not in settings("git-gru")
    uninstall(None, Scope.GLOBAL)
    assert config(plain_repo, "--global") == {}


def test_local_settings_need_a_repository():
    with pytest.raises(NotARepositoryError) as caught:
        install(None, Scope.LOCAL, "git-gru")
    assert "--global" in caught.value.hint


def test_moving_to_another_program_replaces_the_settings(plain_repo):
    install(plain_repo.repository, Scope.LOCAL, "'/old/git-gru'")
    install(plain_repo.repository, Scope.LOCAL, "git-gru")
    assert config(plain_repo) == settings("git-gru")
    hook = plain_repo.path / ".git/hooks/pre-commit"
    assert "/old/" not in hook.read_text()


def test_a_repository_of_sha256_is_refused_before_anything_is_written(plain_repo, at, tmp_path, isolated):
    work = at(tmp_path / "sha256")
    plain_repo.git("init", "-q", "--object-format=sha256", str(work.path))
    before = work.read(".git/config")
    for verb in (["install"], ["track", "*.safetensors"]):
        done = work.gru(*verb)
        assert done.returncode == 4
        assert b"names its objects by SHA256" in done.stderr
    assert work.read(".git/config") == before
    assert not (work.path / ".gitattributes").exists()

    install(None, Scope.GLOBAL, program_command(""))
    work.write(".gitattributes", b"*.safetensors filter=gru\n")
    assert work.gru("fsck").returncode == 4
    work.write("m.safetensors", b"a model")
    done = work.run("git", "add", "m.safetensors")
    assert done.returncode != 0
    assert b"names its objects by SHA256" in done.stderr
    assert not (work.path / ".git/gru").exists()


def test_an_alias_of_the_users_own_is_not_touched(plain_repo):
    plain_repo.git("config", "alias.gru", "log --graph")
    with pytest.raises(ForeignSettingError, match=r"alias\.gru"):
        install(plain_repo.repository, Scope.LOCAL, PROGRAM)
    assert config(plain_repo) == {"alias.gru": "log --graph"}
    uninstall(plain_repo.repository, Scope.LOCAL)
    assert config(plain_repo) == {"alias.gru": "log --graph"}


def test_a_percent_sign_in_the_path_is_no_placeholder_of_the_merge_driver():
    wanted = settings("/opt/100%/git-gru")
    assert wanted["merge.gru.driver"] == "/opt/100%%/git-gru merge-driver %O %A %B %L %P"
    assert wanted["filter.gru.process"] == "/opt/100%/git-gru filter-process"


def script_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *, environment: bool) -> Path:
    """A console script beside a Python, as pip leaves them."""
    folder.mkdir()
    script = folder / "git-gru"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "prefix", "/a" if environment else "/b")
    monkeypatch.setattr(sys, "base_prefix", "/b")
    return script


def test_in_a_virtual_environment_the_path_is_absolute_though_the_name_is_found(tmp_path, monkeypatch):
    script = script_in(tmp_path / "my env", monkeypatch, environment=True)
    assert shlex.split(program_command(str(script.parent))) == [str(script)]


def test_the_plain_name_where_it_is_this_very_program(tmp_path, monkeypatch):
    script = script_in(tmp_path / "bin", monkeypatch, environment=False)
    assert program_command(str(script.parent)) == "git-gru"
    assert program_command("/nowhere") == str(script)


def test_without_a_console_script_it_is_python(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my python"))
    assert shlex.split(program_command("")) == [str(tmp_path / "my python"), "-P", "-m", "git_gru"]


def test_git_gru_works_by_its_alias_from_a_subfolder_and_a_linked_worktree(repo, at):
    repo.write("deep er/a.txt", b"x")
    repo.commit("first")
    repo.git("worktree", "add", "-q", "../linked")
    for top in (repo.path, repo.path.parent / "linked"):
        inner = at(top / "deep er")
        inner.git("gru", "track", "*.pt")
        assert inner.read(".gitattributes").startswith(b"*.pt filter=gru")
        assert "deep er/.gitattributes" in inner.git("gru", "status")


def test_the_hook_is_installed_kept_called_and_restored(plain_repo):
    hook = plain_repo.path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    mine = '#!/bin/sh\necho "mine: $# arguments" >&2\nexit 3\n'
    hook.write_text(mine)
    hook.chmod(0o755)
    change, _ = install(plain_repo.repository, Scope.LOCAL, "git-gru").hooks
    assert (change.action, change.kept) == (
        hooks.HookAction.INSTALLED,
        hook.with_name("pre-commit.before-git-gru"),
    )
    change, _ = install(plain_repo.repository, Scope.LOCAL, "git-gru").hooks
    assert change.action is hooks.HookAction.UNCHANGED
    plain_repo.write("a", b"x")
    plain_repo.git("add", "a")
    refused = plain_repo.run("git", "commit", "-m", "x")
    assert refused.returncode == 1
    assert b"mine: 0 arguments" in refused.stderr
    change, _ = uninstall(plain_repo.repository, Scope.LOCAL).hooks
    assert change.action is hooks.HookAction.RESTORED
    assert hook.read_text() == mine
    assert not change.path.with_name("pre-commit.before-git-gru").exists()


def test_the_hook_stays_while_other_settings_use_it(plain_repo):
    hook = plain_repo.path / ".git/hooks/pre-commit"
    install(plain_repo.repository, Scope.LOCAL, "git-gru")
    install(plain_repo.repository, Scope.GLOBAL, "git-gru")
    assert uninstall(plain_repo.repository, Scope.GLOBAL).hooks == ()
    assert hook.exists()
    plain_repo.git("config", "--local", "--unset", "filter.gru.process")
    install(plain_repo.repository, Scope.GLOBAL, "git-gru")
    change, _ = uninstall(plain_repo.repository, Scope.GLOBAL).hooks
    assert change.action is hooks.HookAction.REMOVED
    assert not hook.exists()


def test_an_executable_bit_that_is_off_keeps_a_hook_off(plain_repo):
    hook = plain_repo.path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 3\n")
    hook.chmod(0o644)
    install(plain_repo.repository, Scope.LOCAL, "git-gru")
    plain_repo.write("a", b"x")
    plain_repo.commit("committed")


def test_core_hooks_path_is_respected(plain_repo):
    plain_repo.git("config", "core.hooksPath", "my hooks")
    change, _ = install(plain_repo.repository, Scope.LOCAL, "git-gru").hooks
    assert change.path == plain_repo.path / "my hooks" / "pre-commit"
    assert not (plain_repo.path / ".git/hooks/pre-commit").exists()
    change, _ = uninstall(plain_repo.repository, Scope.LOCAL).hooks
    assert change.action is hooks.HookAction.REMOVED


def test_hooks_that_are_switched_off_are_no_folder(plain_repo):
    plain_repo.git("config", "core.hooksPath", os.devnull)
    with pytest.raises(hooks.InputError, match="is no folder"):
        install(plain_repo.repository, Scope.LOCAL, "git-gru")


def test_a_hook_that_came_after_ours_is_not_lost(plain_repo):
    hook = plain_repo.path / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nfirst\n")
    install(plain_repo.repository, Scope.LOCAL, "git-gru")
    hook.write_text("#!/bin/sh\nsecond\n")
    with pytest.raises(hooks.InputError, match="older hook is kept"):
        install(plain_repo.repository, Scope.LOCAL, "git-gru")
    assert hook.read_text() == "#!/bin/sh\nsecond\n"
    done = uninstall(plain_repo.repository, Scope.LOCAL).hooks
    assert [change.path.name for change in done] == ["pre-push"]
    assert hook.read_text() == "#!/bin/sh\nsecond\n"


def test_the_stubs_are_complete():
    assert sorted(file.name for file in hooks.stub_folder().iterdir()) == sorted(
        (*hooks.NAMES, *hooks.SERVER_NAMES)
    )
