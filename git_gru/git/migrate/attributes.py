"""What a migration does to `.gitattributes`, and which filter Git then gives a path.

The texts are edited so that the one edit takes the other back exactly: a file ends as it ended before, with a line feed or
without; a file that an import makes is gone after the export.

Which lines are concerned: those whose pattern is *covered* by one of the migration's, that is, matches no file that the latter
does not match. Where that cannot be told from the two texts, the line stays, and with it what it says of its files.
"""

import functools
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from git_gru.git.attributes import ATTRIBUTES, quote_pattern, split_line
from git_gru.git.run import LOCAL_VARIABLES, git
from git_gru.git.talk import Talk

NAME = b".gitattributes"
LFS_ATTRIBUTES = "filter=lfs diff=lfs merge=lfs -text"

Stack = tuple[tuple[bytes, bytes], ...]
"""The attributes files that count for a folder, from the top down: each one's folder (`a/b/`, empty for the top) and text."""

Covers = Callable[[str, bytes], bool]
"""Whether a line's pattern, in the attributes file of a folder (`a/b/`), is covered by the patterns of the migration."""

_BOM = "\ufeff"  # which Git passes over at the start of the file
_GLOB = frozenset("*?[\\")
_MOST = 8  # processes that are kept, one a stack


def track_in(
    text: bytes | None, patterns: Sequence[str], covers: Covers, folder: bytes, *, lfs: bool
) -> bytes | None:
    """`text` (None: no file) with all of `patterns` tracked, for the top folder; in others only git-lfs's lines become ours.

    With `lfs`, covered lines of git-lfs are replaced where they stand.
    """
    lines = _lines(text)
    present = set()
    for at, line in enumerate(lines):
        parts = split_line(line.removeprefix(_BOM))
        if parts is None:
            continue
        if lfs and "filter=lfs" in parts[1] and covers(parts[0], folder):
            rest = [word for word in parts[1] if word not in LFS_ATTRIBUTES.split()]
            end = "\r" if line.endswith("\r") else ""
            lines[at] = " ".join([quote_pattern(parts[0]), ATTRIBUTES, *rest]) + end
        elif "filter=gru" not in parts[1]:
            continue
        present.add(parts[0])
    if not folder:
        ended = bool(lines) and not lines[-1]
        at = len(lines) - 1 if ended else len(lines)
        lines[at:at] = [f"{quote_pattern(p)} {ATTRIBUTES}" for p in patterns if p not in present]
    return _text(lines) if lines != _lines(text) else text


def untrack_in(text: bytes | None, covers: Covers, folder: bytes) -> bytes | None:
    """`text` (None: no file) without our attributes in covered lines; None where that leaves nothing of the file."""
    lines = _lines(text)
    kept = []
    for line in lines:
        parts = split_line(line.removeprefix(_BOM))
        if parts is None or "filter=gru" not in parts[1] or not covers(parts[0], folder):
            kept.append(line)
        elif rest := [word for word in parts[1] if word not in ATTRIBUTES.split()]:
            kept.append(" ".join([quote_pattern(parts[0]), *rest]))
    if kept == lines:
        return text
    return _text(kept) if kept != [""] else None


def covered(line: str, folder: str, pattern: str, matches: Callable[[str], bool]) -> bool:
    """Whether the pattern of a line in `folder` (`a/b/`, empty for the top) matches only what `pattern`, of the top, matches.

    `matches` says whether `pattern` matches a path.
    """
    if "/" in pattern:
        place = folder + line.lstrip("/")
        return "/" in line and (place == pattern.lstrip("/") or (_literal(line) and matches(place)))
    name = line.rpartition("/")[2]
    suffix = pattern.removeprefix("*")
    return (
        name == pattern
        or (_literal(name) and matches(name))
        or (pattern.startswith("*") and _literal(suffix) and name.endswith(suffix))
    )


class Filters:
    """Which value the attribute `filter` has, by Git's own word, for paths under any stack of attributes files.

    Nothing but the stack counts: no file of the worktree, of the repository or of the user. As a context manager.
    """

    def __init__(self) -> None:
        self._exit = ExitStack()
        self._talks: OrderedDict[Stack, Talk] = OrderedDict()
        self._made = 0
        self.value = functools.lru_cache(maxsize=1 << 18)(self._value)

    def __enter__(self) -> Self:
        self._place = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="git-gru-")))
        git("init", "--quiet", "--bare", "--template=", str(self._place / "git"), env=LOCAL_VARIABLES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for talk in self._talks.values():
            talk.close()
        self._exit.close()

    def _value(self, stack: Stack, path: bytes) -> str:
        """The value for a path: `gru`, `lfs`, …, or `set`, `unset`, `unspecified`."""
        talk = self._talk(stack)
        talk.ask(path + b"\0")
        talk.bytes(len(path) + len(b"\0filter\0"))
        value = b""
        while (byte := talk.bytes(1)) != b"\0":
            value += byte
        return value.decode("utf-8", "replace")

    def _talk(self, stack: Stack) -> Talk:
        talk = self._talks.pop(stack, None)
        if talk is None:
            if len(self._talks) >= _MOST:
                self._talks.popitem(last=False)[1].close()
            talk = self._begin(stack)
        self._talks[stack] = talk
        return talk

    def _begin(self, stack: Stack) -> Talk:
        self._made += 1
        top = self._place / str(self._made)
        top.mkdir()
        for folder, text in stack:
            place = top / os.fsdecode(folder)
            place.mkdir(parents=True, exist_ok=True)
            (place / os.fsdecode(NAME)).write_bytes(text)
        places = {"GIT_DIR": str(self._place / "git"), "GIT_WORK_TREE": str(top)}
        nothing_else = {"GIT_ATTR_NOSYSTEM": "1", "GIT_ATTR_SOURCE": None}
        return Talk(
            *("-c", f"core.attributesFile={os.devnull}"),
            *("check-attr", "-z", "--stdin", "filter"),
            cwd=top,
            env={**LOCAL_VARIABLES, **places, **nothing_else},
        )


def _literal(pattern: str) -> bool:
    return bool(pattern) and not _GLOB.intersection(pattern)


def _lines(text: bytes | None) -> list[str]:
    """The lines without line feeds; the last is empty where the text ends in one. No file has one (empty), an empty file none."""
    if not text:
        return [""] if text is None else []
    return text.decode("utf-8", "surrogateescape").split("\n")


def _text(lines: Sequence[str]) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogateescape")
