"""Nodes that are lost, come back and join late: network namespaces, each with a clone of its own of a hub."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_hub import new_hub
from benchmarks.nodes.network import Node
from git_gru.runs.metrics import Event, parse_events
from git_gru.train.round_snapshots import SNAPSHOT_FILE, read_snapshot

pytestmark = pytest.mark.slow

Process = subprocess.Popen[bytes]
TOP = Path(__file__).parents[2]
HUB = 2
"""The host that serves the hub."""
NODES = (0, 1, 3)
"""The hosts that may train."""

LONG = (
    "--set",
    "train.steps=1000000",
    "--set",
    "train.schedule=constant",
    "--branch",
    "long",
    "--set",
    "train.lr=0.003",
)


class Cluster:
    """Two nodes, or three, and a hub, over smart HTTP. Node 0 keeps the run."""

    def __init__(self, hosts: Sequence[Node], url: str, folder: Path, at: Any) -> None:
        self.hosts, self._url = hosts, url
        self.works = {number: at(folder / f"node-{number}") for number in NODES}

    def clone(self, number: int, *options: str) -> None:
        """Makes a node's clone anew, without the models' contents."""
        path = self.works[number].path
        subprocess.run(["rm", "-rf", str(path)], check=True)
        command = [*self.hosts[number].command, "git", "clone", "-q", *options, self._url, str(path)]
        subprocess.run(command, check=True, env={**os.environ, "GIT_GRU_SKIP_SMUDGE": "1"})

    def start(self, number: int, *words: str, nnodes: str = "1:2") -> Process:
        """A node's command."""
        nodes = ("--nnodes", nnodes, "--rdzv-endpoint", f"{self.hosts[0].address}:29400")
        first = ("--node-rank", "0") if number == 0 else ()
        quick = (
            "--set",
            "launch.lost_after=3",
            "--set",
            "launch.last_call=1",
            "--set",
            "launch.join_timeout=60",
        )
        command = (*self.hosts[number].command, sys.executable, "-m", "git_gru", "train")
        return subprocess.Popen(
            [*command, *nodes, *first, "--nproc", "1", *quick, *words],
            cwd=self.works[number].path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def events(self) -> list[Event]:
        """The event log of node 0's run as it goes."""
        logs = list((self.works[0].path / ".git/gru/runs").glob("*/metrics.jsonl"))
        return parse_events(logs[0].read_bytes()) if logs else []

    def changes(self) -> list[str]:
        """What the log says of nodes that came and went."""
        return [event.message for event in self.events() if event.message and "went on with" in event.message]

    def commits_after(self, step: int) -> bool:
        return any(event.commit and event.step > step for event in self.events())

    def check_line(self) -> None:
        """The run's commits are one line, each step once, in order, and the loss has fallen."""
        work = self.works[0]
        said = work.git(
            "log", "--reverse", "--format=%P|%(trailers:key=Gru-Step,valueonly,separator=)", "HEAD..long"
        )
        lines = [line.split("|") for line in said.split()]
        assert all(len(parents.split(" ")) == 1 for parents, _ in lines)
        steps = [int(step) for _, step in lines]
        assert steps == sorted(set(steps))
        losses = [event.validation["val_loss"] for event in self.events() if "val_loss" in event.validation]
        assert losses[-1] < losses[0]


def commit_models(project: Any) -> None:
    """The model that the recipe trains, and one that it has nothing to do with."""
    import numpy as np
    from safetensors.numpy import save

    from git_gru.train.architecture import architecture_of, metadata_of
    from git_gru.train.recipe import ModelRecipe
    from git_gru.train.tasks import task_of

    architecture = architecture_of(ModelRecipe(embedding=8, hidden=16), {"symbols": 256})
    weights = task_of(architecture).build(dropout=0).state_dict()
    arrays = {name: value.numpy() for name, value in weights.items()}
    project.work.write("model.safetensors", save(arrays, metadata_of(architecture)))
    noise = np.random.default_rng(0).standard_normal(1 << 18, dtype=np.float32)
    project.work.write("other.safetensors", save({"noise": noise}))
    project.work.commit("models")


@pytest.fixture
def cluster(project: Any, new_network: Any, tmp_path: Path, at: Any) -> Iterator[Cluster]:
    """Node 1's clone is shallow, and older than the commit that is trained, which holds its model and another one."""
    hosts = new_network(4)
    hub = new_hub(tmp_path / "hubs" / "hub.git")
    script = (sys.executable, "-m", "benchmarks.http_hub", str(hub.parent), hosts[HUB].address)
    words = [*hosts[HUB].command, *script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=TOP) as server:
        assert server.stdout is not None
        cluster = Cluster(hosts, f"{server.stdout.readline().strip()}/hub.git", tmp_path, at)
        project.git("push", "-q", str(hub), "HEAD:main")
        cluster.clone(1, "--depth", "1")
        commit_models(project)
        project.git("push", "-q", str(hub), "HEAD:main")
        cluster.clone(0)
        yield cluster
        for host in hosts:
            host.kill()


def ended(process: Process) -> tuple[int, str]:
    _, said = process.communicate(timeout=90)
    assert b"Traceback" not in said, said.decode()
    return process.returncode, said.decode()


def test_a_node_that_is_killed_and_one_that_comes_back(cluster: Cluster, waiting: Any) -> None:
    first, second = cluster.start(0, *LONG, "--push", "origin"), cluster.start(1)
    waiting(lambda: cluster.commits_after(0) or first.poll() is not None or second.poll() is not None)
    assert (first.poll(), second.poll()) == (None, None)
    store = cluster.works[1].path / ".git/gru/store.git"
    assert sum(path.stat().st_size for path in store.rglob("*") if path.is_file()) < 500_000, "only its model"
    cluster.hosts[1].kill()
    waiting(cluster.changes)
    (lost,) = cluster.changes()
    (change,) = [event.change for event in cluster.events() if event.change]
    found = re.fullmatch(
        rf"node 1 \(.*, {re.escape(cluster.hosts[1].address)}\) was lost at step (\d+) \(the connection (was closed|broke.*)\); "
        r"went on with 1 node from step (\d+) after \d+\.\d s",
        lost,
    )
    assert found is not None, lost
    assert int(found[1]) >= int(found[3]) > 0
    assert (change["nodes"], change["lost_at"], change["from"]) == (1, int(found[1]), int(found[3]))
    cluster.clone(1)
    second = cluster.start(1)
    waiting(lambda: len(cluster.changes()) == 2)
    assert "node 1 (" in cluster.changes()[1]
    assert "joined; went on with 2 nodes from step" in cluster.changes()[1]
    step = max(event.step for event in cluster.events())
    waiting(lambda: cluster.commits_after(step))
    cluster.check_line()
    first.send_signal(signal.SIGINT)
    (status_0, said_0), (status_1, said_1) = ended(first), ended(second)
    assert (status_0, status_1) == (130, 130), said_0 + said_1
    (run,) = json.loads(cluster.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert (run["state"], run["nodes"], run["nproc"]) == ("stopped", 2, 2)
    shown = cluster.works[0].gru("runs", "show", run["id"]).stdout.decode()
    assert f"nodes    {lost}" in shown
    tip = cluster.works[0].git("rev-parse", "long").strip()
    assert run["checkpoints"][-1]["commit"] == tip
    assert cluster.works[1].git("branch", "--list", "long", "gru/*") == "", "only node 0 writes"


def test_a_cut_cable_and_a_node_0_that_is_killed_and_resumed(cluster: Cluster, waiting: Any) -> None:
    sync = ("--set", "sync.strategy=diloco", "--set", "sync.warmup=2", "--set", "sync.every=2")
    first, second = cluster.start(0, *LONG, *sync), cluster.start(1)
    waiting(lambda: cluster.commits_after(3) or first.poll() is not None)
    cluster.hosts[1].cut()
    waiting(lambda: len(cluster.changes()) == 1)
    assert "nothing was heard of it for 3 seconds (launch.lost_after)" in cluster.changes()[0]
    cluster.hosts[1].mend()
    waiting(lambda: len(cluster.changes()) == 2)
    assert "joined; went on with 2 nodes" in cluster.changes()[1]
    cluster.hosts[0].kill()
    first.wait()
    (run,) = json.loads(cluster.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert run["state"] == "failed"
    before = run["checkpoints"][-1]["step"]
    first = cluster.start(0, "--resume", run["id"], nnodes="2:3")
    waiting(lambda: cluster.commits_after(before + 3) or first.poll() is not None)
    cluster.check_line()
    second.send_signal(signal.SIGINT)
    status, said = ended(second)
    assert status == 130
    assert "node 0 of the run" in said
    assert "was lost (the connection" in said
    first.send_signal(signal.SIGINT)
    status, said = ended(first)
    assert status == 130
    assert "stopped while waiting for nodes: 1 of at least 2 is there" in said
    (run,) = json.loads(cluster.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert (run["state"], run["nodes"]) == ("stopped", 2)


def test_a_lost_node_costs_no_more_than_since_a_round_where_nodes_train_by_themselves(
    cluster: Cluster, waiting: Any
) -> None:
    sync = ("--set", "sync.strategy=diloco", "--set", "sync.warmup=2", "--set", "sync.every=4")
    rare = ("--set", "train.checkpoint_every=1000000")
    rare += ("--set", "launch.device=cpu")
    first, second = cluster.start(0, *LONG, *sync, *rare, nnodes="2:3"), cluster.start(1, nnodes="2:3")
    waiting(lambda: any(event.step > 6 for event in cluster.events()) or first.poll() is not None)
    cluster.clone(3)
    status, said = ended(cluster.start(3, "--set", "launch.device=cuda", nnodes="2:3"))
    assert status not in (0, 7), said
    assert "the kind of device (launch.device) on" in said
    assert "is cuda, and on node 0 cpu" in said
    third = cluster.start(3, nnodes="2:3")
    waiting(lambda: len(cluster.changes()) == 1)  # with a checkpoint, the only one
    assert third.poll() is None
    (made,) = [event for event in cluster.events() if event.commit]
    (folder,) = (cluster.works[0].path / ".git/gru/runs").glob("*/")

    def kept() -> int:
        found = read_snapshot(folder)
        return found.step if found is not None else 0

    waiting(lambda: kept() > made.step)
    before = kept()
    cluster.hosts[3].kill()
    waiting(lambda: len(cluster.changes()) == 2)
    change = [event.change for event in cluster.events() if event.change][-1]
    assert change["nodes"] == 2
    assert change["lost_at"] >= change["from"] >= before > made.step
    assert (change["from"] - 2) % 4 == 0
    assert f"went on with 2 nodes from step {change['from']:.0f} after" in cluster.changes()[1]
    assert [event.commit for event in cluster.events() if event.commit] == [made.commit]
    first.send_signal(signal.SIGINT)
    (status_0, said_0), (status_1, said_1) = ended(first), ended(second)
    assert (status_0, status_1) == (130, 130), said_0 + said_1
    assert "cannot take part: the kind of device (launch.device) on" in said_0
    (run,) = json.loads(cluster.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert [one["commit"] for one in run["checkpoints"]] == [
        made.commit,
        cluster.works[0].git("rev-parse", "long").strip(),
    ]
    assert run["checkpoints"][-1]["step"] > change["from"]
    assert cluster.works[0].git("rev-parse", "long~").strip() == made.commit
    assert not (folder / SNAPSHOT_FILE).exists()
