"""A node that joins a run, in front of a node 0 that this file plays: real sockets on the loopback interface, no workers."""

import contextlib
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from git_gru.errors import GruError
from git_gru.git.commits_elsewhere import CommitElsewhereError, bring_commit
from git_gru.runs.metrics import Event
from git_gru.runs.record import RunRecord
from git_gru.train import assisting
from git_gru.train.architecture import METADATA_KEY, ArchitectureError
from git_gru.train.assisting import assist
from git_gru.train.following import Ended
from git_gru.train.heartbeat import Stall
from git_gru.train.launch import job_of
from git_gru.train.line import LOST, Line, Message
from git_gru.train.nodes import JoinError, Nodes, counts_of
from git_gru.train.plan import Request, make_plan
from git_gru.train.section import RecipeError
from git_gru.train.welcome import DisagreementError, Joining, offer_in, welcome_of


class Quiet:
    """A watcher that remembers what is waited for."""

    def __init__(self) -> None:
        self.waited: list[str] = []

    def waiting(self, what: str) -> None:
        self.waited.append(what)

    def started(self, record: RunRecord) -> None: ...

    def event(self, event: Event) -> None: ...

    def stopping(self) -> None: ...


class Stage:
    """A clone whose node is about to join, and what node 0 says to it: `plays` is called with each connection in turn."""

    def __init__(self, work: Any, welcome: Message) -> None:
        self.work, self.welcome, self.watcher = work, welcome, Quiet()
        self.heard: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.connections = 0

    def join(
        self,
        plays: Callable[[socket.socket], None],
        *words: str,
        commit: str | None = None,
        nnodes: str = "2",
    ) -> tuple[int, bool]:
        """Joins with `--set WORDS`; see `assist`."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        self.connections += 1
                        plays(connection)

            threading.Thread(target=serve, daemon=True).start()
            number = 1 if nnodes.isdigit() else None
            nodes = Nodes(
                counts=counts_of(nnodes), number=number, host="127.0.0.1", port=port, address="127.0.0.1"
            )
            joining = Joining(nodes=nodes, commit=commit, overrides=words)
            try:
                return assist(self.work.repository, joining, self.watcher)
            finally:
                listener.shutdown(socket.SHUT_RDWR)

    def says(self, *messages: Message) -> Callable[[socket.socket], None]:
        """A node 0 that says these messages once it was greeted, and hears what is answered."""

        def play(connection: socket.socket) -> None:
            inbox: queue.SimpleQueue[tuple[Line, Message]] = queue.SimpleQueue()
            line = Line(connection, 30, inbox)
            if inbox.get(timeout=20)[1]["kind"] == "hello":
                for message in messages:
                    line.send(**message)
            while (message := inbox.get(timeout=20)[1])["kind"] != LOST:
                self.heard.put(message)

        return play

    def refusal(self, plays: Callable[[socket.socket], None], *words: str, **options: Any) -> GruError:
        """The error that joining ends with."""
        with pytest.raises(GruError) as caught:
            self.join(plays, *words, **options)
        return caught.value


@pytest.fixture
def stage(project: Any, tmp_path: Path, at: Any) -> Iterator[Stage]:
    """The clone is of the project's repository, whose HEAD is trained, and has that commit."""
    project.work.run("git", "clone", "-q", str(project.work.path), str(tmp_path / "node-1"))
    repo = project.work.repository
    plan = make_plan(repo, Request(commit="HEAD", recipe_path="gru.toml"))
    welcome = welcome_of(plan, job_of(repo, plan))
    yield Stage(at(tmp_path / "node-1"), {"kind": "welcome", "number": 1, **welcome})


END = {"kind": "end", "state": "finished", "message": None}


def test_what_node_0_says_is_trained(stage: Stage) -> None:
    assert stage.join(stage.says(stage.welcome, END)) == (1, True)
    assert stage.heard.get(timeout=20) == {"kind": "ready", "workers": 2}


_NO_IDS = ("HEAD", "main", "", "0" * 39, "A" * 40, "0" * 40 + "\n", None, 7)


def test_a_commit_that_is_no_full_id_never_reaches_git(stage: Stage, tmp_path: Path) -> None:
    runs, moves = (
        f"--upload-pack=touch {tmp_path}/executed; git-upload-pack",
        "+refs/heads/main:refs/heads/moved",
    )
    for commit in (runs, moves):
        error = stage.refusal(stage.says(stage.welcome | {"commit": commit}))
        assert isinstance(error, JoinError)
        assert "says what no node 0 does: the commit" in str(error)
        assert stage.heard.get(timeout=20) == {"kind": "refused", "message": str(error)}, "node 0 hears of it"
    for commit in (runs, moves, *_NO_IDS):
        with pytest.raises(JoinError, match="says what no node 0 does: the commit"):
            offer_in(stage.welcome | {"commit": commit}, "here")
    for name in (runs, moves, *_NO_IDS[:-2]):
        with pytest.raises(CommitElsewhereError, match="is not the full id of a commit"):
            bring_commit(stage.work.repository, str(name))
    assert not (tmp_path / "executed").exists()
    assert stage.work.git("branch", "--list", "moved") == ""


def test_what_no_node_0_says_is_told_as_that(stage: Stage) -> None:
    for field, value in (
        ("run", "../../elsewhere"),
        ("run", "a/b"),
        ("run", ""),
        ("ref", 1),
        ("parent_model", []),
        ("recipe", None),
        ("recipe_path", "gru\0.toml"),
        ("recipe_path", "\ud800"),
        ("overrides", "train.lr=1"),
        ("overrides", [1]),
        ("overrides", ["train.steps=6", " launch.nproc=1000"]),
        ("architecture", []),
        ("device", None),
        ("lost_after", "soon"),
        ("lost_after", -1),
        ("lost_after", 1e300),
        ("number", 0),
        ("number", True),
        ("number", "1"),
    ):
        with pytest.raises(JoinError, match=f"says what no node 0 does: the {field} "):
            offer_in(stage.welcome | {field: value}, "here")
    own = {METADATA_KEY: '{"kind": "entrypoint", "task": "entrypoint", "entrypoint": "setup:main"}'}
    with pytest.raises(ArchitectureError, match="model.task is"):
        offer_in(stage.welcome | {"architecture": own}, "here")


def test_a_generation_that_no_node_0_begins(stage: Stage) -> None:
    train = {"kind": "train", "index": 1, "rank": 1, "count": 2, "port": 1, "start": None, "round_end": None}
    for told in (
        {"rank": 0},
        {"rank": 2},
        {"port": "29400"},
        {"port": 1 << 16},
        {"index": None},
        {"start": {"step": 1, "commit": "HEAD", "state": "0" * 40}},
        {"start": {"step": 1, "commit": "0" * 40}},
        {"start": "--help"},
        {"round_end": "1"},
    ):
        error = stage.refusal(stage.says(stage.welcome, train | told))
        assert isinstance(error, JoinError)
        assert "says what no node 0 does" in str(error)


def test_a_generation_of_an_unknown_run(stage: Stage) -> None:
    assert "that a generation begins, before" in str(stage.refusal(stage.says({"kind": "train"})))


def test_a_commit_that_was_not_named_is_not_even_fetched(stage: Stage, project: Any) -> None:
    project.work.git("commit", "--allow-empty", "-q", "-m", "another")
    other = project.work.git("rev-parse", "HEAD").strip()
    for said in ("HEAD", stage.work.git("rev-parse", "HEAD").strip()):
        error = stage.refusal(stage.says(stage.welcome | {"commit": other}), commit=said)
        assert isinstance(error, DisagreementError)
        assert "the commit on" in str(error)
        assert stage.work.run("git", "cat-file", "-e", other).returncode != 0
    assert stage.join(stage.says(stage.welcome | {"commit": other}, END), commit=other) == (1, True)


def test_another_version_is_told_before_anything_else_that_node_0_may_say_otherwise(stage: Stage) -> None:
    for name in ("git-gru", "torch"):
        other = {"kind": "welcome", "versions": stage.welcome["versions"] | {name: "0.0.1"}}
        error = stage.refusal(stage.says(other))
        assert isinstance(error, DisagreementError)
        assert f"the version of {name} on {socket.gethostname()} (127.0.0.1) is " in str(error)
        assert str(error).endswith(", and on node 0 0.0.1")
        assert stage.heard.get(timeout=20) == {"kind": "refused", "message": str(error)}, "node 0 names it"
    with pytest.raises(DisagreementError, match="the version of git-gru on here is .* and on node 0 unknown"):
        offer_in({"kind": "welcome"}, "here")


def test_a_compressor_that_does_not_fit_is_told_before_node_0_is_looked_for(stage: Stage) -> None:
    """Node 0, with the same words, ends before it listens."""
    problem = 'sync.compress = "topk" does not fit sync.strategy = "local-sgd"'
    words = ("sync.strategy=local-sgd", "sync.compress=topk")
    nobody = stage.says()
    for said, commit in ((words, None), (words, "HEAD")):
        error = stage.refusal(nobody, *said, commit=commit)
        assert isinstance(error, RecipeError)
        assert problem in str(error)
    stage.work.write("gru.toml", stage.work.read("gru.toml") + b'[sync]\nstrategy = "local-sgd"\n')
    stage.work.commit("another recipe")
    error = stage.refusal(nobody, words[1], commit="HEAD")
    assert isinstance(error, RecipeError)
    assert problem in str(error)
    assert stage.connections == 0
    error = stage.refusal(stage.says(stage.welcome, END), words[1], "sync.warmup=2")
    assert isinstance(error, DisagreementError), "the recipe that node 0 trains by takes that compressor"
    assert "the key sync.compress on" in str(error)
    assert (
        f"by this clone's own recipe node 0 could not begin: gru.toml: {problem}" in stage.watcher.waited[0]
    )


def test_a_port_that_something_else_has(stage: Stage) -> None:
    def closes(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.close()

    silent: list[socket.socket] = []
    silence = r"nothing was heard of it for 2 seconds \(launch\.lost_after\)"
    patience = ("launch.join_timeout=1", "launch.lost_after=2")
    for nnodes, plays, reason in (
        ("2", closes, "it said what git-gru does not"),
        ("1:2", closes, "it said what git-gru does not"),
        ("1:2", silent.append, silence),
    ):
        stage.watcher.waited.clear()
        error = stage.refusal(plays, *patience, nnodes=nnodes)
        assert isinstance(error, JoinError)
        problem = "was lost before it said what is trained, or is something else"
        assert re.fullmatch(rf"node 0 at 127\.0\.0\.1:\d+ {problem} \({reason}\)", str(error))
        assert "choose another --rdzv-endpoint" in str(error.hint)
        assert len(stage.watcher.waited) == (plays is closes and nnodes == "1:2"), "said once"


def test_a_failure_that_node_0_went_on_from_is_no_failure_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another node was lost, what workers say here comes of that, and counts for nothing (`leading`)."""
    ends = [
        Ended(-9, False, False, Stall(rank=0, local_rank=0, step=3, seconds=9.0)),
        Ended(0, False, False, None),
    ]
    monkeypatch.setattr(assisting, "follow_agent", lambda *given: ends.pop(0))
    train = {"kind": "train", "rank": 1, "count": 2, "port": 1, "start": None, "round_end": None}
    begins = stage.says(stage.welcome, train | {"index": 1}, train | {"index": 2})

    def play(connection: socket.socket) -> None:
        if stage.connections > 1:
            return stage.says(stage.welcome, END)(connection)
        threading.Thread(target=begins, args=(connection,), daemon=True).start()
        told = [stage.heard.get(timeout=20) for _ in range(3)]
        assert [one.get("failure") and one["failure"]["own"] for one in told] == [None, True, None]
        return connection.shutdown(socket.SHUT_RDWR)

    assert stage.join(play, nnodes="1:2") == (1, True)
    assert "node 0 of the run" in stage.watcher.waited[-2]
    assert list((stage.work.path / ".git/gru/runs").glob("*")) == []
