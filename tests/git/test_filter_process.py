"""The filter's protocol, in process, over files; real Git speaks it in test_plain_git.py."""

import contextlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.http_hub import new_hub
from git_gru.errors import GruError, MachineError
from git_gru.git.filter_process import serve
from git_gru.git.git_remote import GitRemote
from git_gru.git.pktline import EndOfStreamError, PacketReader, PacketWriter, ProtocolError
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.store import bring as bring_module
from git_gru.store.ingest import describe
from git_gru.store.manifest import parse_manifest
from git_gru.store.publish import publish
from git_gru.store.store import Store

GREETING = ("git-filter-client", "version=2")
CAPABILITIES = ("capability=clean", "capability=smudge", "capability=delay")


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, str]] = []
        self.failures: list[tuple[str, Exception]] = []

    def warn(self, path: str, text: str) -> None:
        self.warnings.append((path, text))

    def failed(self, path: str, error: Exception) -> None:
        self.failures.append((path, error))

    def bringing(self, models: int, size: int) -> None:
        """Nothing to be told of."""


class Session:
    """What Git says is written to a file first, then `serve` runs, then its answers are read."""

    def __init__(self, folder) -> None:
        self.heard = Heard()
        self._asked = open(folder / "asked", "w+b")  # noqa: SIM115 - written, then read by serve
        self._answers = folder / "answers"
        self._out = PacketWriter(self._asked.fileno())
        self.commands = 0

    def say(self, *lines: str) -> None:
        self._out.lines(*lines)

    def ask(self, command: str, path: str, content: bytes, **more: str) -> None:
        self.say(f"command={command}", f"pathname={path}", *(f"{k}={v}" for k, v in more.items()))
        self._out.content([content])
        self._out.flush()
        self.commands += 1

    def run(self, **options: bool) -> list[tuple[str, bytes]]:
        """The final status and the content of each answer."""
        self._asked.seek(0)
        with open(self._answers, "wb") as answers, open(self._asked.fileno(), "rb", closefd=False) as stdin:
            serve(stdin, answers.fileno(), self.heard, **options)
        with open(self._answers, "rb") as file:
            reader = PacketReader(file)
            assert reader.lines() == ["git-filter-server", "version=2"]
            assert reader.lines() == list(CAPABILITIES)
            found = [self._answer(reader, file) for _ in range(self.commands)]
            assert file.read() == b""
        return found

    @staticmethod
    def _answer(reader: PacketReader, file) -> tuple[str, bytes]:
        status = reader.lines()[0]
        if status != "status=success":
            return status, b""
        content, data, buffer = reader.content(), b"", bytearray(1 << 20)
        while count := content.readinto(memoryview(buffer)):
            data += buffer[:count]
        return (reader.lines() or [status])[0], data


@pytest.fixture
def session(repo, tmp_path, monkeypatch):
    monkeypatch.chdir(repo.path)
    made = Session(tmp_path)
    made.say(*GREETING)
    made.say(*CAPABILITIES)
    return made


@pytest.fixture
def model(make_arrays, make_model):
    return make_model(make_arrays(1))


def test_clean_and_smudge_are_inverse(session, model, tmp_path, repo):
    session.ask("clean", "a.safetensors", model)
    ((status, manifest),) = session.run()
    assert status == "status=success"
    assert parse_manifest(manifest, where="a").size == len(model)
    assert not session.heard.warnings

    again = Session(tmp_path)
    again.say(*GREETING)
    again.say(*CAPABILITIES)
    again.ask("smudge", "a.safetensors", manifest, ref="refs/heads/main")
    again.ask("clean", "a.safetensors", manifest)
    again.ask("smudge", "b.bin", b"")
    again.ask("clean", "b.bin", b"")
    assert again.run() == [
        ("status=success", model),
        ("status=success", manifest),
        ("status=success", b""),
        ("status=success", b""),
    ]


def test_skip_smudge(session, model, tmp_path):
    session.ask("clean", "a", model)
    ((_, manifest),) = session.run()
    again = Session(tmp_path)
    again.say(*GREETING)
    again.say(*CAPABILITIES)
    again.ask("smudge", "a", manifest)
    assert again.run(skip_smudge=True) == [("status=success", manifest)]


@pytest.mark.parametrize("size", [1, 65516, 65517, (8 << 20) + 65517, 12 << 20])
def test_smudge_passes_other_content_through(session, size):
    data = os.urandom(size)
    session.ask("smudge", "a.safetensors", data)
    assert session.run() == [("status=success", data)]


def test_an_error_concerns_one_file(session, model):
    session.ask("clean", "bad", b'{"git-gru": 1,\n"digest": "nonsense",\n' + b"x" * 100_000)
    session.ask("clean", "good.safetensors", model)
    session.ask("smudge", "bad", b'{"git-gru": 9}\n')
    session.ask("frobnicate", "a", b"")
    statuses = [status for status, _ in session.run()]
    assert statuses == ["status=error", "status=success", "status=error", "status=error"]
    assert [path for path, _ in session.heard.failures] == ["bad", "bad", "a"]


def test_damage_found_midway_turns_success_into_error(session, tmp_path, repo, make_arrays, make_model):
    import numpy as np

    rng = np.random.default_rng(0)
    parts = {f"w{n}": rng.normal(size=1 << 18).astype(np.float32) for n in range(24)}
    session.ask("clean", "a.safetensors", make_model(parts))
    ((_, manifest),) = session.run()
    (pack,) = (repo.path / ".git/gru/store.git/objects/pack").glob("*.pack")
    pack.chmod(0o644)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size * 3 // 4)
        file.write(bytes(64))
    again = Session(tmp_path)
    again.say(*GREETING)
    again.say(*CAPABILITIES)
    again.ask("smudge", "a.safetensors", manifest)
    ((status, data),) = again.run()
    assert status == "status=error"
    assert 0 < len(data) < len(make_model(parts))
    assert "damaged" in str(again.heard.failures[0][1])


def test_what_goes_wrong_behind_a_right_file_is_told(session, model, tmp_path, repo, monkeypatch):
    """The disk is full when the model that a checkout brought, and gave already, is to become one of the store's."""
    session.ask("clean", "a.safetensors", model)
    ((_, manifest),) = session.run()
    hub, mine = new_hub(tmp_path / "hub.git"), Store.open(repo.path / ".git/gru")
    publish(mine, GitRemote(mine, "hub", str(hub), LOCAL_VARIABLES), [[parse_manifest(manifest, where="a")]])
    mine.close()
    (repo.path / ".git/gru").rename(tmp_path / "away")
    repo.git("remote", "add", "origin", str(hub))

    def full(*_: object) -> None:
        raise MachineError("the disk is full")

    for breaks in (True, False):
        again = Session(tmp_path)
        again.say(*GREETING)
        again.say(*CAPABILITIES)
        again.ask("smudge", "a.safetensors", manifest)
        with monkeypatch.context() as patched:
            if breaks:
                patched.setattr(bring_module, "link", full)
            assert again.run() == [("status=success", model)]
        told = [(path, str(error)) for path, error in again.heard.failures]
        assert told == ([("", "the disk is full")] if breaks else [])
    assert set(Store.open(repo.path / ".git/gru").models()) == {parse_manifest(manifest, where="a").digest}


def test_a_warning_says_why_a_file_is_kept_raw(session, model):
    session.ask("clean", "a.safetensors", model[:-1])
    session.ask("clean", "a.pt", model[:-1])
    assert [status for status, _ in session.run()] == ["status=success"] * 2
    ((path, text),) = session.heard.warnings
    assert path == "a.safetensors"
    assert "truncated" in text


def test_who_is_not_git_is_refused(tmp_path):
    stranger = Session(tmp_path)
    stranger.say("hello")
    with pytest.raises(ProtocolError, match="greeting"):
        stranger.run()


def test_git_dying_midway(session):
    session.say("command=clean", "pathname=a")
    session.commands = 0
    with pytest.raises(EndOfStreamError):
        session.run()


@given(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=8), st.integers(0, 8)), max_size=4),
    st.integers(0, 40),
)
@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_through_the_pipe(session, model, tmp_path, changes, cut):
    """A session of which pieces were replaced, and which may end early: an end, or an error of the protocol or of one file."""
    manifest = describe(io.BytesIO(model), expect_safetensors=True).manifest.encode()
    said = tmp_path / "said"
    with open(said, "w+b") as file:
        out = PacketWriter(file.fileno())
        for lines in (GREETING, CAPABILITIES):
            out.lines(*lines)
        for command, content in (
            ("clean", model[:400]),
            ("clean", manifest),
            ("smudge", manifest),
            ("smudge", model[:50]),
        ):
            out.lines(f"command={command}", "pathname=a.safetensors", "can-delay=1")
            out.content([content])
            out.flush()
        out.lines("command=list_available_blobs")
    data = bytearray(said.read_bytes())
    for at, piece, replaced in changes:
        # Half of the changes hit the framing at the start
        at %= 300 if at % 2 else len(data)
        data[at : at + replaced] = piece
    said.write_bytes(data[: len(data) - cut])
    heard = Heard()
    with open(said, "rb") as stdin, open(tmp_path / "answers", "wb") as answers:
        with contextlib.suppress(ProtocolError, EndOfStreamError):
            serve(stdin, answers.fileno(), heard)
    for _, error in heard.failures:
        assert isinstance(error, GruError | ProtocolError), repr(error)
