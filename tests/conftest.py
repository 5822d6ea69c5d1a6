"""Fixtures for all tests: no test sees the user's HOME, Git settings or repository; repositories are made in `tmp_path`.

`repo` is a repository with git-gru installed by the real installer, whose filter runs the code under test.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from git_gru.git.install import Scope, install, program_command
from git_gru.git.repository import Repository

ROOT = Path(__file__).parents[1]
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty HOME with a Git identity, and none of the caller's GIT_*; gives the HOME."""
    home = tmp_path_factory.mktemp("home")
    for name in os.environ:
        if name.startswith(("GIT_", "XDG_")):
            monkeypatch.delenv(name)
    settings = home / ".gitconfig"
    settings.write_text(
        "[user]\n\tname = A U Thor\n\temail = author@example.com\n[init]\n\tdefaultBranch = main\n"
        '[advice]\n\tdetachedHead = false\n[protocol "file"]\n\tallow = always\n[gc]\n\tauto = 0\n'
        "[gru]\n\tautoMaintenance = false\n"
    )
    # Git starts this program a thousand times in these tests: it should not be compiled anew each time.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / ".state"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "0")
    monkeypatch.setenv("GIT_EDITOR", "true")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(home.parent))
    # Children (filter, hooks) import the code under test even when it is not installed
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    yield home


def model_bytes(arrays: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file."""
    return save(arrays, metadata)


def random_arrays(seed: int, *, hidden: int = 64, vocabulary: int = 32) -> Arrays:
    """Tensors with the names and shapes of a one-layer GRU language model, in float32."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embedding.weight": (vocabulary, hidden),
        "gru.weight_ih_l0": (3 * hidden, hidden),
        "gru.weight_hh_l0": (3 * hidden, hidden),
        "gru.bias_ih_l0": (3 * hidden,),
        "gru.bias_hh_l0": (3 * hidden,),
        "head.weight": (vocabulary, hidden),
    }
    return {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


class Work:
    """A worktree in a test: runs git and git-gru in it, writes and reads its files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def repository(self) -> Repository:
        """The library's view of it."""
        return Repository.find(self.path)

    def git(
        self, *args: str, check: bool = True, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> str:
        """Stdout of `git ARGS`; a failure shows what git said."""
        done = self.run("git", *args, input=input, env=env)
        assert not check or done.returncode == 0, f"git {args}: {done.stdout!r} {done.stderr.decode()}"
        return done.stdout.decode("utf-8", "surrogateescape")

    def gru(self, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
        """`git-gru ARGS` as a process."""
        return self.run(sys.executable, "-m", "git_gru", *args, env=env)

    def run(
        self, *command: str, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Any command in this folder."""
        return subprocess.run(
            command,
            cwd=self.path,
            input=input,
            env={**os.environ, **(env or {})},
            capture_output=True,
            check=False,
        )

    def write(self, name: str, data: bytes | Arrays) -> bytes:
        """Writes a file (arrays: as safetensors) and returns its bytes."""
        content = data if isinstance(data, bytes) else model_bytes(data)
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return content

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return (self.path / name).read_bytes()

    def commit(self, message: str, *paths: str) -> str:
        """Adds `paths` (default: everything) and commits; returns the commit's id."""
        self.git("add", *(paths or ("--all",)))
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def status(self) -> str:
        """`git status --porcelain`."""
        return self.git("status", "--porcelain")


@pytest.fixture
def make_arrays() -> Callable[..., Arrays]:
    """`random_arrays(seed, hidden=…, vocabulary=…)`."""
    return random_arrays


@pytest.fixture
def make_model() -> Callable[..., bytes]:
    """`model_bytes(arrays, metadata)`."""
    return model_bytes


@pytest.fixture
def plain_repo(tmp_path: Path) -> Work:
    """A new repository without git-gru."""
    path = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", str(path)], check=True)
    return Work(path)


@pytest.fixture
def repo(plain_repo: Work) -> Work:
    """A new repository with git-gru installed and `*.safetensors` tracked (not committed yet)."""
    install_in(plain_repo)
    plain_repo.write(".gitattributes", b"*.safetensors filter=gru diff=gru merge=gru -text\n")
    return plain_repo


@pytest.fixture
def at() -> Callable[[Path], Work]:
    """Another worktree or clone as a `Work`."""
    return Work


def install_in(work: Work) -> None:
    """The real installation, local to the repository."""
    install(work.repository, Scope.LOCAL, program_command(os.environ["PATH"]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 6 MiB, where that can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here; the tests with a failing write run anyway")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def read_only(tmp_path: Path) -> Callable[[Path], Path]:
    """A read-only view of a folder: a bind mount where that is allowed, else a copy without permissions."""
    views: list[Path] = []

    def make(folder: Path) -> Path:
        view = tmp_path / "view"
        view.mkdir()
        if os.geteuid() == 0:
            mounted = subprocess.run(
                ["mount", "--bind", "-o", "ro", folder, view], capture_output=True, check=False
            )
            if mounted.returncode == 0:
                views.append(view)
                subprocess.run(["mount", "-o", "remount,ro,bind", view], capture_output=True, check=True)
                return view
            pytest.skip("root may write everywhere, and may not mount here")
        view.rmdir()
        shutil.copytree(folder, view)
        for path in [view, *view.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        return view

    yield make  # type: ignore[misc]
    for view in views:
        subprocess.run(["umount", "--lazy", view], check=True)
