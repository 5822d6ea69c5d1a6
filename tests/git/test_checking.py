"""`git gru fsck`: what the repository names against what is here, plain files, and ways out that work."""

import json
import os
import shutil

import pytest

from git_gru.cli.main import run
from git_gru.git.manifests import ManifestBlobs
from git_gru.git.plain_files import plain_files
from git_gru.store.store import Store

MODEL = "model.safetensors"


@pytest.fixture
def checked(repo, capsys, monkeypatch):
    """`checked(code, *options)`: what `git gru fsck --json` says."""
    monkeypatch.chdir(repo.path)

    def call(code: int, *options: str) -> dict:
        capsys.readouterr()
        found = run(["fsck", "--json", *options])
        shown = capsys.readouterr()
        assert found == code, shown
        return json.loads(shown.out)

    return call


@pytest.fixture
def models(repo, make_arrays) -> list[bytes]:
    """Three committed versions."""
    kept = []
    for seed in range(3):
        kept.append(repo.write(MODEL, make_arrays(seed)))
        repo.commit(f"version {seed}")
    return kept


def chunk_of(repo, rev: str) -> str:
    manifest = json.loads(repo.git("cat-file", "blob", f"{rev}:{MODEL}"))
    return manifest["tensors"]["gru.weight_hh_l0"]["chunks"][0]


def damage(repo, id: str) -> None:
    store = Store(repo.path / ".git/gru")
    row = store.lookup.get(id)
    for pack in store.objects.packs():
        offset = pack.find(row.oid)
        if offset is not None:
            content = bytearray(pack.path.read_bytes())
            content[offset + row.stored // 2] ^= 1
            pack.path.unlink()
            pack.path.write_bytes(bytes(content))
    store.close()


def test_a_whole_repository(repo, models, checked, make_arrays):
    repo.write(MODEL, make_arrays(9))
    repo.status()
    found = checked(0, "--deep")
    assert found["whole"] is True
    assert (found["models"], found["packs"]) == (4, 4)
    assert found["findings"] == found["plain_files"] == found["elsewhere"] == []
    assert found["unneeded"]["models"] == 1
    assert found["unneeded"]["bytes"] > 10_000
    assert run(["fsck"]) == 0


def test_a_damaged_chunk_is_named_and_adding_the_file_again_mends_it(repo, models, checked, capsys):
    id = chunk_of(repo, "HEAD")
    damage(repo, id)
    assert checked(0)["whole"] is True, "what chunks hold is looked at with --deep"
    found = checked(5, "--deep")
    (finding,) = found["findings"]
    assert (finding["kind"], finding["chunk"], finding["paths"]) == ("damaged", id, [MODEL])
    assert run(["fsck", "--deep"]) == 5
    shown = capsys.readouterr().out
    assert f"{MODEL} (" in shown
    assert "git add PATH" in shown
    (repo.path / MODEL).touch()
    repo.git("add", MODEL)
    assert checked(0, "--deep")["whole"] is True


def test_repair_takes_an_intact_copy_from_another_pack(repo, models, checked):
    folder = repo.path / ".git/gru/store.git/objects/pack"
    aside = {path: path.read_bytes() for path in folder.iterdir()}
    assert repo.gru("repack").returncode == 0
    damage(repo, chunk_of(repo, "HEAD"))
    for path, content in aside.items():
        if not path.exists():
            path.write_bytes(content)
            os.utime(path, (0, 0))  # the damaged copy is the one that is found
    assert checked(5, "--deep")["whole"] is False
    assert repo.gru("repair").returncode == 0
    assert checked(0, "--deep")["whole"] is True
    for age, content in enumerate(reversed(models)):
        repo.git("checkout", "-q", f"main~{age}")
        assert repo.read(MODEL) == content


def test_a_model_that_is_not_here(repo, models, checked):
    digest = json.loads(repo.git("cat-file", "blob", f"HEAD:{MODEL}"))["digest"]
    store = Store(repo.path / ".git/gru")
    tree = store.models()
    new, entries = store.tree().write({digest: None})
    from git_gru.store.packs import PackWriter

    pack = PackWriter(store.repository / "objects/pack", len(entries))
    for entry in entries:
        pack.add(entry)
    pack.finish()
    before = store.tip()
    assert store.update_ref(new, before)
    found = checked(5)
    assert [(f["kind"], f["digest"], f["paths"]) for f in found["findings"]] == [("missing", digest, [MODEL])]
    assert tree.keys() >= {digest}


def test_a_store_that_is_gone_after_an_amend(repo, models, checked, make_arrays):
    repo.write(MODEL, make_arrays(9))
    repo.git("commit", "-q", "-a", "--amend", "-m", "instead")  # the version before has no path any more
    shutil.rmtree(repo.path / ".git/gru")
    found = checked(5)
    assert sorted(f["paths"] for f in found["findings"]) == [[], [MODEL], [MODEL], [MODEL]]


def test_the_remotes_are_asked_what_they_have(repo, models, checked, tmp_path, at, capsys):
    digests = {json.loads(repo.git("cat-file", "blob", f"HEAD~{age}:{MODEL}"))["digest"] for age in (1, 2)}
    skip = {"GIT_GRU_SKIP_SMUDGE": "1"}
    clone, gone = at(tmp_path / "clone"), tmp_path / "gone.git"
    repo.git("clone", "-q", "--bare", str(repo.path), str(gone), env=skip)
    repo.git("clone", "-q", str(repo.path), str(clone.path), env=skip)
    clone.git("config", "include.path", str(repo.path / ".git/config"))
    clone.git("checkout", "-q", "--force", "HEAD")

    found = clone_checked(clone, 0)
    assert {f["digest"] for f in found["elsewhere"]} >= digests
    assert {f["remote"] for f in found["elsewhere"]} == {"origin (its store)"}

    clone.git(
        "remote", "set-url", "origin", str(gone)
    )  # what was remembered of the one before does not count
    found = clone_checked(clone, 5)
    assert {f["digest"] for f in found["findings"]} >= digests
    assert found["elsewhere"] == []
    assert found["unreached"] == {}

    clone.git("remote", "set-url", "origin", f"file://{tmp_path}/nowhere")
    found = clone_checked(clone, 5)
    assert "that could be asked" in found["findings"][0]["text"]
    assert list(found["unreached"]) == ["origin"]

    clone.git("remote", "remove", "origin")
    clone.git("config", "-f", ".gruconfig", "store.url", "https://host/models.git")
    found = clone_checked(clone, 5)
    assert list(found["unreached"]) == [".gruconfig"], "it may be there, and is not asked"
    assert "git gru trust" in found["unreached"][".gruconfig"]


def clone_checked(clone, code: int) -> dict:
    done = clone.gru("fsck", "--json")
    assert done.returncode == code, done
    return json.loads(done.stdout)


def test_a_store_that_cannot_be_written(repo, models, read_only):
    gru = repo.path / ".git/gru"
    (gru / "repack.lock").unlink(missing_ok=True)
    gru.rename(repo.path / ".git/real")
    gru.symlink_to(read_only(repo.path / ".git/real"))
    found = clone_checked(repo, 0)
    assert (found["whole"], found["models"]) == (True, 3)


def test_files_committed_without_the_filter(repo, models, checked, make_model, make_arrays):
    without = ("-c", "filter.gru.process=", "-c", "filter.gru.required=false")
    repo.write("odd näme.safetensors", make_arrays(7))
    repo.write("empty.safetensors", b"")
    repo.write("notes.txt", b"no model")
    repo.git(*without, "add", "odd näme.safetensors", "empty.safetensors", "notes.txt")
    repo.git(*without, "commit", "-q", "-m", "plain")
    tip = repo.git("rev-parse", "HEAD").strip()
    repo.git("tag", "-a", "-m", "same files", "v1")
    repo.git("switch", "-q", "-f", "-c", "side", "HEAD~1")
    repo.write(".gitattributes", b"")  # the worktree's attributes say otherwise, and do not count
    assert checked(0)["plain_files"] == [{"commit": tip, "path": "odd näme.safetensors"}]
    store = repo.repository.store()
    assert [
        file.path for file in plain_files(repo.repository, ManifestBlobs(repo.repository, store.stamps))
    ] == ["odd näme.safetensors"]
    store.close()


def test_an_empty_repository(repo, checked):
    assert checked(0)["models"] == 0
