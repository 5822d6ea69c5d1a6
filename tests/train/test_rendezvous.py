"""What the processes of a run listen on: the loopback interface alone."""

import ipaddress
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says who listens where"),
]

_LISTENS = "0A"


def listening(pids: set[int]) -> list[tuple[str, int]]:
    """(address, port) of the sockets that these processes listen on."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.append((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def below(pid: int) -> set[int]:
    """A process and all that it started."""
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= below(int(child))
    return found


def test_a_run_listens_on_the_loopback_interface_alone(project: Any, waiting: Any) -> None:
    run = project.start("--nproc", "2", "--set", "train.steps=100000", "--branch", "long")
    try:
        waiting(
            lambda: project.work.run("git", "rev-parse", "long").returncode == 0 or run.poll() is not None
        )
        sockets = listening(below(run.pid))
    finally:
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert sockets, "the store at least"
    outside = [socket for socket in sockets if not is_loopback(socket[0])]
    assert outside == []


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return (mapped or ip).is_loopback
