"""The recipe (`gru.toml`): what to train, on what data, and how. docs/recipe.md lists every key.

Frozen, keyword-only dataclasses that check themselves when they are made; each key is a field, with its rule and its
meaning in the field's metadata (docs/recipe.md is made of them by `reference`). An error names the key, and the file once
the file is known.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints

from git_gru.errors import InputError

DEFAULT_PATH = "gru.toml"


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

    def problem(self, value: object) -> str | None:
        """What is wrong with `value` (already of the right type), or None."""
        if self.choices and value not in self.choices:
            return f"must be {_one_of(self.choices)}, not {value!r}"
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


def _key(default: Any, help: str, **rule: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(help, **rule)})


def _required(help: str, **rule: Any) -> Any:
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
            if problem := item.metadata["rule"].problem(value):
                raise RecipeError(f"{self.name}.{item.name} {problem}")


@dataclass(frozen=True, kw_only=True)
class ModelRecipe(Section):
    """`[model]`: the network and the file that holds it."""

    name: ClassVar[str] = "model"

    path: str = _key(
        "model.safetensors", "file of the model in the commit; when it is there, training starts from it"
    )
    kind: str = _key("gru", "the network", choices=("gru",))
    task: str = _key("language-model", "what it learns to do", choices=("language-model",))
    embedding: int = _key(64, "size of a symbol's embedding", least=1, most=65536)
    hidden: int = _key(256, "hidden units of a layer", least=1, most=65536)
    layers: int = _key(1, "stacked GRU layers", least=1, most=64)
    dropout: float = _key(0.0, "share of units dropped between layers while training", least=0, below=1)
    tied: bool = _key(False, "the output layer uses the embedding's weights (needs embedding = hidden)")
    dtype: str = _key("fp32", "how weights are kept in commits", choices=("fp32", "bf16"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tied and self.embedding != self.hidden:
            raise RecipeError(
                f"model.tied needs model.embedding = model.hidden, and they are {self.embedding} and {self.hidden}"
            )
        parts = self.path.split("/")
        if self.path.startswith("/") or {"", ".", "..", ".git"} & set(parts):
            raise RecipeError(f"model.path must be a path inside the repository, not {self.path!r}")


@dataclass(frozen=True, kw_only=True)
class DataRecipe(Section):
    """`[data]`: which files of the commit are learnt from, and which part of them is kept for validation."""

    name: ClassVar[str] = "data"

    kind: str = _key("text", "what the files hold; `text`: bytes", choices=("text",))
    files: tuple[str, ...] = _required("globs over the commit's files (`**` crosses folders)")
    window: int = _key(64, "symbols of a sample", least=1, most=1 << 20)
    validation: float = _key(0.05, "share at the end of every file kept for validation", above=0, most=0.5)
    validation_files: tuple[str, ...] = _key(
        (), "globs of the files kept for validation, in place of `validation`; they are never trained on"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.files:
            raise RecipeError("data.files must name at least one glob")


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Section):
    """`[train]`: the optimization."""

    name: ClassVar[str] = "train"

    steps: int = _key(1000, "optimizer steps", least=1)
    batch: int = _key(32, "samples of a step, over all workers together", least=1)
    optimizer: str = _key("adamw", "the optimizer", choices=("adamw", "sgd"))
    lr: float = _key(0.003, "peak learning rate", above=0)
    schedule: str = _key("cosine", "the learning rate after the warm-up", choices=("cosine", "constant"))
    warmup: int = _key(20, "steps of linear warm-up", least=0)
    lr_final: float = _key(0.1, "with cosine: share of `lr` reached at the last step", least=0, most=1)
    weight_decay: float = _key(0.01, "weight decay (decoupled in adamw)", least=0)
    momentum: float = _key(0.9, "with sgd: momentum", least=0, below=1)
    clip: float = _key(1.0, "largest norm of the gradient; 0 for none", least=0)
    precision: str = _key(
        "fp32", "arithmetic of forward and backward; weights stay fp32", choices=("fp32", "bf16")
    )
    seed: int = _key(0, "seed of weights, order of samples and dropout", least=0, below=2**63)
    eval_every: int = _key(0, "steps between validations besides those at checkpoints; 0 for none", least=0)
    checkpoint_every: int = _key(
        200, "steps between checkpoint commits; the last step always makes one", least=1
    )
    log_every: int = _key(10, "steps between lines of the run's metrics", least=1)
    deterministic: bool = _key(True, "same seed and same number of workers give the same weights")


@dataclass(frozen=True, kw_only=True)
class SyncRecipe(Section):
    """`[sync]`: how workers agree."""

    name: ClassVar[str] = "sync"

    strategy: str = _key("allreduce", "`allreduce`: the mean gradient at every step", choices=("allreduce",))


@dataclass(frozen=True, kw_only=True)
class GuardRecipe(Section):
    """`[guard]`: what is watched for while training, and what follows."""

    name: ClassVar[str] = "guard"

    on_divergence: str = _key(
        "stop",
        "`rollback` goes back to the last checkpoint and on with other data",
        choices=("stop", "rollback"),
    )
    check_every: int = _key(10, "steps between looks at losses, gradients and weights", least=1, most=10_000)
    window: int = _key(100, "steps before, by which a loss or a gradient is judged", least=20, most=100_000)
    spike: float = _key(
        12.0,
        "robust standard deviations above the window's median that make a loss a spike; 0: none",
        least=0,
    )
    explosion: float = _key(
        100.0, "times the window's median that make a gradient's norm an explosion; 0: none", least=0
    )
    patience: int = _key(3, "such steps on end before it counts (NaN and Inf count at once)", least=1)
    lr_factor: float = _key(1.0, "what a rollback multiplies the learning rate by", above=0, most=1)
    most_rollbacks: int = _key(3, "rollbacks before the run stops", least=1)
    stall: float = _key(
        300.0,
        "seconds without a step, or a sign of life, after which a worker counts as stalled; 0: never",
        least=0,
    )


@dataclass(frozen=True, kw_only=True)
class LaunchRecipe(Section):
    """`[launch]`: the workers."""

    name: ClassVar[str] = "launch"

    nproc: int = _key(1, "workers on this machine (`--nproc`)", least=1, most=4096)
    device: str = _key("auto", "`auto`: a GPU a worker where there are any", choices=("auto", "cpu", "cuda"))
    threads: int = _key(0, "threads of a worker; 0 shares the machine's cores among them", least=0, most=4096)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe."""

    model: ModelRecipe
    data: DataRecipe
    train: TrainRecipe
    sync: SyncRecipe
    guard: GuardRecipe
    launch: LaunchRecipe

    def as_json(self) -> dict[str, dict[str, Any]]:
        """The recipe as plain values, defaults filled in; `recipe_of` makes the same recipe of it."""
        return dataclasses.asdict(self)


SECTIONS: dict[str, type[Section]] = {
    section.name: section
    for section in (ModelRecipe, DataRecipe, TrainRecipe, SyncRecipe, GuardRecipe, LaunchRecipe)
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
    except tomllib.TOMLDecodeError as error:
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


def reference() -> str:
    """The tables of docs/recipe.md: every key, its default, its meaning."""
    lines: list[str] = []
    for name, section in SECTIONS.items():
        lines += [f"## `[{name}]`", "", "| key | default | meaning |", "| --- | --- | --- |"]
        for item in dataclasses.fields(section):
            default = "(required)" if item.default is dataclasses.MISSING else f"`{_toml(item.default)}`"
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
    except tomllib.TOMLDecodeError:
        value = text
    place = table.setdefault(section, {})
    if not isinstance(place, dict):
        raise RecipeError(f"[{section}] must be a table of keys, not {place!r}")
    place[name] = value


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


def _nearest_key(section: str, key: str) -> str:
    here = [f"{section}.{item.name}" for item in dataclasses.fields(SECTIONS[section])]
    there = [f"{name}.{item.name}" for name, other in SECTIONS.items() for item in dataclasses.fields(other)]
    elsewhere = [name for name in there if name.partition(".")[2] == key]
    return _nearest(f"{section}.{key}", here) if not elsewhere else f"Did you mean {elsewhere[0]}?"


def _nearest(word: str, known: Mapping[str, object] | Sequence[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known)}."


def _one_of(choices: Sequence[str]) -> str:
    quoted = [f'"{choice}"' for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
