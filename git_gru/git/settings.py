"""Git's settings as one repository sees them: system, global, local, worktree, command line, read by one command.

A *key* is `section.name` or `section.subsection.name`; section and name are the same in upper and lower case.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple


class Setting(NamedTuple):
    """One setting: where it stands (git-config(1), SCOPES), its key as Git writes it, and its value."""

    scope: str
    key: str
    value: str


class Settings:
    """All settings, in the order in which Git reads them: where one may be given once, the last one counts."""

    def __init__(self, listed: bytes) -> None:
        """`listed` is what `git config --list --show-scope -z` prints."""
        fields = listed.decode("utf-8", "surrogateescape").split("\0")
        self._all = []
        for scope, setting in zip(fields[::2], fields[1::2], strict=False):
            key, _, value = setting.partition("\n")
            self._all.append(Setting(scope, key, value))

    def get(self, key: str) -> str | None:
        """The value that counts, or None."""
        return next(reversed(self.every(key)), None)

    def every(self, key: str) -> list[str]:
        """All values of a key."""
        section, _, rest = key.partition(".")
        subsection, dot, name = rest.rpartition(".")
        wanted = f"{section.lower()}.{subsection}{dot}{name.lower()}"
        return [setting.value for setting in self._all if setting.key == wanted]

    def matching(self, pattern: str) -> Iterator[Setting]:
        """The settings in whose keys the regular expression is found."""
        wanted = re.compile(pattern)
        return (setting for setting in self._all if wanted.search(setting.key))
