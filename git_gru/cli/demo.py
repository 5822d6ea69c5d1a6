"""`git gru demo`."""

import shlex
import subprocess
import sys
import time
from pathlib import Path

import click

from git_gru.cli.render import human_size, line, plural, table
from git_gru.errors import MachineError
from git_gru.git.repository import Repository
from git_gru.git.run import LOCAL_VARIABLES, child_environment
from git_gru.train.demo import DemoData, check_target, kept_sizes, write_files
from git_gru.train.plan import require_torch

FINE_TUNE = ("--set", "train.steps=80", "--set", "train.lr=0.002", "--set", "train.checkpoint_every=40")


@click.command("demo", short_help="Make a repository that shows it all.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Make a repository in DIR (missing or empty) and show git-gru's main job in it, in about two minutes.

    A GRU learns Python's standard library from a commit into commits; two branches are fine-tuned and merged by
    averaging; an older training commit is taken back; the model writes text. Every step prints the command
    that you would type; the repository is yours afterwards.
    """
    require_torch()
    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    demo = Demo(folder)
    demo.prepare()
    demo.train()
    demo.branch()
    demo.merge()
    demo.revert()
    demo.write()
    demo.sizes()
    demo.end()


class Demo:
    """The demo's steps, in order; each says what it is for, runs commands as a user would, and is timed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._times: list[tuple[str, float]] = []
        program = Path(sys.executable).with_name("git-gru")
        self._gru = [str(program)] if program.exists() else [sys.executable, "-m", "git_gru"]

    def prepare(self) -> None:
        """The repository, its recipe and its data."""
        self._title("A repository that keeps models")
        self._run("git init --quiet --initial-branch=main .")
        if not self._output("git config user.email", check=False):
            self._run("git config user.email demo@localhost")
            self._run("git config user.name 'git-gru demo'")
        self._run("git gru install --local")
        self._run("git gru track '*.safetensors'")
        data = write_files(self._folder)
        self._explain(_told(data))
        self._run("git add .")
        self._run("git commit --quiet --message 'Data and recipe'")

    def train(self) -> None:
        """From HEAD to commits."""
        self._title("Train from HEAD: two workers, every checkpoint a commit")
        self._run("git gru train --here")
        self._explain(
            "--here moved main and the worktree to the last checkpoint; without it they wait on gru/<run id>."
        )
        self._run("git gru log")

    def branch(self) -> None:
        """Two branches on two halves of the data."""
        self._title("Fine-tune two branches, each on its half of the data")
        for half in "ab":
            options = shlex.join(
                ("--branch", f"half-{half}", "--set", f"data.files=data/{half}/*.py", *FINE_TUNE)
            )
            self._run(f"git gru train {options}")
        self._explain(
            "The recipe in the commits is untouched: overrides are kept in the run's record (git gru runs)."
        )
        self._run("git gru diff half-a half-b")

    def merge(self) -> None:
        """Averaging, and what it is worth."""
        self._title("Merge the branches: parameters are averaged")
        self._run("git merge --quiet --ff-only half-a")
        self._run("git gru merge half-b")
        self._explain("Both branches and their merge, on the same validation files:")
        losses = self._losses("git gru eval half-a half-b HEAD")
        mean = (losses["half-a"] + losses["half-b"]) / 2
        verdict = "no worse than" if losses["HEAD"] <= mean else "WORSE than"
        self._explain(
            f"The merge's loss {losses['HEAD']:.4f} is {verdict} the mean of its parents' {mean:.4f}."
        )

    def revert(self) -> None:
        """Taking an older training commit back."""
        self._title("Take an older training commit back, keeping what was learnt since")
        older = self._output("git rev-parse --short=10 half-b~2").strip()
        self._explain(f"{older} is the checkpoint that both branches went on from: {self._subject(older)}")
        self._run(f"git gru revert {older}")
        self._explain("Only that checkpoint's change is gone; all that came since is still there:")
        self._run("git gru diff --no-gates HEAD~1 HEAD")
        self._run("git log --oneline --max-count=6")
        self._losses("git gru eval HEAD~1 HEAD")

    def write(self) -> None:
        """What the model has learnt."""
        self._title("Let the model write")
        self._run("git gru sample HEAD --prompt 'def ' --length 500 --temperature 0.6")

    def sizes(self) -> None:
        """What it all takes."""
        self._title("What all versions take")
        repo = Repository.find(self._folder)
        before = kept_sizes(repo)
        self._run("git gru repack")
        after = kept_sizes(repo)
        rows = [
            (name, human_size(size), f"{size / before.raw:.3f}")
            for name, size in (
                (f"{plural(before.versions, 'version')} as files", before.raw),
                ("kept as committed", before.kept),
                ("kept after git gru repack", after.kept),
            )
        ]
        line()
        table(("", "bytes", "kept/raw"), rows, right=("bytes", "kept/raw"))

    def end(self) -> None:
        """The times, and how to go on."""
        total = sum(seconds for _, seconds in self._times)
        line()
        rows = [(name, f"{seconds:.1f} s") for name, seconds in self._times]
        table(("step", "time"), [*rows, ("in all", f"{total:.1f} s")], right=("time",))
        line()
        line(
            f"The repository is yours: cd {shlex.quote(str(self._folder))}, then git log, git diff HEAD~1, git switch half-a …"
        )

    def _title(self, text: str) -> None:
        self._times.append((text.partition(":")[0].partition(",")[0], 0.0))
        line()
        click.secho(f"{len(self._times)}. {text}", bold=True)

    def _explain(self, text: str) -> None:
        line(f"   {text}")

    def _run(self, text: str) -> None:
        """Shows and runs a command, its output going to the user."""
        self._call(text, captured=False)

    def _losses(self, text: str) -> dict[str, float]:
        """Runs `git gru eval …`, shows its table, and returns the losses in it."""
        shown = self._call(text, captured=True)
        click.echo(shown.rstrip())
        header, *rows = (row.split() for row in shown.splitlines())
        column = header.index("val_loss")
        return {row[0]: float(row[column]) for row in rows}

    def _output(self, text: str, *, check: bool = True) -> str:
        """What a command prints; it is not shown."""
        done = subprocess.run(
            self._words(text), cwd=self._folder, env=_environment(), capture_output=True, text=True
        )
        if check and done.returncode != 0:
            raise MachineError(f"the demo's command {text} failed: {done.stderr.strip()}")
        return done.stdout

    def _subject(self, commit: str) -> str:
        return self._output(f"git log -1 --format=%s {commit}").strip()

    def _call(self, text: str, *, captured: bool) -> str:
        click.secho(f"$ {text}", fg="cyan")
        sys.stdout.flush()
        start = time.monotonic()
        done = subprocess.run(
            self._words(text),
            cwd=self._folder,
            env=_environment(),
            stdout=subprocess.PIPE if captured else None,
            text=True,
            check=False,
        )
        name, seconds = self._times[-1]
        self._times[-1] = (name, seconds + time.monotonic() - start)
        if done.returncode != 0:
            raise MachineError(
                f"the demo stopped: {text} ended with exit status {done.returncode}",
                hint=f"What it made so far is in {self._folder}.",
            )
        return done.stdout or ""

    def _words(self, text: str) -> list[str]:
        """The words of a command; `git gru` is this very program, whether or not the PATH leads to it."""
        words = shlex.split(text)
        return [*self._gru, *words[2:]] if words[:2] == ["git", "gru"] else words


def _told(data: DemoData) -> str:
    return (
        f"Wrote gru.toml and {data.files} modules of Python's standard library into data/: "
        f"{human_size(data.train_bytes)} to learn from, {human_size(data.validation_bytes)} to validate on."
    )


def _environment() -> dict[str, str]:
    return child_environment(LOCAL_VARIABLES)
