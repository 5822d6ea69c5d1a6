"""The machine fails: no room, a limit on files, a read-only store, a disk that errs, bits that flip, a clock that goes back."""

import contextlib
import errno
import io
import os
import re
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from git_gru.cli.boundary import machine_error
from git_gru.errors import StoreError
from git_gru.git.install import Scope, install, program_command
from git_gru.git.repository import Repository
from git_gru.store.ingest import ingest
from git_gru.store.packs import PackWriter
from git_gru.store.repack import repack
from git_gru.store.restore import restore
from git_gru.store.store import Store
from tests.faults.operations import FILES, add, make_hub, manifest_of, require_whole, versions

MODEL = "model.safetensors"
LARGE = [versions(1, seed=seed, size=300_000)[0] for seed in range(3)]
"""Files of 1.2 MB each that share nothing."""


class Clone:
    """A clone of a hub that has one of `LARGE`, not checked out yet."""

    def __init__(self, hub: Path, path: Path) -> None:
        self.hub, self.path = hub, path
        subprocess.run(["git", "clone", "-q", "--no-checkout", f"file://{hub}", str(path)], check=True)

    def git(self, *arguments: str, limit: int | None = None) -> "subprocess.CompletedProcess[bytes]":
        """Runs git, which must not say anything that a program says of its own bugs; `limit` is for files, in bytes."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            capture_output=True,
            check=False,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
        )
        assert b"Traceback" not in done.stderr and b"bug in git-gru" not in done.stderr, done.stderr.decode()
        return done

    def write(self, content: bytes) -> None:
        (self.path / MODEL).write_bytes(content)


@pytest.fixture
def hub(tmp_path: Path, isolated: Path) -> Path:
    """A hub with one commit: the first of `LARGE`. git-gru is installed for the user."""
    repo, hub = tmp_path / "repo", tmp_path / "hub.git"
    make_hub(hub)
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    install(Repository.find(repo), Scope.GLOBAL, program_command(os.environ["PATH"]))
    (repo / ".gitattributes").write_text("*.safetensors filter=gru diff=gru merge=gru -text\n")
    (repo / MODEL).write_bytes(LARGE[0])
    for command in (["add", "-A"], ["commit", "-qm", "one"], ["push", "-q", str(hub), "main"]):
        subprocess.run(["git", *command], cwd=repo, check=True)
    return hub


Cramped = Callable[[Clone], "contextlib.AbstractContextManager[int | None]"]


@pytest.fixture(params=["a full disk", "a limit on files"])
def cramped(request: pytest.FixtureRequest) -> Cramped:
    """A context in which there is no room for a model beside `clone`, and what git is to be run with in it."""

    @contextlib.contextmanager
    def full(clone: Clone) -> Iterator[int | None]:
        filler = clone.path.parent / "filler"
        space = os.statvfs(clone.path)
        filler.write_bytes(bytes(space.f_bavail * space.f_frsize - (200 << 10)))
        yield None
        filler.unlink()

    return full if request.param == "a full disk" else lambda clone: contextlib.nullcontext(400_000)


@pytest.fixture
def clone(request: pytest.FixtureRequest, hub: Path, tmp_path: Path) -> Clone:
    """A clone, on a disk of its own if the test is about that."""
    small = "full disk" in request.node.name
    return Clone(hub, (request.getfixturevalue("small_disk") if small else tmp_path) / "clone")


@pytest.mark.slow
def test_without_room_each_command_says_so_and_works_later(clone: Clone, cramped: Cramped) -> None:
    with cramped(clone) as limit:
        failed = clone.git("checkout", "main", limit=limit)
        assert failed.returncode != 0
        assert b"git-gru: model.safetensors: the " in failed.stderr, failed.stderr.decode()
        assert limit or b"the disk is full" in failed.stderr, failed.stderr.decode()
        assert not (clone.path / MODEL).exists()
    assert clone.git("checkout", "--force", "main").returncode == 0
    assert (clone.path / MODEL).read_bytes() == LARGE[0]

    clone.write(LARGE[1])
    with cramped(clone) as limit:
        failed = clone.git("add", MODEL, limit=limit)
        assert failed.returncode != 0
        assert b"git-gru: model.safetensors: " in failed.stderr
        assert clone.git("diff", "--cached", "--quiet").returncode == 0
    assert clone.git("commit", "-qam", "two").returncode == 0

    with cramped(clone) as limit:
        pushed = clone.git("push", "-q", "origin", "main", limit=limit)
        assert limit is None or pushed.returncode != 0  # a push needs room at the hub, hardly any here
    assert clone.git("push", "-q", "origin", "main").returncode == 0
    require_whole(clone.path / ".git/gru", LARGE[:2], only=True)


def test_a_read_only_store(clone: Clone, read_only: Callable[[Path], Path]) -> None:
    assert clone.git("checkout", "-q", "main").returncode == 0
    clone.write(LARGE[1])
    assert clone.git("commit", "-qam", "two").returncode == 0
    gru = clone.path / ".git/gru"
    gru.rename(clone.path / "real")
    gru.symlink_to(read_only(clone.path / "real"))
    for at, revision in enumerate(("main~1", "main")):
        assert clone.git("checkout", "-q", revision).returncode == 0
        assert (clone.path / MODEL).read_bytes() == LARGE[at]
        os.utime(clone.path / MODEL)  # so that git looks at the content again
        assert clone.git("status", "--porcelain", "--untracked-files=no").stdout == b""
    for command in (
        ["diff", "main~1", "main"],
        ["log", "-p", "--ext-diff"],
        ["gru", "diff", "main~1", "main"],
        ["gru", "log"],
        ["gru", "show", f"main:{MODEL}"],
        ["gru", "status"],
    ):
        done = clone.git(*command)
        assert done.returncode == 0, done.stderr.decode()
        assert b"w0" in done.stdout or MODEL.encode() in done.stdout or command[1] == "status"
    clone.write(LARGE[2])
    failed = clone.git("add", MODEL)
    assert failed.returncode != 0
    assert b"git-gru: model.safetensors: the store cannot be written" in failed.stderr, failed.stderr.decode()


# ---- a disk that errs --------------------------------------------------------------------------------------------------


class Unwilling:
    """A file that takes few bytes at a time and, after some of these, fails."""

    def __init__(self, file: io.FileIO, sizes: Iterator[int], error: OSError | None) -> None:
        self._file = file
        self._sizes = sizes
        self._error = error

    def write(self, data: memoryview) -> int:
        size = next(self._sizes, None)
        if size is None and self._error is not None:
            raise self._error
        return self._file.write(data[:size])

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 5000), max_size=30), st.booleans())
def test_short_writes_and_errors_of_the_disk(
    monkeypatch: pytest.MonkeyPatch, memory: Path, sizes: list[int], fails: bool
) -> None:
    error = OSError(errno.EIO, os.strerror(errno.EIO))
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        add(Path(folder) / "gru", FILES[:1])
        store = Store.open(Path(folder) / "gru")
        real = PackWriter._put

        def put(self: PackWriter, data: bytes) -> None:
            if not isinstance(self._file, Unwilling):
                self._file = Unwilling(self._file, iter(sizes), error if fails else None)  # type: ignore[assignment, arg-type]
            real(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(PackWriter, "_put", put)
            try:
                ingest(store, io.BytesIO(FILES[1]), expect_safetensors=True)
            except OSError as raised:
                assert "input/output error" in str(machine_error(raised))
                require_whole(store.folder, FILES[:1], only=True)
                assert not list((store.repository / "objects/pack").glob("tmp_*"))
        ingest(store, io.BytesIO(FILES[1]), expect_safetensors=True)
        store.close()
        require_whole(store.folder, FILES[:2], only=True)


@pytest.mark.parametrize("call", ["preadv", "pread"])
def test_a_read_that_fails_is_told_and_gives_no_bytes(
    call: str, quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(quick / "gru", FILES[:1])
    store = Store.open(quick / "gru")

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output error") as caught:
            b"".join(restore(store, manifest_of(FILES[0])))
        assert "input/output error" in str(machine_error(caught.value))
    assert b"".join(restore(store, manifest_of(FILES[0]))) == FILES[0]
    store.close()


# ---- bits that flip ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def packed(memory: Path) -> tuple[Path, list[Path]]:
    """A store with plain chunks and deltas, and its files under `objects/pack`."""
    add(memory / "flipped", FILES)
    store = Store.open(memory / "flipped")
    repack(store, [[manifest_of(file) for file in reversed(FILES)]], set())
    store.close()
    return store.folder, sorted((store.repository / "objects/pack").iterdir())


@contextlib.contextmanager
def flipped(path: Path, position: float, bit: int) -> Iterator[None]:
    """A file with one bit flipped, at that share of its length."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[int(position * len(good))] ^= 1 << bit
    path.unlink()  # the old one may be mapped
    path.write_bytes(bad)
    yield
    path.unlink()
    path.write_bytes(good)


@settings(deadline=None, max_examples=150)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.data())
def test_a_flipped_bit_is_named_or_harms_nothing(
    packed: tuple[Path, list[Path]], position: float, bit: int, data: st.DataObject
) -> None:
    folder, paths = packed
    path = data.draw(st.sampled_from(paths), label="file")
    with flipped(path, position, bit):
        for file in FILES:
            store = Store(folder)
            try:
                assert b"".join(restore(store, manifest_of(file))) == file
            except StoreError as error:
                assert re.search(
                    r"\b(chunk|model|object|tree|state|commit|pack)\W.*[0-9a-f]{12}", str(error)
                ), str(error)
            finally:
                store.close()
                store.lookup.forget()


@pytest.mark.slow
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_never_reaches_the_worktree(clone: Clone, position: float, bit: int) -> None:
    assert clone.git("checkout", "-qf", "main").returncode == 0
    clone.git("remote", "set-url", "origin", "/nowhere")
    folder = clone.path / ".git/gru/store.git/objects/pack"
    path = max(folder.glob("*.pack"), key=lambda path: path.stat().st_size)
    with flipped(path, position, bit):
        (clone.path / MODEL).unlink()
        done = clone.git("checkout", "--", MODEL)
        if done.returncode == 0:
            assert (clone.path / MODEL).read_bytes() == LARGE[0]
        else:
            assert b"git-gru: model.safetensors: " in done.stderr
            assert not (clone.path / MODEL).exists()


# ---- a clock that goes back --------------------------------------------------------------------------------------------


def test_a_clock_that_goes_back(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before is from the future: it is read, and a damaged copy does not hide its repair."""
    add(quick / "gru", FILES[:2])
    store = Store.open(quick / "gru")
    packs = sorted((store.repository / "objects/pack").glob("*.pack"))
    chunk = store.blobs(manifest_of(FILES[1]))[manifest_of(FILES[1]).tensors["w0"].chunks[0]]
    (pack,) = (pack for pack in store.objects.packs() if pack.find(chunk) is not None)
    store.close()
    data = bytearray(pack.path.read_bytes())
    data[(pack.find(chunk) or 0) + 300] ^= 1
    pack.path.chmod(0o644)
    pack.path.write_bytes(data)
    future = time.time() + 1_000_000
    for path in packs:
        os.utime(path, (future, future))
    store = Store.open(quick / "gru")
    with pytest.raises(StoreError):
        b"".join(restore(store, manifest_of(FILES[1])))
    ingest(store, io.BytesIO(FILES[1]), expect_safetensors=True)
    for reader in (store, Store.open(quick / "gru")):
        assert b"".join(restore(reader, manifest_of(FILES[1]))) == FILES[1]
        reader.close()
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    add(quick / "gru", FILES)
    store = Store.open(quick / "gru")
    repack(store, [[manifest_of(file) for file in reversed(FILES)]], set())
    store.close()
    require_whole(quick / "gru", FILES, only=True)
