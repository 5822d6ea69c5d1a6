"""Evaluations kept as Git notes: `refs/notes/gru-eval`, on the commit whose model was evaluated.

A note is lines of JSON, each one evaluation with the `key` of what it depended on besides the commit; so notes of two clones are
merged by Git itself (`git notes --ref gru-eval merge --strategy cat_sort_uniq`). They are a cache: a line that cannot be read
does not count, and of two processes that write at once one may lose its line.
"""

import json
from typing import Any

from git_gru.git.repository import Repository

REF = "refs/notes/gru-eval"
_WHO = ("-c", "user.name=git-gru", "-c", "user.email=git-gru@localhost")


def find_evaluation(repo: Repository, commit: str, key: str) -> dict[str, Any] | None:
    """The fields kept under `key` for a commit (its full id); None when there are none."""
    for line in _lines(repo, commit):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict) and fields.get("key") == key:
            return fields
    return None


def keep_evaluation(repo: Repository, commit: str, key: str, fields: dict[str, Any]) -> None:
    """Writes an evaluation down, in place of one with the same key. Where that is not possible nothing happens."""
    lines = [line for line in _lines(repo, commit) if f'"key": "{key}"' not in line]
    note = "\n".join([*lines, json.dumps({"key": key, **fields}), ""])
    repo.completed(*_WHO, "notes", "--ref", REF, "add", "--force", "--file", "-", commit, input=note.encode())


def _lines(repo: Repository, commit: str) -> list[str]:
    result = repo.completed("notes", "--ref", REF, "show", commit)
    return result.stdout.decode("utf-8", "replace").splitlines() if result.returncode == 0 else []
