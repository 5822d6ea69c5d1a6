"""The recipe: defaults, overrides, and errors that name the key and the file."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from git_gru.train.recipe import Recipe
from git_gru.train.recipe_file import SECTIONS, parse_recipe, recipe_of, reference
from git_gru.train.section import RecipeError

ROOT = Path(__file__).parents[2]
LEAST = b'[data]\nfiles = ["*.txt"]\n'


def parse(text: str, *overrides: str) -> Recipe:
    return parse_recipe(LEAST + text.encode(), where="gru.toml", overrides=overrides)


def error_of(text: str, *overrides: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    return caught.value


def test_the_shortest_recipe_has_all_defaults() -> None:
    recipe = parse("")
    assert recipe.data.files == ("*.txt",)
    assert (recipe.model.hidden, recipe.train.steps, recipe.sync.strategy) == (256, 1000, "allreduce")
    assert recipe_of(recipe.as_json()) == recipe


def test_one_text_is_a_list_and_a_whole_number_is_a_float() -> None:
    recipe = parse_recipe(b'[data]\nfiles = "a/**"\n[train]\nlr = 1\n', where="gru.toml")
    assert recipe.data.files == ("a/**",)
    assert recipe.train.lr == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nbatch = 0", "gru.toml: train.batch must be at least 1, not 0"),
        ("[train]\nbatch = 1.5", "gru.toml: train.batch must be a whole number, not 1.5"),
        ("[train]\nbatch = true", "gru.toml: train.batch must be a whole number, not True"),
        ("[train]\nlr = 0", "gru.toml: train.lr must be more than 0, not 0.0"),
        ("[train]\nlr = nan", "gru.toml: train.lr must be a finite number, not nan"),
        ('[train]\noptimizer = "adam"', 'gru.toml: train.optimizer must be "adamw" or "sgd", not \'adam\''),
        ("[model]\ndropout = 1.0", "gru.toml: model.dropout must be less than 1, not 1.0"),
        ("[model]\ntied = 1", "gru.toml: model.tied must be true or false, not 1"),
        (
            "[model]\ntied = true",
            "gru.toml: model.tied needs model.embedding = model.hidden, and they are 64 and 256",
        ),
        ('[model]\npath = "../x"', "gru.toml: model.path must be a path inside the repository, not '../x'"),
        ("train = 3", "gru.toml: is not valid TOML"),
        ("[train", "gru.toml: is not valid TOML"),
        (f"a = {'[' * 5000}", "gru.toml: is not valid TOML"),
    ],
)
def test_errors_name_file_and_key(text: str, message: str) -> None:
    assert str(error_of(text)).startswith(message) or "TOML" in message or str(error_of(text)) == message
    assert str(error_of(text)).startswith("gru.toml: ")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RecipeError, match=r"gru\.toml: data\.files is missing"):
        parse_recipe(b"", where="gru.toml")
    with pytest.raises(RecipeError, match=r"gru\.toml: data\.files must name at least one glob"):
        parse_recipe(b"[data]\nfiles = []", where="gru.toml")


def test_a_table_must_be_a_table() -> None:
    with pytest.raises(RecipeError, match=r"gru\.toml: \[train\] must be a table of keys, not 3"):
        parse_recipe(b"train = 3\n" + LEAST, where="gru.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'strategy = "diloco"\ncompress = "topk"',
            'sync.compress = "topk" does not fit sync.strategy = "diloco", which takes "none", "fp16" or "int8"',
        ),
        (
            'strategy = "local-sgd"\ncompress = "int8"',
            'sync.compress = "int8" does not fit sync.strategy = "local-sgd", which takes "none"',
        ),
        (
            'strategy = "diloco"\nwarmup = 1000',
            "sync.warmup is 1000, and must be less than train.steps, which is 1000",
        ),
        (
            'compress = "topk"\nwarmup = 2000',
            "sync.warmup is 2000, and must be less than train.steps, which is 1000",
        ),
        (
            "every = 20",
            'sync.every is for sync.strategy = "local-sgd", "diloco" or "git", and it is "allreduce"',
        ),
        ('compress = "int8"\ndensity = 0.1', 'sync.density is for sync.compress = "topk", and it is "int8"'),
        (
            'strategy = "local-sgd"\nouter_lr = 0.5',
            'sync.outer_lr is for sync.strategy = "diloco", and it is "local-sgd"',
        ),
        (
            'strategy = "diloco"\nevery = 4\nfragments = 5',
            "sync.fragments is 5, and a round has only 4 steps (sync.every)",
        ),
        (
            'strategy = "diloco"\nevery = 10\nfragments = 2\noverlap = 5',
            "sync.overlap is 5, and must be less than sync.every / sync.fragments (10 / 2), after which the next part goes out",
        ),
    ],
)
def test_synchronisation_that_does_not_fit(text: str, message: str) -> None:
    assert str(error_of(f"[sync]\n{text}")) == f"gru.toml: {message}"


def test_a_warmup_that_nothing_uses_may_be_longer_than_the_run() -> None:
    assert parse("[train]\nsteps = 3").sync.warmup == 100


def test_not_utf_8() -> None:
    with pytest.raises(RecipeError, match=r"gru\.toml: is not UTF-8 text: byte 1 is 0xff"):
        parse_recipe(b"#\xff", where="gru.toml")


@pytest.mark.parametrize(
    ("text", "unknown", "hint"),
    [
        ("[train]\nstep = 1", "train.step", "Did you mean train.steps?"),
        ("[model]\nlr = 1", "model.lr", "Did you mean train.lr?"),
        ("[trian]\nlr = 1", "[trian]", "Did you mean train?"),
    ],
)
def test_unknown_keys_suggest_the_nearest(text: str, unknown: str, hint: str) -> None:
    error = error_of(text)
    assert unknown in str(error)
    assert error.hint == hint


@given(
    st.sampled_from(
        [(name, item.name) for name, section in SECTIONS.items() for item in dataclasses.fields(section)]
    ),
    st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12),
)
def test_any_key_that_is_not_there_is_named(known: tuple[str, str], other: str) -> None:
    section, key = known
    name = f"{key}{other}"
    assert f"gru.toml: there is no key {section}.{name}" == str(error_with(section, name, 1))


def error_with(section: str, key: str, value: object) -> RecipeError:
    table = {"data": {"files": "*"}}
    table.setdefault(section, {})[key] = value
    with pytest.raises(RecipeError) as caught:
        recipe_of(table, where="gru.toml")
    return caught.value


@given(
    st.sampled_from(
        [(name, item.name) for name, section in SECTIONS.items() for item in dataclasses.fields(section)]
    ),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text() | st.integers()),
)
def test_any_value_is_taken_or_refused_by_its_key(known: tuple[str, str], value: object) -> None:
    section, key = known
    table: dict[str, dict[str, object]] = {"data": {"files": "*"}}
    table.setdefault(section, {})[key] = value
    try:
        recipe = recipe_of(table, where="gru.toml")
    except RecipeError as error:
        assert f"{section}.{key}" in str(error)
    else:
        assert recipe_of(recipe.as_json()) == recipe


def test_overrides_win_and_take_plain_texts() -> None:
    recipe = parse(
        "[train]\nsteps = 3", "train.steps=5", "data.files=a/**", "train.lr=1e-2", "model.tied=false"
    )
    assert (recipe.train.steps, recipe.data.files, recipe.train.lr) == (5, ("a/**",), 0.01)
    assert parse("", 'data.files=["a", "b"]').data.files == ("a", "b")


@pytest.mark.parametrize("override", ["train", "train.steps", "steps=3", "=3", ".=1", "train.=1"])
def test_malformed_overrides(override: str) -> None:
    assert "section.key=value" in str(error_of("", override))


def test_an_unknown_override_names_itself() -> None:
    error = error_of("", "train.step=3")
    assert "--set train.step=3" in str(error)
    assert error.hint == "Did you mean train.steps?"


def test_the_reference_is_in_the_docs() -> None:
    assert reference().strip() in (ROOT / "docs" / "recipe.md").read_text()
