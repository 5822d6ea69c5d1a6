"""What travels to and from a hub, and how long it takes, beside git-lfs: by path, and over HTTP at several speeds.

Both tools are driven by `git push` and `git clone` alone. Over HTTP one server serves both: Git by `git http-backend`, git-lfs by
its batch API (`lfs_hub`). By path git-lfs uses its own transfer of files.
"""

import hashlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from benchmarks import history
from benchmarks.filling import commit_all, size_of, stored
from benchmarks.http_hub import Server, new_hub
from benchmarks.peers import MODEL, Repository

TOOLS = ("git-gru", "git-lfs")
RATES = {"file": None, "http": None, "http, 1 Gbit/s": 125e6, "http, 100 Mbit/s": 12.5e6}
"""Where a hub is: how it is reached -> bytes a second over HTTP."""

COLUMNS = ("step", "hub", "tool", "bytes / raw", "seconds", "CPU s", "speed, git-lfs = 1 (paired)")


@dataclass
class Place:
    """Hubs in the folder `hubs`, and the server that has them over HTTP."""

    hubs: Path
    server: Server

    def url(self, kind: str, hub: str) -> str:
        """The address of a hub that is reached in this way."""
        self.server.rate = RATES[kind]
        return f"file://{self.hubs}/{hub}" if kind == "file" else f"{self.server.url}/{hub}"


def pushes(work: Path, place: Place, files: Sequence[Path], rounds: int) -> list[list[object]]:
    """Pushes all files but the last as so many versions at once, then the last one."""
    steps = {f"push {len(files) - 1} versions": "main~1", "push one more": "main"}
    raw = [sum(file.stat().st_size for file in files[:-1]), files[-1].stat().st_size]
    repositories = [Repository(tool, work / f"push-{tool}").begin() for tool in TOOLS]
    for repository in repositories:
        for file in files:
            repository.commit(file, "add")
    shares: dict[tuple[str, str, str], float] = {}
    for at in range(rounds):
        for repository in repositories if at % 2 else repositories[::-1]:
            for kind in ("file", "http"):
                hub = new_hub(place.hubs / f"pushed-{at}.git")
                url = place.url(kind, hub.name)
                for (step, revision), size in zip(steps.items(), raw, strict=True):
                    before = size_of(hub) if kind == "file" else place.server.received
                    push = partial(repository.git, "push", "--quiet", url, f"{revision}:refs/heads/main")
                    repository.timed(f"{step} {kind}", push)
                    after = size_of(hub) if kind == "file" else place.server.received
                    shares[step, kind, repository.tool] = (after - before) / size
                shutil.rmtree(hub)
    return [
        row for step in steps for kind in ("file", "http") for row in _rows(repositories, step, kind, shares)
    ]


def dense_history(models: Path, count: int) -> Iterator[bytes]:
    """So many versions of the model, oldest first: points between checkpoints 100 steps apart, then one every 20 steps."""
    last = history.series(models, 20)
    between = count - len(last)
    anchors = history.series(models, 100)[len(history.series(models, 100)) - 8 :]
    per_gap = -(-between // (len(anchors) - 1)) if between > 0 else 0
    for at in range(between):
        gap, step = divmod(at, per_gap)
        old, new = (load_file(path) for path in anchors[gap : gap + 2])
        share = np.float32(step / per_gap)
        yield save({name: old[name] + share * (new[name] - old[name]) for name in old})
    for path in last[max(0, len(last) - count) :]:
        yield path.read_bytes()


def history_hubs(work: Path, place: Place, models: Path, count: int) -> dict[str, str]:
    """A hub for each tool with `count` versions of the model: tool -> the hub's name.

    Git-lfs's has the newest version's bytes alone, which is all that a clone asks for.
    """
    names = {tool: f"history-{tool}.git" for tool in TOOLS}
    own = Repository("git-gru", work / "history-git-gru").begin()
    own.git("config", "gru.autoMaintenance", "false")
    digests, data = [], b""

    def noted() -> Iterator[bytes]:
        nonlocal data
        for data in dense_history(models, count):
            digests.append((hashlib.sha256(data).hexdigest(), len(data)))
            yield data

    commit_all(own, ({MODEL: manifest.encode()} for manifest in stored(own, noted())))
    hub = new_hub(place.hubs / names["git-gru"])
    own.git("push", "--quiet", str(hub), "main")
    peer = Repository("git-lfs", work / "history-git-lfs").begin()
    hub = new_hub(place.hubs / names["git-lfs"])
    newest = digests[-1][0]
    for folder in (hub, peer.folder / ".git"):
        place_of = folder / "lfs/objects" / newest[:2] / newest[2:4] / newest
        place_of.parent.mkdir(parents=True)
        place_of.write_bytes(data)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    commit_all(peer, ({MODEL: pointer.format(*found).encode()} for found in digests))
    peer.git("push", "--quiet", "--no-verify", str(hub), "main")
    return names


def pushed_hubs(work: Path, place: Place, files: Mapping[str, Path | bytes], name: str) -> dict[str, str]:
    """A hub for each tool that was pushed one commit with these files: tool -> the hub's name."""
    names = {}
    for tool in TOOLS:
        names[tool] = f"{name}-{tool}.git"
        repository = Repository(tool, work / f"{name}-{tool}").begin()
        for path, source in files.items():
            data = source if isinstance(source, bytes) else source.read_bytes()
            (repository.folder / path).write_bytes(data)
        repository.git("add", "--all")
        repository.git("commit", "--quiet", "--message=all")
        new_hub(place.hubs / names[tool])
        repository.git("push", "--quiet", place.url("file", names[tool]), "main")
    return names


def clones(
    work: Path, place: Place, names: Mapping[str, str], step: str, raw: int, rounds: Mapping[str, int]
) -> list[list[object]]:
    """Clones with a checkout of HEAD, `raw` bytes, from each tool's hub: so many `rounds` of each kind of hub."""
    users = [Repository(tool, work / f"user-{tool}").begin() for tool in TOOLS]
    users[0].git("gru", "install", "--global")
    users[1].git("lfs", "install")
    clone = work / "clone"
    shares: dict[tuple[str, str, str], float] = {}
    for kind, count in rounds.items():
        for at in range(count + 1):
            for user in users if at % 2 else users[::-1]:
                shutil.rmtree(clone, ignore_errors=True)
                url, before = place.url(kind, names[user.tool]), place.server.sent
                took = f"{step} {kind}" if at else "warming up"
                user.timed(took, partial(user.git, "clone", "--quiet", url, str(clone)))
                got = Repository(user.tool, clone).kept() if kind == "file" else place.server.sent - before
                shares[step, kind, user.tool] = got / raw
    return [row for kind in rounds for row in _rows(users, step, kind, shares)]


def _rows(
    repositories: Sequence[Repository], step: str, kind: str, shares: Mapping[tuple[str, str, str], float]
) -> Iterator[list[object]]:
    base = repositories[-1].times[f"{step} {kind}"]
    for repository in repositories:
        times, cpu = (taken[f"{step} {kind}"] for taken in (repository.times, repository.cpu))
        speed = statistics.median(a / b for a, b in zip(base, times, strict=True))
        share = shares[step, kind, repository.tool]
        figures = (share, statistics.median(times), statistics.median(cpu))
        yield [step, kind, repository.tool, *figures, f"{speed:.2f} x"]


def fed_one_by_one(work: Path, place: Place, files: Sequence[Path]) -> list[list[object]]:
    """Bytes of a hub that got each version in a push of its own: then, after a repack from here, after its own housekeeping."""
    repository = Repository("git-gru", work / "fed").begin()
    hub = new_hub(place.hubs / "fed.git")
    subprocess.run(["git", "-C", str(hub), "config", "core.bigFileThreshold", "1m"], check=True)
    repository.git("remote", "add", "origin", str(hub))
    for file in files:
        repository.commit(file, "add")
        repository.git("push", "--quiet", "origin", "main")
    raw, start = sum(file.stat().st_size for file in files), time.perf_counter()
    rows: list[list[object]] = [[f"pushed one by one, {len(files)} versions", size_of(hub) / raw, ""]]
    repository.git("gru", "repack", "--remote", "origin")
    rows.append(["after git gru repack --remote", size_of(hub) / raw, time.perf_counter() - start])
    start = time.perf_counter()
    subprocess.run(["git", "-C", str(hub), "gc", "--quiet", "--prune=now"], check=True)
    rows.append(["after git gc --prune=now on the hub", size_of(hub) / raw, time.perf_counter() - start])
    return rows
