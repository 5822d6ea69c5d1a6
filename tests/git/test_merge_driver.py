"""The merge driver under real Git: what each operation computes, conflicts, and what is left behind."""

import io
import subprocess
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load, save

from git_gru.formats.safetensors import parse_header, write_header
from git_gru.git.drivers import merge_files, merge_rules
from git_gru.store.ingest import ingest
from git_gru.store.manifest import parse_manifest

Arrays = dict[str, np.ndarray]
PATH = "m.safetensors"


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


BASE: Arrays = {"both": f32(1, 1, 1), "mine": f32(0), "yours": f32(0), "same": f32(4), "steps": np.array(100)}
OURS: Arrays = {**BASE, "both": f32(3, 1, 1), "mine": f32(5), "steps": np.array(110)}
THEIRS: Arrays = {**BASE, "both": f32(1, 5, 1), "yours": f32(6), "steps": np.array(103)}


def committed(repo, rev: str, path: str = PATH) -> Arrays:
    blob = subprocess.run(
        ["git", "cat-file", "--filters", f"{rev}:{path}"], cwd=repo.path, capture_output=True, check=True
    )
    return load(blob.stdout)


def listed(arrays: Arrays) -> dict[str, object]:
    return {name: values.tolist() for name, values in arrays.items()}


@pytest.fixture
def forked(repo) -> Callable[..., None]:
    """`forked(base, ours, theirs)`: main and the branch `side`, each one commit after the first; on main."""

    def make(base: Arrays | None, ours: Arrays | None, theirs: Arrays | None) -> None:
        def write(arrays: Arrays | None, message: str) -> None:
            if arrays is None:
                repo.git("rm", "-q", "--ignore-unmatch", PATH)
            else:
                repo.write(PATH, arrays)
            repo.git("add", "--all")
            repo.git("commit", "-q", "--allow-empty", "-m", message)

        write(base, "base")
        repo.git("switch", "-q", "-c", "side")
        write(theirs, "theirs")
        repo.git("switch", "-q", "main")
        write(ours, "ours")

    return make


def test_merge_averages(repo, forked) -> None:
    forked(BASE, OURS, THEIRS)
    done = repo.run("git", "merge", "-q", "--no-edit", "side")
    assert done.returncode == 0
    assert listed(load(repo.read(PATH))) == {
        "both": [2, 3, 1],
        "mine": [5],
        "yours": [6],
        "same": [4],
        "steps": 113,
    }
    assert repo.status() == ""
    told = "m.safetensors: tensors: 1 from ours, 1 from theirs, 1 averaged, 1 counted up, 1 unchanged"
    assert told in done.stderr.decode()
    assert repo.git("rev-list", "--count", "HEAD").strip() == "4"


def test_the_settings_choose_strategy_and_weight_of_a_merge(repo, forked) -> None:
    forked(BASE, OURS, THEIRS)
    repo.git("config", "gru.merge.weight", "0.25")
    repo.git("merge", "-q", "--no-edit", "side")
    assert load(repo.read(PATH))["both"].tolist() == [2.5, 2, 1]
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.git("config", "gru.merge.strategy", "apply")
    repo.git("merge", "-q", "--no-edit", "side")
    assert load(repo.read(PATH))["both"].tolist() == [3, 5, 1]


def test_a_setting_that_makes_no_sense_is_told_and_ours_stays(repo, forked) -> None:
    forked(BASE, OURS, THEIRS)
    repo.git("config", "gru.merge.weight", "much")
    done = repo.run("git", "merge", "--no-edit", "side")
    assert done.returncode == 1
    assert "git-gru: the merge weight 'much' is not a number from 0 to 1" in done.stderr.decode()
    assert listed(load(repo.read(PATH))) == listed(OURS)
    repo.git("merge", "--abort")
    assert repo.status() == ""


@pytest.mark.parametrize("operation", [("cherry-pick", "side"), ("rebase", "-q", "side")])
def test_cherry_pick_and_rebase_apply_the_change(repo, forked, operation) -> None:
    forked(BASE, OURS, THEIRS)
    repo.git(*operation)
    result = load(repo.read(PATH))
    assert listed(result) == {"both": [3, 5, 1], "mine": [5], "yours": [6], "same": [4], "steps": 113}
    assert repo.status() == ""


def test_stash_pop_applies_the_change(repo, forked) -> None:
    forked(BASE, OURS, BASE)
    repo.git("switch", "-q", "side")
    repo.write(PATH, THEIRS)
    repo.git("stash", "-q")
    repo.git("switch", "-q", "main")
    repo.git("stash", "pop", "-q")
    assert load(repo.read(PATH))["both"].tolist() == [3, 5, 1]
    assert repo.status() == " M m.safetensors\n"


def file_of(tensors: dict[str, tuple[str, np.ndarray]]) -> bytes:
    """A safetensors file of dtypes that numpy alone does not have: name → (dtype, values)."""
    header = write_header([(name, dtype, values.shape) for name, (dtype, values) in tensors.items()])
    return header + b"".join(values.tobytes() for _, values in tensors.values())


def test_revert_of_the_newest_change_restores_the_exact_bits(repo, make_arrays) -> None:
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    first = {name: (name, make_arrays(1)["head.weight"].astype(kind)) for name, kind in kinds.items()}
    first["BF16"][1].view(np.uint16)[0, :2] = [0x7FC1, 0x8000]  # a NaN with a payload, a negative zero
    rng = np.random.default_rng(5)
    second = {
        name: (dtype, (values.astype(np.float64) + rng.normal(0, 0.01, values.shape)).astype(values.dtype))
        for name, (dtype, values) in first.items()
    }
    repo.git("config", "gru.allowNonFinite", "true")
    before = repo.write(PATH, file_of(first))
    repo.commit("first")
    repo.write(PATH, file_of(second))
    repo.commit("second")
    repo.write(PATH, file_of({**second, "later": ("F32", np.ones(3, np.float32))}))
    repo.commit("adds a tensor")
    repo.git("revert", "--no-edit", "HEAD~1")
    assert repo.status() == ""
    restored = load_bits(repo.read(PATH))
    assert {name: restored[name] for name in kinds} == load_bits(before)


def load_bits(data: bytes) -> dict[str, bytes]:
    header = parse_header(data, file_size=len(data), where="test")
    return {info.name: data[header.length + info.begin : header.length + info.end] for info in header.tensors}


def test_revert_of_an_older_change_keeps_the_later_one(repo) -> None:
    for value in ((0, 0), (1, 0), (1, 2)):
        repo.write(PATH, {"w": f32(*value), "n": np.array(int(sum(value)))})
        repo.commit(str(value))
    repo.write(PATH, {"w": f32(1.5, 2), "n": np.array(9)})
    repo.commit("later")
    repo.git("revert", "--no-edit", "HEAD~2")
    result = load(repo.read(PATH))
    assert (result["w"].tolist(), int(result["n"])) == ([0.5, 2], 8)


@pytest.mark.parametrize("command", ["git", "git-gru"])
def test_add_add_of_models_with_nothing_in_common_is_a_conflict(repo, forked, command) -> None:
    forked(None, {"w": f32(1), "e": f32(7)}, {"w": f32(5), "e": f32(7)})
    done = repo.run("git", "merge", "--no-edit", "side") if command == "git" else repo.gru("merge", "side")
    assert done.returncode == 1
    assert "added different models, with no version in common" in (done.stderr + done.stdout).decode()
    assert listed(load(repo.read(PATH))) == {"w": [1], "e": [7]}
    assert repo.status() == "AA m.safetensors\n"
    repo.git("checkout", "--theirs", "--", PATH)
    assert listed(load(repo.read(PATH))) == {"w": [5], "e": [7]}
    repo.git("add", PATH)
    repo.git("commit", "-q", "--no-edit")
    assert repo.status() == ""


def test_add_add_of_the_same_model_is_no_conflict(repo, forked) -> None:
    forked(None, {"w": f32(1)}, {"w": f32(1)})
    assert repo.run("git", "merge", "--no-edit", "side").returncode == 0


def test_a_conflict_is_told_by_tensor_and_leaves_a_model_to_work_on(repo, forked) -> None:
    base = {"w": f32(0), "ids": np.array([1, 2])}
    forked(base, {"w": f32(2), "ids": np.array([1, 3])}, {"w": f32(4), "ids": np.array([1, 4])})
    done = repo.run("git", "merge", "--no-edit", "side")
    assert done.returncode == 1
    told = done.stderr.decode()
    assert (
        "m.safetensors: conflict: tensor ids: ours and theirs have different integers (I64); ours was kept"
        in told
    )
    assert "git checkout --ours -- m.safetensors" in told
    assert listed(load(repo.read(PATH))) == {"w": [3], "ids": [1, 3]}
    assert repo.status() == "UU m.safetensors\n"
    repo.git("checkout", "--theirs", "--", PATH)
    assert listed(load(repo.read(PATH))) == {"w": [4], "ids": [1, 4]}
    repo.git("add", PATH)
    repo.git("commit", "-q", "--no-edit")
    assert repo.status() == ""
    assert committed(repo, "HEAD")["ids"].tolist() == [1, 4]


def test_a_model_merged_as_text_is_refused_with_a_sentence(repo, forked) -> None:
    """What a host's merge button leaves behind: conflict markers inside a manifest, committed."""
    forked(BASE, OURS, THEIRS)
    text = repo.git("cat-file", "-p", f"HEAD:{PATH}").replace('"size"', '<<<<<<< ours\n"size"', 1)
    blob = repo.git("hash-object", "-w", "--stdin", input=text.encode()).strip()
    repo.git("update-index", "--cacheinfo", f"100644,{blob},{PATH}")
    repo.git("commit", "-q", "-m", "merged as text", "--no-verify")
    done = repo.run("git", "merge-tree", "--write-tree", "HEAD", "side")
    assert done.returncode == 1
    assert "git-gru: m.safetensors: the manifest holds conflict markers" in done.stderr.decode()


def test_a_missing_chunk_is_a_conflict_not_a_wrong_model(repo, forked) -> None:
    forked(BASE, OURS, THEIRS)
    store = repo.path / ".git" / "gru"
    (store / "index.sqlite").unlink()
    (store / "store.git").rename(store / "elsewhere.git")
    done = repo.run("git", "merge-tree", "--write-tree", "HEAD", "side")
    assert done.returncode == 1
    assert "git-gru: the models" in done.stderr.decode() and "hint: " in done.stderr.decode()


def test_a_version_from_before_tracking_takes_part(plain_repo) -> None:
    """The base is a plain blob: the driver reads its bytes."""
    library = plain_repo.repository
    store = library.store()
    files = []
    for name, arrays in (("O", BASE), ("A", OURS), ("B", THEIRS)):
        data = save(arrays)
        if name != "O":
            data = ingest(store, io.BytesIO(data), expect_safetensors=True).manifest.encode()
        files.append(plain_repo.path / name)
        files[-1].write_bytes(data)
    merged = merge_files(library, *files, path=PATH, rules=merge_rules(library, merging=True))
    assert parse_manifest(files[1].read_bytes(), where=PATH) == merged.manifest
    assert merged.counts.combined == 1 and merged.counts.taken == (1, 1)


def test_an_empty_side_is_a_conflict_with_a_sentence(repo, forked) -> None:
    forked(BASE, OURS, THEIRS)
    repo.write(PATH, b"")
    repo.commit("emptied")
    done = repo.run("git", "merge", "--no-edit", "side")
    assert done.returncode == 1
    assert "git-gru: m.safetensors is an empty file in ours and a model in theirs" in done.stderr.decode()


def test_criss_cross_merges_do_not_fail(repo, forked) -> None:
    forked(BASE, OURS, THEIRS)
    left, right = (repo.git("rev-parse", name).strip() for name in ("main", "side"))
    repo.git("merge", "-q", "--no-edit", right)
    repo.git("switch", "-q", "side")
    repo.git("merge", "-q", "--no-edit", left)
    repo.write(PATH, {**load(repo.read(PATH)), "yours": f32(60)})
    repo.commit("more on side")
    repo.git("switch", "-q", "main")
    repo.write(PATH, {**load(repo.read(PATH)), "mine": f32(50)})
    repo.commit("more on main")
    repo.git("merge", "-q", "--no-edit", "side")
    result = load(repo.read(PATH))
    assert (result["both"].tolist(), result["same"].tolist()) == ([2, 3, 1], [4])
