"""`git gru watch`."""

import contextlib
import select
import sys
import time
from collections.abc import Iterator

import click

from git_gru.cli.render import emit_json, json_option, line
from git_gru.git.repository import Repository
from git_gru.git.run_following import RunFollower, choose_run
from git_gru.runs.metrics import Event
from git_gru.runs.record import RunState
from git_gru.runs.snapshot import Snapshot, snapshot_of

EVERY_SECONDS = 0.5


@click.command("watch", short_help="Watch a training run in the terminal.")
@click.argument("run", required=False)
@json_option
def command(run: str | None, as_json: bool) -> None:
    """Watch the run RUN (the beginning of its id is enough; by default the newest that runs).

    Shows losses, learning rate, throughput, the time left, the last commits and what the guard caught. A run on another machine
    is seen as far as `git gru runs fetch` has brought its record. `q` or Ctrl-C leaves; the run is not touched. Where the output
    is no terminal, each event is a line, until the run is over.

    \b
    --json: one snapshot: {"id", "state", "branch", "host", "nproc", "step", "steps", "elapsed", "left",
             "loss": [[step, value]], "val_loss", "lr", "tokens_per_s", "rates": [tokens/s by rank],
             "shares": [samples of a step by rank], "sent": [bytes by rank], "waited": [seconds by rank],
             "round", "sites": {name: {"round", "weight", "val_loss"}},
             "checkpoints": [{"step", "commit", "metrics"}], "incidents", "messages", "failure"}
    """
    repo = Repository.find()
    follower = RunFollower(repo, choose_run(repo, run))
    if as_json:
        emit_json(_now(follower).as_json())
    elif sys.stdout.isatty():
        _full_screen(follower)
    else:
        _lines(follower)


def _now(follower: RunFollower) -> Snapshot:
    return snapshot_of(*follower.poll(), time.time())


def _full_screen(follower: RunFollower) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    from git_gru.cli.watch_screen import screen

    console = Console()

    def shown() -> Group:
        return Group(*screen(_now(follower), console.width, console.height))

    with _keys() as pressed, contextlib.suppress(KeyboardInterrupt):
        with Live(shown(), console=console, screen=True, auto_refresh=False) as live:
            while not pressed("q", EVERY_SECONDS):
                live.update(shown(), refresh=True)


def _lines(follower: RunFollower) -> None:
    """Each event once, as it comes, until the run is over."""
    told = 0
    while True:
        record, events = follower.poll()
        for event in events[told:]:
            line(_told(event))
        told = max(told, len(events))
        if record.state is not RunState.RUNNING:
            line(f"{record.id} {record.state}, {record.progress}")
            return
        time.sleep(EVERY_SECONDS)


def _told(event: Event) -> str:
    parts = [f"step {event.step:>6}"]
    parts += [f"rank {event.rank}"] if event.rank else []
    for name, value in (("loss", event.loss), ("lr", event.lr), ("tokens/s", event.tokens_per_s)):
        if value is not None:
            parts.append(f"{name} {value:.5g}")
    parts += [f"{name} {value:.4f}" for name, value in event.validation.items()]
    parts += [f"{name} {value:.5g}" for name, value in event.metrics.items()]
    parts += [f"commit {event.commit[:10]}"] if event.commit else []
    parts += [event.message] if event.message else []
    return "  ".join(parts)


class _Keyboard:
    """Waits for a key; without a terminal to read from it only waits."""

    def __init__(self, readable: bool) -> None:
        self._readable = readable

    def __call__(self, key: str, seconds: float) -> bool:
        if not self._readable:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(ready) and sys.stdin.read(1) in (key, "")


@contextlib.contextmanager
def _keys() -> Iterator[_Keyboard]:
    """The keyboard, each key given as it is pressed and not shown; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield _Keyboard(False)
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield _Keyboard(True)
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
