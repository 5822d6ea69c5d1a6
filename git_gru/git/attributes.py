"""`.gitattributes`: which paths are models.

A path is *tracked* when Git gives it the attribute `filter=gru`. `track` writes lines of the form
`PATTERN filter=gru diff=gru merge=gru -text`; reading understands every line that sets the filter.
Format: gitattributes(5). A pattern with white space or a leading double quote is written C-quoted.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.repository import Repository

ATTRIBUTES = "filter=gru diff=gru merge=gru -text"
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_OCTAL = re.compile(r"[0-7]{3}")


@dataclass(frozen=True, kw_only=True)
class TrackedPattern:
    """A line of an attributes file that gives `filter=gru`: its pattern (unquoted), file and 1-based line."""

    pattern: str
    file: Path
    line: int


class PatternError(InputError):
    """A pattern that gitattributes(5) cannot hold."""


def quote_pattern(pattern: str) -> str:
    """`pattern` as the first word of an attributes line. Raises `PatternError` for one that Git would ignore."""
    if not pattern or "\n" in pattern or "\0" in pattern:
        raise PatternError("a pattern to track must be one line of text and not empty")
    if pattern.startswith("!"):
        raise PatternError(
            f"{pattern}: negative patterns are forbidden in .gitattributes",
            hint="Use untrack, or write a later line that unsets the filter: PATTERN -filter",
        )
    if pattern.startswith(("#", '"')) or re.search(r"\s", pattern):
        escaped = pattern.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
        return f'"{escaped}"'
    return pattern


def split_line(line: str) -> tuple[str, list[str]] | None:
    """`(pattern, attributes)` of one attributes line; None for comments, blank lines and macro definitions."""
    text = line.strip(" \t\r\n")
    if not text or text.startswith(("#", "[attr]")):
        return None
    if not text.startswith('"'):
        pattern, *attributes = text.split()
        return pattern, attributes
    raw, position = bytearray(), 1
    while position < len(text) and text[position] != '"':
        if text[position] != "\\":
            raw += text[position].encode("utf-8", "surrogateescape")
            position += 1
        elif octal := _OCTAL.match(text, position + 1):
            raw.append(int(octal[0], 8) & 0xFF)
            position += 4
        elif position + 1 < len(text) and text[position + 1] in _ESCAPES:
            raw.append(_ESCAPES[text[position + 1]])
            position += 2
        else:
            return None  # Git ignores a line whose quoting is broken
    if position >= len(text):
        return None
    return raw.decode("utf-8", "surrogateescape"), text[position + 1 :].split()


def patterns_in(file: Path) -> list[TrackedPattern]:
    """The tracked patterns of one attributes file, in its order; none when it does not exist."""
    found = []
    for number, line in enumerate(_lines(file), start=1):
        parts = split_line(line)
        if parts is not None and "filter=gru" in parts[1]:
            found.append(TrackedPattern(pattern=parts[0], file=file, line=number))
    return found


def tracked_patterns(repo: Repository) -> list[TrackedPattern]:
    """The tracked patterns of the repository: `info/attributes` and every `.gitattributes` that Git would read."""
    files = [repo.common_dir / "info" / "attributes"]
    if repo.worktree is not None:
        listed = repo.git(
            "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ":(glob)**/.gitattributes"
        )
        files += sorted({repo.worktree / name for name in paths(listed)})
    return [pattern for file in files for pattern in patterns_in(file)]


def tracked_files(repo: Repository, folder: Path | None = None, *, others: bool = False) -> list[str]:
    """The paths under `folder` (default: all) that the current attributes make models, relative to the worktree's top.

    `others` adds files that Git does not know yet and does not ignore.
    """
    top = repo.require_worktree()
    under = str(folder.relative_to(top)) if folder is not None else "."
    flags = ("--cached", "--others", "--exclude-standard") if others else ("--cached",)
    listed = repo.git("ls-files", "-z", *flags, "--", f":(top,literal){'' if under == '.' else under}")
    return with_filter(repo, sorted(set(paths(listed))))


def with_filter(repo: Repository, candidates: Sequence[str], *, index: Path | None = None) -> list[str]:
    """Those of `candidates` (paths from the top) that the worktree's attributes, or those in `index`, give `filter=gru`."""
    if not candidates:
        return []
    feed = b"".join(_encode(path) + b"\0" for path in candidates)
    cached = ("--cached",) if index is not None else ()
    env = {"GIT_INDEX_FILE": str(index)} if index is not None else None
    fields = repo.git("check-attr", "-z", *cached, "--stdin", "filter", input=feed, env=env).split(b"\0")
    return [_decode(path) for path, value in zip(fields[0::3], fields[2::3], strict=False) if value == b"gru"]


def track(folder: Path, patterns: Iterable[str]) -> tuple[list[str], list[str]]:
    """Adds `patterns` to `folder/.gitattributes`; returns those added and those that stood there already."""
    file = folder / ".gitattributes"
    wanted = list(dict.fromkeys(patterns))
    quoted = {pattern: quote_pattern(pattern) for pattern in wanted}
    present = {found.pattern for found in patterns_in(file)}
    added = [pattern for pattern in wanted if pattern not in present]
    if added:
        lines = _lines(file)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        _write(file, lines + [f"{quoted[pattern]} {ATTRIBUTES}\n" for pattern in added])
    return added, [pattern for pattern in wanted if pattern in present]


def untrack(
    folder: Path, patterns: Iterable[str], *, repo: Repository | None = None
) -> tuple[list[str], list[str]]:
    """Takes `patterns` out of `folder/.gitattributes`; returns those removed and those that were not there.

    Attributes of the line that are not git-gru's own stay. A file left empty is deleted, unless it is in the index of
    `repo`: the next `git add --renormalize .` could not find it.
    """
    file = folder / ".gitattributes"
    wanted = list(dict.fromkeys(patterns))
    removed: list[str] = []
    kept: list[str] = []
    for line in _lines(file):
        parts = split_line(line)
        if parts is None or parts[0] not in wanted or "filter=gru" not in parts[1]:
            kept.append(line)
            continue
        removed.append(parts[0])
        rest = [attribute for attribute in parts[1] if attribute not in ATTRIBUTES.split()]
        if rest:
            kept.append(f"{quote_pattern(parts[0])} {' '.join(rest)}\n")
    if removed and (kept or _in_index(repo, folder, file.name)):
        _write(file, kept)
    elif removed:
        file.unlink()
    return list(dict.fromkeys(removed)), [pattern for pattern in wanted if pattern not in removed]


def paths(listed: bytes) -> list[str]:
    """The paths in git's `-z` output."""
    return [_decode(name) for name in listed.split(b"\0") if name]


def _in_index(repo: Repository | None, folder: Path, name: str) -> bool:
    if repo is None:
        return False
    return repo.completed("ls-files", "--error-unmatch", "--", name, cwd=folder).returncode == 0


def _lines(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as text:
            return text.readlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write(file: Path, lines: Sequence[str]) -> None:
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as text:
        text.writelines(lines)


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
