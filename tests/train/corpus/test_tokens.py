"""Byte pair encoding: lossless, the same for the same texts, kept with the model; what is no tokenizer of that kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.corpus import DataError, prepare, tokens
from git_gru.train.corpus.text import open_windows, split_file
from git_gru.train.recipe import DataRecipe

TEXT = "the cat sat on the mat, the rat sat on the hat; ÄÖ\n" * 8
TOKENIZER = tokens.train_tokenizer([TEXT], 300)
MEANINGS = tokens.symbol_bytes(TOKENIZER, "t")


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    ids = tokens.open_tokenizer(TOKENIZER, "t").encode(text, add_special_tokens=False).ids
    assert b"".join(MEANINGS[symbol] for symbol in ids) == text.encode()


def test_the_same_texts_give_the_same_tokenizer() -> None:
    assert tokens.train_tokenizer([TEXT], 300) == TOKENIZER
    assert 256 < len(MEANINGS) <= 300
    assert sorted(meaning[0] for meaning in MEANINGS if len(meaning) == 1) == list(range(256))


def changed(**changes: Any) -> str:
    return json.dumps({**json.loads(TOKENIZER), **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        (changed(decoder=None), "TypeError"),
        (changed(normalizer={"type": "Lowercase"}), "normalizer"),
        (changed(model={"type": "WordLevel", "vocab": {}}), "WordLevel"),
        (changed(model={"type": "BPE", "vocab": {"a": 0}, "merges": []}), "some bytes have no symbol"),
        (changed(added_tokens=[{"id": 9000, "content": "<s>"}]), "not numbered from 0 on"),
    ],
)
def test_what_is_no_byte_level_bpe(text: str, said: str) -> None:
    with pytest.raises(DataError, match=f"m is no byte-level BPE .*{said}"):
        tokens.open_tokenizer(text, "m")


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tokens.TokenizersMissingError) as caught:
        tokens.train_tokenizer([TEXT], 300)
    assert "pip install tokenizers" in str(caught.value.hint)


Prepare = Callable[..., Any]


@pytest.fixture
def prepared(repo: Any, tmp_path: Path) -> Prepare:
    """`prepared(known=None, **keys of [data])`: the facts."""
    repo.write("a.txt", TEXT.encode())
    repo.write("tokenizer.json", TOKENIZER.encode())
    repo.write("latin.txt", b"\xe4")
    commit = repo.commit("data")

    def make(known: Any = None, **keys: Any) -> Any:
        settings = {"files": ("a.txt",), "tokens": "bpe", "vocabulary": 290, "window": 4, "validation": 0.25}
        return prepare(repo.repository, commit, DataRecipe(**{**settings, **keys}), tmp_path / "out", known)

    return make


def test_prepared_text_is_that_of_the_files(prepared: Prepare, tmp_path: Path) -> None:
    facts = prepared()
    meanings = tokens.symbol_bytes(facts["tokenizer"], "t")
    assert facts["symbols"] == len(meanings) <= 290

    def content(split: str) -> bytes:
        data = open_windows(split_file(tmp_path / "out", split), 4, facts["symbols"]).data
        return b"".join(meanings[symbol] for symbol in data)

    cut = len(TEXT) - len(TEXT) // 4
    assert (content("train").decode(), content("validation").decode()) == (TEXT[:cut], TEXT[cut:])
    assert tokens.train_tokenizer([TEXT[:cut]], 290) == facts["tokenizer"]  # nothing of the validation data


def test_a_tokenizer_of_the_commit_or_of_the_model_is_used(prepared: Prepare) -> None:
    assert prepared(tokenizer="tokenizer.json")["tokenizer"] == TOKENIZER
    known = {"symbols": len(MEANINGS), "tokenizer": TOKENIZER}
    assert prepared(known)["tokenizer"] == TOKENIZER
    assert prepared(known, tokenizer="tokenizer.json")["tokenizer"] == TOKENIZER
    other = {"tokenizer": tokens.train_tokenizer(["quite another text"], 260)}
    with pytest.raises(DataError, match=r"the symbols of tokenizer\.json are not those that the model"):
        prepared(other, tokenizer="tokenizer.json")
    with pytest.raises(DataError, match=r'data\.tokens is "bpe", and the model in the commit reads bytes'):
        prepared({"symbols": 256})
    with pytest.raises(
        DataError, match=r'data\.tokens is "bytes", and the model .* reads the symbols of a tokenizer'
    ):
        prepared(known, tokens="bytes")


def test_what_cannot_be_encoded_is_named(prepared: Prepare) -> None:
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 text: byte 0 is 0xe4"):
        prepared(files=("*.txt",))
    with pytest.raises(DataError, match=r"the training data has \d+ symbols, too few for one window of 3000"):
        prepared(window=3000)


def test_bits_per_byte_do_not_depend_on_the_symbols() -> None:
    from git_gru.train.architecture import architecture_of
    from git_gru.train.recipe import ModelRecipe
    from git_gru.train.tasks import task_of

    facts = {"symbols": len(MEANINGS), "tokenizer": TOKENIZER}
    task = task_of(architecture_of(ModelRecipe(embedding=2, hidden=2), facts))
    import torch

    ids = tokens.open_tokenizer(TOKENIZER, "t").encode("the cat sat", add_special_tokens=False).ids
    loss, length = task.measure(task.build(), (torch.tensor([[0, *ids]]),)).tolist()
    assert length == len("the cat sat")
    assert task.metrics([loss / len(ids), length / len(ids)])["bits_per_byte"] == pytest.approx(
        loss / length / np.log(2)
    )
