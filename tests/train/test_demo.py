"""The demo's repository: bounded, deterministic, never in a folder that holds something."""

from pathlib import Path
from typing import Any

import pytest

from git_gru.errors import InputError
from git_gru.train.demo import DATA_BYTES, VALIDATION_BYTES, check_target, kept_sizes, write_files
from git_gru.train.recipe_file import parse_recipe


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_library_gives_the_same_files(tmp_path: Path) -> None:
    told = [write_files(tmp_path / name) for name in ("one", "two")]
    assert told[0] == told[1]
    first = files_of(tmp_path / "one")
    assert first == files_of(tmp_path / "two")
    sizes = {
        part: sum(len(data) for name, data in first.items() if name.startswith(f"data/{part}/"))
        for part in ("a", "b", "validation")
    }
    assert sizes["a"] + sizes["b"] == told[0].train_bytes <= DATA_BYTES
    assert 0 < sizes["validation"] == told[0].validation_bytes <= VALIDATION_BYTES
    names = [name.rpartition("/")[2] for name in first if name.startswith("data/")]
    assert len(names) == len(set(names)) == told[0].files
    parse_recipe(first["gru.toml"], where="gru.toml")


def test_a_library_without_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    with pytest.raises(InputError, match="too few Python sources"):
        write_files(tmp_path / "demo", tmp_path / "library")


def test_a_folder_that_holds_something_is_refused(plain_repo: Any) -> None:
    done = plain_repo.gru("demo", ".")
    assert done.returncode == 4
    assert b"there already and not empty" in done.stderr
    with pytest.raises(InputError):
        check_target(Path(__file__))


def test_what_versions_share_is_kept_once(repo: Any, make_model: Any, make_arrays: Any) -> None:
    arrays = make_arrays(0)
    repo.write("m.safetensors", make_model(arrays))
    repo.commit("first")
    once = kept_sizes(repo.repository)
    arrays["head.weight"] = arrays["head.weight"] + 1
    repo.write("m.safetensors", make_model(arrays))
    repo.commit("only the head changed")
    twice = kept_sizes(repo.repository)
    assert (once.versions, twice.versions) == (1, 2)
    assert twice.raw == 2 * once.raw
    assert twice.kept - once.kept < once.kept / 2
