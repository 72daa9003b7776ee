"""What a scenario works with: servers that run, a client, and certificates."""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks import pki
from benchmarks.processes import Client, Process, raise_file_limit
from benchmarks.subjects import ECHO, FLOOR, HANDSHAKE, Options, Place, Running, Subject


class Bench:
    """Everything that the rounds of all scenarios share.

    Args:
        quick: Whether scenarios are to be small: to see that they work.

    Attributes:
        client: The process that makes the load.
        quick: As given.
    """

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._stack = contextlib.ExitStack()
        self._servers: dict[tuple[str, Options], Running] = {}
        self._backends: dict[str, int] = {}

    def __enter__(self) -> Self:
        raise_file_limit()
        gc.freeze()
        name = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-"))
        self._folder = pki.make(Path(name))
        self.client = self._stack.enter_context(Client(self._folder, self._folder / "client.log"))
        self._stack.callback(self.stop_servers)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def second_client(self) -> contextlib.AbstractContextManager[Client]:
        """One more process that makes load, beside the first."""
        return Client(self._folder, self._folder / "client.log")

    def server(self, subject: Subject, options: Options = Options()) -> Running:  # noqa: B008 - frozen
        """A server that runs to the end of the scenario, or of a quick run, warmed up when it is started."""
        key = (subject.name, options)
        if key not in self._servers:
            running = subject.start(self.place(options), options)
            self._servers[key] = running
            if FLOOR not in subject.abilities and options.handler in {ECHO, HANDSHAKE}:
                # With no window, whoever speaks meets our own ClientHello.
                do = "handshakes" if options.window else "silent_handshakes"
                count = 20 if self.quick else subject.warm_up
                self.client.call(do, port=running.port, count=count, in_flight=2)
        return self._servers[key]

    @contextlib.contextmanager
    def fresh_server(
        self,
        subject: Subject,
        options: Options = Options(),  # noqa: B008 - frozen
    ) -> Iterator[Running]:
        """A server that is started for this one measurement."""
        running = subject.start(self.place(options), options)
        try:
            yield running
        finally:
            self.client.call("release")
            running.process.stop()

    def stop_servers(self) -> None:
        """End what `server` started."""
        for running in self._servers.values():
            running.process.stop()
        self._servers.clear()

    def log_lines(self, name: str) -> int:
        """How many lines a subject's servers have logged so far, but for those of healthy peers."""
        path = self._folder / f"{name}.log"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return sum(b":closed " not in line for line in lines)

    def place(self, options: Options = Options()) -> Place:  # noqa: B008 - frozen
        """Where a subject finds its files, and a backend to relay to."""
        handler = options.handler if options.handler != HANDSHAKE else ECHO
        if handler not in self._backends:
            backend = Process(
                [
                    *(sys.executable, "-m", "benchmarks.servers.python_server", "backend"),
                    *(str(self._folder), f"--handler={handler}"),
                ],
                log=self._folder / "backend.log",
            )
            self._stack.callback(backend.stop)
            self._backends[handler] = int(backend.announced)
        return Place(folder=self._folder, backend=self._backends[handler])
