"""The data of a run: which bytes are learnt from, which are kept for validation, and how they become samples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.corpus import TRAIN, VALIDATION, DataError, prepare
from git_gru.train.corpus.text import Windows, open_windows, split_file
from git_gru.train.recipe import DataRecipe


@given(st.binary(min_size=2, max_size=200), st.integers(1, 20))
def test_windows_predict_every_byte_at_most_once_in_order(data: bytes, window: int) -> None:
    windows = Windows(np.frombuffer(data, np.uint8), window)
    count = len(windows)
    assert count == (len(data) - 1) // window
    if count:
        samples = windows.gather(np.arange(count, dtype=np.int64))
        assert samples.shape == (count, window + 1)
        assert samples[:, 1:].tobytes() == data[1 : 1 + count * window]
        assert samples[:, :-1].tobytes() == data[: count * window]


@pytest.fixture
def commit(repo: Any) -> str:
    repo.write("data/b.txt", b"B" * 10)
    repo.write("data/a.txt", b"A" * 20)
    repo.write("data/deep/er/c.txt", b"C" * 30)
    repo.write("other/held.txt", b"V" * 10)
    (repo.path / "data/link.txt").symlink_to("/etc/hostname")
    commit: str = repo.commit("data")
    repo.write("data/untracked.txt", b"U" * 50)
    repo.write("data/b.txt", b"changed since")
    return commit


def prepared(repo: Any, commit: str, target: Path, **keys: Any) -> tuple[bytes, bytes]:
    prepare(repo.repository, commit, DataRecipe(window=1, **keys), target)
    return split_file(target, TRAIN).read_bytes(), split_file(target, VALIDATION).read_bytes()


def test_the_commits_files_are_read_sorted_and_the_ends_held_out(
    repo: Any, commit: str, tmp_path: Path
) -> None:
    train, validation = prepared(repo, commit, tmp_path, files=("data/**",), validation=0.2)
    assert train == b"A" * 16 + b"B" * 8 + b"C" * 24
    assert validation == b"A" * 4 + b"B" * 2 + b"C" * 6


def test_one_star_stays_in_its_folder(repo: Any, commit: str, tmp_path: Path) -> None:
    train, _ = prepared(repo, commit, tmp_path, files=("data/*.txt",), validation=0.5)
    assert train == b"A" * 10 + b"B" * 5


def test_validation_files_are_never_trained_on(repo: Any, commit: str, tmp_path: Path) -> None:
    train, validation = prepared(
        repo, commit, tmp_path, files=("**/*.txt",), validation_files=("other/*", "data/a.txt")
    )
    assert train == b"B" * 10 + b"C" * 30
    assert validation == b"A" * 20 + b"V" * 10


def test_data_that_git_gru_keeps_is_read_from_the_store(
    repo: Any, make_model: Any, make_arrays: Any, tmp_path: Path
) -> None:
    model = make_model(make_arrays(1))
    repo.write("weights.safetensors", model)
    commit = repo.commit("a model as data")
    train, validation = prepared(repo, commit, tmp_path, files=("*.safetensors",), validation=0.5)
    assert train + validation == model


def test_globs_that_match_nothing_name_their_key(repo: Any, commit: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'data\.files: no file of the commit matches "data/link.txt"'):
        prepared(repo, commit, tmp_path, files=("data/link.txt",))
    with pytest.raises(DataError, match=r'data\.validation_files: no file .* "no/\*"'):
        prepared(repo, commit, tmp_path, files=("data/**",), validation_files=("no/*",))


def test_all_files_held_out_leaves_nothing_to_learn(repo: Any, commit: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the training data has 0 bytes"):
        prepared(repo, commit, tmp_path, files=("data/*",), validation_files=("data/*",))


def test_prepared_windows_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"abcde")
    windows = open_windows(tmp_path / "x.bin", 2)
    assert windows.gather(np.array([1, 0])).tobytes() == b"cde" + b"abc"
