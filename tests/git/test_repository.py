import pytest

from git_gru.git.repository import NotARepositoryError, Repository
from git_gru.git.run import GitCommandError, git


def test_a_plain_repository_from_its_subfolder(plain_repo):
    (plain_repo.path / "sub").mkdir()
    found = Repository.find(plain_repo.path / "sub")
    assert found == Repository(plain_repo.path, plain_repo.path / ".git", plain_repo.path / ".git")
    assert found.gru_dir == plain_repo.path / ".git" / "gru"


def test_a_linked_worktree_shares_the_common_folder(plain_repo):
    plain_repo.git("commit", "-q", "--allow-empty", "-m", "x")
    plain_repo.git("worktree", "add", "-q", "../linked")
    linked = Repository.find(plain_repo.path.parent / "linked")
    assert linked.git_dir == plain_repo.path / ".git" / "worktrees" / "linked"
    assert linked.common_dir == plain_repo.path / ".git"
    assert linked.worktree == plain_repo.path.parent / "linked"
    assert linked.pygit2.head.target == plain_repo.repository.pygit2.head.target


def test_a_bare_repository_has_no_worktree(tmp_path):
    git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    bare = Repository.find(tmp_path / "bare.git")
    assert (bare.worktree, bare.git_dir) == (None, tmp_path / "bare.git")
    with pytest.raises(NotARepositoryError, match="bare"):
        bare.require_worktree()


def test_the_environment_counts_only_where_git_would_use_it(plain_repo, tmp_path, monkeypatch):
    git("init", "-q", str(tmp_path / "other"))
    monkeypatch.chdir(plain_repo.path)
    monkeypatch.setenv("GIT_DIR", "../other/.git")
    monkeypatch.setenv("GIT_WORK_TREE", "../other")
    here = Repository.find()
    assert (here.git_dir, here.worktree) == (tmp_path / "other/.git", tmp_path / "other")
    assert here.git("rev-parse", "--absolute-git-dir").decode().strip() == str(tmp_path / "other/.git")
    named = Repository.find(plain_repo.path)
    assert named.git_dir == plain_repo.path / ".git"
    assert named.git("rev-parse", "--absolute-git-dir").decode().strip() == str(named.git_dir)


def test_no_repository_is_a_sentence_with_a_hint(tmp_path):
    with pytest.raises(NotARepositoryError, match="not in a Git repository") as caught:
        Repository.find(tmp_path)
    assert "git init" in caught.value.hint


def test_settings_are_read_from_every_level(plain_repo):
    plain_repo.git("config", "--global", "gru.test", "yes  really")
    assert plain_repo.repository.config("gru.test") == "yes  really"
    assert plain_repo.repository.config("gru.none") is None


def test_a_failing_git_says_what_git_said(plain_repo):
    with pytest.raises(GitCommandError, match=r"git cat-file failed: Not a valid object name nope") as caught:
        plain_repo.repository.git("-c", "x.y=z", "cat-file", "-t", "nope")
    assert caught.value.returncode == 128
    assert plain_repo.repository.git("cat-file", "-t", "nope", check=False) == b""


def test_a_value_of_none_takes_a_variable_from_the_child(monkeypatch, plain_repo):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "gru.test")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "on")
    assert git("config", "gru.test") == b"on\n"
    assert git("config", "gru.test", env={"GIT_CONFIG_COUNT": None}, check=False) == b""
