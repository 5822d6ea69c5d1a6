"""`git diff`, `git log -p` and `git gru diff` as a user sees them."""

import json
import re

import numpy as np
import pytest

from git_gru.cli.drivers import text_lines
from git_gru.git.drivers import model_text

PATH = "m.safetensors"


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def gru_model(scale: float) -> dict[str, np.ndarray]:
    return {
        "embedding.weight": f32(1, 2, 3),
        "gru.weight_hh_l0": np.repeat(f32(1, 1, scale), 4).reshape(6, 2),
        "steps": np.array(7),
    }


@pytest.fixture
def history(repo):
    repo.write(PATH, gru_model(1))
    repo.commit("first")
    repo.write(PATH, gru_model(3))
    repo.commit("second")
    return repo


def squeezed(text: str) -> list[str]:
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines()]


TABLE = [
    "m.safetensors: 1 changed of 3 tensors, ‖Δ‖ 4",
    "tensor shape ‖Δ‖ relative cosine max |Δ| changed",
    "gru.weight_hh_l0 F32 6×2 4 1.155 0.870388 2 33.3 %",
    "new n 4 2 1.000000 2 100 %",
]


def test_git_diff_shows_the_table(history) -> None:
    assert squeezed(history.git("diff", "HEAD~1", "HEAD")) == [
        "diff --git-gru a/m.safetensors b/m.safetensors",
        *TABLE,
    ]


def test_git_diff_of_the_worktree_addition_and_removal(history) -> None:
    history.write(PATH, {**gru_model(3), "embedding.weight": f32(1, 2, np.nan)})
    shown = squeezed(history.git("diff"))
    assert shown[1:] == [
        "m.safetensors: 1 changed of 3 tensors, ‖Δ‖ 0",
        "tensor shape ‖Δ‖ relative cosine max |Δ| changed note",
        "embedding.weight F32 3 0 0 1.000000 0 33.3 % new: 1 NaN, 0 Inf",
    ]
    history.git("rm", "-q", "-f", PATH)
    removed = squeezed(history.git("diff", "--cached"))
    assert removed[1].startswith("m.safetensors: removed, 3 tensors, ")
    assert removed[2:] == [
        "tensor shape ‖Δ‖ relative cosine max |Δ| changed note",
        "steps I64 scalar removed",
        "embedding.weight F32 3 removed",
        "gru.weight_hh_l0 F32 6×2 removed",
    ]


def test_git_diff_of_a_rename(history) -> None:
    history.git("mv", PATH, "n.safetensors")
    assert squeezed(history.git("diff", "--cached", "-M")) == [
        "diff --git-gru a/m.safetensors b/n.safetensors",
        "m.safetensors → n.safetensors: same bytes under another path",
    ]


def test_git_log_p_shows_the_changed_tensors_as_lines(history) -> None:
    lines = history.git("log", "-p", "-1", "--format=").splitlines()
    changed = [line for line in lines if re.match(r"[+-][^+-]", line)]
    assert [line.split(":")[0] for line in changed] == ["-gru.weight_hh_l0", "+gru.weight_hh_l0"]
    assert changed[1].endswith("mean 1.66667, std 0.942809, max|x| 3")


def test_textconv_of_manifests_of_other_files_and_of_nothing(history, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(history.path)
    whole = text_lines(model_text(history.path / PATH))
    manifest = tmp_path / "manifest"
    manifest.write_text(history.git("cat-file", "-p", f"HEAD:{PATH}"))
    assert text_lines(model_text(manifest)) == whole
    assert [line.split(":")[0] for line in whole] == ["steps", "embedding.weight", "gru.weight_hh_l0"]
    assert re.fullmatch(r"steps: I64 \[\] [0-9a-f]{12} mean 7, std 0, max\|x\| 7", whole[0])
    other = tmp_path / "other"
    other.write_bytes(b"no model")
    (line,) = text_lines(model_text(other))
    assert line.startswith("not safetensors: 8 bytes, digest ")
    other.write_bytes(b"")
    assert text_lines(model_text(other)) == []
    (history.path / ".git/gru/store.git").rename(tmp_path / "away")
    (history.path / ".git/gru/index.sqlite").unlink()
    assert all(line.endswith("(not in this store)") for line in text_lines(model_text(manifest)))


def test_git_gru_diff_in_all_its_forms(history) -> None:
    assert squeezed(history.gru("diff", "HEAD~1..HEAD").stdout.decode()) == TABLE
    plain = squeezed(history.gru("diff", "--no-gates", "HEAD~1", "HEAD").stdout.decode())
    assert plain == TABLE[:-1]
    assert squeezed(history.gru("diff", "HEAD~1", "HEAD", "--stat").stdout.decode()) == [
        "model tensors changed bytes",
        "m.safetensors 1 changed of 3 tensors 48 B",
    ]
    assert history.gru("diff").stdout == b""
    assert history.gru("diff", "HEAD~1", "--", "nothing-here").returncode == 4


def test_the_keys_of_json(history) -> None:
    shown = json.loads(history.gru("diff", "HEAD~1", "HEAD", "--json").stdout)
    (model,) = shown["models"]
    (tensor,) = model.pop("tensors")
    size = len(history.read(PATH))
    assert model == {
        "path": PATH,
        "old_path": PATH,
        "status": "changed",
        "old_bytes": size,
        "new_bytes": size,
        "changed_bytes": 48,
        "raw": False,
        "unchanged_tensors": 2,
        "metadata_changed": [],
    }
    gates = tensor.pop("gates")
    measures = tensor.pop("measures")
    assert tensor == {
        "name": "gru.weight_hh_l0",
        "status": "changed",
        "old_name": None,
        "dtype": "F32",
        "shape": [6, 2],
        "old_dtype": "F32",
        "old_shape": [6, 2],
        "changed_chunks": 1,
    }
    assert (measures["elements"], measures["changed"], measures["delta_norm"]) == (12, 4, 4.0)
    assert {gate: values["changed"] for gate, values in gates.items()} == {"r": 0, "z": 0, "n": 4}
    assert json.loads(history.gru("diff", "--json").stdout) == {"models": []}


@pytest.mark.parametrize("command", ["merge-driver", "diff-driver", "textconv"])
def test_drivers_called_by_hand_say_so(repo, command: str) -> None:
    done = repo.gru(command)
    assert done.returncode == 4
    assert f"{command} is for Git to call" in done.stderr.decode()


def test_a_counter_does_not_drown_the_models_norm(repo) -> None:
    for step in (0, 1000):
        repo.write(PATH, {"w": f32(3 if step else 0, 4), "bn.num_batches_tracked": np.array(step)})
        repo.commit(f"step {step}")
    heading, _, *rows = squeezed(repo.git("gru", "diff", "HEAD~1", "HEAD"))
    assert heading == "m.safetensors: 2 changed of 2 tensors, ‖Δ‖ 3"
    assert any(row.startswith("bn.num_batches_tracked I64 scalar 1000") for row in rows)


def test_a_hostile_name_is_shown_with_escapes(repo) -> None:
    repo.write(PATH, {"w\x1b[2J\nx": f32(1)})
    repo.commit("first")
    repo.write(PATH, {"w\x1b[2J\nx": f32(2)})
    repo.commit("second")
    for args in (("log", "-p"), ("diff", "HEAD~1", "HEAD"), ("gru", "show", f"HEAD:{PATH}")):
        shown = repo.git(*args)
        assert "\x1b" not in shown
        assert r"w\x1b[2J\nx" in shown


def test_the_cause_of_a_failed_filter_is_told(history) -> None:
    history.write(
        PATH, history.git("cat-file", "blob", f"HEAD:{PATH}").replace('"size": ', '"size": 1', 1).encode()
    )
    told = history.run("git", "gru", "diff").stderr.decode()
    assert "filter 'gru' failed" in told
    assert told.startswith("git gru: git diff failed: m.safetensors: ")
