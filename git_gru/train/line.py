"""What the launchers of a run's nodes say to each other: a TCP connection between node 0 and each other node. Free of torch.

A message is a line of JSON, an object whose `kind` says what it means; an empty line is a sign of life, which both ends send all
the time. An end that hears nothing for `silence` seconds takes the other for lost, and so does the other. Nothing is unpickled,
and whatever is no such line ends the connection.

    other node                                   node 0
    hello {name, address, number, nnodes}   →
                                            ←    welcome {number, run, commit, recipe, …}  or  refused {message}
    ready {workers}  or  refused {message}  →                 (refused: the node cannot take part)
                                            ←    train {index, rank, count, port, start, round_end}
                                            ←    halt {}                 (end your workers now: the generation is over)
    ended {index, failure}                  →                            (the workers are gone)
    leave {}                                →                            (the user of that node asks to stop)
                                            ←    end {state, message}    (the run is over, for you at least)
"""

import contextlib
import json
import queue
import socket
import threading
import time
from typing import Any

BEATS_IN_SILENCE = 4
"""Signs of life within the time after which an end counts as lost."""
SLOWEST_BEAT = 1.0
LONGEST = 1 << 26
"""Bytes of a message: a welcome brings the model's tokenizer."""
LOST = "lost"
"""The kind of the last message of every line, which the line itself adds: `reason` says why nothing more comes."""

Message = dict[str, Any]


class Line:
    """One end of a connection. Every message that comes is put into `inbox`, with `self`; the last one is `LOST`.

    Two threads, which end with the connection, read and give signs of life: whatever this process is busy with.
    """

    def __init__(
        self, connection: socket.socket, silence: float, inbox: "queue.SimpleQueue[tuple[Line, Message]]"
    ) -> None:
        self.silence = silence
        self.heard = time.monotonic()
        """When the last sign of life came."""
        self._connection, self._inbox = connection, inbox
        self._sending, self._over = threading.Lock(), threading.Event()
        for work in (self._read, self._beat):
            threading.Thread(target=work, name="git-gru-line", daemon=True).start()

    def send(self, kind: str, **fields: Any) -> None:
        """Sends a message. That the other end is lost is told by the inbox."""
        self._write(json.dumps({"kind": kind, **fields}).encode() + b"\n")

    def close(self) -> None:
        """Ends the connection; what was sent still arrives."""
        self._over.set()
        with contextlib.suppress(OSError):  # it has ended already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _write(self, data: bytes) -> None:
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(min(SLOWEST_BEAT, self.silence / BEATS_IN_SILENCE)):
            self._write(b"\n")

    def _read(self) -> None:
        reason = "the connection was closed"
        try:
            self._read_messages()
        except TimeoutError:
            reason = f"nothing was heard of it for {self.silence:g} seconds (launch.lost_after)"
        except OSError as error:
            reason = f"the connection broke: {error.strerror or error}"
        except (ValueError, RecursionError):
            reason = "it said what git-gru does not"
        self.close()
        self._inbox.put((self, {"kind": LOST, "reason": reason}))

    def _read_messages(self) -> None:
        """Until the connection ends. Raises TimeoutError after too long a silence, ValueError for what is no message."""
        rest = b""
        while len(rest) < LONGEST:
            self._connection.settimeout(self.silence)
            if not (data := self._connection.recv(1 << 16)):
                return
            self.heard = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            for message in map(json.loads, filter(None, lines)):
                if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
                    raise ValueError("no message")
                if message["kind"] != LOST:
                    self._inbox.put((self, message))
        raise ValueError("too long")
