"""Nodes as network namespaces: each with an interface of its own to a switch, at a limited rate, and maybe with a delay.

Without a delay the nodes hang by veth pairs on a bridge, which stands in a namespace of its own, and `tc tbf` limits what each
sends and receives. Not every kernel has netem: with a delay the nodes have TUN devices, and a relay process passes their packets
on when their time has come, at the rate. (Sources: ip-netns(8), tc-tbf(8), the kernel's Documentation/networking/tuntap.rst.)
"""

import ctypes
import fcntl
import heapq
import os
import selectors
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "gru0"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_RELAY_MTU = 9000
_QUEUE_SECONDS = 0.2
"""What the relay lets wait at a node's own rate before it drops packets, as a switch does."""


@dataclass(frozen=True)
class Node:
    """A namespace and its address."""

    namespace: str
    address: str

    def enter(self) -> None:
        """Takes this process (its calling thread) into the namespace, for good."""
        descriptor = os.open(f"/run/netns/{self.namespace}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"namespace {self.namespace}")
        finally:
            os.close(descriptor)

    @property
    def command(self) -> tuple[str, ...]:
        """What stands before a command that is to run there."""
        return ("ip", "netns", "exec", self.namespace)

    def cut(self) -> None:
        """Takes its cable out."""
        _ip(f"-n {self.namespace} link set {INTERFACE} down")

    def mend(self) -> None:
        """Puts it in again."""
        _ip(f"-n {self.namespace} link set {INTERFACE} up")

    def kill(self) -> None:
        """`kill -9` of everything on it."""
        for pid in _ip(f"netns pids {self.namespace}").split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@dataclass(frozen=True)
class Link:
    """How nodes are connected: `mbit` per second each way (None: as fast as the machine can), `delay` seconds one way."""

    mbit: float | None = None
    delay: float = 0.0

    def __str__(self) -> str:
        rate = "no limit" if self.mbit is None else f"{self.mbit:g} Mbit/s"
        return rate + (f", {self.delay * 1000:g} ms" if self.delay else "")


def sent_bytes() -> int:
    """What the interface of this process's namespace has sent so far, by the kernel's own count: headers and all."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == INTERFACE:
            return int(numbers.split()[8])
    raise LookupError(f"no interface {INTERFACE} in this namespace")


@contextmanager
def network(count: int, link: Link) -> Iterator[Sequence[Node]]:
    """`count` nodes, gone again afterwards. Needs root: raises `SystemExit` with a sentence where namespaces cannot be made."""
    prefix = f"gru{os.getpid()}"
    nodes = [Node(f"{prefix}n{number}", f"10.88.0.{number + 1}") for number in range(count)]
    with ExitStack() as stack:
        for name in [node.namespace for node in nodes] + [f"{prefix}s"]:
            _ip(f"netns add {name}")
            stack.callback(_ip, f"netns delete {name}")
        for node in nodes:
            _ip(f"-n {node.namespace} link set lo up")
        if link.delay:
            stack.enter_context(_relay(nodes, link))
        else:
            _bridge(f"{prefix}s", nodes, link)
        yield nodes


def _bridge(switch: str, nodes: Sequence[Node], link: Link) -> None:
    _ip(f"-n {switch} link add bridge0 type bridge")
    _ip(f"-n {switch} link set bridge0 up")
    for number, node in enumerate(nodes):
        port = f"port{number}"
        _ip(f"-n {switch} link add {port} type veth peer name {INTERFACE} netns {node.namespace}")
        _ip(f"-n {switch} link set {port} master bridge0 up")
        _connect(node)
        if link.mbit is not None:
            for namespace, interface in ((node.namespace, INTERFACE), (switch, port)):
                limit = f"tbf rate {link.mbit:g}mbit burst 64k latency 50ms"
                _run(f"tc -n {namespace} qdisc add dev {interface} root {limit}")


def _connect(node: Node) -> None:
    """Gives its interface the address."""
    _ip(f"-n {node.namespace} address add {node.address}/24 dev {INTERFACE}")
    node.mend()


@contextmanager
def _relay(nodes: Sequence[Node], link: Link) -> Iterator[None]:
    """A process that carries packets between the nodes' TUN devices."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    devices = []
    try:
        for node in nodes:
            node.enter()
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            request = struct.pack("16sH22x", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(device, _TUNSETIFF, request)
            devices.append(device)
    finally:
        ctypes.CDLL(None).setns(here, _CLONE_NEWNET)
        os.close(here)
    for node in nodes:
        _ip(f"-n {node.namespace} link set {INTERFACE} mtu {_RELAY_MTU}")
        _connect(node)
    pid = os.fork()
    if pid == 0:
        try:
            _carry(
                {bytes(map(int, n.address.split("."))): d for n, d in zip(nodes, devices, strict=True)}, link
            )
        finally:
            os._exit(0)
    for device in devices:
        os.close(device)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _carry(devices: dict[bytes, int], link: Link) -> None:
    """Passes packets on for ever: out of a node no faster than the rate, and to the other one after the delay."""
    seconds_per_byte = 8 / (link.mbit * 1e6) if link.mbit is not None else 0.0
    free = dict.fromkeys(devices.values(), 0.0)
    under_way: list[tuple[float, int, int, bytes]] = []
    count = 0
    with selectors.DefaultSelector() as ready:
        for device in devices.values():
            ready.register(device, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            while under_way and under_way[0][0] <= now:
                _, _, device, packet = heapq.heappop(under_way)
                os.write(device, packet)
            patience = under_way[0][0] - now if under_way else None
            for key, _ in ready.select(patience):
                try:
                    packet = os.read(key.fd, _RELAY_MTU)
                except BlockingIOError:
                    continue
                target, now = devices.get(packet[16:20]), time.monotonic()
                if packet[0] >> 4 != 4 or target is None or free[key.fd] - now > _QUEUE_SECONDS:
                    continue
                free[key.fd] = max(now, free[key.fd]) + len(packet) * seconds_per_byte
                count += 1
                heapq.heappush(under_way, (free[key.fd] + link.delay, count, target, packet))


def _ip(words: str) -> str:
    return _run(f"ip {words}")


def _run(words: str) -> str:
    """What the command prints."""
    try:
        done = subprocess.run(words.split(), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{words}: no such program (it comes with the package iproute2)") from None
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr.strip()} (namespaces need root)")
    return done.stdout
