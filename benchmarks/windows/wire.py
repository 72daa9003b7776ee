"""A real TCP path with delay and loss, made of two network namespaces and a TUN device in each.

netem is not in every kernel. So packets go through a process of ours: what one end's TUN
device sends waits there for half a round trip and leaves at the other's, or is lost. Needs
root and /dev/net/tun, on Linux; traffic stays in the two namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import ipaddress
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import attrs

_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001
_CLONE_NEWNET = 0x40000000
_MTU = 1500

LISTENER, DIALLER = "10.9.0.1", "10.9.0.2"
"""Addresses of the two ends."""

DIALLERS = ipaddress.IPv4Network("10.9.4.0/22")
"""More addresses of the dialler's end, each of which a socket there may bind."""


@attrs.frozen
class Wire:
    """The two ends of a path.

    Attributes:
        namespaces: A descriptor of each end's network namespace, by address.
    """

    namespaces: dict[str, int]

    def run(self, address: str, function: Callable[..., object], *args: object) -> int:
        """Run a function in a new process at one end; return the process's number."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            _enter(self.namespaces[address])
            function(*args)
            status = 0
        except BaseException as exc:  # noqa: BLE001 - a child must not go on as its parent
            print(f"wire: {address}: {exc!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)


@contextlib.contextmanager
def wire(round_trip: float, loss: float, *, seed: int = 0) -> Iterator[Wire]:
    """Make a path, and take it away afterwards.

    Args:
        round_trip: Seconds.
        loss: The rate at which packets are lost, each way.
        seed: Of the losses.

    Raises:
        OSError: There is no permission, or no TUN device.
    """
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    namespaces: dict[str, int] = {}
    devices: list[int] = []
    carrier = 0
    try:
        for name, own, other in (("tda", LISTENER, DIALLER), ("tdb", DIALLER, LISTENER)):
            _check(_libc().unshare(_CLONE_NEWNET), "unshare")
            namespaces[own] = os.open("/proc/self/ns/net", os.O_RDONLY)
            devices.append(_tun(name, own, other))
            # The dialler's end takes all of that network for its own, the listener's sends it there.
            route = f"local {DIALLERS} dev lo" if own == DIALLER else f"{DIALLERS} dev {name}"
            _ip(f"route add {route}")
        _enter(home)
        carrier = os.fork()
        if not carrier:
            try:
                _carry(devices[0], devices[1], round_trip / 2, loss, random.Random(seed))
            finally:
                os._exit(0)
        yield Wire(namespaces)
    finally:
        _enter(home)
        if carrier:
            os.kill(carrier, signal.SIGKILL)
            os.waitpid(carrier, 0)
        for descriptor in (*devices, *namespaces.values(), home):
            os.close(descriptor)


def _carry(one: int, other: int, delay: float, loss: float, rng: random.Random) -> None:
    """Carry packets between two devices until killed."""
    queue: list[tuple[float, int, int, bytes]] = []
    number = 0
    poll = select.epoll()
    for device in (one, other):
        poll.register(device, select.EPOLLIN)
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else 1.0
        for device, _ in poll.poll(wait):
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    packet = os.read(device, 2 * _MTU)
                    if packet[0] >> 4 == 4 and rng.random() >= loss:
                        number += 1
                        due = time.monotonic() + delay
                        heapq.heappush(
                            queue, (due, number, other if device == one else one, packet)
                        )
        while queue and queue[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(queue)
            with contextlib.suppress(OSError):  # its queue is full: lost, as in a router
                os.write(device, packet)


def _tun(name: str, own: str, other: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    _ip("link set lo up")
    _ip(f"addr add {own}/32 peer {other}/32 dev {name}")
    _ip(f"link set {name} up mtu {_MTU}")
    return device


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


def _enter(namespace: int) -> None:
    _check(_libc().setns(namespace, _CLONE_NEWNET), "setns")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12


def _check(result: int, name: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
