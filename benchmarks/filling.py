"""Histories made by the library in seconds: models go straight into the store, commits through git fast-import."""

import io
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.peers import Repository
from git_gru.store.ingest import ingest_all
from git_gru.store.manifest import Manifest
from git_gru.store.store import Store


def stored(repository: Repository, files: Iterable[bytes]) -> list[Manifest]:
    """Puts files into the repository's store, in few packs."""
    store = Store.open(repository.folder / ".git/gru")
    found = ingest_all(store, ((io.BytesIO(file), True) for file in files))
    manifests = [ingested.manifest for ingested in found]
    store.sync()
    store.close()
    return manifests


def commit_all(repository: Repository, versions: Iterable[Mapping[str, bytes]]) -> None:
    """A commit on `main` for each of `versions`, in which each path has these bytes in Git's tree; checks the last one out."""
    start = repository.git("rev-parse", "HEAD").strip()
    stream = b"".join(_commits(versions, start))
    command = ["git", "-C", str(repository.folder), "fast-import", "--quiet", "--force"]
    subprocess.run(command, input=stream, check=True)
    repository.git("reset", "--quiet", "--hard")


def _commits(versions: Iterable[Mapping[str, bytes]], start: str) -> Iterator[bytes]:
    """The history as git fast-import(1) reads it."""
    for at, version in enumerate(versions):
        yield b"commit refs/heads/main\ncommitter bench <bench@localhost> %d +0000\ndata 0\n" % (10**9 + at)
        yield b"from %s\n" % start.encode() if at == 0 else b""
        for path, data in version.items():
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def emptied(folder: Path) -> Path:
    """The folder, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
