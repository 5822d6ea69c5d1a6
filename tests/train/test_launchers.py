"""Scripts for schedulers: golden files, and the sbatch script in the hands of stand-ins for Slurm's programs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from git_gru.train.launchers import LAUNCHERS, Launch, LauncherError, plan_launch, script
from git_gru.train.nodes import counts_of

GOLDEN = Path(__file__).parents[1] / "golden" / "launchers"
LAUNCH = Launch(
    commit="0123456789abcdef0123456789abcdef01234567",
    counts=counts_of("4"),
    url="ssh://git@example.com/my models.git",
    remote="origin",
    words=("--nproc", "2", "--set", "train.lr=3e-4", "--set", 'data.files=["a b/*.txt"]'),
)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_golden(launcher: str) -> None:
    assert script(launcher, LAUNCH) == (GOLDEN / launcher).read_text()


def test_nodes_that_may_come_and_go() -> None:
    launch = replace(LAUNCH, counts=counts_of("2:5"))
    batch = script("slurm", launch)
    assert "#SBATCH --nodes=2-5\n" in batch
    assert "srun --kill-on-bad-exit=0 " in batch
    replicas = yaml.safe_load(script("kubernetes", launch))["spec"]["pytorchReplicaSpecs"]
    assert {kind: (spec["replicas"], spec["restartPolicy"]) for kind, spec in replicas.items()} == {
        "Master": (1, "Never"),
        "Worker": (4, "OnFailure"),
    }
    assert all("--nnodes 2:5 --node-rank" in text for text in (batch, script("kubernetes", launch)))


def test_the_manifest_is_yaml_and_its_script_is_sh(tmp_path: Path) -> None:
    manifest = yaml.safe_load(script("kubernetes", LAUNCH))
    replicas = manifest["spec"]["pytorchReplicaSpecs"]
    assert {kind: spec["replicas"] for kind, spec in replicas.items()} == {"Master": 1, "Worker": 3}
    for spec in replicas.values():
        (container,) = spec["template"]["spec"]["containers"]
        (program,) = container["args"]
        assert subprocess.run(["sh", "-n"], input=program.encode(), check=False).returncode == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("../hub.git", "the address of origin is the relative path ../hub.git"),
        ("https://me:tok3n@example.com/m.git", "has a user or password in it, .* https://example.com/m.git"),
        ("https://tok3n@example.com/m.git", "has a user or password in it"),
        ("ssh://git:tok3n@example.com/m.git", "has a user or password in it"),
        ("https://example.com/a@b.git", None),
        ("ssh://git@example.com:22/m.git", None),
        ("git@example.com:m.git", None),
        ("file:///hubs/m.git", None),
    ],
)
def test_an_address_for_a_script(repo: Any, url: str, problem: str | None) -> None:
    repo.write("a", b"x")
    commit = repo.commit("a")
    repo.git("remote", "add", "origin", url)
    repo.git("update-ref", "refs/remotes/origin/main", commit)

    def planned() -> Launch:
        return plan_launch(repo.repository, "HEAD", counts=counts_of("2"), remote="origin", words=())

    if problem is None:
        assert planned().url == url
        return
    with pytest.raises(LauncherError, match=problem) as refused:
        planned()
    assert "tok3n" not in f"{refused.value}{refused.value.hint}"


GIT = """#!/bin/sh
# stands in for git: training stops well at SIGTERM, but not at once
[ "$1" != clone ] || exec mkdir "${0%/*}/scratch/repository"
echo $$ > "${0%/*}/training"
trap 'sleep 0.2; echo committed > "${0%/*}/last"; exit 130' TERM
n=0
while [ $((n += 1)) -lt 1000 ]; do sleep 0.05; done
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_that_is_ended_makes_its_last_commit_first(launcher: str, tmp_path: Path, waiting: Any) -> None:
    text = script(launcher, LAUNCH)
    if launcher == "kubernetes":
        pod = yaml.safe_load(text)["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]
        (text,) = pod["containers"][0]["args"]
    stand_ins = {
        "git": GIT,
        "mktemp": '#!/bin/sh\nmkdir "${0%/*}/scratch"\necho "${0%/*}/scratch"\n',
        "scontrol": "#!/bin/sh\necho 127.0.0.1\n",
        "srun": '#!/bin/sh\nshift\nexec "$@"\n',
    }
    for name, program in stand_ins.items():
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    told = {"RANK": "1", "MASTER_ADDR": "127.0.0.1", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "node[0-1]"}
    job = subprocess.Popen(
        ["sh", "-c", text], env={**os.environ, **told, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    waiting(lambda: (tmp_path / "training").exists() and (tmp_path / "training").read_text())
    job.terminate()  # the shell alone, as the first process of a container is
    assert job.wait(timeout=60) == 130
    assert (tmp_path / "last").read_text() == "committed\n"
    assert not (tmp_path / "scratch").exists(), "the clone goes away after all that"


SRUN = """#!/bin/sh
# stands in for srun: every node is a process here
shift
for node in 0 1; do
    SLURM_NODEID=$node "$@" > "$SRUN_OUT/$node.out" 2> "$SRUN_OUT/$node.err" &
    pids="$pids $!"
done
for pid in $pids; do wait "$pid" || status=1; done
exit "${status:-0}"
"""


@pytest.mark.slow
def test_the_sbatch_script_trains_and_pushes(project: Any, tmp_path: Path, at: Any) -> None:
    work, hub = project.work, tmp_path / "hub.git"
    subprocess.run(["git", "init", "-q", "--bare", str(hub)], check=True)
    work.git("remote", "add", "origin", str(hub))
    refused = project.refused("train", "--launcher", "slurm", "--nnodes", "2")
    assert "is not on origin" in refused
    work.git("push", "-q", "origin", "HEAD")
    work.git("fetch", "-q", "origin")
    made = work.gru("train", "--launcher", "slurm", "--nnodes", "2", "--nproc", "1", "--branch", "from-slurm")
    assert made.returncode == 0, made.stderr
    sbatch = tmp_path / "job.sbatch"
    sbatch.write_bytes(made.stdout)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(SRUN)
    (tools / "scontrol").write_text("#!/bin/sh\necho 127.0.0.1\necho other\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SRUN_OUT": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[0-1]",
    }
    done = subprocess.run(["sh", str(sbatch)], env=environment, cwd=tmp_path, check=False)
    said = "".join((tmp_path / f"{node}.err").read_text() for node in (0, 1))
    assert done.returncode == 0, said
    clone = at(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", str(hub), str(clone.path)], check=True)
    commits = clone.git(
        "rev-list", "--reverse", f"{work.git('rev-parse', 'HEAD').strip()}..origin/from-slurm"
    ).split()
    assert len(commits) == 2
    assert clone.gru("runs", "fetch", "origin").returncode == 0
    (run,) = json.loads(clone.gru("runs", "list", "--json").stdout)["runs"]
    assert (run["state"], run["nodes"]) == ("finished", 2)
    assert [checkpoint["commit"] for checkpoint in run["checkpoints"]] == commits


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--launcher", "slurm"), "--launcher needs --nnodes"),
        (("--launcher", "slurm", "--nnodes", "2", "--here"), "--here does not go with --launcher"),
        (("--nnodes", "2"), "--nnodes needs --node-rank and --rdzv-endpoint"),
        (("--node-rank", "1"), "go with --nnodes"),
    ],
)
def test_what_does_not_go_together(project: Any, words: tuple[str, ...], problem: str) -> None:
    assert problem in project.refused("train", *words, status=2)
