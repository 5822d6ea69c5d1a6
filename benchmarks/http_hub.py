"""Hubs over HTTP, on loopback: `git http-backend` behind a small server that streams, and counts what passes its sockets.

The tests and the benchmarks share it. A *hub* is a bare repository below the server's folder.
"""

import contextlib
import functools
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

PIECE = 1 << 20
"""Most bytes that are held of one body."""

QUEUE = 0.01
"""Seconds of sending that a link of limited rate makes up for: what waits in a socket's buffer while the sender is late.

Without it, who sends small pieces loses the time that each oversleeps.
"""


def new_hub(folder: Path, *, filters: bool = True) -> Path:
    """A new bare repository that may be pushed to over HTTP; `filters` says whether it serves partial fetches."""
    settings = {
        "uploadpack.allowFilter": str(filters).lower(),
        "uploadpack.allowAnySHA1InWant": str(filters).lower(),
        "http.receivepack": "true",
    }
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(folder)], check=True)
    for key, value in settings.items():
        subprocess.run(["git", "-C", str(folder), "config", key, value], check=True)
    return folder


@functools.cache
def _backend() -> str:
    found = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True)
    return f"{found.stdout.strip()}/git-http-backend"


class Server(http.server.ThreadingHTTPServer):
    """Serves the hubs in the folder `root` by requests of the class `handler`.

    `received` and `sent` count bytes as they pass the sockets, headers included. `rate` is the most bytes a second that pass
    (None: as many as can), all connections together.
    """

    daemon_threads = True

    def __init__(self, root: Path, handler: "type[GitHandler]", address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), handler)
        self.address = address
        self.root = root
        self.received = self.sent = 0
        self.rate: float | None = None
        self._free = 0.0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The address of the folder `root`."""
        return f"http://{self.address}:{self.server_port}"

    def count(self, *, received: int = 0, sent: int = 0) -> None:
        """Adds to what has passed, and takes as long as the rate has it."""
        with self._lock:
            self.received += received
            self.sent += sent
            if self.rate is None:
                return
            self._free = max(self._free, time.monotonic() - QUEUE) + (received + sent) / self.rate
            wait = self._free - time.monotonic()
        time.sleep(max(0.0, wait))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: a client that hangs up is no error of the server."""


class _Counted:
    """One direction of a socket; `count` is told the bytes of each call."""

    def __init__(self, file: IO[bytes], count: "functools.partial[None]", name: str) -> None:
        self._file, self._count, self._name = file, count, name

    def _told(self, size: int) -> None:
        self._count(**{self._name: size})

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._told(len(data))
        return data

    def readline(self, limit: int = -1) -> bytes:
        data = self._file.readline(limit)
        self._told(len(data))
        return data

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self._told(len(data))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class GitHandler(http.server.BaseHTTPRequestHandler):
    """Answers what Git asks, by `git http-backend` (git-http-backend(1), RFC 3875)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every small answer waits 40 ms for the client's acknowledgement
    server: Server

    def setup(self) -> None:
        super().setup()
        count = functools.partial(self.server.count)
        self.rfile: Any = _Counted(self.rfile, count, "received")
        self.wfile: Any = _Counted(self.wfile, count, "sent")

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._git()

    def do_POST(self) -> None:
        self._git()

    def body(self) -> Iterator[bytes]:
        """The request's body in pieces."""
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (piece := self.rfile.read(min(left, PIECE))):
            left -= len(piece)
            yield piece

    def _git(self) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": "somebody",
        }
        with subprocess.Popen(
            [_backend()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            for piece in self.body():
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(piece)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            self._answer(process.stdout)

    def _answer(self, answer: Any) -> None:
        fields = {}
        while line := answer.readline().strip().decode():
            name, _, value = line.partition(": ")
            fields[name] = value
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(PIECE):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serving(root: Path, handler: type[GitHandler] = GitHandler) -> Iterator[Server]:
    """The hubs in `root` are served inside."""
    with Server(root, handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    """`http_hub.py FOLDER ADDRESS`: serves the hubs in the folder until it is killed; prints where."""
    with Server(Path(sys.argv[1]), GitHandler, sys.argv[2]) as server:
        print(server.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
