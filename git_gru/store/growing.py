"""A pack that is being written, and read at the same time: what has come is used while the rest is on its way."""

from git_gru.store.open_files import OpenFiles
from git_gru.store.pack_reader import Pack
from git_gru.store.packs import Entry, PackWriter


class GrowingPack(Pack):
    """The pack under way in `writer`. Its file keeps its bytes, and has another name, once it is finished."""

    def __init__(self, writer: PackWriter, files: OpenFiles) -> None:
        self.writer = writer
        self.path = writer.unfinished
        self.size = 0
        self._files = files

    def find(self, oid: bytes) -> int | None:
        """As `Pack.find`."""
        offset = self.writer.offset_of(oid)
        self.size = self.writer.size  # what is there now bounds what an entry may claim
        return offset

    def entry(self, oid: bytes) -> Entry | None:
        """As `Pack.entry`: what is not durable is not copied as it stands."""
        return None
