"""A process that has imported torch and forks workers: a run of real workers without the seconds that each import takes.

Once everything is imported it prints its own process id; then it reads `start JOB RANK SIZE PORT` and `wait PID` from stdin, a
line each, and answers with a process id, an exit status. What it has started ends with it.
"""

import importlib
import os
import sys
from pathlib import Path

from git_gru.train import worker
from git_gru.train.processes import die_with_parent

IMPORTED = (
    "torch._dynamo",  # optimizers and DistributedDataParallel import it, which takes seconds
    "git_gru.train.agreement",
    "git_gru.train.engine",
    "git_gru.train.tasks.language_model",
    "numpy.ma",  # numpy's median does
)


def start(job: str, rank: str, size: str, port: str) -> int:
    """Forks one worker."""
    parent = os.getpid()
    if pid := os.fork():
        return pid
    status = 1
    try:
        die_with_parent(parent, worker.signal.SIGKILL)
        log = os.open(Path(job).with_name(f"forked-{rank}.log"), os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(
            {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": size,
                "LOCAL_WORLD_SIZE": size,
                "OMP_NUM_THREADS": "1",
            }
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        )
        worker.train(Path(job))
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Serves until stdin ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    print(os.getpid(), flush=True)
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "start":
            answer = start(*arguments)
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(int(arguments[0]), 0)[1])
        print(answer, flush=True)


if __name__ == "__main__":
    main()
