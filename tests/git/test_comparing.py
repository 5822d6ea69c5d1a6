"""Versions of models compared: out of the store and straight from files, by revisions as `git diff` has them."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from git_gru.git import comparing
from git_gru.git.comparing import ModelDiff, Pair, compare
from git_gru.git.pairs import ComparisonUsageError, VersionReader, pairs
from git_gru.git.revisions import UnknownRevisionError
from git_gru.store.chunks import CHUNK_BYTES

PATH = "m.safetensors"


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def versions(folder: Path, repo, old: object, new: object, metadata: dict[str, str] | None = None) -> Pair:
    """Two files of the worktree as a pair."""
    reader = VersionReader(repo.repository)
    files = []
    for name, content in (("old", old), ("new", new)):
        file = folder / f"{name}.safetensors"
        file.write_bytes(content if isinstance(content, bytes) else save(content, metadata))
        files.append(reader.file(file, file.name))
    return Pair(path=PATH, old_path=PATH, old=files[0], new=files[1])


def by_name(diff: ModelDiff) -> dict[str, str]:
    return {row.name: row.status for row in diff.rows}


def test_what_happened_to_each_tensor(repo, tmp_path) -> None:
    old = {"same": f32(1), "w": f32(3, 4), "gone": f32(5), "shape": f32(1, 2), "before": f32(6, 7)}
    new = {"same": f32(1), "w": f32(3, 0), "more": f32(8), "shape": f32(1, 2, 3), "after": f32(6, 7)}
    diff = compare(versions(tmp_path, repo, old, new))
    assert by_name(diff) == {
        "w": "changed",
        "gone": "removed",
        "more": "added",
        "shape": "reshaped",
        "after": "renamed",
    }
    rows = {row.name: row for row in diff.rows}
    assert rows["after"].old_name == "before" and rows["after"].changed_chunks == 0
    measured = rows["w"].diff
    assert measured is not None and (measured.total.delta_norm, measured.total.old_norm) == (4, 5)
    assert all(row.diff is None for name, row in rows.items() if name != "w")
    assert diff.unchanged == 1


def test_a_grus_gates_are_measured_on_request(repo, tmp_path) -> None:
    old = {"gru.weight_hh_l0": np.zeros((6, 2), np.float32), "gru.bias_hh_l0": np.zeros(6, np.float32)}
    new = {
        "gru.weight_hh_l0": np.repeat(f32(0, 3, 4), 4).reshape(6, 2),
        "gru.bias_hh_l0": f32(1, 1, 0, 0, 0, 0),
    }
    pair = versions(tmp_path, repo, old, new)
    rows = {row.name: row.diff for row in compare(pair).rows}
    assert {gate: m.delta_norm for gate, m in rows["gru.weight_hh_l0"].gates.items()} == {
        "r": 0,
        "z": 6,
        "n": 8,
    }
    assert [m.changed for m in rows["gru.bias_hh_l0"].gates.values()] == [2, 0, 0]
    assert all(not row.diff.gates for row in compare(pair, gates=False).rows)


def test_metadata_that_differs_is_named(repo, tmp_path) -> None:
    old, new = save({"w": f32(1)}, {"a": "1"}), save({"w": f32(1)}, {"b": "1"})
    diff = compare(versions(tmp_path, repo, old, new))
    assert (diff.rows, diff.metadata) == ((), ("a", "b"))


def test_a_file_that_is_not_safetensors_has_no_rows(repo, tmp_path) -> None:
    diff = compare(versions(tmp_path, repo, b"not a model", b"nor this"))
    assert diff.raw and diff.rows == ()


def test_a_file_cut_short_while_it_is_read_is_told(repo, tmp_path) -> None:
    pair = versions(tmp_path, repo, {"w": f32(1, 2)}, {"w": f32(3, 4)})
    whole = (tmp_path / "new.safetensors").read_bytes()
    (tmp_path / "new.safetensors").write_bytes(whole[:-4])
    with pytest.raises(comparing.InputError, match="changed while it was being read"):
        compare(pair)


def test_only_what_differs_is_read_and_equal_chunks_once(repo, tmp_path, monkeypatch) -> None:
    count = CHUNK_BYTES // 4
    big = np.arange(2 * count, dtype=np.float32)
    changed = big.copy()
    changed[-1] += 2
    pair = versions(tmp_path, repo, {"big": big, "same": f32(1)}, {"big": changed, "same": f32(1)})
    reads: list[tuple[str, str, int]] = []
    original = comparing.FileVersion.chunk

    def chunk(self, tensor: str, index: int) -> bytes:
        reads.append((self.path.name, tensor, index))
        return original(self, tensor, index)

    monkeypatch.setattr(comparing.FileVersion, "chunk", chunk)
    assert compare(pair, measure=False).rows[0].changed_chunks == 1
    assert reads == []
    diff = compare(pair).rows[0].diff
    assert diff is not None
    assert diff.total.delta_norm == 2 and diff.total.changed == 1
    assert diff.total.old_norm == pytest.approx(np.linalg.norm(big.astype(np.float64)), rel=1e-12)
    assert sorted(reads) == [
        ("new.safetensors", "big", 1),
        ("old.safetensors", "big", 0),
        ("old.safetensors", "big", 1),
    ]


@pytest.fixture
def history(repo):
    """Two commits of a model beside a text file; a branch from the first."""
    repo.write(PATH, {"w": f32(1)})
    repo.write("notes.txt", b"1")
    repo.commit("first")
    repo.git("branch", "side")
    repo.write(PATH, {"w": f32(2)})
    repo.write("notes.txt", b"2")
    repo.commit("second")
    return repo


def found(work, *words: str, **options: object) -> list[tuple[str, float | None]]:
    def value(version) -> float | None:
        return None if version is None else float(np.frombuffer(version.chunk("w", 0), "<f4")[0])

    return [
        (pair.path, value(pair.old), value(pair.new)) for pair in pairs(work.repository, words, **options)
    ]


def test_revisions_mean_what_they_mean_to_git_diff(history) -> None:
    assert found(history) == []
    assert found(history, "HEAD~1") == [(PATH, 1, 2)]
    assert found(history, "HEAD", "HEAD~1") == [(PATH, 2, 1)]
    assert found(history, "side..main") == [(PATH, 1, 2)]
    assert found(history, "main..side") == [(PATH, 2, 1)]
    assert found(history, "main...side") == []
    assert found(history, "side..") == [(PATH, 1, 2)]


def test_worktree_and_index(history) -> None:
    history.write(PATH, {"w": f32(5)})
    assert found(history) == [(PATH, 2, 5)]
    assert found(history, "HEAD~1") == [(PATH, 1, 5)]
    assert found(history, staged=True) == []
    history.git("add", PATH)
    assert found(history) == []
    assert found(history, staged=True) == [(PATH, 2, 5)]
    (history.path / PATH).unlink()
    assert found(history) == [(PATH, 5, None)]


def test_renames_additions_and_what_was_never_a_model(history) -> None:
    history.git("mv", PATH, "renamed.safetensors")
    history.write("new.safetensors", {"w": f32(3)})
    history.commit("third")
    assert found(history, "HEAD~1", "HEAD") == [("new.safetensors", None, 3), ("renamed.safetensors", 2, 2)]
    (_, pair) = pairs(history.repository, ["HEAD~1", "HEAD"])
    assert pair.old_path == PATH


def test_paths_are_told_from_revisions(history) -> None:
    (history.path / "sub").mkdir()
    history.write("sub/other.safetensors", {"w": f32(3)})
    history.commit("third")
    assert found(history, "HEAD~2", "HEAD", "sub") == [("sub/other.safetensors", None, 3)]
    assert found(history, "HEAD~2", "HEAD", "other.safetensors", folder=history.path / "sub") == [
        ("sub/other.safetensors", None, 3)
    ]
    with pytest.raises(UnknownRevisionError, match="nowhere names no commit"):
        pairs(history.repository, ["HEAD", "nowhere"])
    for words in (["HEAD", "HEAD", "HEAD"], ["HEAD..HEAD", "HEAD"]):
        with pytest.raises(ComparisonUsageError):
            pairs(history.repository, words)
    with pytest.raises(ComparisonUsageError, match="--staged"):
        pairs(history.repository, ["HEAD", "HEAD"], staged=True)


def test_a_manifest_in_the_worktree_is_read_as_one(history) -> None:
    manifest = history.git("cat-file", "-p", f"HEAD~1:{PATH}").encode()
    history.write(PATH, manifest)
    assert found(history, "HEAD") == [(PATH, 2, 1)]
