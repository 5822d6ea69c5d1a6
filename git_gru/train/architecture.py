"""The architecture of a model, as its file carries it: a JSON text under `git-gru.model` in `__metadata__`.

It says what is needed to build the network again and to run its task, and nothing that changes while training, so that all
checkpoints of a run have the same header: `{"kind": "gru", "task": "language-model", "symbols": 256, "embedding": 64,
"hidden": 256, "layers": 1, "tied": false}`. Free of torch.
"""

import json
from collections.abc import Mapping
from typing import Any

from git_gru.errors import InputError
from git_gru.train.recipe import ModelRecipe

METADATA_KEY = "git-gru.model"
BYTE_SYMBOLS = 256

_KEYS: dict[str, type] = {
    "kind": str, "task": str, "symbols": int, "embedding": int, "hidden": int, "layers": int, "tied": bool
}  # fmt: skip
_LIMITS = {"symbols": 1 << 24, "embedding": 65536, "hidden": 65536, "layers": 64}

Architecture = dict[str, Any]


class ArchitectureError(InputError):
    """A model file that does not say what it is, or is not what the recipe says."""


def architecture_of(recipe: ModelRecipe) -> Architecture:
    """The architecture that a recipe asks for."""
    return {
        "kind": recipe.kind,
        "task": recipe.task,
        "symbols": BYTE_SYMBOLS,
        "embedding": recipe.embedding,
        "hidden": recipe.hidden,
        "layers": recipe.layers,
        "tied": recipe.tied,
    }


def metadata_of(architecture: Architecture) -> dict[str, str]:
    """The `__metadata__` of a model file."""
    return {"format": "pt", METADATA_KEY: json.dumps(architecture, sort_keys=True)}


def parse_architecture(metadata: Mapping[str, str], *, where: str) -> Architecture:
    """The architecture in a file's `__metadata__`; `where` names the model. Raises `ArchitectureError`."""
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise ArchitectureError(
            f"{where} does not say which network it holds: no {METADATA_KEY} in its metadata",
            hint="Only models that git gru train made can be run from the commit alone.",
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _is_known(found):
        raise ArchitectureError(
            f"{where}: {METADATA_KEY} in its metadata is not an architecture that this git-gru knows"
        )
    return {key: found[key] for key in _KEYS}


def _is_known(found: Mapping[str, Any]) -> bool:
    """Whether all keys are there, of their types and within the limits of a recipe."""
    if any(type(found.get(key)) is not kind for key, kind in _KEYS.items()):
        return False
    return all(1 <= found[key] <= limit for key, limit in _LIMITS.items())


def check_same(wanted: Architecture, found: Architecture, *, where: str) -> None:
    """Raises `ArchitectureError` when a model's architecture is not the one that the recipe asks for."""
    different = [
        f"model.{key} is {json.dumps(wanted[key])} in the recipe and {json.dumps(found.get(key))} in {where}"
        for key in wanted
        if wanted[key] != found.get(key)
    ]
    if different:
        raise ArchitectureError(
            "the recipe asks for another network than the commit holds: " + "; ".join(different),
            hint="Set the recipe to the model's values to go on training it, or give a new one another model.path.",
        )
