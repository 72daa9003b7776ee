"""Waiting for the first bytes of thousands of peers, in a set of their own.

A task that waits in ``trio.lowlevel.wait_readable`` holds five frames and objects
of Trio's for that alone, 1.2 of 4.9 KB for each pending peer, and each of them
makes every ``epoll_wait`` of the program reserve room for one event more. So a
server watches its pending peers with an epoll of its own, which is itself readable
when one of them is, and is all that Trio's sees of them. A peer that speaks later
than it is accepted is heard one pass of the scheduler later.

Only while `Crowd.watch` runs, and on Linux; otherwise one waits as Trio does.
"""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Awaitable
from typing import NoReturn

import attrs
import trio

AT_ONCE = 256
"""Peers to wake at a time; more are there at the next look."""


class Crowd:
    """The sockets that are waited for, and who waits for each.

    Raises:
        OSError: There is no descriptor left for it.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, _Wait] = {}
        # From the beginning, so that a server that has started holds all that it will.
        self._epoll: select.epoll | None = select.epoll() if sys.platform == "linux" else None
        self._watched = False

    def __len__(self) -> int:
        return len(self._waiting)

    def readable(self, socket: trio.socket.SocketType) -> Awaitable[None]:
        """Wait until a socket is readable; to be awaited at once, like a coroutine.

        May be woken for nothing. If somebody closes the socket meanwhile, who should
        not, nothing wakes it: Trio tells those alone who wait in its own epoll.

        Raises:
            trio.ClosedResourceError: It is closed.
        """
        if self._epoll is None or not self._watched:
            return trio.lowlevel.wait_readable(socket)  # noqa: ASYNC105 - by our caller
        fd = socket.fileno()
        if fd == -1:
            raise trio.ClosedResourceError("this socket was already closed")
        # Once: a socket that is closed, but has a duplicate, can't be removed any more,
        # and would be readable for ever.
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLONESHOT)
        wait = self._waiting[fd] = _Wait(self, fd, trio.lowlevel.current_task())
        # Not an async function around it, whose frame would be held for each peer.
        return trio.lowlevel.wait_task_rescheduled(wait)  # noqa: ASYNC105

    def stop(self, wait: _Wait) -> None:
        """Wait for a socket no longer."""
        # Where the socket was closed, the number may be that of another by now.
        if self._waiting.get(wait.fd) is wait:
            del self._waiting[wait.fd]
            if self._epoll is not None and not self._epoll.closed:
                with contextlib.suppress(OSError):  # closed: the kernel has forgotten it
                    self._epoll.unregister(wait.fd)

    async def watch(self) -> NoReturn:
        """Wake those whose sockets are readable; runs for ever, once."""
        if self._epoll is None:
            await trio.sleep_forever()
        with self._epoll as epoll:
            self._watched = True
            try:
                while True:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    for fd, _ in epoll.poll(0, AT_ONCE):
                        wait = self._waiting.get(fd)
                        if wait is not None:  # or a duplicate has outlived it
                            self.stop(wait)
                            trio.lowlevel.reschedule(wait.task)
            finally:
                # Who still waits is cancelled with us: by its server, or its listener.
                self._watched = False

    def close(self) -> None:
        """Give the epoll back, where `watch` never ran, and so did not do it."""
        if self._epoll is not None:
            self._epoll.close()


@attrs.frozen(eq=False, weakref_slot=False)
class _Wait:
    """One task that waits, and what Trio calls to cancel that; smaller than a closure."""

    crowd: Crowd
    fd: int
    task: trio.lowlevel.Task

    def __call__(self, _: object) -> trio.lowlevel.Abort:
        self.crowd.stop(self)
        return trio.lowlevel.Abort.SUCCEEDED
