"""What every remote must do, over each implementation of the Protocol; and what publish and bring make of it."""

import contextlib
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from benchmarks.http_hub import new_hub, serving
from git_gru.git import seen_state
from git_gru.git.git_remote import GitRemote
from git_gru.git.local_remote import remote_at
from git_gru.git.run import LOCAL_VARIABLES
from git_gru.store import bring as bring_module
from git_gru.store import publish as publish_module
from git_gru.store.bring import bring, locate
from git_gru.store.codec import inspect
from git_gru.store.collect_remote import collect_remote
from git_gru.store.ingest import ingest
from git_gru.store.manifest import Manifest
from git_gru.store.memory_remote import MemoryHub, MemoryRemote
from git_gru.store.packs import PackWriter, make_entry
from git_gru.store.publish import PACKED_FROM, PADDED_BYTES, PATIENCE, Published, publish, republish
from git_gru.store.remote import Remote, RemoteError
from git_gru.store.repack import repack
from git_gru.store.restore import restore
from git_gru.store.store import ModelMissingError, Store
from git_gru.store.trees import StoreTree, model_blobs, model_deltas


class Hub:
    """One hub, seen as a `Remote` from any store; `blobs()` are those that it keeps."""

    def __init__(
        self, view: Callable[[Store], Remote], blobs: Callable[[], set[bytes]], reject: Callable[[], None]
    ) -> None:
        self.view = view
        self.blobs = blobs
        self.reject = reject


@pytest.fixture(params=["memory", "git", "git without filters", "git in a folder", "git over http"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub of each kind."""
    if request.param == "memory":
        shared = MemoryHub()
        yield Hub(
            lambda store: MemoryRemote(shared, store.objects),
            lambda: {oid for oid, (kind, _) in shared.objects.items() if kind == "blob"},
            lambda: None,
        )
        return
    view = remote_at if request.param == "git in a folder" else GitRemote
    with serving(tmp_path) if request.param == "git over http" else contextlib.nullcontext() as server:
        made = git_hub(tmp_path / "hub.git", filters=request.param != "git without filters", view=view)
        if server is not None:
            made.view = lambda store: view(store, "hub", f"{server.url}/hub.git", LOCAL_VARIABLES)
        yield made


def git_hub(path: Path, *, filters: bool = True, view: Callable[..., Remote] = GitRemote) -> Hub:
    new_hub(path, filters=filters)

    def blobs() -> set[bytes]:
        command = ["git", "-C", str(path), "cat-file", "--batch-all-objects", "--batch-check"]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return {bytes.fromhex(line.split()[0]) for line in listed if line.split()[1] == "blob"}

    def reject() -> None:
        hook = path / "hooks/pre-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\necho 'not today' >&2\nexit 1\n")
        hook.chmod(0o755)

    return Hub(lambda store: view(store, "hub", str(path), LOCAL_VARIABLES), blobs, reject)


class Counting:
    """A remote that notes how many objects each call asks it for."""

    def __init__(self, inner: Remote) -> None:
        self.name = inner.name
        self.look, self.move = inner.look, inner.move
        self.asked: dict[str, list[int]] = {"trees": [], "models": [], "blobs": []}
        self._inner = inner

    def trees(self, oids: Sequence[bytes]) -> None:
        self.asked["trees"].append(len(oids))
        self._inner.trees(oids)

    def models(self, trees: Sequence[bytes], chunks: Sequence[str]) -> None:
        self.asked["models"].append(len(trees))
        self._inner.models(trees, chunks)

    def blobs(self, oids: Sequence[bytes]) -> None:
        self.asked["blobs"].append(len(oids))
        self._inner.blobs(oids)


@pytest.fixture
def stores(tmp_path: Path) -> Iterable[Callable[[], Store]]:
    """Makes stores."""
    made: list[Store] = []
    numbers = count()

    def make() -> Store:
        made.append(Store.open(tmp_path / f"store-{next(numbers)}" / "gru"))
        return made[-1]

    yield make
    for store in made:
        store.close()


def versions(number: int, *, seed: int = 0, size: int = 30_000) -> list[bytes]:
    """Files of one model in training, oldest first; one tensor never changes."""
    rng = np.random.default_rng(seed)
    body, frozen = rng.normal(0, 0.05, size).astype("<f4"), rng.normal(0, 1, 2_000).astype("<f4")
    files = []
    for step in range(number):
        files.append(save({"frozen": frozen, "w": body}, {"step": f"{seed} {step}"}))
        body = body + (rng.normal(0, 1e-4, size) * (1 + abs(body))).astype("<f4")
    return files


def added(store: Store, files: Iterable[bytes]) -> list[Manifest]:
    import io

    return [ingest(store, io.BytesIO(file), expect_safetensors=True).manifest for file in files]


def content(store: Store, manifest: Manifest) -> bytes:
    return b"".join(restore(store, manifest))


def state_of(store: Store, remote: Remote) -> StoreTree:
    return StoreTree(store.objects, remote.look())


# ---- the Protocol ------------------------------------------------------------------------------------------------------


def test_a_new_hub_has_no_state(hub: Hub, stores: Callable[[], Store]) -> None:
    assert hub.view(stores()).look() is None


def commit_of(store: Store, names: dict[str, bytes], old: bytes | None) -> bytes:
    """Writes a state in which each digest stands for a model tree of one blob."""
    blobs = {digest: make_entry("blob", [data]) for digest, data in names.items()}
    trees = {
        digest: make_entry("tree", [b"100644 " + digest.encode() + b"\0" + blob.oid])
        for digest, blob in blobs.items()
    }
    new, entries = StoreTree(store.objects, old).write(
        {digest: tree.oid for digest, tree in trees.items()}, parent=old
    )
    pack = PackWriter(store.repository / "objects/pack", 0)
    for entry in (*blobs.values(), *trees.values(), *entries):
        pack.add(entry)
    pack.finish()
    return new


A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def test_moves_are_compare_and_swap(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    first = commit_of(one, {A: b"a"}, None)
    assert hub.view(one).move(first, None)
    other = commit_of(two, {B: b"b"}, None)
    assert not hub.view(two).move(other, None)
    assert hub.view(two).look() == first
    second = commit_of(two, {B: b"b"}, first)
    assert hub.view(two).move(second, first)
    third = commit_of(one, {C: b"c"}, first)
    assert not hub.view(one).move(third, first)
    state = state_of(one, hub.view(one))
    assert state.commit == second
    assert set(state.models()) == {A, B}


def test_looking_brings_the_upper_trees_and_no_more(tmp_path: Path, stores: Callable[[], Store]) -> None:
    folders = (tmp_path / "a.git", tmp_path / "b.git")
    for hub in (git_hub(folders[0]), git_hub(folders[1], view=remote_at), _memory_hub()):
        one, two = stores(), stores()
        assert hub.view(one).move(commit_of(one, {A: b"a", B: b"b"}, None), None)
        state = state_of(two, hub.view(two))
        trees = state.models()
        assert set(trees) == {A, B}
        assert not any(two.objects.has(tree) for tree in trees.values())
        hub.view(two).trees([trees[A]])
        blobs = model_blobs(two.objects, trees[A])
        assert not two.objects.has(trees[B])
        assert not two.objects.has(blobs[A])
        hub.view(two).blobs([blobs[A]])
        assert bytes(two.objects.expect(blobs[A], "blob")) == b"a"


def _memory_hub() -> Hub:
    shared = MemoryHub()
    return Hub(lambda store: MemoryRemote(shared, store.objects), set, lambda: None)


def test_what_the_hub_lacks_is_an_error(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    assert hub.view(one).move(commit_of(one, {A: b"a"}, None), None)
    for ask in (hub.view(two).blobs, hub.view(two).trees):
        with pytest.raises(RemoteError):
            ask([b"\x11" * 20])


def test_nothing_asked_for_is_nothing_done(hub: Hub, stores: Callable[[], Store]) -> None:
    store = stores()
    hub.view(store).blobs([])
    hub.view(store).trees([])


def test_a_state_is_replaced_only_if_nobody_moved_it(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    first = commit_of(one, {A: b"a"}, None)
    assert hub.view(one).move(first, None)
    assert hub.view(two).look() == first
    second = commit_of(two, {B: b"b"}, first)
    assert hub.view(two).move(second, first)
    without, _ = StoreTree(one.objects, first).write({})
    assert without == first  # a state without a parent is a function of its models
    fresh = commit_of(one, {C: b"c"}, None)
    assert not hub.view(one).move(fresh, first, replace=True)
    assert hub.view(one).look() == second
    assert hub.view(one).move(fresh, second, replace=True)
    assert state_of(two, hub.view(two)).models().keys() == {C}


# ---- publish and bring -------------------------------------------------------------------------------------------------


def test_there_and_back(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    files = versions(3)
    manifests = added(one, files)
    done = publish(one, hub.view(one), [manifests[::-1]])
    assert done.models == 3
    brought = bring(two, [hub.view(two)], manifests)
    assert brought.models == 3
    chunks = {id for manifest in manifests for id in manifest.chunks()}
    assert brought.blobs == len(chunks)
    two.sync()
    assert brought.bytes == sum(two.lookup.rows()[id].stored for id in chunks)
    assert [content(two, manifest) for manifest in manifests] == files
    assert set(two.models()) == {manifest.digest for manifest in manifests}
    assert publish(one, hub.view(one), [manifests[::-1]]) == Published(0, 0, 0)
    assert bring(two, [hub.view(two)], manifests).blobs == 0


def test_the_newest_is_plain_and_older_ones_are_deltas_against_newer(
    hub: Hub, stores: Callable[[], Store]
) -> None:
    one, two = stores(), stores()
    files = versions(4)
    manifests = added(one, files)
    publish(one, hub.view(one), [manifests[::-1]])
    state = state_of(two, hub.view(two))
    trees = {m.digest: state.model(m.digest) for m in manifests}
    hub.view(two).trees([tree for tree in trees.values() if tree])
    deltas = [model_deltas(two.objects, trees[m.digest] or b"") for m in manifests]
    assert not deltas[3]
    assert all(deltas[:3])
    raw = sum(map(len, files))
    assert publish(one, hub.view(one), [manifests[::-1]]).bytes == 0
    bring(two, [hub.view(two)], manifests)
    assert sum(row.stored for row in two.lookup.rows().values()) < 0.79 * raw


def test_only_what_is_new_is_sent(hub: Hub, stores: Callable[[], Store]) -> None:
    one = stores()
    files = versions(3)
    manifests = added(one, files)
    publish(one, hub.view(one), [manifests[:1]])
    before = hub.blobs()
    done = publish(one, hub.view(one), [manifests[1:2]], related=lambda: manifests[:1])
    new = manifests[1]
    assert (
        done.blobs == len(set(new.chunks()) - set(manifests[0].chunks())) == 2
    )  # the header, and one tensor of two
    sent = hub.blobs() - before
    assert len([oid for oid in sent if one.objects.has(oid) and _is_chunk(one, oid)]) == 2


def test_related_models_are_looked_at_while_they_share_something(
    stores: Callable[[], Store],
) -> None:
    hub, one = _memory_hub(), stores()
    strangers = added(one, [versions(1, seed=seed, size=100)[0] for seed in range(1, 20)])
    known, new = added(one, versions(2, size=100))
    asked: list[Manifest] = []

    def related(*models: Manifest) -> Iterable[Manifest]:
        for manifest in models:
            asked.append(manifest)
            yield manifest

    publish(one, hub.view(one), [[known], *([stranger] for stranger in strangers[:-1])])
    order = [strangers[-1], *strangers[:5], known, *strangers]  # the first is not the hub's
    done = publish(one, hub.view(one), [[new]], related=lambda: related(*order))
    assert asked == order[: 7 + PATIENCE]
    assert done.blobs == 2  # the header, and one tensor of two


def _is_chunk(store: Store, oid: bytes) -> bool:
    data = bytes(store.objects.expect(oid, "blob"))
    return b'"codec"' in data[:400]


def test_nobody_elses_weights_travel_along(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    files = versions(3)
    manifests = added(one, files)
    repack(
        one, [manifests[::-1]], set()
    )  # the old version is kept as a delta against a newer, unpublished one
    old = one.blobs(manifests[0])
    unpublished = {id for manifest in manifests[1:] for id in manifest.chunks()} - set(manifests[0].chunks())
    assert unpublished & old.keys()
    publish(one, hub.view(one), [manifests[:1]])
    state = state_of(two, hub.view(two))
    tree = state.model(manifests[0].digest)
    assert tree is not None
    hub.view(two).trees([tree])
    assert set(model_blobs(two.objects, tree)) == set(manifests[0].chunks())
    mine = {one.lookup.get(id).oid for id in unpublished}  # type: ignore[union-attr]
    assert not mine & hub.blobs()
    bring(two, [hub.view(two)], manifests[:1])
    assert content(two, manifests[0]) == files[0]
    assert content(one, manifests[0]) == files[0]


def test_what_was_encoded_for_the_hub_alone_does_not_stay(hub: Hub, stores: Callable[[], Store]) -> None:
    one = stores()
    manifests = added(one, versions(3, size=200_000))
    repack(one, [manifests[::-1]], set())
    size = sum(pack.size for pack in one.objects.packs())
    publish(one, hub.view(one), [manifests[:1]])
    assert sum(pack.size for pack in one.objects.packs()) < size + 100_000


def test_a_hub_that_was_fed_one_by_one_is_repacked(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two, three = stores(), stores(), stores()
    files = versions(5)
    manifests = added(one, files)
    for at, manifest in enumerate(manifests):
        publish(one, hub.view(one), [[manifest]], related=lambda at=at: manifests[:at])
    raw = sum(map(len, files))
    kept = sum(row.stored for row in one.lookup.rows().values())
    stranger = added(three, versions(1, seed=9))[0]
    publish(three, hub.view(three), [[stranger]])
    two.supply = lambda absent: bring(two, [hub.view(two)], list(absent)) and None
    done = republish(two, hub.view(two), [manifests[::-1]], keep_plain={manifests[4].digest})
    assert done.models == 4
    state = state_of(two, hub.view(two))
    assert set(state.models()) == {m.digest for m in [*manifests, stranger]}
    hub.view(two).trees(list(state.models().values()))
    blobs = {oid for tree in state.models().values() for oid in model_blobs(two.objects, tree).values()}
    assert not model_deltas(two.objects, state.models()[manifests[4].digest])
    four = stores()
    bring(four, [hub.view(four)], [*manifests, stranger])
    assert [content(four, manifest) for manifest in manifests] == files
    now = sum(four.objects.head(oid, 1)[0] for oid in blobs)
    assert now < 0.95 * (kept + sum(map(len, versions(1, seed=9)))) < raw
    again = republish(two, hub.view(two), [manifests[::-1]], keep_plain={manifests[4].digest})
    assert again.bytes == 0


def test_what_a_hub_needs_no_more_is_dropped_after_the_grace_time(
    hub: Hub, stores: Callable[[], Store]
) -> None:
    one, two = stores(), stores()
    keep, drop, late = (added(one, versions(1, seed=seed))[0] for seed in range(3))
    publish(one, hub.view(one), [[keep], [drop], [late]])
    needed = {keep.digest}

    def collect(now: int, **options: bool) -> tuple[set[str], set[str]]:
        found = collect_remote(two, hub.view(two), needed, now=now, grace=100, **options)
        return set(found.dropped), set(found.waiting)

    unneeded = {drop.digest, late.digest}
    assert collect(1000, dry_run=True) == (set(), unneeded)
    assert collect(1000) == (set(), unneeded)
    assert state_of(two, hub.view(two)).unneeded == dict.fromkeys(unneeded, 1000)
    assert collect(1050) == (set(), unneeded)
    assert collect(20) == (set(), unneeded)  # a clock that goes backwards drops nothing, and nothing sooner
    assert collect(1060) == (set(), unneeded)
    assert set(state_of(two, hub.view(two)).models()) == {keep.digest, *unneeded}
    done = publish(one, hub.view(one), [[late]])  # somebody pushes a commit that reaches it after all
    assert done.blobs == 0
    assert set(state_of(two, hub.view(two)).unneeded) == {drop.digest}
    assert collect(1200) == ({drop.digest}, {late.digest})
    assert set(state_of(two, hub.view(two)).models()) == {keep.digest, late.digest}
    three = stores()
    assert bring(three, [hub.view(three)], [keep, late]).models == 2
    assert collect(1210) == (set(), {late.digest})
    needed.add(late.digest)
    assert collect(9000) == (set(), set())
    assert state_of(two, hub.view(two)).unneeded == {}


def test_a_push_between_the_collectors_look_and_its_drop_saves_the_model(
    hub: Hub, stores: Callable[[], Store]
) -> None:
    one, two = stores(), stores()
    (model,) = added(one, versions(1))
    publish(one, hub.view(one), [[model]])
    collect_remote(two, hub.view(two), set(), now=0, grace=10)
    inner = hub.view(two)

    class Late:
        """Lets a push come in just before the state is replaced."""

        name = "late"

        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def move(self, new: bytes, old: bytes | None, **how: bool) -> bool:
            if how.get("replace") and old is not None and state_of(one, hub.view(one)).unneeded:
                publish(one, hub.view(one), [[model]])
            return inner.move(new, old, **how)

    collect_remote(two, Late(), set(), now=100, grace=10)  # type: ignore[arg-type]
    assert set(state_of(one, hub.view(one)).models()) == {model.digest}


def test_a_later_head_is_plain_even_if_the_hub_keeps_a_delta(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    manifests = added(one, versions(3))
    publish(one, hub.view(one), [manifests[::-1]])
    import io

    same = versions(3)[0] + b""  # the weights of the oldest version under another header
    body = np.frombuffer(same[-120_000:], "<f4")
    again = ingest(one, io.BytesIO(save({"w": body})), expect_safetensors=True).manifest
    publish(one, hub.view(one), [[again]], related=lambda: manifests)
    bring(two, [hub.view(two)], [again])
    tree = two.tree().model(again.digest)
    assert tree is not None
    assert not model_deltas(two.objects, tree)


def test_a_model_that_is_nowhere_names_what_was_tried(hub: Hub, stores: Callable[[], Store]) -> None:
    one, two = stores(), stores()
    here, nowhere = added(one, versions(2))
    publish(one, hub.view(one), [[here]])
    with pytest.raises(ModelMissingError, match=nowhere.digest[:12]) as caught:
        bring(two, [hub.view(two)], [here, nowhere])
    assert hub.view(two).name in str(caught.value)
    assert two.has_model(here.digest)
    with pytest.raises(ModelMissingError, match="there is no remote"):
        bring(two, [], [nowhere])
    with pytest.raises(ModelMissingError, match=nowhere.digest[:12]):
        publish(two, hub.view(two), [[nowhere]])
    with pytest.raises(ModelMissingError, match=nowhere.digest[:12]):
        locate(two, [hub.view(two)], nowhere)


def test_the_first_remote_that_has_it_gives_it(stores: Callable[[], Store], tmp_path: Path) -> None:
    one, two = stores(), stores()
    manifests = added(one, versions(2))
    hubs = [git_hub(tmp_path / "a.git"), git_hub(tmp_path / "b.git")]
    publish(one, hubs[0].view(one), [manifests[:1]])
    publish(one, hubs[1].view(one), [manifests[::-1]])
    assert bring(two, [hub.view(two) for hub in hubs], manifests).models == 2
    broken = GitRemote(two, "gone", str(tmp_path / "gone.git"), LOCAL_VARIABLES)
    three = stores()
    assert bring(three, [broken, hubs[1].view(three)], manifests).models == 2
    with pytest.raises(RemoteError, match=r"gone"):
        bring(stores(), [broken], manifests)


def test_a_refusal_is_told_in_the_hubs_words(stores: Callable[[], Store], tmp_path: Path) -> None:
    one = stores()
    hub = git_hub(tmp_path / "hub.git")
    hub.reject()
    with pytest.raises(RemoteError, match="not today"):
        publish(one, hub.view(one), [added(one, versions(1))])


def test_a_hub_whose_lock_a_killed_git_has_left_is_named(
    stores: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stores()
    hub = git_hub(tmp_path / "hub.git")
    manifests = added(one, versions(2))
    publish(one, hub.view(one), [manifests[:1]])
    lock = tmp_path / "hub.git/refs/gru/store.lock"
    lock.touch()
    waits: list[float] = []
    monkeypatch.setattr(publish_module.time, "sleep", waits.append)
    with pytest.raises(RemoteError, match="nobody else moves its refs/gru/store") as caught:
        publish(one, hub.view(one), [manifests[1:]])
    assert "store.lock" in (caught.value.hint or "")
    assert len(waits) == publish_module.MOST_REFUSALS
    lock.unlink()
    assert publish(one, hub.view(one), [manifests[1:]]).models == 1


def test_large_models_go_in_parts_and_go_on_after_an_interruption(
    hub: Hub, stores: Callable[[], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = stores(), stores()
    rng = np.random.default_rng(5)
    data = save({f"t{at}": rng.normal(0, 1, 5_000).astype("<f4") for at in range(12)})
    (manifest,) = added(one, [data])
    monkeypatch.setattr(publish_module, "BATCH_BYTES", 40_000)
    monkeypatch.setattr(bring_module, "BATCH_BYTES", 40_000)
    real = hub.view(one)
    moves = 0

    class Dying:
        name = "dying"

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

        def move(self, new: bytes, old: bytes | None, **how: bool) -> bool:
            nonlocal moves
            moves += 1
            if moves == 4:
                raise KeyboardInterrupt
            return real.move(new, old, **how)

    with pytest.raises(KeyboardInterrupt):
        publish(one, Dying(), [[manifest]])  # type: ignore[arg-type]
    state = state_of(one, real)
    assert list(state.incoming) == [manifest.digest]
    assert state.models() == {}
    arrived = len(hub.blobs())
    done = publish(one, real, [[manifest]])
    assert done.blobs == len(set(manifest.chunks())) - len(
        model_blobs(one.objects, state.incoming[manifest.digest])
    )
    assert len(hub.blobs()) > arrived
    after = state_of(one, real)
    assert after.incoming == {}
    assert set(after.models()) == {manifest.digest}
    counting = Counting(hub.view(two))
    bring(two, [counting], [manifest])
    assert content(two, manifest) == data
    assert max(counting.asked["blobs"], default=1) <= 3  # about 40,000 bytes a request
    assert not counting.asked["models"]


def test_the_first_models_come_in_one_conversation_and_many_together(
    stores: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stores()
    manifests = added(one, [versions(1, seed=seed, size=1_000)[0] for seed in range(12)])
    stored = sum(row.stored for row in one.lookup.rows().values())
    for hub in (git_hub(tmp_path / "a.git"), git_hub(tmp_path / "b.git", view=remote_at), _memory_hub()):
        two, three = stores(), stores()
        publish(one, hub.view(one), [[manifest] for manifest in manifests])
        first, later, large = Counting(hub.view(two)), Counting(hub.view(two)), Counting(hub.view(three))
        brought = bring(two, [first], manifests[:3])
        assert first.asked == {"trees": [], "models": [3], "blobs": []}
        with monkeypatch.context() as patch:
            patch.setattr(bring_module, "BATCH_BYTES", 4 * manifests[0].size)
            rest = bring(two, [later], manifests)
            assert later.asked == {"trees": [9], "models": [], "blobs": [12, 12, 3]}
            bring(three, [large], manifests[:5])  # more than a batch: in batches from the first
            assert large.asked == {"trees": [5], "models": [], "blobs": [12, 3]}
        assert (brought.blobs, rest.blobs, brought.bytes + rest.bytes) == (9, 27, stored)
        assert all(content(two, manifest) for manifest in manifests)


def test_one_model_that_is_damaged_there_does_not_keep_the_others(
    stores: Callable[[], Store], tmp_path: Path
) -> None:
    one, two, three = stores(), stores(), stores()
    hub, other = git_hub(tmp_path / "hub.git"), git_hub(tmp_path / "other.git")
    manifests = added(one, [versions(1, seed=seed, size=1_000)[0] for seed in range(3)])
    wrong = commit_of(three, {manifests[1].digest: b"not its chunks"}, None)
    assert hub.view(three).move(wrong, None)
    publish(one, hub.view(one), [[manifests[0]], [manifests[2]]])
    with pytest.raises(RemoteError, match="is not that of the model"):
        bring(two, [hub.view(two)], manifests)
    assert set(two.models()) == {manifests[0].digest, manifests[2].digest}
    publish(one, other.view(one), [[manifests[1]]])
    assert bring(two, [hub.view(two), other.view(two)], manifests).models == 1
    assert content(two, manifests[1])


def test_what_arrived_is_not_fetched_again(stores: Callable[[], Store], tmp_path: Path) -> None:
    hub = git_hub(tmp_path / "hub.git")
    one, two = stores(), stores()
    (manifest,) = added(one, versions(1))
    publish(one, hub.view(one), [[manifest]])
    state = state_of(two, hub.view(two))
    tree = state.model(manifest.digest)
    assert tree is not None
    hub.view(two).trees([tree])
    blobs = model_blobs(two.objects, tree)
    w = manifest.tensors["w"].chunks[0]
    hub.view(two).blobs([blobs[w]])  # as if the fetch had been killed here
    assert bring(two, [hub.view(two)], [manifest]).blobs == len(blobs) - 1


def test_single_tensors_are_brought_alone(stores: Callable[[], Store], tmp_path: Path) -> None:
    hub = git_hub(tmp_path / "hub.git")
    one, two = stores(), stores()
    files = versions(3)
    manifests = added(one, files)
    publish(one, hub.view(one), [manifests[::-1]])
    part = locate(two, [hub.view(two)], manifests[0])
    (frozen,) = manifests[0].tensors["frozen"].chunks
    expected = np.random.default_rng(0)
    expected.normal(0, 0.05, 30_000)
    assert bytes(part.chunk(frozen)) == expected.normal(0, 1, 2_000).astype("<f4").tobytes()
    (w,) = manifests[0].tensors["w"].chunks
    here = [pack.count for pack in two.objects.packs()]
    assert bytes(part.chunk(w)) == files[0][-120_000:]  # a delta: its base comes along
    assert sum(pack.count for pack in two.objects.packs()) > sum(here)
    assert not two.has_model(manifests[0].digest)
    whole = locate(one, [], manifests[0])
    whole.ensure([w])
    assert bytes(whole.chunk(w)) == files[0][-120_000:]


def test_a_hub_keeps_packs_and_not_loose_objects(stores: Callable[[], Store], tmp_path: Path) -> None:
    hub = git_hub(tmp_path / "hub.git")
    one = stores()
    (manifest,) = added(one, versions(1, size=600_000))
    assert publish(one, hub.view(one), [[manifest]]).bytes > PADDED_BYTES
    assert not list((tmp_path / "hub.git/objects").glob("[0-9a-f][0-9a-f]/*"))
    assert PACKED_FROM == 100  # git's own `receive.unpackLimit`


def test_what_a_later_batch_needs_of_an_earlier_one_is_not_sent_again(
    stores: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "BATCH_BYTES", 150_000)  # a batch or more for each version
    hub, one = git_hub(tmp_path / "hub.git"), stores()
    subprocess.run(["git", "-C", str(tmp_path / "hub.git"), "config", "receive.unpackLimit", "1"], check=True)
    manifests = added(one, versions(6))
    done = publish(one, hub.view(one), [manifests[::-1]])
    packs = list((tmp_path / "hub.git/objects/pack").glob("*.pack"))
    assert len(packs) >= 4
    assert done.bytes < sum(pack.stat().st_size for pack in packs) < done.bytes + 5_000 * len(packs)


@pytest.mark.slow
def test_many_publish_at_once_and_none_is_lost(hub: Hub, stores: Callable[[], Store]) -> None:
    import threading

    sides = [stores() for _ in range(8)]
    manifests = [added(store, versions(1, seed=at, size=500))[0] for at, store in enumerate(sides)]
    errors: list[BaseException] = []

    def run(store: Store, manifest: Manifest) -> None:
        try:
            publish(store, hub.view(store), [[manifest]])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(sides, manifests, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    final = stores()
    assert set(state_of(final, hub.view(final)).models()) == {m.digest for m in manifests}
    assert bring(final, [hub.view(final)], manifests).models == 8


def test_a_hostile_tree_is_refused(stores: Callable[[], Store], tmp_path: Path) -> None:
    hub = git_hub(tmp_path / "hub.git")
    one, two = stores(), stores()
    (manifest,) = added(one, versions(1))
    wrong = commit_of(one, {manifest.digest: b"not its chunks"}, None)
    assert hub.view(one).move(wrong, None)
    with pytest.raises(Exception, match="is not that of the model"):
        bring(two, [hub.view(two)], [manifest])
    assert not two.models()


def test_a_delta_without_its_base_is_refused(stores: Callable[[], Store], tmp_path: Path) -> None:
    hub = git_hub(tmp_path / "hub.git")
    one, two = stores(), stores()
    manifests = added(one, versions(2))
    repack(one, [manifests[::-1]], set())
    tree = one.tree().model(manifests[0].digest)
    assert tree is not None
    own = {id: oid for id, oid in model_blobs(one.objects, tree).items() if id in manifests[0].chunks()}
    assert any(inspect(one.objects.expect(oid, "blob"), where="").base for oid in own.values())
    from git_gru.store.trees import make_model_tree

    model = make_model_tree(own, ())
    new, entries = StoreTree(one.objects, None).write({manifests[0].digest: model.oid})
    pack = PackWriter(one.repository / "objects/pack", 0)
    for entry in (model, *entries):
        pack.add(entry)
    pack.finish()
    assert hub.view(one).move(new, None)
    with pytest.raises(Exception, match="without the base"):
        bring(two, [hub.view(two)], manifests[:1])
    assert not two.models()


def test_the_file_shallow_stays_bounded(
    stores: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at another state adds a line; those that history ends at are needed, and no others."""
    monkeypatch.setattr(seen_state, "_ENDS", 3)
    hub = git_hub(tmp_path / "hub.git")
    one, two = stores(), stores()
    manifests = added(one, versions(7, size=2_000))
    longest = 0
    for manifest in manifests:
        publish(one, hub.view(one), [[manifest]])
        hub.view(two).look()
        files = [store.repository / "shallow" for store in (one, two)]
        longest = max(longest, *(len(file.read_text().split()) for file in files if file.exists()))
    assert longest == 3
    assert bring(two, [hub.view(two)], manifests).models == 7
    late = added(two, versions(1, seed=5, size=2_000))
    publish(two, hub.view(two), [late])
    assert hub.view(one).look() == hub.view(two).look()
