"""The demo's repository: a text that is on every machine, the recipe that learns from it, and what its store came to.

The text is the running Python's own standard library, as sources: the modules at the top of its folder, in the order of
their names, up to a size; every tenth is kept for validation, the others are dealt in turn to two halves, `a` and `b`.
Free of torch.
"""

import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from git_gru.errors import InputError
from git_gru.git.changes import changes
from git_gru.git.inspect import joined, sizes
from git_gru.git.repository import Repository

DATA_BYTES = 3_000_000
VALIDATION_BYTES = 64_000
README = (
    "Made by `git gru demo`: a byte-level GRU language model of Python's standard library, in plain Git.\n"
)
RECIPE = """\
# What `git gru train` reads. Every key: docs/recipe.md of git-gru.
[model]
path = "model.safetensors"
kind = "gru"
task = "language-model"
embedding = 64
hidden = 256

[data]
files = ["data/a/*.py", "data/b/*.py"]
validation_files = ["data/validation/*.py"]
window = 64

[train]
steps = 400
batch = 32
lr = 0.008
warmup = 20
checkpoint_every = 80

[launch]
nproc = 2
"""


@dataclass(frozen=True, kw_only=True)
class DemoData:
    """What was written: bytes for training and for validation, and the number of files."""

    files: int
    train_bytes: int
    validation_bytes: int


@dataclass(frozen=True, kw_only=True)
class KeptSizes:
    """All versions of all models in a repository: how many, their bytes as files, the bytes that the store keeps."""

    versions: int
    raw: int
    kept: int


def kept_sizes(repo: Repository) -> KeptSizes:
    """What the versions that any ref reaches take; what they share is kept once."""
    touched = (path for change in changes(repo, ["--all"]) for path in change.paths)
    models = {path.after.digest: path.after for path in touched if path.after is not None}
    kept = sizes(repo.store(), joined(models.values())).stored
    return KeptSizes(versions=len(models), raw=sum(model.size for model in models.values()), kept=kept)


def check_target(folder: Path) -> None:
    """Raises `InputError` unless `folder` is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not empty", hint="Name another folder for the demo.")


def write_files(folder: Path, library: Path | None = None) -> DemoData:
    """Writes recipe, README and data into `folder`. `library` is the folder to take sources from, by default Python's."""
    sources = _sources(library or Path(sysconfig.get_path("stdlib")))
    written = {"a": 0, "b": 0, "validation": 0}
    for part in written:
        (folder / "data" / part).mkdir(parents=True)
    count = 0
    for number, source in enumerate(sources):
        part = "validation" if number % 10 == 9 else "ab"[number % 2]
        limit = VALIDATION_BYTES if part == "validation" else DATA_BYTES // 2
        size = source.stat().st_size
        if written[part] + size > limit:
            continue
        shutil.copyfile(source, folder / "data" / part / source.name)
        written[part] += size
        count += 1
    if not all(written.values()):
        raise InputError(
            f"there are too few Python sources in {sources[0].parent if sources else library} for a demo"
        )
    (folder / "gru.toml").write_text(RECIPE)
    (folder / "README.md").write_text(README)
    return DemoData(
        files=count, train_bytes=written["a"] + written["b"], validation_bytes=written["validation"]
    )


def _sources(library: Path) -> list[Path]:
    """The plain modules at the top of the library that are neither empty nor generated, sorted by name."""
    found = (path for path in library.glob("*.py") if not path.name.startswith("_sysconfigdata"))
    return sorted(
        (path for path in found if path.is_file() and path.stat().st_size), key=lambda path: path.name
    )
