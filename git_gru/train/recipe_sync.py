"""The recipe's section `[sync]`: how workers agree on the weights. What the values mean: `git_gru.train.sync`."""

import dataclasses
import re
from dataclasses import dataclass
from typing import ClassVar

from git_gru.train.section import RecipeError, Section, one_of
from git_gru.train.section import key as _key

COMPRESSORS = {
    "allreduce": ("none", "fp16", "int8", "powersgd", "topk"),
    "local-sgd": ("none",),
    "diloco": ("none", "fp16", "int8"),
    "git": ("none",),
}
"""What `sync.compress` may be, by `sync.strategy`."""

_MEANT_FOR = {
    "density": ("compress", ("topk",)),
    "rank": ("compress", ("powersgd",)),
    "every": ("strategy", ("local-sgd", "diloco", "git")),
    "local_lr": ("strategy", ("local-sgd", "diloco")),
    "outer_lr": ("strategy", ("diloco",)),
    "outer_momentum": ("strategy", ("diloco",)),
    "fragments": ("strategy", ("diloco",)),
    "overlap": ("strategy", ("diloco",)),
    "group": ("strategy", ("git",)),
    "site": ("strategy", ("git",)),
    "members": ("strategy", ("git",)),
    "wait": ("strategy", ("git",)),
}
"""Keys of `[sync]` that have a meaning only where another key has one of some values."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""A part of a branch's name that Git takes wherever it stands."""


@dataclass(frozen=True, kw_only=True)
class SyncRecipe(Section):
    """`[sync]`: how workers agree."""

    name: ClassVar[str] = "sync"

    strategy: str = _key(
        "allreduce",
        "`allreduce`: the mean gradient at every step; `local-sgd`: every worker by itself, and the mean of the weights every "
        "`every` steps; `diloco`: as that, with an optimizer of its own for what a round changed; `git`: sites that share a Git "
        "host alone push commits and merge them",
        choices=tuple(COMPRESSORS),
    )
    compress: str = _key(
        "none",
        "what is sent: `fp16`, `int8` (with error feedback), `powersgd` (low rank), `topk` (the largest)",
        choices=("none", "fp16", "int8", "powersgd", "topk"),
    )
    warmup: int = _key(
        100,
        "local-sgd, diloco, powersgd: steps at the start with exact gradients at every step; topk: steps in which the density "
        "falls",
        least=0,
    )
    every: int = _key(50, "local-sgd, diloco, git: steps of a round", least=1)
    density: float = _key(0.001, "topk: share of the gradients that is sent", above=0, most=1)
    rank: int = _key(4, "powersgd: rank that a matrix of gradients is approximated by", least=1, most=1024)
    outer_lr: float = _key(1.0, "diloco: learning rate of the outer optimizer", above=0)
    outer_momentum: float = _key(0.7, "diloco: its momentum (Nesterov)", least=0, below=1)
    local_lr: float = _key(
        0.0,
        "local-sgd, diloco: what `train.lr` is multiplied by after the warm-up; 0: by so much that a round changes the weights "
        "as far as its steps together would",
        least=0,
    )
    fragments: int = _key(
        1, "diloco: parts of the weights that are exchanged in turn, evenly over a round", least=1, most=4096
    )
    overlap: int = _key(
        0, "diloco: steps that go on while a part is being exchanged; 0 waits for it", least=0
    )

    group: str = _key(
        "sites", "git: name of the sites that train together; their branches are `gru/GROUP/SITE`"
    )
    site: str = _key("", "git: name of this site (`--site`)")
    members: int = _key(1, "git: sites that the first round waits for, this one among them", least=1)
    wait: float = _key(
        0.0,
        "git: seconds that the end of a round waits for sites that were in time for the one before",
        least=0,
        most=300,
    )

    @property
    def is_git(self) -> bool:
        """Whether sites meet through a Git host; the workers of a site are together at every step."""
        return self.strategy == "git"

    @property
    def is_local(self) -> bool:
        """Whether workers take steps by themselves."""
        return self.strategy in ("local-sgd", "diloco")

    @property
    def has_warmup(self) -> bool:
        """Whether `warmup` has a meaning."""
        return self.is_local or self.compress in ("powersgd", "topk")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compress not in (fitting := COMPRESSORS[self.strategy]):
            raise RecipeError(
                f'sync.compress = "{self.compress}" does not fit sync.strategy = "{self.strategy}", which takes {one_of(fitting)}'
            )
        self._check_unused()
        for name, value in (("group", self.group), ("site", self.site or "none")):
            if not _NAME.fullmatch(value):
                raise RecipeError(
                    f"sync.{name} must be made of letters, digits, `-` and `_`, and begin with a letter or digit, not {value!r}"
                )
        if self.members > 1 and not self.wait:
            raise RecipeError(
                f"sync.members is {self.members}, and sync.wait must say how many seconds to wait for them"
            )
        if self.fragments > self.every:
            raise RecipeError(
                f"sync.fragments is {self.fragments}, and a round has only {self.every} steps (sync.every)"
            )
        if self.overlap and self.overlap * self.fragments >= self.every:
            raise RecipeError(
                f"sync.overlap is {self.overlap}, and must be less than sync.every / sync.fragments "
                f"({self.every} / {self.fragments}), after which the next part goes out"
            )

    def _check_unused(self) -> None:
        """Refuses keys that are set and have no meaning here."""
        for item in dataclasses.fields(self):
            key, wanted = _MEANT_FOR.get(item.name, ("", ()))
            if wanted and getattr(self, item.name) != item.default and getattr(self, key) not in wanted:
                raise RecipeError(
                    f'sync.{item.name} is for sync.{key} = {one_of(wanted)}, and it is "{getattr(self, key)}"'
                )
