"""TLS over bytes, without I/O: an ``SSLObject`` between its two memory BIOs.

Theory of operation
-------------------

OpenSSL reads records from one memory BIO and writes records to another. The engine owns
both. Its user carries bytes: what came from the transport goes in by `feed`, what is to
leave comes out of `take`, and nothing else touches the BIOs. So a user who sends all
that `take` gives, in that order, sends a correct stream of records whatever happened in between.

Three things are remembered here because OpenSSL or the transport forgets them:

* **Held tickets.** A TLS 1.3 server's session tickets are written when its handshake ends.
  They must not be sent before its first application data, because a peer that does not
  read yet could deadlock (python-trio/trio#819). But records are numbered, so nothing may
  overtake them. `hold` puts them aside, and the next `take` that gives anything puts
  them in front.
* **The failure.** After a fatal error OpenSSL answers every call with another, less telling
  one. The engine keeps the first and raises it again, even if the failing call was made
  through the bare ``SSLStream``.
* **The end.** A close_notify that was read together with data is delivered after the data.

Much data is decrypted while it is fed, part by part. Fed as a whole it would make OpenSSL's
buffer grow, which is never made smaller, and leave the processor's cache before it is decrypted.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from trio_duplex._role import Role
from trio_duplex._tls.buffer import make_buffer
from trio_duplex._tls.chain import verified_chain

RECORD_SIZE = 16 * 1024
"""Bytes of data in a TLS record, at most (RFC 8446 section 5.1)."""

PART = 64 * 1024
"""Bytes to feed OpenSSL at once. Its buffer grows to hold them, and stays so for the connection's life."""

MOST_KEPT = 512 * 1024
"""Bytes of a buffer that is kept for the next connection; a larger one is made for one call only."""

T = TypeVar("T")


class _Scratch(threading.local):
    """What data is decrypted into before its length is known: one buffer for each thread."""

    def __init__(self) -> None:
        self.view = make_buffer(PART)

    def of(self, size: int) -> memoryview:
        """Return the buffer, with at least so many bytes."""
        if len(self.view) >= size:
            return self.view
        made = make_buffer(size)
        if size <= MOST_KEPT:
            self.view = made
        return made


_SCRATCH = _Scratch()


class Engine:
    """One TLS connection in one role, as a function of bytes.

    Args:
        context: The TLS context for ``role``.
        role: The TLS role that we play.
        server_hostname: Name to send as SNI, in the client role.
        session: TLS session to resume, in the client role.

    Attributes:
        ssl_object: OpenSSL's connection. Only this class calls
            the methods that read, write or handshake.
        ended: Whether the peer's close_notify has been read.
        failure: The first fatal error, without its traceback, or None.
    """

    __slots__ = (
        "_aside",
        "_certificate",
        "_held",
        "_incoming",
        "_outgoing",
        "_said",
        "ended",
        "failure",
        "ssl_object",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        role: Role,
        *,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=role is Role.SERVER,
            server_hostname=server_hostname,
            session=session,
        )
        self.ended = False
        self.failure: ssl.SSLError | None = None
        self._held = b""
        self._aside: bytes | memoryview = b""  # data that was decrypted before it was asked for
        self._said = False  # whether that was written
        self._certificate: bytes | None = b""  # until it is asked for

    # ------------------------------------------------------------- bytes in and out

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in bytes that came from the transport."""
        self._incoming.write(data)

    def feed_and_decrypt(self, data: bytes | bytearray | memoryview) -> None:
        """Take in bytes that came after the handshake. Decrypt them if they are many; `read` returns that.

        Not during the handshake, since to decrypt is to go on with that: it may have to
        sign, which is another thread's work where our key is slow.
        """
        if len(data) <= PART or self._aside or self.ended or self.failure:
            self._incoming.write(data)
        else:
            self._feed_in_parts(memoryview(data))

    def _feed_in_parts(self, data: memoryview) -> None:
        view = _SCRATCH.of(len(data) + self._incoming.pending)
        length = fed = 0
        while fed < len(data) and not (self.ended or self.failure):
            self._incoming.write(data[fed : fed + PART])
            fed += PART
            length = self._read_into(view, length)
        self._aside = bytes(view[:length])
        self._incoming.write(data[fed:])  # what follows the end

    def feed_eof(self) -> None:
        """Take in that the transport has ended."""
        self._incoming.write_eof()

    @property
    def has_unread(self) -> bool:
        """Whether anything was fed that `read` has not returned yet."""
        return bool(self._aside or self._incoming.pending or self.ssl_object.pending())

    def unread(self) -> bytes:
        """Return what was fed and OpenSSL has not read: the bytes that follow the peer's close_notify."""
        return self._incoming.read()

    @property
    def owed(self) -> int:
        """How many bytes `take` would return, without held tickets."""
        return self._outgoing.pending

    def take(self) -> bytes:
        """Return the bytes to send next, held tickets first; ``b""`` if there is nothing to send."""
        words = self._outgoing.read()
        if words and self._held:
            words, self._held = self._held + words, b""
        return words

    def hold(self) -> None:
        """Hold back the bytes that are ready to send, until there are others to send after them."""
        self._held += self._outgoing.read()

    # ----------------------------------------------------------------- the handshake

    def handshake(self) -> bool:
        """Go on with the handshake as far as what was fed allows.

        Returns:
            Whether our end of it is done.

        Raises:
            ssl.SSLError: It failed; `take` returns the alert.
        """
        try:
            self.call(self.ssl_object.do_handshake)
        except ssl.SSLWantReadError:
            return False
        return True

    def peer_certificate(self) -> bytes | None:
        """The peer's leaf certificate, DER, once the handshake is done; None if it gave none."""
        if self._certificate == b"":  # kept, because after a fatal error OpenSSL has forgotten it
            self._certificate = self.ssl_object.getpeercert(binary_form=True)
        return self._certificate

    @property
    def session_reused(self) -> bool:
        """Whether a session was resumed, so that the peer's certificate was not verified again."""
        return bool(self.ssl_object.session_reused)

    def peer_chain(self) -> Sequence[bytes]:
        """The chain as TLS verified it, leaf first, DER; empty if the session was resumed."""
        return verified_chain(self.ssl_object)

    # ----------------------------------------------------------------- data

    def read(self, most: int) -> bytes | None:
        """Decrypt what has come, from all whole records, up to ``most`` bytes.

        A faulty record does not cost the data before it: its error is raised by
        the next call.

        Args:
            most: The most bytes to return, at least 1.

        Returns:
            Data; ``b""`` after the peer's close_notify; None if no whole record
            has come.

        Raises:
            ssl.SSLEOFError: The transport ended without a close_notify.
            ssl.SSLError: Another fatal error, with its alert owed.
        """
        if self._aside:
            return self._from_aside(most)
        if self.failure is not None:
            raise _twin(self.failure)
        if self.ended:
            return b""
        pending = self._incoming.pending
        if not pending and not self._incoming.eof and not self.ssl_object.pending():
            return None  # OpenSSL would raise for this, and an exception is slow
        try:
            if pending <= RECORD_SIZE or most <= RECORD_SIZE:
                # Mostly one record. The object's own buffer is sized by the argument.
                size = min(most, RECORD_SIZE, max(pending, self.ssl_object.pending(), 1))
                data = self.ssl_object.read(size)
                if not data:
                    self.ended = True
                elif len(data) < most and (self._incoming.pending or self.ssl_object.pending()):
                    return self._read_on(data, most)
                return data
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:  # in place of b"", where we have sent a close_notify too
            self.ended = True
            return b""
        except ssl.SSLError as exc:
            self.failure = _twin(exc)
        else:
            return self._read_on(b"", most)
        raise _twin(
            self.failure
        )  # here, so that the traceback of OpenSSL's error does not keep other objects alive

    def _from_aside(self, most: int) -> bytes:
        aside = self._aside
        self._aside = memoryview(aside)[most:] if len(aside) > most else b""
        return bytes(aside if len(aside) <= most else aside[:most])

    def _read_on(self, data: bytes, most: int) -> bytes | None:
        """Return ``data`` and all that has come; a failure after the first byte is raised by the next call."""
        length = len(data)
        most = min(most, length + self._incoming.pending + self.ssl_object.pending())
        view = _SCRATCH.of(most)[:most]
        view[:length] = data
        length = self._read_into(view, length)
        if self.failure is not None and not length:
            raise _twin(self.failure)
        return bytes(view[:length]) if length or self.ended else None

    def _read_into(self, view: memoryview, length: int) -> int:
        """Decrypt what has come into ``view`` after its first ``length`` bytes; return how many it has then."""
        try:
            while length < len(view) and (self._incoming.pending or self.ssl_object.pending()):
                # SSLObject.read(length, buffer) is typed as returning bytes; it returns a count.
                count: Any = self.ssl_object.read(len(view) - length, view[length:])
                if not count:
                    self.ended = True
                    break
                length += count
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLError as exc:
            self.failure = _twin(exc)
        return length

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt data; it is owed then.

        Raises:
            ssl.SSLError: TLS has failed, or the connection was closed by us.
        """
        self.call(self.ssl_object.write, data)

    def close_notify(self) -> None:
        """Write a close_notify: we will send no more.

        TLS refuses to say so while records of the peer's are unread, unless what
        it says of them is ignored; so it is.
        """
        if not self._said:
            self._said = True
            with contextlib.suppress(ssl.SSLError):  # OpenSSL waits for the peer's, we do not
                self.ssl_object.unwrap()

    def unwrap(self) -> None:
        """Exchange close_notifies, as ``SSLObject.unwrap`` does.

        Raises:
            ssl.SSLWantReadError: The peer's has not come.
            ssl.SSLError: Data of the peer's is unread, also if it was decrypted before; or
                TLS has failed before.
        """
        if self._aside and self.failure is None:
            self.close_notify()
            reason = "APPLICATION_DATA_AFTER_CLOSE_NOTIFY"
            self.failure = ssl.SSLError(
                ssl.SSL_ERROR_SSL, f"[SSL: {reason}] application data after close notify"
            )
            self.failure.library, self.failure.reason = "SSL", reason
        self.call(self.ssl_object.unwrap)

    def half_close(self) -> None:
        """Write a close_notify, and go on reading.

        ``SSLObject.unwrap`` writes it, and looks for the peer's at once. Data that it finds
        in its place is a fatal error. So what has come is decrypted and put aside before, and
        the beginning of a record is taken away meanwhile.

        Raises:
            ssl.SSLError: TLS has failed before.
        """
        if self.failure is not None:
            raise _twin(self.failure)
        aside = bytearray()
        with contextlib.suppress(ssl.SSLError):  # a failure is raised by the next read
            while data := self.read(RECORD_SIZE):
                aside += data
        self._aside = bytes(aside)
        unread = self._incoming.read()
        self.close_notify()
        if unread and not self._incoming.eof:
            self._incoming.write(unread)

    def call(self, function: Callable[..., T], *args: object) -> T:
        """Call a method of the ``ssl_object``, and remember a fatal error.

        Raises:
            ssl.SSLWantReadError: More must be fed first.
            ssl.SSLError: TLS has failed, now or before.
        """
        if self.failure is not None:
            raise _twin(self.failure)
        try:
            return function(*args)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            raise
        except ssl.SSLError as exc:
            self.failure = _twin(exc)
        raise _twin(self.failure)


def _twin(error: ssl.SSLError) -> ssl.SSLError:
    """Return the same error without its traceback, whose frames would hold all that they saw.

    A transport that ends without a close_notify is an ``SSLEOFError``, also on CPython
    3.11.2 (Debian 12), which raises a plain ``SSLError`` for it.
    """
    ragged = error.reason == "UNEXPECTED_EOF_WHILE_READING"
    twin = (ssl.SSLEOFError if ragged else type(error))(*error.args)
    for name in ("library", "reason", "verify_code", "verify_message"):
        if hasattr(error, name):
            setattr(twin, name, getattr(error, name))
    return twin
