"""The screen of `git gru watch`: a run's snapshot as lines of text that fit a terminal of any size from 40 × 12.

From `WIDE` columns on there are two columns: losses and commits at the left, the rest at the right. Narrower, all stands below
each other, and what has no room is left out from below: the losses never.
"""

import math
from collections.abc import Sequence

from rich.text import Text

from git_gru.cli.boundary import printable
from git_gru.cli.canvas import chart
from git_gru.cli.render import human_size, plural
from git_gru.runs.incidents import sentence
from git_gru.runs.record import RunState
from git_gru.runs.snapshot import Snapshot

WIDE = 100
_STATES = {
    RunState.RUNNING: ("●", "green"),
    RunState.FINISHED: ("✓", "bold green"),
    RunState.STOPPED: ("■", "yellow"),
    RunState.FAILED: ("✗", "bold red"),
}
_LOSS, _VAL_LOSS, _OTHER = "cyan", "magenta", "blue"
_SMALL = 4
"""Lines of a small chart."""
_LEAST_LOSSES = 7
"""Lines that the losses have at least, below each other with the rest."""


def screen(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    """Exactly `height` lines of at most `width` columns."""
    head = [*_head(snapshot, width), Text()]
    foot = [Text(), Text("q leaves, the run goes on", "dim")]
    room = max(0, height - len(head) - len(foot))
    if width >= WIDE:
        left, right = width * 3 // 5, width - width * 3 // 5 - 2
        body = _beside(_left(snapshot, left, room), _right(snapshot, right, room), left)
    else:
        body = _stacked(snapshot, width, room)
    body = [*body[:room], *[Text()] * (room - len(body))]
    lines = [*head, *body, *foot][:height]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def clock(seconds: float) -> str:
    """A span of time as `2:05` or `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _head(snapshot: Snapshot, width: int) -> list[Text]:
    mark, style = _STATES[snapshot.state]
    done = min(1.0, snapshot.step / max(1, snapshot.steps)) if snapshot.steps is not None else 0.0
    title = Text.assemble((f"{mark} {snapshot.state}", style), "  ", (snapshot.id, "bold"))
    more = f"  {printable(snapshot.branch)}  {plural(snapshot.nproc, 'worker')} on {printable(snapshot.host)}"
    if title.cell_len + len(more) <= width:
        title.append(more, "dim")
    times = f"{clock(snapshot.elapsed)} gone"
    times += f", {clock(snapshot.left)} left" if snapshot.left is not None else ""
    of = f"/{snapshot.steps:,}" if snapshot.steps is not None else ""
    numbers = f"step {snapshot.step:,}{of}  {times}"
    bar = max(8, width - len(numbers) - 2)
    full = round(bar * done)
    progress = Text.assemble(("━" * full, style), ("━" * (bar - full), "bright_black"), "  ", numbers)
    return [title, progress]


def _left(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    commits = _commits(snapshot, max(2, room // 4))
    sites = [Text(), *shown] if (shown := _sites(snapshot, max(2, room // 4))) else []
    return [*_losses(snapshot, width, room - len(commits) - len(sites) - 1), *sites, Text(), *commits]


def _right(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    lines = [*_rate(snapshot, width, _SMALL + 2), Text(), *_speed(snapshot, width, _SMALL + 2), Text()]
    return [*lines, *_warnings(snapshot, width, max(2, room - len(lines)))]


def _stacked(snapshot: Snapshot, width: int, room: int) -> list[Text]:
    """Blocks below each other; the losses take what the others leave, and these come in as far as there is room."""
    numbers, rate, speed = _numbers(snapshot), _rate(snapshot, width, _SMALL), _speed(snapshot, width, _SMALL)
    sites = _sites(snapshot, 6)
    warnings, commits = _warnings(snapshot, width, 4), _commits(snapshot, 3)
    chosen: list[list[Text]] = []
    left = room - _LEAST_LOSSES
    for block in (warnings, numbers, sites, commits, rate, speed):
        if block and len(block) + 1 <= left:
            chosen.append(block)
            left -= len(block) + 1
    charts = any(block is rate or block is speed for block in chosen)
    shown = [
        block
        for block in (numbers, rate, speed, warnings, sites, commits)
        if any(block is one for one in chosen)
    ]
    if charts and len(chosen) == 5 + bool(sites):  # their titles say the numbers
        shown.remove(numbers)
    lines = _losses(snapshot, width, room - sum(len(block) + 1 for block in shown))
    for block in shown:
        lines += [Text(), *block]
    return lines


def _numbers(snapshot: Snapshot) -> list[Text]:
    """Learning rate and throughput without their charts."""
    shown = [f"learning rate {snapshot.lr[-1][1]:.3g}"] if snapshot.lr else []
    shown += [f"tokens/s {snapshot.tokens_per_s[-1][1]:,.0f}"] if snapshot.tokens_per_s else []
    return [Text("   ".join(shown), _OTHER)] if shown else []


def _losses(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    title = Text()
    if snapshot.loss:
        title.append(f"loss {snapshot.loss[-1][1]:.4f}", _LOSS)
    if snapshot.val_loss:
        best = min((value for _, value in snapshot.val_loss if math.isfinite(value)), default=math.nan)
        title.append("   " if snapshot.loss else "")
        title.append(f"val_loss {snapshot.val_loss[-1][1]:.4f}", _VAL_LOSS)
        title.append(f" (best {best:.4f})", "dim")
    if not title:
        return [Text("waiting for the first step", "dim")]
    curves = [(snapshot.loss, _LOSS), (snapshot.val_loss, _VAL_LOSS)]
    return [title, *chart(curves, width, max(0, height - 1))]


def _rate(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    if not snapshot.lr:
        return []
    title = Text(f"learning rate {snapshot.lr[-1][1]:.3g}", _OTHER)
    return [title, *chart([(snapshot.lr, _OTHER)], width, height - 1)]


def _speed(snapshot: Snapshot, width: int, height: int) -> list[Text]:
    if not snapshot.tokens_per_s:
        return []
    title = Text(f"tokens/s {snapshot.tokens_per_s[-1][1]:,.0f}", _OTHER)
    if len(snapshot.rates) < 2:
        return [title, *chart([(snapshot.tokens_per_s, _OTHER)], width, height - 1)]
    title.append("  by worker" + (", sent, waited" if snapshot.sent else ""), "dim")
    most = max(snapshot.rates) or 1.0
    numbers = [f" {rate:,.0f}" for rate in snapshot.rates]
    if len(set(snapshot.shares)) > 1:  # workers of unequal speed
        numbers = [f"{rate}, share {held}" for rate, held in zip(numbers, snapshot.shares, strict=False)]
    room = max(4, width - 10 - max(map(len, numbers)) - (17 if snapshot.sent else 0))
    rows = [
        Text.assemble((f"rank {rank:<4}", "dim"), ("▇" * round(room * rate / most), _OTHER), number)
        for rank, (rate, number) in enumerate(zip(snapshot.rates, numbers, strict=True))
    ]
    for row, sent, waited in zip(rows, snapshot.sent, snapshot.waited, strict=False):
        row.append(f"  {human_size(sent)}  {clock(waited)}", "dim")
    return [title, *rows[: height - 1]]


def _commits(snapshot: Snapshot, most: int) -> list[Text]:
    if not snapshot.checkpoints:
        return []
    last = snapshot.checkpoints[-max(1, most - 1) :]
    lines = [Text(plural(len(snapshot.checkpoints), "commit"), "bold")]
    for made in reversed(last):
        metrics = "  ".join(f"{printable(name)} {value:.4f}" for name, value in made.metrics.items())
        lines.append(Text.assemble((f"{made.commit[:10]}", "yellow"), f"  step {made.step:<7,} {metrics}"))
    return lines


def _sites(snapshot: Snapshot, most: int) -> list[Text]:
    """How far the sites are that train together, as the end of the last round saw them."""
    if not snapshot.sites:
        return []
    lines = [Text(f"round {snapshot.round} with {plural(len(snapshot.sites), 'site')}", "bold")]
    width = max(map(len, snapshot.sites))
    for name, seen in snapshot.sites.items():
        loss = f"  val_loss {seen['val_loss']:.4f}" if "val_loss" in seen else ""
        weight = f"  weight {seen['weight']:.2f}" if seen["weight"] else "  not merged"
        row = f"{printable(name):<{width}}  round {seen['round']:<5.0f}{weight}{loss}"
        lines.append(Text(row, "" if seen["weight"] else "dim"))
    return lines[:most]


def _warnings(snapshot: Snapshot, width: int, most: int) -> list[Text]:
    """What went wrong, newest first, wrapped to the width."""
    said: list[tuple[str, str]] = []
    if snapshot.failure is not None:
        who = "" if snapshot.failure.rank is None else f"worker {snapshot.failure.rank}: "
        said.append((f"{who}{snapshot.failure.message}", "bold red"))
    for incident in reversed(snapshot.incidents):
        said.append((sentence(incident), "yellow" if incident.action == "none" else "red"))
    said += [(message, "yellow") for message in reversed(snapshot.messages)]
    lines: list[Text] = []
    for text, style in said:
        lines += _wrapped(printable(text), width, style)
    return [Text("warnings", "bold"), *lines][:most] if lines else []


def _wrapped(text: str, width: int, style: str) -> list[Text]:
    import textwrap

    first, *rest = textwrap.wrap(text, max(10, width - 2)) or [""]
    return [Text(f"! {first}", style), *(Text(f"  {more}", style) for more in rest)]


def _beside(left: Sequence[Text], right: Sequence[Text], width: int) -> list[Text]:
    lines = []
    for at in range(max(len(left), len(right))):
        line = left[at].copy() if at < len(left) else Text()
        line.truncate(width, overflow="ellipsis")
        line.pad_right(width + 2 - line.cell_len)
        lines.append(line + right[at] if at < len(right) else line)
    return lines
