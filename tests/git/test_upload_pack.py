"""A hub over http is asked for objects directly, by Git's own helper; where that does not go, `git fetch` brings the rest."""

import base64
import contextlib
import io
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from benchmarks.http_hub import GitHandler, new_hub, serving
from git_gru.git.git_remote import GitRemote
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.git.upload_pack import UploadPack, helper_for
from git_gru.store import bring as bring_module
from git_gru.store.bring import Brought, bring
from git_gru.store.incoming import IncomingError
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest, parse_manifest
from git_gru.store.publish import publish
from git_gru.store.remote import RemoteError
from git_gru.store.restore import restore
from git_gru.store.store import Store
from git_gru.store.trees import model_blobs
from tests.faults.dying import attempt

CONNECTED = b"\n000eversion 2\n0011fetch=filter\n0017object-format=sha1\n0000"
A, B = b"\xaa" * 20, b"\xbb" * 20


def said_by(answers: bytes) -> tuple[UploadPack, io.BytesIO]:
    requests = io.BytesIO()
    return UploadPack(requests, io.BufferedReader(io.BytesIO(answers))), requests


def packets(*payloads: bytes) -> bytes:
    return b"".join(b"%04x%b" % (len(payload) + 4, payload) for payload in payloads)


# ---- the conversation --------------------------------------------------------------------------------------------------


def test_the_bytes_of_a_request_and_of_its_answer() -> None:
    answer = packets(b"packfile\n", b"\2counting", b"\1PA", b"\1", b"\1CK") + b"00000002"
    server, requests = said_by(CONNECTED + answer + answer)
    assert b"".join(server.pack([A, B], alone=True)) == b"PACK"
    assert b"".join(server.pack([A], alone=False)) == b"PACK"
    start = b"0012command=fetch\n0017object-format=sha1\n00010010no-progress\n"
    want = b"0032want %b\n"
    assert requests.getvalue() == (
        b"stateless-connect git-upload-pack\n"
        + start + b"0015filter blob:none\n" + want % A.hex().encode() + want % B.hex().encode() + b"0009done\n0000"
        + start + want % A.hex().encode() + b"0009done\n0000"
    )  # fmt: skip


@pytest.mark.parametrize(
    "answers",
    [
        b"",
        b"fallback\n",
        b"\n",
        b"\n0000",
        b"\n000eversion 1\n0011fetch=filter\n0000",
        b"\n000eversion 2\n0000",
        b"\n000eversion 2\n000afetch\n0019object-format=sha256\n0000",
        b"\n000eversion 2\n0010ERR go away\n",
        b"\nzzzz",
        b"\n" + b"0006a\n" * 1001 + b"0000",
    ],
)
def test_who_cannot_be_spoken_to(answers: bytes) -> None:
    with pytest.raises(IncomingError):
        said_by(answers)


WHOLE = b"\n000eversion 2\n000cls-refs\n0019fetch=shallow filter\n0000"


def test_the_bytes_of_a_first_look() -> None:
    name = A.hex().encode()
    refs = packets(b"%b refs/gru/store-2\n" % B.hex().encode(), b"%b refs/gru/store\n" % name) + b"00000002"
    cut = packets(b"shallow-info\n", b"shallow %b\n" % name) + b"0001" + packets(b"packfile\n", b"\1PACK")
    server, requests = said_by(WHOLE + refs + cut + b"00000002")
    assert server.reference("refs/gru/store") == A
    ends, pieces = server.state(A, 3)
    assert ends == [A]
    assert b"".join(pieces) == b"PACK"
    assert requests.getvalue() == (
        b"stateless-connect git-upload-pack\n"
        b"0014command=ls-refs\n0001001eref-prefix refs/gru/store\n0000"
        b"0012command=fetch\n00010010no-progress\n000ddeepen 1\n0012filter tree:3\n0032want %b\n0009done\n0000"
        % name
    )


@pytest.mark.parametrize(
    ("connected", "refs"),
    [
        (CONNECTED, b"00000002"),
        (WHOLE, b"0000"),
        (WHOLE, packets(b"abc refs/gru/store\n") + b"00000002"),
        (WHOLE, packets(b"x\n") * 1001 + b"00000002"),
        (WHOLE, b"0010ERR go away\n"),
    ],
)
def test_references_that_are_none(connected: bytes, refs: bytes) -> None:
    server, _ = said_by(connected + refs)
    with pytest.raises(IncomingError):
        server.reference("refs/gru/store")


def test_a_server_without_the_reference_or_without_filters() -> None:
    server, _ = said_by(WHOLE.replace(b"0019fetch=shallow filter", b"0012fetch=shallow") + b"00000002")
    assert server.reference("refs/gru/store") is None
    with pytest.raises(IncomingError, match="no part of a history"):
        server.state(A, 3)


def test_a_tree_is_not_asked_for_with_all_its_blobs() -> None:
    server, _ = said_by(b"\n000eversion 2\n0012fetch=shallow\n0000")
    with pytest.raises(IncomingError, match="no tree without its blobs"):
        list(server.pack([A], alone=True))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"0010ERR go away\n", "refuses: go away"),
        (packets(b"packfile\n", b"\1PA", b"\3out of luck\n"), "breaks off: out of luck"),
        (packets(b"packfile\n", b"\1PA"), "cannot be spoken to"),
        (packets(b"packfile\n", b"\1PA") + b"0001", "breaks off"),
        (packets(b"packfile\n", b"\1PA", b""), "breaks off"),
        (packets(b"packfile\n", b"\1PA", b"\4"), "breaks off"),
        (packets(b"packfile\n", b"\1PA") + b"fff5", "cannot be spoken to"),
        (packets(b"packfile\n") + b"0000", "cannot be spoken to"),
        (packets(b"packfile\n") + b"00000000", "does not end"),
        (packets(b"acknowledgments\n", b"NAK\n") + b"0000", "something else"),
        (packets(b"x\n") * 1001, "something else"),
    ],
)
def test_what_is_no_answer(answer: bytes, said: str) -> None:
    server, _ = said_by(CONNECTED + answer)
    with pytest.raises(IncomingError, match=said):
        list(server.pack([A], alone=False))


@given(
    st.lists(
        st.sampled_from(
            [
                b"\n",
                b"0000",
                b"0001",
                b"0002",
                b"000eversion 2\n",
                b"000afetch\n",
                b"000dpackfile\n",
                b"0006\1x",
                b"fff1",
            ]
        )
        | st.binary(max_size=12),
        max_size=14,
    )
)
def test_any_answer_is_a_pack_or_an_error(pieces: list[bytes]) -> None:
    with contextlib.suppress(IncomingError):
        server, _ = said_by(b"".join(pieces))
        assert sum(map(len, server.pack([A], alone=False))) <= 14


@pytest.mark.parametrize(
    ("url", "helper"),
    [
        ("http://host/hub.git", "remote-http"),
        ("https://me@host/hub.git", "remote-https"),
        ("ssh://host/hub.git", None),
        ("host:hub.git", None),
        ("http:hub.git", None),
        ("ext::https://host", None),
        ("/https/hub.git", None),
    ],
)
def test_which_addresses_are_asked_directly(url: str, helper: str | None) -> None:
    assert helper_for(url) == helper


# ---- hubs over http ----------------------------------------------------------------------------------------------------


BODY = {f"w{at}": np.random.default_rng(at).normal(0, 0.05, 50_000).astype("<f4") for at in range(6)}
FILES = [save({name: array + np.float32(step * 1e-4) for name, array in BODY.items()}) for step in range(2)]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Manifest]]:
    """A folder with a hub, and what was published there in two pushes: two versions of a model."""
    work = tmp_path_factory.mktemp("published")
    path, store = new_hub(work / "hub.git"), Store.open(work / "gru")
    manifests = [ingest(store, io.BytesIO(file), expect_safetensors=True).manifest for file in FILES]
    for manifest in manifests:
        publish(store, GitRemote(store, "hub", str(path), LOCAL_VARIABLES), [[manifest]])
    store.close()
    return work, manifests


class Hub:
    """The hub in the folder `work` with two versions of a model; `clone` is an empty store."""

    def __init__(self, published: tuple[Path, list[Manifest]], clone: Path) -> None:
        self.work, self.manifests = published
        self.clone = Store.open(clone)

    def bring(self, url: str, *wanted: Manifest, settings: Mapping[str, str] | None = None) -> Brought:
        """Brings models from the hub at `url` by git with these `settings`."""
        numbered = list(enumerate((settings or {}).items()))
        environment = {
            **LOCAL_VARIABLES,
            "GIT_CONFIG_COUNT": str(len(numbered)),
            **{f"GIT_CONFIG_KEY_{at}": key for at, (key, _) in numbered},
            **{f"GIT_CONFIG_VALUE_{at}": value for at, (_, value) in numbered},
        }
        return bring(self.clone, [GitRemote(self.clone, "hub", url, environment)], wanted)

    def require_whole(self) -> None:
        """The models are here, and Git finds nothing wrong with the store."""
        for manifest, file in zip(self.manifests, FILES, strict=True):
            assert b"".join(restore(self.clone, manifest)) == file
        subprocess.run(["git", "-C", str(self.clone.repository), "fsck", "--strict"], check=True)


@pytest.fixture
def hub(published: tuple[Path, list[Manifest]], tmp_path: Path, isolated: Path) -> Iterator[Hub]:
    made = Hub(published, tmp_path / "clone")
    yield made
    made.clone.close()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes]]:
    """What each `git fetch` for trees or blobs was asked for."""
    asked: list[list[bytes]] = []
    by_git = GitRemote._by_git

    def noted(remote: GitRemote, oids: list[bytes], *rest: str) -> None:
        asked.append(list(oids))
        by_git(remote, oids, *rest)

    monkeypatch.setattr(GitRemote, "_by_git", noted)
    return asked


class Asked(GitHandler):
    """Refuses whoever does not say `Let me: in`; `prefix` is what a client says to a proxy."""

    prefix = ""

    def _git(self) -> None:
        self.path = self.path.removeprefix(self.prefix)
        if self.headers.get("Let-Me") != "in":
            self.send_error(403)
            return
        super()._git()


class Guarded(GitHandler):
    """Asks for a password."""

    def _git(self) -> None:
        expected = base64.b64encode(b"me:secret").decode()
        if self.headers.get("Authorization") == f"Basic {expected}":
            super()._git()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="hub"')
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_all_comes_without_git_fetch(hub: Hub, fetched: list[list[bytes]]) -> None:
    old, new = hub.manifests
    with serving(hub.work) as server:
        url = f"{server.url}/hub.git"
        assert hub.bring(url, new).blobs == len(set(new.chunks()))
        before = server.sent
        assert hub.bring(url, old).blobs == len(set(old.chunks()) - set(new.chunks()))
        assert server.sent - before < 1.1 * sum(map(len, FILES)) / 2
    assert not fetched
    hub.require_whole()


def test_a_state_is_noted_as_git_notes_it(hub: Hub, tmp_path: Path) -> None:
    """The same reference, the same end of the history; and Git goes on from there."""
    other, third = Store.open(tmp_path / "other"), Store.open(tmp_path / "third")
    shutil.copytree(hub.work / "hub.git", tmp_path / "hub.git")
    with serving(tmp_path) as server:
        url = f"{server.url}/hub.git"
        remotes = [GitRemote(store, "hub", url, LOCAL_VARIABLES) for store in (hub.clone, other)]
        states = [remotes[0].look(), remotes[1]._look_by_git()]
        assert states[0] is not None
        assert states[0] == states[1]
        folders = [store.repository for store in (hub.clone, other)]
        for name in (remotes[0]._seen.ref, "shallow"):
            assert len({(folder / name).read_bytes() for folder in folders}) == 1
        for folder in folders:
            subprocess.run(["git", "-C", str(folder), "rev-list", "--all"], check=True)
            assert not list(folder.rglob("*.lock"))
        packs = [
            {oid for pack in store.objects.packs() for oid in pack.oids()} for store in (hub.clone, other)
        ]
        assert packs[0] == packs[1]
        more = ingest(third, io.BytesIO(save({"w": np.ones(9, "<f4")})), expect_safetensors=True).manifest
        publish(third, GitRemote(third, "hub", str(tmp_path / "hub.git"), LOCAL_VARIABLES), [[more]])
        assert remotes[0].look() == remotes[1].look() != states[0]
        hub.bring(url, more, *hub.manifests)
    hub.require_whole()
    for store in (other, third):
        store.close()


def test_where_git_forbids_http_nobody_is_asked(hub: Hub) -> None:
    with serving(hub.work) as server, pytest.raises(RemoteError, match="not allowed"):
        hub.bring(f"{server.url}/hub.git", *hub.manifests, settings={"protocol.http.allow": "never"})
    assert server.received == 0


def test_a_hub_without_models(hub: Hub, tmp_path: Path) -> None:
    new_hub(tmp_path / "empty.git")
    with serving(tmp_path) as server:
        assert GitRemote(hub.clone, "hub", f"{server.url}/empty.git", LOCAL_VARIABLES).look() is None


def test_many_objects_are_asked_for_in_several_requests_of_one_conversation(
    hub: Hub, fetched: list[list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("git_gru.git.git_remote.MOST_WANTS", 2)
    began: list[UploadPack] = []
    begin = UploadPack.__init__

    def noted(talk: UploadPack, *pipes: BinaryIO) -> None:
        began.append(talk)
        begin(talk, *pipes)

    monkeypatch.setattr(UploadPack, "__init__", noted)
    with serving(hub.work) as server:
        hub.bring(f"{server.url}/hub.git", *hub.manifests)
    assert not fetched
    assert len(hub.clone.objects.packs()) > 6
    assert len(began) == 1, "of one conversation"
    hub.require_whole()


def test_a_password_comes_from_the_credential_helper(
    hub: Hub, tmp_path: Path, fetched: list[list[bytes]]
) -> None:
    helper = tmp_path / "helper"
    helper.write_text("#!/bin/sh\ncat > /dev/null\necho username=me\necho password=secret\n")
    helper.chmod(0o755)
    with serving(hub.work, Guarded) as server:
        settings = {"credential.helper": str(helper)}
        hub.bring(f"{server.url}/hub.git", *hub.manifests, settings=settings)
    assert not fetched
    hub.require_whole()


def test_headers_and_proxies_are_those_of_git(hub: Hub, fetched: list[list[bytes]]) -> None:
    class Proxied(Asked):
        prefix = "http://nowhere.invalid"

    with serving(hub.work, Proxied) as server:
        settings = {
            "http.proxy": server.url,
            "http.extraHeader": "Let-Me: in",
            "url.http://nowhere.invalid/.insteadOf": "models:",
        }
        hub.bring("models:hub.git", *hub.manifests, settings=settings)
    assert not fetched
    hub.require_whole()


# ---- where it does not go ----------------------------------------------------------------------------------------------


def test_a_server_of_an_older_protocol(hub: Hub, fetched: list[list[bytes]]) -> None:
    class Older(GitHandler):
        def _git(self) -> None:
            del self.headers["Git-Protocol"]
            super()._git()

    with serving(hub.work, Older) as server:
        hub.bring(f"{server.url}/hub.git", *hub.manifests)
    assert fetched
    hub.require_whole()


def test_a_server_without_filters(hub: Hub, tmp_path: Path, fetched: list[list[bytes]]) -> None:
    plain = shutil.copytree(hub.work / "hub.git", tmp_path / "plain.git")
    subprocess.run(["git", "-C", str(plain), "config", "uploadpack.allowFilter", "false"], check=True)
    with serving(tmp_path) as server:
        hub.bring(f"{server.url}/plain.git", *hub.manifests)
    hub.require_whole()


def test_a_hub_that_sends_deltas(tmp_path: Path, isolated: Path, fetched: list[list[bytes]]) -> None:
    """Of one chunk that is nearly another: to Git, whose deltas these are, a chunk is a file as any."""
    hub = new_hub(tmp_path / "hub.git")
    store, clone = Store.open(tmp_path / "gru"), Store.open(tmp_path / "clone")
    base = np.random.default_rng(1).integers(0, 256, 60_000, "u1")
    arrays = {f"w{at}": np.concatenate([base, np.full(4, at, "u1")]) for at in range(4)}
    manifest = ingest(store, io.BytesIO(save(arrays)), expect_safetensors=True).manifest
    publish(store, GitRemote(store, "hub", str(hub), LOCAL_VARIABLES), [[manifest]])
    subprocess.run(["git", "-C", str(hub), "repack", "-q", "-a", "-d", "-f"], check=True)
    with serving(tmp_path) as server:
        bring(clone, [GitRemote(clone, "hub", f"{server.url}/hub.git", LOCAL_VARIABLES)], [manifest])
    assert fetched
    assert set(map(len, fetched)) <= {0, 3}, "the whole one came before the deltas against it"
    assert b"".join(restore(clone, manifest)) == save(arrays)
    subprocess.run(["git", "-C", str(clone.repository), "fsck", "--strict"], check=True)
    for opened in (store, clone):
        opened.close()


class Cut(GitHandler):
    """Breaks one answer off, in the middle of a pack, behind so many bytes."""

    left: list[int]

    def _answer(self, answer: Any) -> None:
        if not self.left or not self.path.endswith("/git-upload-pack"):
            super()._answer(answer)
            return
        data = answer.read()
        if len(data) < self.left[0]:
            super()._answer(io.BufferedReader(io.BytesIO(data)))
            return
        super()._answer(io.BufferedReader(io.BytesIO(data[: self.left.pop()])))


def test_a_connection_that_breaks_off_costs_one_object(hub: Hub, fetched: list[list[bytes]]) -> None:
    class Broken(Cut):
        left = [800_000]  # noqa: RUF012 - of one class, for one test

    new = hub.manifests[1]
    with serving(hub.work, Broken) as server:
        done = hub.bring(f"{server.url}/hub.git", new)
    assert done.blobs == len(set(new.chunks()))
    assert 1 < len(fetched[-1]) < 5
    assert Broken.left == []
    assert b"".join(restore(hub.clone, new)) == FILES[1]


def bring_over_http(folder: Path, url: str, text: bytes) -> None:
    """In a process of its own, in batches of two chunks."""
    store, usual = Store.open(folder), bring_module.BATCH_BYTES
    bring_module.BATCH_BYTES = 400_000
    try:
        manifest = parse_manifest(text, where="it")
        bring(store, [GitRemote(store, "hub", url, LOCAL_VARIABLES)], [manifest])
    finally:
        bring_module.BATCH_BYTES = usual
        store.close()


def test_killed_on_the_way_it_goes_on_where_it_was(hub: Hub, fetched: list[list[bytes]]) -> None:
    new = hub.manifests[1]
    with serving(hub.work) as server:
        url = f"{server.url}/hub.git"
        for step in (90, 140, 190):
            attempt(bring_over_http, hub.clone.folder, url, new.encode(), die_at=step)
        here = {oid for pack in hub.clone.objects.packs() for oid in pack.oids()}
        done = hub.bring(url, new)
        tree = hub.clone.tree().model(new.digest)
        assert tree is not None
        came = here & set(model_blobs(hub.clone.objects, tree).values())
        assert came
        assert done.blobs == len(set(new.chunks())) - len(came)
    assert not fetched
    assert b"".join(restore(hub.clone, new)) == FILES[1]
