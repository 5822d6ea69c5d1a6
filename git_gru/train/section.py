"""What a section of the recipe is: a frozen dataclass that checks itself, each key with its rule and its meaning."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from git_gru.errors import InputError


class RecipeError(InputError):
    """A recipe that cannot be used; the message starts with the file and names the key."""

    def __init__(self, problem: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(f"{where}: {problem}" if where else problem, hint=hint)
        self.problem = problem


@dataclass(frozen=True)
class Rule:
    """What a key's value must satisfy beyond its type, and what the key means."""

    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    only: str = ""
    """The one `kind` of the section that the key is for; empty: all of them."""

    def problem(self, value: object) -> str | None:
        """What is wrong with `value` (already of the right type), or None."""
        if self.choices and value not in self.choices:
            return f"must be {one_of(self.choices)}, not {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, not {value}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if self.least is not None and value < self.least:
                return f"must be at least {self.least:g}, not {value}"
            if self.above is not None and value <= self.above:
                return f"must be more than {self.above:g}, not {value}"
            if self.most is not None and value > self.most:
                return f"must be at most {self.most:g}, not {value}"
            if self.below is not None and value >= self.below:
                return f"must be less than {self.below:g}, not {value}"
        return None


def key(default: Any, help: str, **rule: Any) -> Any:
    """A key of a section that may be left out."""
    return field(default=default, metadata={"rule": Rule(help, **rule)})


def required(help: str, **rule: Any) -> Any:
    """A key of a section that every recipe must have."""
    return field(metadata={"rule": Rule(help, **rule)})


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of the recipe. Making one checks the type and the rule of every key; raises `RecipeError`."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for item in dataclasses.fields(self):
            value = _typed(getattr(self, item.name), types[item.name], f"{self.name}.{item.name}")
            object.__setattr__(self, item.name, value)
            rule: Rule = item.metadata["rule"]
            if problem := rule.problem(value):
                raise RecipeError(f"{self.name}.{item.name} {problem}")
            if rule.only and value != item.default and (kind := getattr(self, "kind", "")) != rule.only:
                raise RecipeError(
                    f'{self.name}.{item.name} is for {self.name}.kind = "{rule.only}", and it is "{kind}"'
                )


def _typed(value: object, kind: object, key: str) -> object:
    """`value` as a `kind` (a whole number is a float too, one text a list of texts); raises `RecipeError`."""
    if kind == tuple[str, ...]:
        items = (value,) if isinstance(value, str) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str) and item for item in items):
            return tuple(items)
        raise RecipeError(f"{key} must be a list of texts, not {value!r}")
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise RecipeError(f"{key} must be a finite number, not {value}") from None
    if kind is str and isinstance(value, str):
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    raise RecipeError(f"{key} must be {wanted[kind]}, not {value!r}")  # type: ignore[index]


def one_of(choices: Sequence[str]) -> str:
    """The choices for a sentence: `"a", "b" or "c"`."""
    quoted = [f'"{choice}"' for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
