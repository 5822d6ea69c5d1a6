"""Who is at work on a run: locks that go with their holder and their folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from git_gru.git.run_folders import LAUNCHER, WORKER, RunBusyError, hold, is_held, log_files

HOLDER = """
import sys, time
from pathlib import Path
from git_gru.git.run_folders import LAUNCHER, hold
with hold(Path(sys.argv[1]), LAUNCHER):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_once_and_goes_with_its_holder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert is_held(folder, LAUNCHER) is None
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert is_held(folder, LAUNCHER) is True
    assert is_held(folder, WORKER) is None
    with pytest.raises(RunBusyError, match="another process is at work on the run run"):
        with hold(folder, LAUNCHER, patience=0):
            raise AssertionError("the lock was free")
    holder.kill()
    holder.communicate()
    assert is_held(folder, LAUNCHER) is False
    with hold(folder, LAUNCHER):
        assert is_held(folder, LAUNCHER) is True


def test_the_lock_of_a_folder_that_was_removed_is_the_lock_of_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder, LAUNCHER):
        shutil.rmtree(folder)
        with hold(folder, LAUNCHER):
            assert is_held(folder, LAUNCHER) is True


def test_an_error_of_the_holder_is_the_holders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        with hold(tmp_path, LAUNCHER):
            raise FileNotFoundError
    assert is_held(tmp_path, LAUNCHER) is False


def test_logs_have_the_names_of_the_record(tmp_path: Path) -> None:
    stderr = tmp_path / "logs" / "x" / "attempt_0" / "1" / "stderr.log"
    stderr.parent.mkdir(parents=True)
    stderr.touch()
    (tmp_path / "agent.log").touch()
    assert log_files(tmp_path) == {"agent.log": tmp_path / "agent.log", "rank-1.stderr.log": stderr}
