"""Settings read all at once are those that git gives one by one."""

import pytest

from git_gru.git.settings import Setting, Settings


@pytest.fixture
def set_up(plain_repo):
    for scope, key, value in (
        ("--global", "gru.FetchInclude", "a,b"),
        ("--local", "gru.fetchinclude", "c = d\nsecond line"),
        ("--local", "branch.Feature/x.y.remote", "up"),
        ("--local", "branch.feature/x.y.remote", "low"),
        ("--local", "remote.pushDefault", "hub"),
        ("--local", "core.editor", ""),
    ):
        plain_repo.git("config", scope, "--add", key, value)
    return plain_repo


def test_values_are_those_that_git_gives(set_up):
    repository = set_up.repository
    for key in (
        "gru.fetchInclude", "GRU.fetchinclude", "branch.Feature/x.y.remote", "branch.feature/x.y.Remote", "remote.pushdefault",
        "core.editor", "user.name",
    ):  # fmt: skip
        expected = set_up.git("config", "--null", "--get", key).removesuffix("\0")
        assert repository.config(key) == expected, key
        listed = set_up.git("config", "--null", "--get-all", key).split("\0")[:-1]
        assert repository.settings.every(key) == listed
    assert repository.config("branch.feature/x.z.remote") is None
    assert repository.settings.every("remote.hub.url") == []


def test_scopes_and_the_command_line(set_up, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "gru.fetchInclude")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "z")
    settings = Settings(set_up.git("config", "--list", "--show-scope", "-z").encode())
    found = list(settings.matching(r"^gru\.fetch"))
    assert found == [
        Setting("global", "gru.fetchinclude", "a,b"),
        Setting("local", "gru.fetchinclude", "c = d\nsecond line"),
        Setting("command", "gru.fetchinclude", "z"),
    ]


def test_what_is_changed_is_seen(set_up):
    repository = set_up.repository
    assert repository.config("gru.x") is None
    repository.configure("--local", "gru.x", "1")
    assert repository.config("gru.x") == "1"
