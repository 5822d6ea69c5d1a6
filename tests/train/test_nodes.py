"""Runs of several machines: two clones of a repository, which meet at a port of the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from git_gru.train.agent import variables_of
from git_gru.train.launch import job_of
from git_gru.train.nodes import Counts, Generation, Nodes, NodesError, counts_of, interface_of, nodes_of
from git_gru.train.plan import Request, make_plan


@pytest.mark.parametrize(
    ("counts", "number", "endpoint", "problem"),
    [
        ("2", 2, "127.0.0.1:29400", "--node-rank is 2, and the 2 nodes are numbered from 0 to 1"),
        ("1:3", 3, "127.0.0.1:29400", "--node-rank is 3, and the 3 nodes are numbered from 0 to 2"),
        ("2", 0, "127.0.0.1", "must be HOST:PORT"),
        ("2", 0, "127.0.0.1:0", "must be HOST:PORT"),
        ("2", 0, "127.0.0.1:65536", "must be HOST:PORT"),
        ("2", 0, "a host:1", "must be HOST:PORT"),
        ("2", 0, "a..b:1", "must be HOST:PORT"),
        ("2", 0, f"{'a' * 64}:1", "must be HOST:PORT"),
        (
            "2",
            0,
            "[::1]:29400",
            r"--rdzv-endpoint is \[::1\]:29400, an IPv6 address, and nodes meet over IPv4",
        ),
        ("2", 1, "0.0.0.0:29400", "which stands for all addresses of a machine"),
        ("2", 0, "0:29400", "which stands for all addresses of a machine"),
        ("2", 1, "no-such-host.invalid:29400", "no-such-host.invalid .* cannot be reached from here"),
        (
            "1",
            0,
            "127.0.0.1:29400",
            "--nnodes is '1', and must be a number from 2 on, or two of them as MIN:MAX",
        ),
        ("3:2", 0, "127.0.0.1:29400", "--nnodes is '3:2'"),
        ("0:2", 0, "127.0.0.1:29400", "--nnodes is '0:2'"),
        ("2:", 0, "127.0.0.1:29400", "--nnodes is '2:'"),
        ("two", 0, "127.0.0.1:29400", "--nnodes is 'two'"),
    ],
)
def test_what_cannot_be(counts: str, number: int, endpoint: str, problem: str) -> None:
    with pytest.raises(NodesError, match=problem):
        nodes_of(counts_of(counts), number, endpoint)


def test_a_node_finds_its_own_address() -> None:
    three = counts_of("3")
    assert nodes_of(three, 1, "127.0.0.1:29400") == Nodes(
        counts=three, number=1, host="127.0.0.1", port=29400, address="127.0.0.1"
    )
    assert nodes_of(three, None, "127.0.0.1:29400", "127.0.0.9").address == "127.0.0.9"
    kinds = {
        host: (nodes.is_public, nodes.is_loopback)
        for host in ("10.1.2.3", "8.8.8.8", "127.0.1.1")
        for nodes in [nodes_of(three, 0, f"{host}:1", "127.0.0.1")]
    }
    assert kinds == {"10.1.2.3": (False, False), "8.8.8.8": (True, False), "127.0.1.1": (False, True)}


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("nonsense", "--local-addr is 'nonsense', and must be an IPv4 address of this machine"),
        ("localhost", "must be an IPv4 address"),
        ("::1", "must be an IPv4 address"),
        ("", "must be an IPv4 address"),
        ("192.0.2.1", "--local-addr is 192.0.2.1, which is no address of this machine's own"),
        ("224.0.0.1", "which is no address of"),
        ("0.0.0.0", "which is no address of"),
    ],
)
def test_what_is_no_address_of_this_machine(address: str, problem: str) -> None:
    with pytest.raises(NodesError, match=problem):
        nodes_of(counts_of("2"), 1, "127.0.0.1:29400", address)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an ioctl of Linux")
def test_workers_talk_over_the_interface_of_the_nodes_address(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = project.work.repository
    here = Generation(index=1, node=0, rank=0, count=2, host="127.0.0.1", port=1, address="127.0.0.1")
    alone = job_of(repo, make_plan(repo, Request()))
    names = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    for job in (alone, replace(alone, generation=here)):
        for name in names:
            monkeypatch.delenv(name, raising=False)
        assert names.items() <= variables_of(job, "1").items()
        for name in names:
            monkeypatch.setenv(name, "eth7")
        assert not names.keys() & variables_of(job, "1").keys(), "the user's own counts"


def test_how_many_nodes() -> None:
    assert counts_of("4") == Counts(least=4, most=4, is_elastic=False)
    assert counts_of("1:3") == Counts(least=1, most=3, is_elastic=True)
    assert [str(counts_of(text)) for text in ("4", "2:2", "1:3")] == ["4", "2:2", "1:3"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="an ioctl of Linux")
def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


Process = subprocess.Popen[bytes]


class Pair:
    """Node 0 in the project's repository, nodes 1 and 2 in a clone of it."""

    def __init__(self, project: Any, other: Any) -> None:
        self.works = (project.work, other, other)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(
        self, rank: int, *words: str, host: str = "127.0.0.1", within: tuple[str, ...] = (), nnodes: str = "2"
    ) -> Process:
        """Node `rank`'s command; `within` stands before it."""
        nodes = ("--nnodes", nnodes, "--node-rank", str(rank), "--rdzv-endpoint", f"{host}:{self.port}")
        return subprocess.Popen(
            [*within, sys.executable, "-m", "git_gru", "train", *nodes, "--nproc", "1", *words],
            cwd=self.works[rank].path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ),
            start_new_session=True,
        )


@pytest.fixture
def pair(project: Any, at: Any, tmp_path: Path) -> Pair:
    subprocess.run(["git", "clone", "-q", str(project.work.path), str(tmp_path / "node-1")], check=True)
    return Pair(project, at(tmp_path / "node-1"))


def ended(process: Process) -> tuple[int, str, str]:
    out, said = process.communicate(timeout=90)
    assert b"Traceback" not in said, said.decode()
    return process.returncode, out.decode(), said.decode()


@pytest.mark.slow
def test_two_nodes_make_what_two_workers_of_one_make(project: Any, pair: Pair) -> None:
    alone = project.train("--nproc", "2")
    nodes = [pair.start(rank, "--json") for rank in (1, 0)]
    (status_1, out_1, said_1), (status_0, out_0, said_0) = map(ended, nodes)
    assert (status_0, status_1) == (0, 0), said_0 + said_1
    assert json.loads(out_1) == {"node": 1, "nodes": "2", "state": "finished"}
    made = json.loads(out_0)
    assert (made["state"], made["nproc"], made["nodes"]) == ("finished", 2, 2)
    commits = [[one["commit"] for one in run["checkpoints"]] for run in (alone, made)]
    assert project.digests(commits[0]) == project.digests(commits[1])
    other = pair.works[1]
    assert json.loads(other.gru("runs", "list", "--json").stdout) == {"runs": []}, "only node 0 writes"
    assert other.git("branch", "--list", "gru/*") == ""
    assert list((other.path / ".git/gru/runs").glob("*")) == []
    assert "2 machines" in project.refused("reproduce", commits[1][0])


@pytest.mark.slow
def test_nodes_that_train_something_else_are_named_on_every_node(pair: Pair) -> None:
    nodes = [pair.start(rank, nnodes="3") for rank in (0, 1)]
    assert nodes[1].stderr is not None
    while b"node 1 is ready" not in (line := nodes[1].stderr.readline()):
        assert line, "it ended"
    nodes.append(pair.start(2, "--set", "train.lr=0.5", nnodes="3"))
    for status, _, said in map(ended, nodes):
        assert status in (4, 7)
        assert "the key train.lr on" in said, "on the node that has the same words as node 0, too"
        assert "(127.0.0.1) is 0.5, and on node 0 0.02" in said
    pair.works[1].write("notes.txt", b"x")
    pair.works[1].commit("another commit")
    nodes = [pair.start(0), pair.start(1, "HEAD")]
    assert all("the commit on" in said for _, _, said in map(ended, nodes))
    nodes = [pair.start(0), pair.start(1, nnodes="3")]
    assert all("--nnodes is 3 on" in said for _, _, said in map(ended, nodes))
    pair.works[0].git("commit", "--allow-empty", "-q", "-m", "not pushed")
    pair.works[1].git("remote", "set-url", "origin", "http://127.0.0.1:1/hub.git")
    nodes = [pair.start(0), pair.start(1)]
    assert all("origin does not give it (fatal: unable to access" in said for _, _, said in map(ended, nodes))


@pytest.mark.slow
def test_a_worker_that_fails_by_itself_is_named_on_every_node(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    nodes = [pair.start(rank, "--set", "launch.device=cuda", nnodes="1:2") for rank in (0, 1)]
    for status, _, said in map(ended, nodes):
        assert status == 7
        assert "1 workers need a GPU each, and this machine has 0" in said
    (run,) = json.loads(pair.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert run["state"] == "failed"


@pytest.mark.slow
def test_nodes_that_do_not_come(pair: Pair) -> None:
    patience = ("--set", "launch.join_timeout=2")
    status, _, said = ended(pair.start(0, *patience))
    assert status == 7
    assert "only 1 of the 2 nodes came within 2 seconds (launch.join_timeout): node 0" in said
    status, _, said = ended(pair.start(0, *patience, nnodes="2:3"))
    assert status == 7
    assert "only 1 of at least 2 nodes came within 2 seconds" in said
    status, _, said = ended(pair.start(1, *patience))
    assert status == 7
    assert f"node 0 was not found at 127.0.0.1:{pair.port} within 2 seconds" in said
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", pair.port))
        taken.listen()
        status, _, said = ended(pair.start(0, *patience))
    assert status == 7
    assert f"node 0 cannot listen at 127.0.0.1:{pair.port}: Address already in use" in said


def test_what_counts_on_node_0_alone_is_named_elsewhere(pair: Pair) -> None:
    said_of_all = ("--branch", "long", "--push", "origin", "--resume", "RUN", "--tensorboard", "board")
    status, _, said = ended(pair.start(1, *said_of_all, "--set", "launch.join_timeout=0.1"))
    assert status == 7
    assert "git gru: --branch, --push, --resume, --tensorboard: counts on node 0 alone, not here\n" in said
    _, _, said = ended(pair.start(1, "--set", "launch.join_timeout=0.1"))
    assert "counts on node 0 alone" not in said


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_ctrl_c_while_waiting_ends_at_once(pair: Pair, rank: int, waiting: Any) -> None:
    node = pair.start(rank)
    assert node.stderr is not None
    assert b"is the loopback interface here, so no other machine reaches it" in node.stderr.readline()
    assert b"waiting for node" in node.stderr.readline()
    node.send_signal(signal.SIGINT)
    status, _, said = ended(node)
    assert status == 130
    assert "while" in said
    works = pair.works[rank]
    assert json.loads(works.gru("runs", "list", "--json").stdout) == {"runs": []}
    assert list((works.path / ".git/gru/runs").glob("*")) == []


LONG = ("--set", "train.steps=1000000", "--branch", "long")


def begun(pair: Pair, waiting: Any) -> list[Process]:
    nodes = [pair.start(rank, *LONG) for rank in (0, 1)]
    await_a_commit(pair, nodes, waiting)
    return nodes


def await_a_commit(pair: Pair, nodes: list[Process], waiting: Any) -> None:
    waiting(
        lambda: (
            pair.works[0].run("git", "rev-parse", "-q", "--verify", "long").returncode == 0
            or any(node.poll() is not None for node in nodes)
        )
    )


@pytest.mark.slow
def test_a_stop_on_any_node_stops_the_run(pair: Pair, waiting: Any) -> None:
    nodes = begun(pair, waiting)
    nodes[1].send_signal(signal.SIGINT)
    assert [ended(node)[0] for node in nodes] == [130, 130]
    (run,) = json.loads(pair.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert run["state"] == "stopped"
    assert run["checkpoints"][-1]["step"] == run["step"]


@pytest.mark.slow
def test_a_node_that_dies_ends_the_run_and_what_was_committed_stays(pair: Pair, waiting: Any) -> None:
    nodes = begun(pair, waiting)
    os.killpg(nodes[1].pid, signal.SIGKILL)
    status, _, said = ended(nodes[0])
    assert status == 7
    assert "lost" in said
    nodes[1].communicate()
    (run,) = json.loads(pair.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert run["state"] == "failed"
    tip = pair.works[0].git("rev-parse", "long").strip()
    assert run["checkpoints"][-1]["commit"] == tip


@pytest.mark.slow
def test_nodes_with_a_network_between_them_and_a_cut_cable(
    pair: Pair, new_network: Any, waiting: Any
) -> None:
    hosts = new_network(2)
    silence = ("--set", "launch.lost_after=2")
    nodes = [
        pair.start(rank, *LONG, *silence, host=hosts[0].address, within=hosts[rank].command)
        for rank in (0, 1)
    ]
    await_a_commit(pair, nodes, waiting)
    assert [node.poll() for node in nodes] == [None, None]
    hosts[1].cut()
    for node in nodes:
        status, _, said = ended(node)
        assert status == 7
        assert "was lost" in said
        assert "nothing was heard of it for 2 seconds (launch.lost_after)" in said
    (run,) = json.loads(pair.works[0].gru("runs", "list", "--json").stdout)["runs"]
    assert run["state"] == "failed"
    assert run["checkpoints"][-1]["commit"] == pair.works[0].git("rev-parse", "long").strip()
