"""Arrival: models are brought on a thread of their own, and a file's bytes are given while its last chunks are on their way.

A chunk is read where it came to lie, in the pack under way, so that memory is bounded as in any restore. It is verified as ever;
that it is durable, and its model one of the store's, may take a moment longer (`Arrival.wait`). What does not come so (from a
remote that gives whole packs, as a delta, or after an error) is given when all has come.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

from git_gru.errors import StoreError
from git_gru.ids import Buffer
from git_gru.store.bring import Found
from git_gru.store.manifest import Manifest
from git_gru.store.restore import decoded, whole
from git_gru.store.store import Store
from git_gru.store.trees import model_items


class Arrival:
    """Models on their way into `store`, from now on: `bring` brings them, and tells of what it found."""

    def __init__(self, store: Store, bring: Callable[[Found], object]) -> None:
        self._store = store
        self._bring = bring
        self._trees: dict[str, bytes] = {}
        self._is_over = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="gru-bring", daemon=True)
        self._thread.start()

    def wait(self) -> Exception | None:
        """Waits until all is here and durable; returns what went wrong."""
        self._thread.join()
        return self._failure

    def restore(self, manifest: Manifest) -> Iterator[Buffer]:
        """The file's bytes in pieces, as they come; as `restore`. Raises what bringing raised for a model that is not here."""
        return whole(manifest, self._chunks(manifest))

    def _chunks(self, manifest: Manifest) -> Iterator[Buffer]:
        ids, given = list(manifest.chunks()), 0
        try:
            blobs = self._plain_blobs(manifest)
            for data in decoded(self._store, manifest, blobs, self._come(ids, blobs)):
                yield data
                given += 1
        except StoreError:
            pass  # what is wrong is known, and whose fault it is, when all has come
        if given < len(ids):
            failure = self.wait()
            if failure is not None and not self._store.has_model(manifest.digest):
                raise failure
            yield from decoded(self._store, manifest, self._store.blobs(manifest), ids[given:])

    def _plain_blobs(self, manifest: Manifest) -> Mapping[str, bytes]:
        """Chunk id -> blob, of those kept plain, as soon as the model's tree is here; none where it does not come."""
        objects = self._store.objects

        def tree() -> bytes | None:
            oid = self._trees.get(manifest.digest)
            return oid if oid is not None and objects.is_readable(oid) else None

        self._until(lambda: tree() is not None)
        found = tree()
        items = model_items(objects, found) if found is not None else ()
        return {id: oid for id, oid, is_delta in items if not is_delta}

    def _come(self, ids: Iterable[str], blobs: Mapping[str, bytes]) -> Iterator[str]:
        """The chunks in order, each when it has come, up to the first that does not."""
        objects = self._store.objects
        for id in ids:
            oid = blobs.get(id)
            if oid is None:
                return
            self._until(functools.partial(objects.is_readable, oid))
            if not objects.is_readable(oid):
                return
            yield id

    def _until(self, is_there: Callable[[], bool]) -> None:
        arriving = self._store.objects.arriving
        with arriving:
            arriving.wait_for(lambda: self._is_over or is_there())

    def _found(self, trees: Mapping[str, bytes]) -> None:
        with self._store.objects.arriving:
            self._trees.update(trees)
            self._store.objects.arriving.notify_all()

    def _run(self) -> None:
        try:
            self._bring(self._found)
        except Exception as error:  # told with each file that it concerns
            self._failure = error
        finally:
            with self._store.objects.arriving:
                self._is_over = True
                self._store.objects.arriving.notify_all()
