"""Repositories of the tools compared: each knows how to begin, to add a version, and to check one out.

All of them are driven through Git's own commands in one process environment, with HOME and Git's settings isolated.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODEL = "model.safetensors"


@dataclass
class Repository:
    """A repository with one tracked model, kept by `tool` (git-gru, git-lfs or git)."""

    tool: str
    folder: Path
    times: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    _saved: float = field(default_factory=lambda: time.time() - 600)

    def begin(self) -> "Repository":
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        if self.tool == "git-gru":
            self.run(str(Path(sys.executable).with_name("git-gru")), "install", "--local")
            self.git("gru", "track", "*.safetensors")
        elif self.tool == "git-lfs":
            self.git("lfs", "install", "--local")
            self.git("lfs", "track", "*.safetensors")
        else:
            (self.folder / ".gitattributes").write_text("*.safetensors -text -delta\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=start")
        return self

    def commit(self, source: Path, name: str, *, at_once: bool = False) -> float:
        """Copies `source` in, then times `git add` and `git commit`.

        The model counts as saved some minutes ago; `at_once`: as saved in the very second in which it is added, so that Git
        distrusts the time in its index and has the commit look at the file again.
        """
        shutil.copyfile(source, self.folder / MODEL)
        if at_once:
            # not on the edge: the kernel stamps files by a clock that lags
            time.sleep(1.02 - time.time() % 1)
            os.utime(self.folder / MODEL)
        else:
            self._saved += 1  # a second apart: Git counts no less
            os.utime(self.folder / MODEL, (self._saved, self._saved))
        return self.timed(
            name, lambda: (self.git("add", MODEL), self.git("commit", "--quiet", "-m", source.stem))
        )

    def checkout(self, revision: str, name: str) -> float:
        """Times `git checkout` of a version, from a worktree in which the model is absent."""
        (self.folder / MODEL).unlink(missing_ok=True)
        return self.timed(name, lambda: self.git("checkout", "--quiet", "--force", revision))

    def commit_text(self, name: str) -> float:
        """Times a commit that touches no model."""
        (self.folder / "notes.txt").write_text(f"{time.time()}\n")
        self.git("add", "notes.txt")
        return self.timed(name, lambda: self.git("commit", "--quiet", "-m", "notes"))

    def kept(self) -> int:
        """Bytes under .git that hold models: objects, and the stores of git-gru and git-lfs."""
        return sum(
            path.stat().st_size
            for part in ("objects", "gru/store.git/objects", "lfs/objects")
            for path in (self.folder / ".git" / part).rglob("*")
            if path.is_file()
        )

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments)

    def environment(self) -> dict[str, str]:
        """In which all commands run: without the caller's settings."""
        home = self.folder.parent / "home"
        home.mkdir(exist_ok=True)
        return {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "PYTHON"))} | {
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "bench",
            "GIT_AUTHOR_EMAIL": "bench@localhost",
            "GIT_COMMITTER_NAME": "bench",
            "GIT_COMMITTER_EMAIL": "bench@localhost",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def timed(self, name: str, work: Callable[[], object]) -> float:
        """Notes the seconds that `work` takes, and the CPU seconds of the processes that it starts."""
        before, start = _children(), time.perf_counter()
        work()
        took = time.perf_counter() - start
        self.times.setdefault(name, []).append(took)
        self.cpu.setdefault(name, []).append(_children() - before)
        return took


def _children() -> float:
    """CPU seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def available(tool: str) -> bool:
    """Whether the tool can be run here."""
    return tool != "git-lfs" or shutil.which("git-lfs") is not None
