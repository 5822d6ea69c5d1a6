"""Nodes with less than a whole core, by the kernel's CPU quota. (Source: the kernel's docs on CFS bandwidth and cgroup-v2.)"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
_PERIOD_US = 10_000
"""Short, so that a limited process is smoothly slow and does not stand still for a tenth of a second."""


@contextmanager
def cpu_quota(share: float) -> Iterator[Path]:
    """A control group that may use `share` of one core; see `join`. Needs root."""
    is_v1 = (_V1 / "cpu.cfs_quota_us").exists()
    group = (_V1 if is_v1 else _V2) / f"git-gru-bench-{os.getpid()}"
    group.mkdir()
    try:
        quota = round(share * _PERIOD_US)
        if is_v1:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        yield group
    finally:
        group.rmdir()


def join(group: Path) -> None:
    """Takes this process, and what it starts, into the group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
