"""The user's repository: where its worktree, its Git folder and its store are.

*git dir* is this worktree's own Git folder (HEAD, index), *common dir* the one that all worktrees share (objects, refs,
config): the store is `<common dir>/gru/store.git`, so worktrees share it. Git itself is asked where they are, so linked
worktrees, submodules, `GIT_DIR` (set by Git in clone, `worktree add` and hooks) and bare repositories come out right.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from git_gru.errors import InputError
from git_gru.git.run import LOCAL_VARIABLES, Environment, completed, git, inherited
from git_gru.git.settings import Settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from git_gru.store.manifest import Manifest
    from git_gru.store.store import Store


class NotARepositoryError(InputError):
    """The folder is in no Git repository, or Git refuses to work there."""


class ObjectFormatError(InputError):
    """The repository names its objects in a way that git-gru does not know."""


class Repository:
    """One repository as seen from one of its worktrees (`worktree` is None in a bare one). Paths are absolute.

    `environment` is what `git` adds to (None: takes from) the environment, so that its commands meet this repository and no
    other. (No dataclass: the filter starts with this file.)
    """

    def __init__(
        self,
        worktree: Path | None,
        git_dir: Path,
        common_dir: Path,
        environment: Environment | None = None,
        object_format: str | None = None,
    ) -> None:
        self.worktree = worktree
        self.git_dir = git_dir
        self.common_dir = common_dir
        self.environment: Environment = environment or {}
        self._settings: Settings | None = None
        self._known_format = object_format

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Repository) and self._places() == other._places()

    def __hash__(self) -> int:
        return hash(self._places())

    def _places(self) -> tuple[Path | None, Path, Path]:
        return self.worktree, self.git_dir, self.common_dir

    @classmethod
    def find(cls, start: Path | None = None) -> "Repository":
        """The repository of the folder `start`; by default the one that Git itself would use here.

        With `start` given, GIT_DIR and its kin in the environment do not count. Raises `NotARepositoryError`.
        """
        environment: dict[str, str | None] = dict(LOCAL_VARIABLES) if start is not None else {}
        result = completed(
            "rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir", "--show-object-format",
            "--show-toplevel",
            cwd=start, env=environment,
        )  # fmt: skip
        lines = result.stdout.decode("utf-8", "surrogateescape").splitlines()
        if len(lines) < 3:
            raise _no_repository(start or Path.cwd(), result.stderr.decode("utf-8", "replace"))
        git_dir, common_dir = Path(lines[0]), Path(lines[1])
        worktree = Path(lines[3]) if len(lines) > 3 else None
        if start is None and inherited("GIT_DIR"):  # perhaps relative to a folder that git will not be run in
            environment = {"GIT_DIR": str(git_dir), "GIT_WORK_TREE": str(worktree) if worktree else None}
        return cls(worktree, git_dir, common_dir, environment, lines[2])

    @classmethod
    def of_filter(cls) -> "Repository":
        """The repository that git started a filter for: as `find`, but git is asked only where the answer is not plain.

        Git starts filters at the top of the worktree, and sets GIT_DIR where the folder `.git` there is not the whole story.
        """
        top = Path.cwd()
        git_dir = top / ".git"
        told = any(inherited(name) for name in ("GIT_DIR", "GIT_COMMON_DIR", "GIT_WORK_TREE"))
        if told or not (git_dir / "HEAD").is_file() or (git_dir / "commondir").exists():
            return cls.find()
        return cls(top, git_dir, git_dir)

    def git(
        self, *args: str, cwd: Path | None = None, input: bytes | None = None, env: Environment | None = None,
        check: bool = True,
    ) -> bytes:  # fmt: skip
        """`git ARGS` in this repository (at the top of its worktree unless `cwd` says otherwise); see `run.git`."""
        return git(
            *args, cwd=cwd or self.top, input=input, env={**self.environment, **(env or {})}, check=check
        )

    def completed(
        self, *args: str, cwd: Path | None = None, input: bytes | None = None, env: Environment | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        """As `git`, never raising for an exit status; see `run.completed`."""
        return completed(*args, cwd=cwd or self.top, input=input, env={**self.environment, **(env or {})})

    @property
    def top(self) -> Path:
        """The folder to run git in: the worktree's top, or the Git folder of a bare repository."""
        return self.worktree or self.git_dir

    def require_worktree(self) -> Path:
        """The worktree's top; raises `NotARepositoryError` in a bare repository."""
        if self.worktree is None:
            raise NotARepositoryError(
                f"{self.git_dir} is a bare repository: it has no worktree", hint="Run this in a clone of it."
            )
        return self.worktree

    def require_sha1(self) -> None:
        """Raises `ObjectFormatError` unless the repository names its objects by SHA-1, as git-gru does all over."""
        if self._object_format != "sha1":
            raise ObjectFormatError(
                f"{self.common_dir} names its objects by {self._object_format.upper()}, with which git-gru does not work",
                hint="Models need a repository with Git's default: git init --object-format=sha1",
            )

    @cached_property
    def _object_format(self) -> str:
        return self._known_format or self.git("rev-parse", "--show-object-format").decode().strip()

    @property
    def gru_dir(self) -> Path:
        """`<common dir>/gru`: the store and all else that git-gru keeps for this repository."""
        return self.common_dir / "gru"

    def store(self) -> "Store":
        """The repository's store, made when it is missing. Models that it lacks are brought from remotes as they are read.

        Raises `ObjectFormatError` where none can be made, and what `Store.open` raises.
        """
        from git_gru.store.store import Store

        store = Store.find(self.gru_dir)
        if store is None:
            self.require_sha1()
            store = Store.open(self.gru_dir)

        def supply(manifests: "Sequence[Manifest]") -> None:
            from git_gru.git.missing import naming_commits
            from git_gru.git.sources import sources
            from git_gru.store.bring import bring

            with naming_commits(self, manifests):
                bring(store, sources(self, store), manifests)

        store.supply = supply
        return store

    @property
    def settings(self) -> Settings:
        """Git's settings as this repository sees them, read once; `configure` forgets them."""
        if self._settings is None:
            self._settings = Settings(self.git("config", "--list", "--show-scope", "-z"))
        return self._settings

    def config(self, key: str) -> str | None:
        """The value of a Git setting, or None."""
        return self.settings.get(key)

    def configure(self, *arguments: str) -> None:
        """`git config ARGUMENTS`, which changes a setting."""
        self._settings = None
        self.git("config", *arguments)

    @cached_property
    def pygit2(self) -> Any:
        """A `pygit2.Repository` on the same Git folder (imported on first use). Raises `ObjectFormatError`."""
        self.require_sha1()
        import pygit2

        return pygit2.Repository(str(self.git_dir))


def _no_repository(where: Path, stderr: str) -> NotARepositoryError:
    if "dubious ownership" in stderr:
        return NotARepositoryError(
            f"Git refuses to use the repository at {where}: it belongs to another user",
            hint=f"If you trust it: git config --global --add safe.directory '{where}'",
        )
    return NotARepositoryError(
        f"{where} is not in a Git repository",
        hint="Go to your repository's folder, or make one with: git init",
    )
