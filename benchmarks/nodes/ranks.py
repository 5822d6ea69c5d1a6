"""Workers forked from this process, which has imported torch once: one in each node, or all on this machine's loopback.

Forking is safe only while torch has no threads yet, so the process that calls this must not compute with torch itself.
"""

import json
import os
import signal
import socket
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # gloo would tell that addresses have no names

import torch
import torch._dynamo
import torch.distributed

from benchmarks.nodes.network import INTERFACE, Node

Work = Callable[[int, int], Any]
"""What a worker does: takes its rank and their number, returns what JSON can hold."""


def fork_ranks(
    count: int,
    work: Work,
    nodes: Sequence[Node] | None = None,
    *,
    threads: int = 1,
    prepare: Callable[[int], None] | None = None,
) -> list[Any]:
    """What each of `count` workers returned, by rank. They run in `nodes`, a worker each, or all on this machine's loopback.

    `prepare` is called with the rank in each process first. Raises SystemExit if a worker failed.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        address = nodes[0].address if nodes else "127.0.0.1"
        port = 29500 if nodes else _free_port()
        pids = []
        for rank in range(count):
            answer = Path(folder, str(rank))
            if pid := os.fork():
                pids.append(pid)
                continue
            status = 1
            try:
                if prepare is not None:
                    prepare(rank)
                if nodes:
                    nodes[rank].enter()
                os.environ.update(_environment(rank, count, address, port, threads))
                os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE if nodes else "lo"
                torch.set_num_threads(threads)
                warnings.simplefilter("ignore")
                answer.write_text(json.dumps(work(rank, count)))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        _await(pids)
        return [json.loads(Path(folder, str(rank)).read_text()) for rank in range(count)]


def _await(pids: Sequence[int]) -> None:
    """Waits for all; where one fails, or this process is told to end, the others, which would wait for it, are killed."""
    alive, failed = {os.pidfd_open(pid): pid for pid in pids}, False
    try:
        while alive and not failed:
            for ended in connection.wait(list(alive)):
                assert isinstance(ended, int)
                failed |= os.waitpid(alive.pop(ended), 0)[1] != 0
                os.close(ended)
    finally:
        for descriptor, pid in alive.items():
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(descriptor)
    if failed:
        raise SystemExit("a worker of the benchmark failed")


def _environment(rank: int, count: int, address: str, port: int, threads: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    texts = {name: str(value) for name, value in numbers.items()}
    return texts | {"MASTER_ADDR": address, "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
