"""A worker's process, started by `torch.distributed.run`: `python -m git_gru.train.worker JOB`."""

import importlib
import os
import signal
import socket
import sys
from pathlib import Path

from git_gru.train.agent import AGENT_VARIABLE
from git_gru.train.processes import collector_off, die_with_parent, end_only_by


def main() -> None:
    """Joins the other workers and trains; an exception ends up in the error file that the agent named."""
    agent = int(os.environ[AGENT_VARIABLE])
    die_with_parent(agent, signal.SIGKILL)  # before torch: its import takes seconds
    # the agent's way to end the workers at once, wherever they are
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_only_by(agent)
    with collector_off():
        importlib.import_module("torch._dynamo")  # every optimizer does
        from torch.distributed.elastic.multiprocessing.errors import record

    record(train)(Path(sys.argv[1]))


def train(job_file: Path) -> None:
    """This worker's part in the job, its place in the environment's `RANK`, `WORLD_SIZE`, …, as the agent sets them."""
    import torch
    import torch.distributed as dist

    from git_gru.git.repository import Repository
    from git_gru.git.run_folders import WORKER, hold
    from git_gru.runs.metrics import EventWriter
    from git_gru.train.agreement import facts_of, require_agreement
    from git_gru.train.engine import Engine
    from git_gru.train.job import Job
    from git_gru.train.recorder import CommitRecorder, destination_of
    from git_gru.train.world import join

    job = Job.read(job_file)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rank, size, local_rank, local_size = (
        int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    )
    world = join(job.recipe.launch.device, rank=rank, size=size, local_rank=local_rank, local_size=local_size)
    if job.generation is not None:
        require_agreement(world, f"{socket.gethostname()} (node {job.generation.node})", facts_of(world))
    repo = Repository.find(job.repository)
    if rank == 0:
        recorder = CommitRecorder(repo, destination_of(job), EventWriter(job.events))
        with hold(job.folder, WORKER), recorder:
            Engine(job, world, repo, recorder).run()
    else:
        Engine(job, world, repo, None).run()
    world.barrier()  # no rank leaves while rank 0 still commits: the others' connections would look lost
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # All is committed and closed. Destroying what torch leaves at the interpreter's end now and then aborts a process that is
    # done ("terminate called without an active exception", from threads of gloo), and its run would count as failed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
