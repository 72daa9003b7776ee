"""One port for TLS and for a plain text protocol: looks at the first bytes, on threads and sockets.

A client that speaks TLS gets TLS; one that says anything else is told to go; one that says
nothing for a moment gets the text protocol's greeting, as FTP and SMTP clients expect.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections import Counter
from typing import Self

PATIENCE = 0.2  # seconds until a client counts as silent
GREETING = b"220 port sniffer\r\n"
GO_AWAY = b"500 I speak TLS, or wait for my greeting\r\n"


class PortSniffer:
    """The server; a context manager."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.seen: Counter[str] = Counter()
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []

    @property
    def address(self) -> tuple[str, int]:
        return self._listening.getsockname()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Accept no more, and wait for who is there."""
        if self._listening.fileno() == -1:
            return
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join()

    def _start(self, function, *args) -> None:
        thread = threading.Thread(target=function, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                stream, _ = self._listening.accept()
                self._start(self._serve, stream)

    def _serve(self, stream: socket.socket) -> None:
        with stream:
            kind = "broken"
            try:
                kind = self._sniff(stream)
                if kind == "tls":
                    self._serve_tls(stream)
                elif kind == "silent":
                    stream.sendall(GREETING)
                elif kind == "other":
                    stream.sendall(GO_AWAY)
            except OSError:
                kind = f"{kind}, broken"
            self.seen[kind] += 1

    def _sniff(self, stream: socket.socket) -> str:
        stream.settimeout(PATIENCE)
        try:
            first = stream.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return "silent"
        return "left" if not first else "tls" if first == b"\x16" else "other"

    def _serve_tls(self, stream: socket.socket) -> None:
        stream.settimeout(2)
        with self._context.wrap_socket(stream, server_side=True) as tls:
            while data := tls.recv(4096):
                tls.sendall(data)
            with contextlib.suppress(OSError):
                tls.unwrap()
