"""`git gru merge`: one branch through Git, several at once, and everything that stops it with nothing
changed.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load

PATH = "m.safetensors"


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def model(value: float, steps: int = 0, **more: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": f32(value), "same": f32(7), "steps": np.array(steps), **more}


@pytest.fixture
def branches(repo):
    """main, a, b, c: from one base each trained to another value; b has a file of its own; on main."""
    repo.write(PATH, model(0))
    repo.commit("base")
    for name, value in (("a", 3), ("b", 6), ("c", 9)):
        repo.git("switch", "-q", "-c", name, "main")
        repo.write(PATH, model(value, value))
        if name == "b":
            repo.write("notes.txt", b"from b\n")
        repo.commit(f"train {name}")
    repo.git("switch", "-q", "main")
    return repo


def ahead(repo, value: float = 1, steps: int = 1) -> None:
    repo.write(PATH, model(value, steps))
    repo.commit("train main")


def gru(repo, *args: str, status: int = 0) -> str:
    done = repo.gru(*args)
    assert done.returncode == status, (done.stdout, done.stderr.decode())
    return (done.stdout if status != 4 else done.stderr).decode()


def parents(repo, rev: str = "HEAD") -> list[str]:
    return repo.git("log", "-1", "--format=%P", rev).split()


def test_one_branch_is_merged_by_git_and_the_commit_says_how(branches) -> None:
    repo = branches
    ahead(repo)
    base = repo.git("rev-parse", "HEAD~1").strip()
    told = json.loads(gru(repo, "merge", "a", "--weight", "0.25", "-m", "Take a", "--json"))
    assert load(repo.read(PATH))["w"].tolist() == [1.5]
    assert int(load(repo.read(PATH))["steps"]) == 4
    assert repo.git("log", "-1", "--format=%B").strip() == (
        "Take a\n\nGru-Merge-Strategy: average\nGru-Merge-Weights: 0.75, 0.25\n"
        f"Gru-Merge-Base: {base}\nGru-Merge-Tensors: 1 averaged, 1 counted, 1 unchanged"
    )
    assert told["outcome"] == "merged" and told["commit"] == repo.git("rev-parse", "HEAD").strip()
    assert told["models"] == [
        {
            "path": PATH,
            "whole": None,
            "unchanged": 1,
            "taken": [0, 0],
            "combined": 1,
            "averaged": 0,
            "counted": 1,
            "deleted": 0,
            "conflicts": 0,
        }
    ]
    assert repo.status() == ""
    assert "already up to date with a" in gru(repo, "merge", "a")


def test_a_fast_forward_is_one_unless_asked_otherwise(branches) -> None:
    repo = branches
    assert "fast-forward to b" in gru(repo, "merge", "b")
    assert repo.git("rev-parse", "HEAD") == repo.git("rev-parse", "b")
    repo.git("reset", "-q", "--hard", "b~1")
    assert "merged b: commit" in gru(repo, "merge", "--no-ff", "b")
    assert len(parents(repo)) == 2
    assert load(repo.read(PATH))["w"].tolist() == [6]


def test_no_commit_leaves_the_message_ready(branches) -> None:
    repo = branches
    ahead(repo)
    assert "finish with: git commit" in gru(repo, "merge", "--no-commit", "a")
    assert "a merge is not finished here" in gru(repo, "merge", "b", status=4)
    repo.git("commit", "-q", "--no-edit")
    assert len(parents(repo)) == 2
    assert "Gru-Merge-Tensors: 1 averaged" in repo.git("log", "-1", "--format=%B")


def test_a_conflict_is_gits_own(branches) -> None:
    repo = branches
    repo.write(PATH, model(1, ids=np.array([1, 2])))
    repo.commit("main adds ids")
    repo.git("switch", "-q", "a")
    repo.write(PATH, model(3, ids=np.array([1, 3])))
    repo.commit("a adds others")
    repo.git("switch", "-q", "main")
    told = gru(repo, "merge", "a", status=1)
    assert "conflicts with a in m.safetensors" in told
    assert "tensor ids: ours and theirs have different integers (I64)" in told
    assert repo.status() == "UU m.safetensors\n"
    repo.git("merge", "--abort")
    assert repo.status() == ""


def test_several_branches_make_one_commit_and_the_mean(branches) -> None:
    repo = branches
    ahead(repo, value=2, steps=100)
    heads = [repo.git("rev-parse", name).strip() for name in ("HEAD", "a", "b", "c")]
    told = gru(repo, "merge", "a", "b", "c")
    assert "merged a, b, c: commit" in told
    assert parents(repo) == heads
    result = load(repo.read(PATH))
    assert (result["w"].tolist(), result["same"].tolist(), int(result["steps"])) == ([5], [7], 118)
    assert repo.read("notes.txt") == b"from b\n"
    assert repo.status() == ""
    message = repo.git("log", "-1", "--format=%B")
    assert message.startswith("Merge branches 'a', 'b' and 'c'\n")
    assert "Gru-Merge-Weights: 0.25, 0.25, 0.25, 0.25\n" in message
    assert "Gru-Merge-Tensors: 1 averaged, 1 counted, 1 unchanged\n" in message
    assert repo.git("fsck", "--strict", "--no-dangling") == ""


def test_weights_of_several_branches(branches) -> None:
    repo = branches
    ahead(repo, value=100)
    gru(repo, "merge", "a", "b", "--weights", "0,1,3")
    assert load(repo.read(PATH))["w"].tolist() == [5.25]


def test_branches_that_are_in_head_do_not_count(branches) -> None:
    repo = branches
    repo.git("branch", "old", "HEAD")
    ahead(repo, value=1)
    told = json.loads(gru(repo, "merge", "old", "a", "a", "--json"))
    assert told["branches"] == ["a"] and told["weights"] == [0.5, 0.5]
    assert load(repo.read(PATH))["w"].tolist() == [2]


def test_a_model_that_one_branch_changed_renamed_or_deleted(branches) -> None:
    repo = branches
    repo.git("switch", "-q", "b")
    repo.write("second.safetensors", model(20))
    repo.commit("b has a second model")
    repo.git("switch", "-q", "c")
    repo.git("reset", "-q", "--hard", "main")
    repo.git("rm", "-q", PATH)
    repo.commit("c deletes it")
    repo.git("switch", "-q", "-c", "d", "main")
    repo.write("d.txt", b"d")
    repo.commit("d changes no model")
    repo.git("switch", "-q", "main")
    gru(repo, "merge", "b", "d", "--no-commit")
    assert load(repo.read("second.safetensors"))["w"].tolist() == [20]
    assert load(repo.read(PATH))["w"].tolist() == [6]
    repo.git("commit", "-q", "--no-edit")
    assert len(parents(repo)) == 3
    repo.git("reset", "-q", "--hard", "HEAD~1")
    gru(repo, "merge", "c", "d")
    assert not (repo.path / PATH).exists() and repo.read("d.txt") == b"d"
    repo.git("reset", "-q", "--hard", "HEAD~1")
    before = repo.git("rev-parse", "HEAD")
    done = repo.gru("merge", "b", "c")
    assert done.returncode == 1
    assert "m.safetensors: deleted by c and changed by b" in done.stderr.decode()
    assert repo.git("rev-parse", "HEAD") == before and repo.status() == ""


def test_what_stops_several_branches_changes_nothing(branches) -> None:
    repo = branches
    for name in ("a", "b"):
        repo.git("switch", "-q", name)
        repo.write("notes.txt", f"from {name}, at odds\n".encode())
        repo.commit("notes")
    repo.git("switch", "-q", "main")
    before = repo.git("rev-parse", "HEAD")
    done = repo.gru("merge", "a", "b")
    assert done.returncode == 1
    assert "conflicts with b in notes.txt" in done.stderr.decode()
    repo.write(PATH, model(50))
    done = repo.gru("merge", "a", "c")
    assert done.returncode == 4
    assert "uncommitted changes would be overwritten by the merge: m.safetensors" in done.stderr.decode()
    assert load(repo.read(PATH))["w"].tolist() == [50]
    assert repo.git("rev-parse", "HEAD") == before


def test_a_plain_file_where_others_have_a_model(branches) -> None:
    repo = branches
    repo.git("switch", "-q", "a")
    repo.write(".gitattributes", b"")
    repo.write(PATH, b"plain now")
    repo.commit("untracked")
    repo.git("switch", "-q", "main")
    done = repo.gru("merge", "a", "c")
    assert done.returncode == 1
    assert "m.safetensors: a have a plain file there, others a model" in done.stderr.decode()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("nowhere",), 4, "nowhere names no commit"),
        (("a", "--weight", "2"), 4, "the merge weight '2.0' is not a number from 0 to 1"),
        (("a", "b", "--weight", "0.5"), 2, "--weight is for one branch"),
        (("a", "b", "--weights", "1,2"), 2, "2 weights for HEAD and 2 branches: 3 are needed"),
        (("a", "--weights", "1,x"), 2, "numbers from 0 upwards"),
        (("a", "--weight", "0.5", "--weights", "1,1"), 2, "exclude each other"),
        (("a", "--strategy", "magic"), 2, "'magic'"),
    ],
)
def test_wrong_words(repo, arguments: tuple[str, ...], status: int, words: str) -> None:
    repo.write("x", b"")
    repo.commit("base")
    repo.git("branch", "a")
    repo.git("branch", "b")
    done = repo.gru("merge", *arguments)
    assert (done.returncode, words in done.stderr.decode()) == (status, True), done.stderr


def test_an_unborn_branch_and_unrelated_histories(repo) -> None:
    done = repo.gru("merge", "a")
    assert done.returncode == 4 and "the branch main has no commit yet" in done.stderr.decode()
    repo.write("x", b"")
    repo.commit("base")
    repo.git("switch", "-q", "--orphan", "other")
    repo.write("y", b"")
    repo.commit("other")
    done = repo.gru("merge", "main")
    assert done.returncode == 4 and "the branches have no common commit" in done.stderr.decode()
