"""Selection: which models checkouts bring to this machine, by path; and which of their tensors a command wants, by name.

Patterns are shell patterns. One with a slash is matched against the whole path, one without against single names; a pattern that
names a folder takes all below it. `gru.fetchInclude` and `gru.fetchExclude` hold them, separated by commas, for checkouts: a
model that they leave out stays a manifest in the worktree unless it is in the store already.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from git_gru.errors import InputError
from git_gru.git.repository import Repository

PATHS_HINT = "Paths and patterns are as for git log: from your folder, and '*NAME' for any folder below it"


class NothingMatchesError(InputError):
    """No model, or no tensor, is what the user asked for."""

    exit_code = 1


class Selection(NamedTuple):  # no dataclass: checkouts wait for this file
    """Paths that match one of `include` (none: all) and none of `exclude`."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @classmethod
    def of(cls, repo: Repository) -> "Selection":
        """The selection that the repository's settings make."""

        def patterns(key: str) -> tuple[str, ...]:
            parts = (part.strip() for value in repo.settings.every(key) for part in value.split(","))
            return tuple(part for part in parts if part)

        return cls(include=patterns("gru.fetchInclude"), exclude=patterns("gru.fetchExclude"))

    def allows(self, path: str) -> bool:
        """Whether the model at `path` is one to bring."""
        chosen = not self.include or matches(path, self.include)
        return chosen and not matches(path, self.exclude)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, matches one of `patterns`."""
    parts = path.split("/")
    above = ["/".join(parts[: at + 1]) for at in range(len(parts))]
    for pattern in patterns:
        wanted = pattern.strip("/")
        names = above if "/" in pattern.rstrip("/") else parts
        if any(fnmatchcase(name, wanted) for name in names):
            return True
    return False
