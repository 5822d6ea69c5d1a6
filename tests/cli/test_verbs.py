"""The verbs of Git integration, end to end below the process: what they print and answer."""

import json

import numpy as np
import pytest

from git_gru.cli.main import run

MODEL = "model.safetensors"


@pytest.fixture
def here(repo, monkeypatch):
    monkeypatch.chdir(repo.path)
    return repo


@pytest.fixture
def told(capsys):
    """`told(code, *args)` runs a verb, checks its exit code, and gives its stdout."""

    def call(code: int, *args: str) -> str:
        capsys.readouterr()
        found = run(args)
        shown = capsys.readouterr()
        assert found == code, shown
        return shown.out

    return call


def states(told) -> dict[str, list[str]]:
    return {model["path"]: model["states"] for model in json.loads(told(0, "status", "--json"))["models"]}


def test_the_states_of_a_model(here, told, make_arrays):
    here.write(MODEL, make_arrays(1))
    assert states(told) == {MODEL: ["new"]}
    here.git("add", "-A")
    assert states(told) == {MODEL: ["staged"]}
    here.git("commit", "-q", "-m", "x")
    assert states(told) == {MODEL: ["clean"]}
    here.write(MODEL, make_arrays(2))
    assert states(told) == {MODEL: ["modified"]}
    here.git("add", "-A")
    here.write(MODEL, make_arrays(3, hidden=32))
    assert states(told) == {MODEL: ["staged", "modified"]}
    (here.path / MODEL).unlink()
    assert states(told) == {MODEL: ["staged", "deleted"]}
    here.git("checkout", "-q", "HEAD", "--", ".", env={"GIT_GRU_SKIP_SMUDGE": "1"})
    assert states(told) == {MODEL: ["manifest only"]}
    here.git("rm", "-q", "--cached", MODEL)
    assert states(told)[MODEL][0] == "new" or "staged" in states(told)[MODEL]


def test_raw_and_plain_files(here, told, make_arrays, make_model):
    here.write("b.safetensors", b"no safetensors")
    here.git("add", "b.safetensors")
    (here.path / ".gitattributes").rename(here.path / "aside")
    here.write(MODEL, make_arrays(1))
    here.git("add", MODEL)
    here.git("commit", "-q", "--no-verify", "-m", "x")
    (here.path / "aside").rename(here.path / ".gitattributes")
    shown = states(told)
    assert shown["b.safetensors"] == ["raw"]
    assert "plain" in shown[MODEL]
    assert "git add --renormalize" in told(0, "status")


def test_a_conflict_is_a_state(here, told, make_arrays):
    here.write(MODEL, make_arrays(1))
    here.commit("x")
    here.git("switch", "-q", "-c", "side")
    here.git("rm", "-q", MODEL)
    here.commit("gone")
    here.git("switch", "-q", "main")
    here.write(MODEL, make_arrays(2))
    here.commit("y")
    here.git("merge", "side", check=False)
    assert states(told)[MODEL] == ["conflict"]


def test_status_json(here, told, make_arrays):
    data = here.write(MODEL, make_arrays(1))
    here.commit("x")
    shown = json.loads(told(0, "status", "--json"))
    assert shown == {
        "installed": True,
        "push_hook": True,
        "patterns": [{"pattern": "*.safetensors", "file": str(here.path / ".gitattributes"), "line": 1}],
        "models": [{"path": MODEL, "states": ["clean"], "size": len(data), "tensors": 6}],
    }


def test_ls_counts_shared_chunks_once(here, told, make_arrays):
    data = here.write("a.safetensors", make_arrays(1))
    here.write("b.safetensors", make_arrays(1))
    here.commit("x")
    shown = json.loads(told(0, "ls", "--json"))
    a, b = shown["models"]
    assert (a["path"], b["path"]) == ("a.safetensors", "b.safetensors")
    assert a["digest"] == b["digest"]
    assert a["size"] == len(data)
    assert shown["total"] == {"size": 2 * len(data), "stored": a["stored"]}
    assert {t["name"]: (t["dtype"], t["shape"], t["size"]) for t in a["tensors"]}["gru.bias_hh_l0"] == (
        "F32",
        [192],
        768,
    )
    table = told(0, "ls", "--tensors")
    assert "192×64" in table
    assert "total" in table
    assert told(0, "ls", "HEAD") != table


def test_ls_of_a_commit_without_models(here, told):
    here.commit("x")
    assert told(0, "ls") == "no models in HEAD\n"
    assert json.loads(told(0, "ls", "--json")) == {"models": [], "total": {"size": 0, "stored": 0}}


def test_show_a_model(here, told, make_arrays, make_model):
    here.write(MODEL, make_model(make_arrays(1), {"step": "40"}))
    here.commit("x")
    shown = json.loads(told(0, "show", f"HEAD:{MODEL}", "--json"))
    assert (shown["name"], shown["metadata"], shown["raw"]) == (f"HEAD:{MODEL}", {"step": "40"}, False)
    assert [tensor["name"] for tensor in shown["tensors"]] == sorted(
        make_arrays(1),
        key=lambda n: shown["tensors"].index(next(t for t in shown["tensors"] if t["name"] == n)),
    )
    text = told(0, "show", f":{MODEL}")
    assert "step: 40" in text
    assert "gru.weight_hh_l0" in text


def test_show_a_tensor_with_statistics(here, told, make_model):
    values = np.array([1, 2, 3, np.nan, np.inf, -np.inf, 6], np.float32)
    here.write(MODEL, make_model({"w": values, "empty": np.zeros((0, 3), np.float32)}))
    here.git("config", "gru.allowNonFinite", "true")
    here.commit("x")
    shown = json.loads(told(0, "show", f"HEAD:{MODEL}#w", "--json"))
    assert shown["statistics"] == {
        "elements": 7, "mean": 3.0, "std": np.std([1, 2, 3, 6]), "min": 1.0, "max": 6.0, "nan": 1, "inf": 2,
    }  # fmt: skip
    assert [chunk["encoding"] for chunk in shown["chunks"]] == ["plain"]
    empty = json.loads(told(0, "show", f"HEAD:{MODEL}#empty", "--json"))
    assert (empty["statistics"]["mean"], empty["chunks"]) == (None, [])
    assert "nan 1" in told(0, "show", f"HEAD:{MODEL}#w")


def test_show_a_raw_model(here, told):
    here.write(MODEL, b"no safetensors")
    here.git("add", "-A")
    assert "kept as raw bytes" in told(0, "show", f":{MODEL}")


def test_log(here, told, make_arrays):
    arrays = make_arrays(1)
    data = here.write("in/a.safetensors", arrays)
    here.commit("first")
    arrays["head.weight"] = arrays["head.weight"] * 2
    here.write("in/a.safetensors", arrays)
    commit = here.commit("second\n\nGru-Metric-val-loss: 1.25")
    here.git("mv", "in/a.safetensors", "b.safetensors")
    here.commit("moved")
    moved, second, first = json.loads(told(0, "log", "--json"))
    assert (first["subject"], first["models"], first["new_raw"]) == (
        "first", [{"path": "in/a.safetensors", "change": "added"}], len(data),
    )  # fmt: skip
    assert (second["commit"], second["metrics"], second["new_raw"]) == (
        commit, {"val_loss": 1.25}, arrays["head.weight"].nbytes,
    )  # fmt: skip
    assert {m["path"]: m["change"] for m in moved["models"]} == {
        "in/a.safetensors": "deleted",
        "b.safetensors": "added",
    }
    assert (moved["new_raw"], moved["new_stored"]) == (0, 0)
    assert "val_loss 1.25" in told(0, "log")
    assert len(json.loads(told(0, "log", "HEAD~1..HEAD", "--json"))) == 1
    assert len(json.loads(told(0, "log", "-n", "2", "--json"))) == 2
    assert told(0, "log", "--", "nothing") == "no commit in HEAD touches a model\n"


def test_log_takes_paths_from_the_users_folder(here, told, make_arrays, monkeypatch):
    here.write("in/a.safetensors", make_arrays(1))
    here.write("b.safetensors", make_arrays(2))
    here.commit("x")
    monkeypatch.chdir(here.path / "in")
    (entry,) = json.loads(told(0, "log", "--json", "--", "a.safetensors"))
    assert [model["path"] for model in entry["models"]] == ["in/a.safetensors"]


def test_repack_makes_deltas_of_older_versions(here, told, make_arrays):
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(0, 0.1, (512, 512)).astype(np.float32)}
    kept = []
    for step in range(3):
        arrays["w"] = arrays["w"] + rng.normal(0, 1e-4, (512, 512)).astype(np.float32)
        kept.append(here.write(MODEL, arrays))
        here.commit(f"step {step}")
    report = json.loads(told(0, "repack", "--json"))
    assert (report["models"], report["rewritten"]) == (3, 2)
    assert report["bytes_after"] < report["bytes_before"]

    def encodings(rev: str) -> list[str]:
        return [
            chunk["encoding"] for chunk in json.loads(told(0, "show", f"{rev}:{MODEL}#w", "--json"))["chunks"]
        ]

    assert [encodings(rev) for rev in ("HEAD", "HEAD~1", "HEAD~2")] == [["plain"], ["delta"], ["delta"]]
    for age, data in enumerate(reversed(kept)):
        here.git("checkout", "-q", f"main~{age}")
        assert here.read(MODEL) == data


def test_gc_says_what_goes_and_drops_it(here, told, make_arrays):
    here.write(MODEL, make_arrays(1))
    here.commit("first")
    here.write(MODEL, make_arrays(2))
    here.git("add", MODEL)
    dropped = json.loads(told(0, "show", f":{MODEL}", "--json"))["digest"]
    here.git("reset", "-q", "--hard")
    assert "0 of 2 models would go" in told(0, "gc", "--dry-run")
    shown = told(0, "gc", "--dry-run", "--grace", "now")
    assert dropped[:12] in shown
    assert "1 of 2 models would go" in shown
    found = json.loads(told(0, "gc", "--json"))
    assert [model["digest"] for model in found["kept"]] == [dropped]
    assert found["dropped"] == []
    found = json.loads(told(0, "gc", "--json", "--grace", "now"))
    assert [(model["digest"], model["reason"]) for model in found["dropped"]] == [(dropped, "expired")]
    assert found["bytes_before"] - found["bytes_after"] > 0.9 * found["dropped"][0]["frees"] > 0
    assert "dropped 0 of 1 model" in told(0, "gc")


def test_track_installs_where_git_knows_nothing_yet(plain_repo, told, monkeypatch, make_arrays):
    monkeypatch.chdir(plain_repo.path)
    plain_repo.write("my model.safetensors", make_arrays(1))
    shown = told(0, "track", "my *.safetensors")
    assert "installed it for this repository" in shown
    assert "my model.safetensors" in shown
    assert states(told) == {"my model.safetensors": ["new"]}
    assert "already tracked" in told(0, "track", "my *.safetensors")
    assert "no longer tracked" in told(0, "untrack", "my *.safetensors")
    assert "not tracked in" in told(1, "untrack", "my *.safetensors")


def test_untrack_says_where_a_pattern_is(here, told, monkeypatch):
    (here.path / "in").mkdir()
    monkeypatch.chdir(here.path / "in")
    assert f"{here.path / '.gitattributes'}, line 1" in told(1, "untrack", "*.safetensors")


def test_install_says_how_it_is_called_and_uninstall_what_is_left(here, told):
    assert "installed already" in told(0, "install")
    shown = told(0, "uninstall")
    assert "hook pre-commit removed" in shown
    assert "still tracked in .gitattributes: *.safetensors" in shown
    assert "git-gru is not installed for this repository" in told(0, "status")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["status"], 4, b"not in a Git repository"),
        (["ls"], 4, b"not in a Git repository"),
        (["ls", "nope"], 4, b"not in a Git repository"),
        (["install"], 4, b"--global"),
        (["filter-process"], 4, b"not Git"),
        (["hook", "nope"], 4, b"no such hook"),
    ],
)
def test_outside_of_a_repository(at, tmp_path, args, code, said):
    done = at(tmp_path).run(__import__("sys").executable, "-m", "git_gru", *args, input=b"000cnonsense0000")
    assert done.returncode == code
    assert said in done.stderr
    assert b"Traceback" not in done.stderr


def test_an_unborn_branch_is_a_sentence(here):
    done = here.gru("ls")
    assert done.returncode == 4
    assert b"has no commit yet" in done.stderr


def test_a_missing_store_is_told_with_what_to_do(here, make_arrays):
    here.write(MODEL, make_arrays(1))
    here.commit("x")
    (here.path / ".git/gru").rename(here.path / "aside")
    done = here.gru("show", f"HEAD:{MODEL}#head.weight")
    assert done.returncode == 5
    assert b"hint: " in done.stderr
    assert b"*" in here.gru("ls").stdout
