"""Labelled sequences: which are held out, and what is wrong with a row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.corpus import DataError, prepare
from git_gru.train.corpus.labelled import open_labelled
from git_gru.train.recipe import DataRecipe

Prepare = Callable[..., Any]
NAMES = [(f"name {number}", "even" if number % 2 == 0 else "odd") for number in range(60)]
CSV = "text,label\n" + "".join(f"{text},{label}\n" for text, label in NAMES)


def commit(repo: Any) -> str:
    repo.git("add", "--all")
    repo.git("commit", "-q", "--allow-empty", "-m", "data")
    return "HEAD"


@pytest.fixture
def prepared(repo: Any, tmp_path: Path) -> Prepare:
    """`prepared({name: text}, known=None, **keys of [data])`: the facts."""

    def make(contents: dict[str, str], known: Any = None, **keys: Any) -> Any:
        for name, data in contents.items():
            repo.write(name, data.encode())
        recipe = DataRecipe(**{"kind": "labelled", "files": ("data/*",), **keys})
        return prepare(repo.repository, commit(repo), recipe, tmp_path / "out", known)

    return make


def rows(folder: Path, split: str) -> set[tuple[str, int]]:
    found = open_labelled(folder / "out", split)
    return {
        (found.sequence(place).tobytes().decode(), int(label)) for place, label in enumerate(found.labels)
    }


def test_rows_are_held_out_by_their_text_whatever_their_order(prepared: Prepare, tmp_path: Path) -> None:
    facts = prepared({"data/a.csv": CSV}, validation=0.3)
    assert facts == {"symbols": 256, "classes": ["even", "odd"]}
    train, validation = rows(tmp_path, "train"), rows(tmp_path, "validation")
    assert train | validation == {(text, int(label == "odd")) for text, label in NAMES}
    assert not train & validation
    assert 5 < len(validation) < 31

    lines = [json.dumps({"text": text, "label": label}) for text, label in reversed(NAMES)]
    (tmp_path / "repo/data/a.csv").unlink()
    prepared({"data/b.jsonl": "\n".join([*lines, ""])}, validation=0.3)
    assert (rows(tmp_path, "train"), rows(tmp_path, "validation")) == (train, validation)


def test_long_sequences_are_cut_and_columns_named(prepared: Prepare, tmp_path: Path) -> None:
    data = "id,what,kind\n1,abcdef,x\n2,Ä,y\n"
    prepared(
        {"data/a.csv": data, "held.csv": data},
        text="what",
        label="kind",
        window=3,
        validation_files=("held.csv",),
    )
    for split in ("train", "validation"):
        assert rows(tmp_path, split) == {("abc", 0), ("Ä", 1)}


def test_a_known_model_keeps_its_classes(prepared: Prepare) -> None:
    assert prepared({"data/a.csv": CSV}, {"classes": ["odd", "even", "zero"]})["classes"] == [
        "odd",
        "even",
        "zero",
    ]
    with pytest.raises(DataError, match="has the label 'odd', which the model does not know; it knows even"):
        prepared({"data/a.csv": CSV}, {"classes": ["even"]})


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", "text,kind\na,b\n", r"has no column 'label' \(data\.label\)"),
        ("a.csv", "text,label\n,b\n", "row 1 has an empty text"),
        ("a.csv", "text,label\na,b\nc,b\nd,b\ne,b\nf,b\ng,b\nh,b\n", "all rows have the same label 'b'"),
        ("a.csv", "text,label\na,b\n", "no row of the labelled data is left to"),
        ("a.jsonl", '{"text": "a"\n', "line 1 is no JSON"),
        ("a.jsonl", '\n{"text": "a"}\n', "line 2 has no text under 'label'"),
        ("a.jsonl", "3\n", "line 1 has no text under 'text'"),
    ],
)
def test_what_is_wrong_is_named(prepared: Prepare, name: str, data: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        prepared({f"data/{name}": data}, validation=0.5)
