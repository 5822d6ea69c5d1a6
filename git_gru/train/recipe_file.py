"""The recipe's file, `gru.toml`: read with overrides applied, made of plain values, described by docs/recipe.md.

An error names the key, the file where it is known, and what may have been meant.
"""

import copy
import dataclasses
import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from git_gru.train.recipe import (
    BalanceRecipe,
    DataRecipe,
    GuardRecipe,
    LaunchRecipe,
    ModelRecipe,
    Recipe,
    SyncRecipe,
    TrainRecipe,
)
from git_gru.train.section import RecipeError, Rule, Section

DEFAULT_PATH = "gru.toml"

SECTIONS: dict[str, type[Section]] = {
    section.name: section
    for section in (
        ModelRecipe,
        DataRecipe,
        TrainRecipe,
        SyncRecipe,
        BalanceRecipe,
        GuardRecipe,
        LaunchRecipe,
    )
}


def parse_recipe(data: bytes, *, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the bytes of a TOML file, with `overrides` (`train.steps=100`) applied.

    `where` names the file in messages. Raises `RecipeError`.
    """
    try:
        table = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}", where=where
        ) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"is not valid TOML: {error}", where=where) from error
    for override in overrides:
        _override(table, override)
    return recipe_of(table, where=where)


def recipe_of(table: Mapping[str, Any], *, where: str | None = None) -> Recipe:
    """The recipe of parsed tables. Raises `RecipeError` for unknown keys, wrong types and values, missing keys."""
    try:
        for name, value in table.items():
            if name not in SECTIONS:
                raise RecipeError(f"there is no section [{name}]", hint=_nearest(name, SECTIONS))
            if not isinstance(value, Mapping):
                raise RecipeError(f"[{name}] must be a table of keys, not {value!r}")
        sections = {name: _section(section, table.get(name, {})) for name, section in SECTIONS.items()}
        return Recipe(**sections)  # type: ignore[arg-type]
    except RecipeError as error:
        raise RecipeError(error.problem, where=where, hint=error.hint) from None


def overridden(table: Mapping[str, Any], overrides: Sequence[str], *, where: str | None = None) -> Recipe:
    """The recipe of parsed tables, with `overrides` applied; see `recipe_of`."""
    changed = copy.deepcopy(dict(table))
    for override in overrides:
        _override(changed, override)
    return recipe_of(changed, where=where)


def tables_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The tables that `overrides` alone make, by section. Raises `RecipeError` for keys that are none."""
    tables: dict[str, Any] = {}
    for override in overrides:
        _override(tables, override)
    return tables


def launch_of(overrides: Sequence[str]) -> LaunchRecipe:
    """`[launch]` as `overrides` alone make it. Raises `RecipeError`, also for overrides of other sections."""
    return LaunchRecipe(**tables_of(overrides).get(LaunchRecipe.name, {}))


def reference() -> str:
    """The tables of docs/recipe.md: every key, its default, its meaning."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        lines += [f"## `[{name}]`", "", "| key | default | meaning |", "| --- | --- | --- |"]
        for item in dataclasses.fields(section):
            default = (
                "(required)" if item.default is dataclasses.MISSING else f"`{recipe_text(item.default)}`"
            )
            rule: Rule = item.metadata["rule"]
            choices = f" ({', '.join(f'`{choice}`' for choice in rule.choices)})" if rule.choices else ""
            lines.append(f"| `{item.name}` | {default} | {rule.help}{choices} |")
        lines.append("")
    return "\n".join(lines)


def _section(section: type[Section], table: Mapping[str, Any]) -> Section:
    known = {item.name: item for item in dataclasses.fields(section)}
    for key in table:
        if key not in known:
            raise RecipeError(f"there is no key {section.name}.{key}", hint=_nearest_key(section.name, key))
    for key, item in known.items():
        if item.default is dataclasses.MISSING and key not in table:
            raise RecipeError(f"{section.name}.{key} is missing: {item.metadata['rule'].help}")
    return section(**table)


def _override(table: dict[str, Any], override: str) -> None:
    """Sets one `section.key=value` in `table`; a value that is no TOML is taken as the text it is."""
    where = f"--set {override}"
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise RecipeError("write it as section.key=value, for example train.steps=100", where=where)
    if section not in SECTIONS:
        raise RecipeError(f"there is no section [{section}]", where=where, hint=_nearest(section, SECTIONS))
    if name not in {item.name for item in dataclasses.fields(SECTIONS[section])}:
        raise RecipeError(f"there is no key {section}.{name}", where=where, hint=_nearest_key(section, name))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text
    place = table.setdefault(section, {})
    if not isinstance(place, dict):
        raise RecipeError(f"[{section}] must be a table of keys, not {place!r}")
    place[name] = value


def _nearest_key(section: str, key: str) -> str:
    here = [f"{section}.{item.name}" for item in dataclasses.fields(SECTIONS[section])]
    there = [f"{name}.{item.name}" for name, other in SECTIONS.items() for item in dataclasses.fields(other)]
    elsewhere = [name for name in there if name.partition(".")[2] == key]
    return _nearest(f"{section}.{key}", here) if not elsewhere else f"Did you mean {elsewhere[0]}?"


def _nearest(word: str, known: Mapping[str, object] | Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known)}."


def recipe_text(value: object) -> str:
    """A key's value as a recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(recipe_text(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)
