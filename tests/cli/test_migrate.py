"""`git gru migrate`: what it prints and answers."""

import json

import pytest

from git_gru.cli.main import run


@pytest.fixture
def here(plain_repo, monkeypatch, make_arrays):
    """Two versions of a model in plain Git."""
    monkeypatch.chdir(plain_repo.path)
    for seed in (1, 2):
        plain_repo.write("m.safetensors", make_arrays(seed))
        plain_repo.commit(f"version {seed}")
    return plain_repo


@pytest.fixture
def told(capsys):
    """`told(code, *args)` runs `git gru migrate ARGS`, checks its exit code, and gives its stdout."""

    def call(code: int, *args: str) -> str:
        capsys.readouterr()
        found = run(("migrate", *args))
        shown = capsys.readouterr()
        assert found == code, shown
        return shown.out

    return call


def test_there_and_back_in_words(here, told, tmp_path):
    head = here.git("rev-parse", "HEAD").strip()
    dry = told(0, "import", "--from", "git", "*.safetensors", "--dry-run")
    assert "2 of 2 commits would be rewritten; 2 distinct files" in dry
    assert f"  main  {head[:12]}\n" in dry
    assert here.git("rev-parse", "HEAD").strip() == head
    done = told(0, "import", "--from", "git", "*.safetensors", "--map", str(tmp_path / "map"))
    new = here.git("rev-parse", "HEAD").strip()
    assert "m.safetensors         2" in done
    assert f"  main  {head[:12]} -> {new[:12]}\n" in done
    assert "git gru migrate undo" in done and "git update-ref --stdin" in done
    assert f"{head} {new}\n" in (tmp_path / "map").read_text()
    assert "nothing to do: every matching file" in told(0, "import", "--from", "git", "*.safetensors")
    assert f"main  {new[:12]} -> {head[:12]}" in told(0, "export", "*.safetensors")
    assert here.git("rev-parse", "HEAD").strip() == head
    assert f"main  {head[:12]} -> {new[:12]}" in told(0, "undo")


def test_what_it_says_in_json(here, told):
    head = here.git("rev-parse", "HEAD").strip()
    dry = json.loads(told(0, "import", "--from", "git", "*.safetensors", "--dry-run", "--json"))
    assert (dry["id"], dry["dry_run"], dry["map"]) == (None, True, {})
    assert dry["refs"] == [{"ref": "refs/heads/main", "old": head, "new": None}]
    found = json.loads(told(0, "import", "--from", "git", "*.safetensors", "--json"))
    new = here.git("rev-parse", "HEAD").strip()
    size = here.path.joinpath("m.safetensors").stat().st_size
    assert found["models"] == dry["models"] == [{"path": "m.safetensors", "versions": 2, "bytes": 2 * size}]
    assert found["refs"] == [{"ref": "refs/heads/main", "old": head, "new": new}]
    assert found["commits"] == {"examined": 2, "rewritten": 2}
    assert found["map"][head] == new
    assert (found["signatures_lost"], found["left"], found["raw"]) == ([], {}, {})
    back = json.loads(told(0, "undo", found["id"], "--json"))
    assert back == {"id": found["id"], "refs": [{"ref": "refs/heads/main", "old": new, "new": head}]}


def test_versions_become_deltas_unless_told_otherwise(here, told, make_arrays):
    arrays = make_arrays(2)
    arrays["head.weight"] += arrays["head.weight"] * 1e-4
    here.write("m.safetensors", arrays)
    here.commit("a small step")

    def deltas() -> int:
        store = here.repository.store()
        store.sync()
        return sum(row.base is not None for row in store.lookup.rows().values())

    told(0, "import", "--from", "git", "*.safetensors", "--no-repack")
    assert deltas() == 0
    told(0, "undo")
    told(0, "import", "--from", "git", "*.safetensors")
    assert deltas() > 0


def test_a_pattern_that_matches_nothing_is_1(here, told):
    assert "no file in this history matches" in told(1, "import", "--from", "git", "*.nope")


def test_exceptions_are_told(here, told):
    signature = "gpgsig -----BEGIN SSH SIGNATURE-----\n abc\n -----END SSH SIGNATURE-----\n"
    head = here.git("cat-file", "commit", "HEAD")
    commit = here.git(
        "hash-object",
        "-t",
        "commit",
        "-w",
        "--stdin",
        input=head.replace("\n\n", f"\n{signature}\n", 1).encode(),
    ).strip()
    here.git("reset", "-q", "--hard", commit)
    here.write("bad.safetensors", b"no safetensors")
    here.write("in/a.safetensors", b"x")
    here.write("in/.gitattributes", b"a.* filter=other\n")
    here.commit("odd")
    shown = told(0, "import", "--from", "git", "*.safetensors")
    assert f"1 commit or tag lost a signature (it signed the old content):\n  {commit[:12]}\n" in shown
    assert "left as it is: in/a.safetensors" in shown and "filter other" in shown
    assert "no valid safetensors file: bad.safetensors" in shown


def test_usage(here, told):
    told(2, "import", "*.safetensors")
    told(2, "import", "--from", "svn", "*.safetensors")
    told(2, "export")
