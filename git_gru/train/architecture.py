"""The architecture of a model, as its file carries it: a JSON text under `git-gru.model` in `__metadata__`.

It says what is needed to build the network again and to run its task, and nothing that changes while training, so that all
checkpoints of a run have the same header: `{"kind": "gru", "task": "language-model", "symbols": 256, "embedding": 64,
"hidden": 256, "layers": 1, "tied": false}`. Some keys are the recipe's, others facts of the data (`corpus`); `KEYS` lists those
of each task. Free of torch.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from git_gru.errors import InputError
from git_gru.train.recipe import ModelRecipe

METADATA_KEY = "git-gru.model"

Architecture = dict[str, Any]


class ArchitectureError(InputError):
    """A model file that does not say what it is, or is not what the recipe says."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key of an architecture: whether a value may stand there, and the recipe's section that decides it.

    `section` is None for a fact that a run may add to: it is not compared. `optional`: it need not be there.
    """

    valid: Callable[[Any], bool]
    section: str | None = "model"
    optional: bool = False


def whole(most: int) -> Callable[[Any], bool]:
    """A whole number from 1 to `most`."""
    return lambda value: type(value) is int and 1 <= value <= most


def flag(value: Any) -> bool:
    """True or false."""
    return type(value) is bool


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def names(value: Any) -> bool:
    """A list of texts, each once."""
    return isinstance(value, list) and all(map(text, value)) and len(set(value)) == len(value)


def scaling(value: Any) -> bool:
    """Series → `mean` and `std`, as many numbers each (`corpus.series`)."""
    return isinstance(value, dict) and all(
        isinstance(one, dict)
        and all(_numbers(one.get(key)) for key in ("mean", "std"))
        and len(one["mean"]) == len(one["std"])
        and min(one["std"], default=1) > 0
        for one in value.values()
    )


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is float and math.isfinite(one) for one in value)


_LAYERS = {"hidden": Key(valid=whole(65536)), "layers": Key(valid=whole(64))}

KEYS: dict[tuple[str, str], dict[str, Key]] = {
    ("gru", "language-model"): {
        "symbols": Key(valid=whole(1 << 24), section="data"),
        "tokenizer": Key(valid=text, section="data", optional=True),
        "embedding": Key(valid=whole(65536)),
        **_LAYERS,
        "tied": Key(valid=flag),
    },
    ("gru", "forecaster"): {
        **_LAYERS,
        "bidirectional": Key(valid=flag),
        "window": Key(valid=whole(1 << 20), section="data"),
        "horizon": Key(valid=whole(1 << 16), section="data"),
        "targets": Key(valid=names, section="data"),
        "exogenous": Key(valid=names, section="data"),
        "scaling": Key(valid=scaling, section=None),
    },
    ("gru", "classifier"): {
        "symbols": Key(valid=whole(1 << 24), section="data"),
        "classes": Key(valid=names, section="data"),
        "embedding": Key(valid=whole(65536)),
        **_LAYERS,
        "bidirectional": Key(valid=flag),
    },
    ("entrypoint", "entrypoint"): {"entrypoint": Key(valid=text)},
}
"""By kind and task: the keys besides these two."""


def architecture_of(recipe: ModelRecipe, facts: Mapping[str, Any]) -> Architecture:
    """The architecture that a recipe asks for, with the facts of its data."""
    kind = _kind(recipe)
    keys = KEYS[kind, recipe.task]
    chosen = {
        key: facts[key] if key in facts else getattr(recipe, key)
        for key, rule in keys.items()
        if key in facts or not rule.optional
    }
    return {"kind": kind, "task": recipe.task, **chosen}


def _kind(recipe: ModelRecipe) -> str:
    """The kind of network: what an entrypoint builds is its own."""
    return "entrypoint" if recipe.task == "entrypoint" else recipe.kind


def metadata_of(architecture: Architecture) -> dict[str, str]:
    """The `__metadata__` of a model file."""
    return {"format": "pt", METADATA_KEY: json.dumps(architecture, sort_keys=True)}


def parse_architecture(metadata: Mapping[str, str], *, where: str) -> Architecture:
    """The architecture in a file's `__metadata__`; `where` names the model. Raises `ArchitectureError`."""
    found = metadata.get(METADATA_KEY)
    if found is None:
        raise ArchitectureError(
            f"{where} does not say which network it holds: no {METADATA_KEY} in its metadata",
            hint="Only models that git gru train made can be run from the commit alone.",
        )
    try:
        value = json.loads(found)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or (keys := _keys_of(value)) is None:
        raise ArchitectureError(
            f"{where}: {METADATA_KEY} in its metadata is not an architecture that this git-gru knows"
        )
    return {key: value[key] for key in ("kind", "task", *keys) if key in value}


def _keys_of(found: Mapping[str, Any]) -> Mapping[str, Key] | None:
    """The keys of the architecture's task, when all of them are there with valid values."""
    kind, task = found.get("kind"), found.get("task")
    keys = KEYS.get((kind, task)) if isinstance(kind, str) and isinstance(task, str) else None
    if keys is None:
        return None
    missing = {key for key, rule in keys.items() if not rule.optional} - found.keys()
    return (
        None
        if missing or not all(keys[key].valid(found[key]) for key in keys.keys() & found.keys())
        else keys
    )


def check_recipe(recipe: ModelRecipe, found: Architecture, *, where: str) -> None:
    """Raises `ArchitectureError` when a model is not what `[model]` asks for, whatever the data may be."""
    check_task(recipe, found, where=where)
    facts = {
        key: found[key] for key, rule in _rules(found).items() if rule.section != "model" and key in found
    }
    check_same(architecture_of(recipe, facts), found, where=where)


def check_task(recipe: ModelRecipe, found: Architecture, *, where: str) -> None:
    """Raises `ArchitectureError` when a model is for another task than the recipe's."""
    if (_kind(recipe), recipe.task) != (found["kind"], found["task"]):
        raise ArchitectureError(
            f"model.task is {json.dumps(recipe.task)} in the recipe, and {where} holds a {found['task']}",
            hint="Give the new model another model.path.",
        )


def check_same(wanted: Architecture, found: Architecture, *, where: str) -> None:
    """Raises `ArchitectureError` when a model's architecture is not the one that recipe and data ask for."""
    different = [
        f"{rule.section}.{key} is {_shown(wanted.get(key))} in the recipe and {_shown(found.get(key))} in {where}"
        for key, rule in _rules(wanted).items()
        if rule.section is not None and wanted.get(key) != found.get(key)
    ]
    if different:
        raise ArchitectureError(
            "the recipe asks for another network than the commit holds: " + "; ".join(different),
            hint="Set the recipe to the model's values to go on training it, or give a new one another model.path.",
        )


def _rules(architecture: Architecture) -> Mapping[str, Key]:
    return KEYS[architecture["kind"], architecture["task"]]


def _shown(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 80 else f"{shown[:76]} …"
