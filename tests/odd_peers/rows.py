"""The table: each odd peer, what it does, and what comes of it."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping

import attrs
import trio

from tests.odd_peers import plays as p
from tests.odd_peers.peer import Play
from tests.odd_peers.plays import CLIENT, SERVER, after, either, foreign, says, then
from tests.support.peers import TLS12, TLS13, VERSIONS
from tests.support.records import ALERT, APPLICATION_DATA, HANDSHAKE, make_record
from trio_duplex import (
    CertificateRejectedError,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    NotTLSError,
    PeerClosedError,
    Role,
    SelfConnectionError,
)
from trio_duplex.testing import PLAINTEXT

DEBUG, INFO = logging.DEBUG, logging.INFO
BROKEN = trio.BrokenResourceError

WINDOW = "in the window"
OPENING = "in its opening: we are the TLS server"
ANSWER = "in answer to our ClientHello: we are the TLS client"
HANDSHAKING = "in the handshake, either role"
OPEN = "on an open connection, either role"


@attrs.frozen(kw_only=True)
class Row:
    """One odd peer.

    Attributes:
        name: For the test.
        phase: When it is odd.
        peer: What it does: a clause of which it is the subject.
        plays: Does it; several where it can be done in several ways, by name.
        error: What the connection ends in; None if the peer is served.
        cause: Of a `trio.BrokenResourceError` on an open connection.
        role: The TLS role that we take; None if none is taken; both where the
            plays differ in it.
        alert: What the peer is sent; by version where that differs.
        level: Of the log line.
        versions: The TLS versions where it applies.
    """

    name: str
    phase: str
    peer: str
    plays: Mapping[str, Play]
    error: type[Exception] | None
    cause: type[Exception] | None = None
    role: Role | tuple[Role, Role] | None
    alert: str | Mapping[ssl.TLSVersion, str | None] | None = None
    level: int = INFO
    versions: tuple[ssl.TLSVersion, ...] = VERSIONS

    def alert_in(self, version: ssl.TLSVersion) -> str | None:
        return self.alert[version] if isinstance(self.alert, Mapping) else self.alert


def row(
    phase: str, name: str, peer: str, plays: Play | Mapping[str, Play], **outcome: object
) -> Row:
    made = plays if isinstance(plays, Mapping) else {"": plays}
    return Row(name=name, phase=phase, peer=peer, plays=made, **outcome)  # type: ignore[arg-type]


LEAVING = (p.hangs_up, p.half_closes, p.resets)
BOTH = (SERVER, CLIENT)

ROWS: tuple[Row, ...] = (
    row(
        WINDOW,
        "leaves",
        "hangs up, half-closes or resets, at once or later",
        either(*LEAVING)
        | {f"{name} later": play for name, play in then(p.waits, *LEAVING).items()},
        error=PeerClosedError,
        role=None,
        level=DEBUG,
    ),
    row(
        WINDOW,
        "urgent byte, speaks",
        "sends a byte out of band (`MSG_OOB`), then a ClientHello; another when it is open",
        p.urgent_then_speaks,
        error=None,
        role=SERVER,
    ),
    row(
        WINDOW,
        "urgent byte, silent",
        "sends a byte out of band and stays silent; another when it is open",
        p.urgent_then_silent,
        error=None,
        role=CLIENT,
    ),
    # ------------------------------------------------------------------------------------ opening
    row(
        OPENING,
        "partial hello, stays",
        "sends up to 42 bytes of a ClientHello and no more",
        {str(size): after(p.start_of_hello(size), p.stays) for size in (1, 5, 42)},
        error=HandshakeTimeoutError,
        role=SERVER,
    ),
    row(
        OPENING,
        "partial hello, leaves",
        "sends up to 42 bytes of a ClientHello and hangs up, half-closes or resets",
        {
            f"{name}, {size}": after(p.start_of_hello(size), p.waits, play)
            for name, play in either(*LEAVING).items()
            for size in (1, 5, 42)
        },
        error=PeerClosedError,
        role=SERVER,
        level=DEBUG,
    ),
    row(
        OPENING,
        "hello, stays",
        "sends more of a ClientHello, or all, and no more",
        {
            "43": after(p.start_of_hello(43), p.stays),
            "200": after(p.start_of_hello(200), p.stays),
            "all": after(p.whole_hello, p.stays),
        },
        error=HandshakeTimeoutError,
        role=SERVER,
    ),
    row(
        OPENING,
        "hello, leaves",
        "sends more of a ClientHello, or all, and hangs up, half-closes or resets",
        {
            f"{name}, {size}": after(p.start_of_hello(size), p.waits, play)
            for name, play in either(*LEAVING).items()
            for size in (43, 200, 100_000)
        },
        error=HandshakeError,
        role=SERVER,
        level=DEBUG,
    ),
    row(
        OPENING,
        "hello in records of 1",
        "sends its ClientHello in records of one byte",
        p.hello_in_records_of_1,
        error=None,
        role=SERVER,
    ),
    row(
        OPENING,
        "hello byte by byte",
        "sends a hundred bytes of its ClientHello one by one",
        p.hello_byte_by_byte,
        error=None,
        role=SERVER,
    ),
    row(
        OPENING,
        "hello in drips",
        "sends its ClientHello so slowly that the handshake timeout passes",
        p.hello_in_drips,
        error=HandshakeTimeoutError,
        role=SERVER,
    ),
    row(
        OPENING,
        "hello of 60 KB",
        "sends a ClientHello of 60 KB, in several records",
        p.hello_of_60_kb,
        error=None,
        role=SERVER,
    ),
    row(
        OPENING,
        "hello of 200 KB",
        "announces a ClientHello of 200 KB (OpenSSL takes 128 KB)",
        p.hello_of_200_kb,
        error=HandshakeError,
        role=SERVER,
        alert="illegal_parameter",
    ),
    row(
        OPENING,
        "malformed hello",
        "sends a ClientHello that is malformed",
        p.malformed_hello,
        error=HandshakeError,
        role=SERVER,
        alert="decode_error",
    ),
    row(
        OPENING,
        "hello among empty records",
        "hides its ClientHello among empty records",
        p.hello_among_empty_records,
        error=HandshakeError,
        role=SERVER,
        alert="decode_error",
    ),
    row(
        OPENING,
        "hello, garbage",
        "sends a valid ClientHello and then garbage",
        {
            "random": after(p.whole_hello, says(bytes(range(0x80, 0xC0)) * 2), p.stays),
            "text": after(p.whole_hello, says(b"GET / HTTP/1.1\r\n\r\n"), p.stays),
        },
        error=HandshakeError,
        role=SERVER,
        alert="protocol_version",
    ),
    row(
        OPENING,
        "hello, too long a record",
        "sends a valid ClientHello and then a record that is too long",
        after(p.whole_hello, says(make_record(APPLICATION_DATA, bytes(0x4801))), p.stays),
        error=HandshakeError,
        role=SERVER,
        alert="record_overflow",
    ),
    row(
        OPENING,
        "another protocol",
        "speaks another protocol, or none: each that `classify` names, and more",
        {name: foreign(data) for name, data in p.FOREIGN.items()},
        error=NotTLSError,
        role=SERVER,
    ),
    row(
        OPENING,
        "SSLv2",
        "sends an SSLv2 ClientHello",
        foreign(PLAINTEXT["sslv2"]),
        error=NotTLSError,
        role=SERVER,
    ),
    row(
        OPENING,
        "alert",
        "sends an alert first",
        {
            "fatal": foreign(make_record(ALERT, b"\x02\x28")),
            "close_notify": foreign(make_record(ALERT, b"\x01\x00")),
        },
        error=NotTLSError,
        role=SERVER,
    ),
    row(
        OPENING,
        "ServerHello",
        "sends a ServerHello first",
        foreign(make_record(HANDSHAKE, b"\x02\0\0\x26" + bytes(38))),
        error=NotTLSError,
        role=SERVER,
    ),
    row(
        OPENING,
        "another record",
        "sends another TLS record first, or an empty one",
        {
            "data": foreign(make_record(APPLICATION_DATA, bytes(32))),
            "Certificate": foreign(make_record(HANDSHAKE, b"\x0b\0\0\x26" + bytes(38))),
            "empty": foreign(b"\x16\x03\x01\0\0" + bytes(64)),
        },
        error=NotTLSError,
        role=SERVER,
    ),
    row(
        OPENING,
        "too long a record",
        "sends a record that is too long first",
        {
            "handshake": foreign(b"\x16\x03\x01\xff\xff\x01" + bytes(64)),
            "data": foreign(b"\x17\x03\x03\x40\x01" + bytes(64)),
        },
        error=NotTLSError,
        role=SERVER,
        alert="record_overflow",
    ),
    row(
        OPENING,
        "splice",
        "relays a ClientHello that we sent on another connection",
        p.hello_of_ours,
        error=SelfConnectionError,
        role=SERVER,
        alert="handshake_failure",
    ),
    # ------------------------------------------------------------------------------------- answer
    row(
        ANSWER,
        "silence",
        "says nothing",
        after(p.greeted, p.stays),
        error=HandshakeTimeoutError,
        role=CLIENT,
    ),
    row(
        ANSWER,
        "leaves",
        "hangs up, half-closes or resets",
        then(p.greeted, *LEAVING),
        error=HandshakeError,
        role=CLIENT,
        level=DEBUG,
    ),
    row(
        ANSWER,
        "partial answer, stays",
        "begins a ServerHello, or sends it without its Finished, and no more",
        {str(size): after(p.part_of_flight(size), p.stays) for size in (1, 5, 50, 200)},
        error=HandshakeTimeoutError,
        role=CLIENT,
    ),
    row(
        ANSWER,
        "partial answer, leaves",
        "begins a ServerHello, or sends it without its Finished, and hangs up, half-closes or resets",
        {
            f"{name}, {size}": after(p.part_of_flight(size), p.waits, play)
            for name, play in either(*LEAVING).items()
            for size in (1, 5, 50, 200)
        },
        error=HandshakeError,
        role=CLIENT,
        level=DEBUG,
    ),
    row(
        ANSWER,
        "byte by byte",
        "answers, and sends a hundred bytes of it one by one",
        p.answer_byte_by_byte,
        error=None,
        role=CLIENT,
    ),
    row(
        ANSWER,
        "another protocol",
        "answers in another protocol, or none",
        {
            name: after(p.greeted, foreign(p.FOREIGN[name]))
            for name in ("SSH", "SMTP, FTP", "HTTP answer", "zeros", "random bytes")
        },
        error=NotTLSError,
        role=CLIENT,
    ),
    row(
        ANSWER,
        "alert",
        "answers with an alert",
        after(p.greeted, foreign(make_record(ALERT, b"\x02\x28"))),
        error=HandshakeError,
        role=CLIENT,
    ),
    row(
        ANSWER,
        "malformed ServerHello",
        "answers with a ServerHello that is malformed",
        p.malformed_server_hello,
        error=HandshakeError,
        role=CLIENT,
        alert="decode_error",
    ),
    row(
        ANSWER,
        "too long a record",
        "answers with a record that is too long",
        after(p.greeted, foreign(b"\x16\x03\x03\x48\x01\x02" + bytes(64))),
        error=NotTLSError,
        role=CLIENT,
        alert="record_overflow",
    ),
    row(
        ANSWER,
        "data",
        "answers with data",
        after(p.greeted, foreign(make_record(APPLICATION_DATA, bytes(64)))),
        error=HandshakeError,
        role=CLIENT,
        alert="unexpected_message",
    ),
    row(
        ANSWER,
        "glare",
        "answers with a ClientHello of its own, and can't resolve the glare",
        p.crosses,
        error=GlareError,
        role=CLIENT,
    ),
    row(
        ANSWER,
        "echo",
        "sends our own ClientHello back",
        p.echoes,
        error=SelfConnectionError,
        role=CLIENT,
        alert="unexpected_message",
    ),
    # --------------------------------------------------------------------------------- handshaking
    row(
        HANDSHAKING,
        "no certificate",
        "has no certificate, as TLS client",
        p.speaks(p.without_certificate),
        error=HandshakeError,
        role=SERVER,
        alert={TLS12: "handshake_failure", TLS13: "certificate_required"},
    ),
    row(
        HANDSHAKING,
        "unknown authority",
        "has a certificate of an authority that we do not trust",
        {
            "as TLS client": p.speaks(p.of_strangers(CLIENT)),
            "as TLS server": p.is_silent(p.of_strangers(SERVER)),
        },
        error=HandshakeError,
        role=BOTH,
        alert="unknown_ca",
    ),
    row(
        HANDSHAKING,
        "no trust in us",
        "does not trust our certificate",
        {
            "as TLS client": p.speaks(p.trusting_strangers(CLIENT)),
            "as TLS server": p.is_silent(p.trusting_strangers(SERVER)),
        },
        error=HandshakeError,
        role=BOTH,
        versions=(TLS12,),
    ),
    row(
        HANDSHAKING,
        "no trust in us, client",
        "does not trust our certificate, as TLS client",
        p.speaks(p.trusting_strangers(CLIENT)),
        error=HandshakeError,
        role=SERVER,
        versions=(TLS13,),
    ),
    row(
        HANDSHAKING,
        "no trust in us, server",
        "does not trust our certificate, as TLS server: it says so after our handshake",
        p.is_silent(p.trusting_strangers(SERVER)),
        error=CertificateRejectedError,
        role=CLIENT,
        versions=(TLS13,),
    ),
    row(
        HANDSHAKING,
        "TLS 1.1, client",
        "speaks TLS 1.1 at most, as TLS client",
        p.speaks(p.too_old(CLIENT)),
        error=HandshakeError,
        role=SERVER,
        alert="protocol_version",
    ),
    row(
        HANDSHAKING,
        "TLS 1.1, server",
        "speaks TLS 1.1 at most, as TLS server: the alert is the peer's",
        p.is_silent(p.too_old(SERVER)),
        error=HandshakeError,
        role=CLIENT,
    ),
    row(
        HANDSHAKING,
        "hangs up on the policy",
        "hangs up while the peer policy is asked",
        p.pondered_then(p.hangs_up, *BOTH),
        error=BROKEN,
        cause=ssl.SSLEOFError,
        role=BOTH,
    ),
    row(
        HANDSHAKING,
        "half-closes on the policy",
        "half-closes while the peer policy is asked",
        p.pondered_then(p.half_closes, *BOTH),
        error=BROKEN,
        cause=ssl.SSLEOFError,
        role=BOTH,
        alert="decode_error",
    ),
    row(
        HANDSHAKING,
        "resets on the policy, server",
        "resets while the peer policy is asked, as TLS server",
        p.pondered_then(p.resets, SERVER),
        error=BROKEN,
        cause=ConnectionResetError,
        role=CLIENT,
        versions=(TLS12,),
    ),
    row(
        HANDSHAKING,
        "resets on the policy, client",
        "resets while the peer policy is asked, as TLS client",
        p.pondered_then(p.resets, CLIENT),
        error=BROKEN,
        cause=ConnectionResetError,
        role=SERVER,
        versions=(TLS13,),
    ),
    row(
        HANDSHAKING,
        "resets on the policy, client",
        "resets while the peer policy is asked, as TLS client: our last flight was held back",
        p.pondered_then(p.resets, CLIENT),
        error=HandshakeError,
        role=SERVER,
        versions=(TLS12,),
    ),
    row(
        HANDSHAKING,
        "resets on the policy, server",
        "resets while the peer policy is asked, as TLS server: our last flight was held back",
        p.pondered_then(p.resets, SERVER),
        error=HandshakeError,
        role=CLIENT,
        versions=(TLS13,),
    ),
    # ---------------------------------------------------------------------------------------- open
    row(
        OPEN,
        "half-closed",
        "ends with close_notify and FIN, and goes on reading",
        p.open_then(p.ends_in_half),
        error=None,
        role=BOTH,
    ),
    row(
        OPEN,
        "ragged end",
        "hangs up without close_notify: a ragged end",
        p.open_then(p.hangs_up),
        error=BROKEN,
        cause=ssl.SSLEOFError,
        role=BOTH,
    ),
    row(
        OPEN,
        "ragged end, half-closed",
        "half-closes without close_notify, and goes on reading",
        p.open_then(p.half_closes),
        error=BROKEN,
        cause=ssl.SSLEOFError,
        role=BOTH,
        alert="decode_error",
    ),
    row(
        OPEN,
        "reset",
        "resets",
        p.open_then(p.resets),
        error=BROKEN,
        cause=ConnectionResetError,
        role=BOTH,
    ),
    row(
        OPEN,
        "reset while we send",
        "resets while we send",
        p.open_then(p.resets_unread),
        error=BROKEN,
        cause=OSError,
        role=BOTH,
    ),
    row(
        OPEN,
        "gone as we close",
        "is gone as we close",
        p.open_then(p.is_asked_to_leave),
        error=None,
        role=BOTH,
    ),
    row(
        OPEN,
        "garbage",
        "sends a record that no key opens",
        p.open_then(p.says_garbage),
        error=BROKEN,
        cause=ssl.SSLError,
        role=BOTH,
        alert="bad_record_mac",
    ),
    row(
        OPEN,
        "plain text",
        "sends something that is not TLS",
        p.open_then(p.says_plain_text),
        error=BROKEN,
        cause=ssl.SSLError,
        role=BOTH,
        alert="protocol_version",
    ),
    row(
        OPEN,
        "too long a record",
        "sends a record that is too long",
        p.open_then(p.says_too_long_a_record),
        error=BROKEN,
        cause=ssl.SSLError,
        role=BOTH,
        alert="record_overflow",
    ),
    row(
        OPEN,
        "renegotiation",
        "asks for a renegotiation: a HelloRequest, or a second ClientHello",
        {
            "HelloRequest": p.forges(SERVER, p.hello_request),
            "ClientHello": p.forges(CLIENT, p.another_hello),
        },
        error=None,
        role=BOTH,
        alert="no_renegotiation, a warning",
        versions=(TLS12,),
    ),
    row(
        OPEN,
        "renegotiation",
        "sends a HelloRequest or a second ClientHello, which TLS 1.3 has not",
        {
            "HelloRequest": p.forges(SERVER, p.hello_request),
            "ClientHello": p.forges(CLIENT, p.another_hello),
        },
        error=BROKEN,
        cause=ssl.SSLError,
        role=BOTH,
        alert="unexpected_message",
        versions=(TLS13,),
    ),
    row(
        OPEN,
        "stops reading",
        "stops reading while we send (`send_timeout`)",
        p.open_then(p.stops_reading),
        error=BROKEN,
        role=BOTH,
    ),
    row(
        OPEN,
        "clogged at close",
        "stops reading as we close (`close_timeout`)",
        p.open_then(p.stops_reading_as_we_close),
        error=None,
        role=BOTH,
    ),
    row(
        OPEN,
        "idle",
        "falls silent, or is gone without a trace (`idle_timeout`)",
        p.open_then(p.falls_silent),
        error=BROKEN,
        role=BOTH,
    ),
)
