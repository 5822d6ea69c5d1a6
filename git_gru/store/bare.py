"""The store's bare repository, but for its objects: references, read as files, and git run on it."""

import contextlib
import os
import re
from pathlib import Path

from git_gru.errors import MachineError, StoreError
from git_gru.store.pack_reader import REPAIR

_OBJECT = re.compile(r"[0-9a-f]{40}\s*\Z")


def read_ref(repository: Path, name: str) -> bytes | None:
    """The object that a reference of the Git folder `repository` names, or None without it. Raises `StoreError`."""
    try:
        text = (repository / name).read_text() or "?"
    except FileNotFoundError:
        text = _packed_ref(repository, name)
    except UnicodeDecodeError:
        text = "?"
    if not text:
        return None
    if not _OBJECT.match(text):
        raise StoreError(f"the store's reference {repository / name} is damaged", hint=REPAIR)
    return bytes.fromhex(text[:40])


def _packed_ref(repository: Path, name: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        for line in (repository / "packed-refs").read_text().splitlines():
            if line.endswith(f" {name}"):
                return line.split(" ")[0]
    return ""


def run_git(repository: Path | None, *arguments: str) -> str:
    """Runs `git` on a store's repository, apart from the user's environment. Raises `StoreError` with git's words."""
    import subprocess

    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # This code reads references as files and knows objects by SHA-1, whatever git is set to make.
    environment |= {"GIT_DEFAULT_HASH": "sha1", "GIT_DEFAULT_REF_FORMAT": "files"}
    where = ["--git-dir", str(repository)] if repository else []
    try:
        done = subprocess.run(
            ["git", *where, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise MachineError("the program `git` was not found", hint="install Git 2.38 or newer") from None
    if done.returncode:
        raise StoreError(f"git {arguments[0]} failed in the store: {done.stderr.strip()}")
    return done.stdout
