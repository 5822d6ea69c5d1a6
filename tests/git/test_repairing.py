"""A damaged store comes back: from what is intact, and from a remote."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = "model.safetensors"


@pytest.fixture
def three(repo, make_arrays):
    """Three versions, repacked: the older ones are deltas."""
    base, files = make_arrays(0), []
    for seed in range(3):
        files.append(repo.write(MODEL, {name: array * (1 + 1e-4 * seed) for name, array in base.items()}))
        repo.commit(f"version {seed}")
    return repo, files


def packs(repo):
    return sorted(
        (repo.path / ".git/gru/store.git/objects/pack").glob("*.pack"), key=lambda p: p.stat().st_mtime_ns
    )


def objects_of(repo, kind: str) -> list[str]:
    listed = repo.git(
        "--git-dir", str(repo.path / ".git/gru/store.git"), "cat-file", "--batch-all-objects", "--batch-check"
    )
    return [line.split()[0] for line in listed.splitlines() if line.split()[1] == kind]


def chunks_of(repo) -> list[str]:
    """The blobs of chunks: all but the one that names the store's format."""
    folder = str(repo.path / ".git/gru/store.git")
    return [
        name
        for name in objects_of(repo, "blob")
        if repo.git("--git-dir", folder, "cat-file", "-s", name).strip() != "16"
    ]


def overwrite(repo, name: str) -> None:
    """Damages an object in whichever pack has it, near its end."""
    from git_gru.store.objects import Objects

    for pack in Objects(repo.path / ".git/gru/store.git").packs():
        offset = pack.find(bytes.fromhex(name))
        if offset is not None:
            end = next(o + size for oid, o, size in pack.entries() if o == offset)
            pack.path.chmod(0o644)
            with pack.path.open("r+b") as file:
                file.seek(end - 12)
                file.write(b"\xde\xad\xbe\xef")


def checkouts(repo, files) -> None:
    for at, content in enumerate(reversed(files)):
        repo.git("checkout", "-q", "--force", f"main~{at}")
        assert repo.read(MODEL) == content


def test_lost_trees_are_made_anew_from_the_chunks(three):
    repo, files = three
    assert repo.gru("repack").returncode == 0
    for kind in ("commit", "tree"):
        for name in objects_of(repo, kind):
            overwrite(repo, name)
    (repo.path / MODEL).unlink()
    done = repo.run("git", "checkout", "--", MODEL)
    assert done.returncode != 0
    assert b"git gru repair" in done.stderr
    told = json.loads(repo.gru("repair", "--json").stdout)
    assert told["salvaged"] == {"whole": 3, "lost": []}
    checkouts(repo, files)
    repo.git("switch", "-q", "main")
    repo.write("new.safetensors", files[0][:-4] + b"\0\0\0\0")
    repo.commit("and on")
    assert repo.gru("repack").returncode == 0
    checkouts(repo, [*files, files[-1]])


def test_a_deleted_pack_costs_what_it_held_alone(three):
    repo, files = three
    oldest = packs(repo)[0]
    oldest.with_suffix(".idx").unlink()
    oldest.unlink()
    done = repo.gru("repair", "--json")
    told = json.loads(done.stdout)
    assert len(told["salvaged"]["lost"]) >= 1
    repo.write(MODEL, files[0])
    repo.git("add", MODEL)  # the header's chunk, which all versions share, is back with it
    told = json.loads(repo.gru("repair", "--salvage", "--json").stdout)
    assert told["salvaged"] == {"whole": 3, "lost": []}
    repo.git("reset", "-q", "--hard")
    checkouts(repo, files)


def test_all_packs_deleted(three):
    repo, files = three
    for pack in packs(repo):
        pack.with_suffix(".idx").unlink()
        pack.unlink()
    assert len(json.loads(repo.gru("repair", "--json").stdout)["salvaged"]["lost"]) == 3
    for content in files:
        repo.write(MODEL, content)
        repo.git("add", MODEL)
    checkouts(repo, files)


def test_a_damaged_reference(three):
    repo, files = three
    (repo.path / ".git/gru/store.git/refs/gru/store").write_text("nonsense")
    assert repo.gru("repair").returncode == 0
    checkouts(repo, files)


def test_a_lost_reference(three):
    repo, files = three
    (repo.path / ".git/gru/store.git/refs/gru/store").unlink()
    checked = repo.gru("fsck", "--json")
    assert checked.returncode == 5
    assert [f["kind"] for f in json.loads(checked.stdout)["findings"]] == ["tree", *["missing"] * 3]
    told = json.loads(repo.gru("repair", "--json").stdout)
    assert told["salvaged"] == {"whole": 3, "lost": []}
    checkouts(repo, files)


def test_a_lost_reference_while_a_linked_worktree_has_a_model_in_its_index(three, tmp_path, at, make_arrays):
    repo, files = three
    repo.git("worktree", "add", "-q", str(tmp_path / "linked"))
    linked = at(tmp_path / "linked")
    linked.write("new.safetensors", make_arrays(9))
    linked.git("add", "new.safetensors")
    (repo.path / ".git/gru/store.git/refs/gru/store").unlink()
    assert json.loads(repo.gru("repair", "--json").stdout)["salvaged"] == {"whole": 4, "lost": []}
    checkouts(repo, files)


def test_a_lost_reference_after_which_a_model_was_added(three, hub, make_arrays):
    repo, files = three
    (repo.path / ".git/gru/store.git/refs/gru/store").unlink()
    assert repo.gru("fsck").returncode == 5, "though the hub has all models"
    repo.write("new.safetensors", make_arrays(9))
    repo.git("add", "new.safetensors")
    assert json.loads(repo.gru("repair", "--json").stdout)["salvaged"] is None, "the hub has the others"
    shutil.rmtree(hub)
    done = repo.gru("repair", "--json")
    assert json.loads(done.stdout)["salvaged"] == {"whole": 4, "lost": []}
    assert done.returncode == 0
    repo.git("commit", "-q", "-m", "new")
    checkouts(repo, [*files, files[-1]])


def test_what_salvage_drops_for_a_missing_chunk_is_told_as_lost(three):
    repo, _ = three
    newest = packs(repo)[-1]
    store = repo.path / ".git/gru/store.git"
    trees = [name for kind in ("tree", "commit") for name in objects_of(repo, kind)]
    format_blob = set(objects_of(repo, "blob")) - set(chunks_of(repo))
    pack = ["pack-objects", "-q", str(store / "objects/pack/pack")]
    repo.git("--git-dir", str(store), *pack, input="\n".join([*trees, *format_blob]).encode())
    newest.with_suffix(".idx").unlink()  # the trees are whole, the newest chunks gone
    done = repo.gru("repair", "--salvage", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, len(told["salvaged"]["lost"]), told["models"]) == (5, 1, 2)


def test_a_store_that_only_looked_at_a_remote_has_lost_nothing(three, tmp_path, at):
    repo, _ = three
    clone = at(tmp_path / "clone")
    repo.git("clone", "-q", str(repo.path), str(clone.path), env={"GIT_GRU_SKIP_SMUDGE": "1"})
    clone.gru("push", "origin", "HEAD")  # looks, and finds everything there
    assert list((clone.path / ".git/gru/store.git/objects/pack").glob("*.pack"))
    assert json.loads(clone.gru("repair", "--json").stdout)["salvaged"] is None


@pytest.fixture
def hub(three, tmp_path):
    repo, _ = three
    hub = tmp_path / "hub.git"
    subprocess.run(["git", "init", "-q", "--bare", str(hub)], check=True)
    repo.git("remote", "add", "origin", str(hub))
    repo.git("push", "-q", "origin", "main")
    return hub


def cut_short(repo, share: float) -> None:
    """Cuts the largest pack to a share of its length."""
    largest = max(packs(repo), key=lambda path: path.stat().st_size)
    largest.chmod(0o644)
    os.truncate(largest, int(largest.stat().st_size * share))


@pytest.mark.parametrize("share", [0.6, 0.0])
def test_a_pack_that_is_cut_short_is_set_aside_and_its_models_fetched_again(three, hub, share):
    repo, files = three
    assert repo.gru("repack").returncode == 0
    cut_short(repo, share)
    done = repo.gru("repair", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["models"], told["left"]) == (0, 3, {})
    assert [Path(path).exists() for path in told["set_aside"]] == [True]
    assert repo.gru("fsck", "--deep").returncode == 0
    shutil.rmtree(hub)
    checkouts(repo, files)


def test_a_damaged_index_is_no_reason_to_lose_a_pack(three):
    repo, files = three
    index = packs(repo)[-1].with_suffix(".idx")
    index.chmod(0o644)
    os.truncate(index, 500)
    assert repo.gru("fsck").returncode == 5
    assert repo.gru("repair").returncode == 0
    assert repo.gru("fsck", "--deep").returncode == 0
    checkouts(repo, files)


def test_what_a_pack_that_is_cut_short_had_alone_is_lost(three):
    repo, files = three
    cut_short(repo, 0.0)
    for _ in range(2):
        done = repo.gru("repair", "--salvage")
        assert done.returncode == 5
        assert b"with chunks missing, and on no remote\n" in done.stdout
    for content in files:
        repo.write(MODEL, content)
        repo.git("add", MODEL)
    assert repo.gru("repair", "--salvage").returncode == 0
    checkouts(repo, files)


def test_what_is_damaged_here_is_not_the_remotes_fault(three, hub, tmp_path, at):
    repo, files = three
    clone = at(tmp_path / "clone")
    names = ("filter.gru.process", "filter.gru.required")
    settings = [word for name in names for word in ("-c", f"{name}={repo.git('config', name).strip()}")]
    repo.git("clone", "-q", *settings, str(hub), str(clone.path))
    assert clone.read(MODEL) == files[2]
    cut_short(clone, 0.01)
    done = clone.gru("fetch", "HEAD~1")
    assert done.returncode == 5
    assert b"the remote" not in done.stderr
    assert b"git gru repair" in done.stderr
    assert clone.gru("repair").returncode == 0
    assert clone.gru("fetch", "--all").returncode == 0
    assert clone.gru("fsck", "--deep").returncode == 0


def test_damaged_chunks_come_from_a_remote(three, hub):
    repo, files = three
    assert b"are whole" in repo.gru("repair").stdout
    for name in chunks_of(repo):
        overwrite(repo, name)
    done = repo.gru("repair", "--json")
    told = json.loads(done.stdout)
    assert (told["left"], done.returncode) == ({}, 0)
    assert told["chunks"] > 3
    checkouts(repo, files)


def test_what_nobody_has_is_told(three):
    repo, _ = three
    for name in chunks_of(repo):
        overwrite(repo, name)
    done = repo.gru("repair")
    assert done.returncode == 5
    assert b"there is no remote" in done.stdout


def test_a_whole_store(three):
    repo, _ = three
    assert json.loads(repo.gru("repair", "--json").stdout) == {
        "models": 3,
        "set_aside": [],
        "salvaged": None,
        "fetched": 0,
        "elsewhere": {},
        "unreached": {},
        "chunks": 0,
        "left": {},
    }
