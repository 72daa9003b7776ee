"""What odd peers do, one function each: scripts of the shipped kit."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

import trio

from tests.odd_peers.forge import HELLO_REQUEST, Forger12, forger, logging_context
from tests.odd_peers.peer import OddPeer, Play
from tests.support.authority import AUTHORITY, STRANGER
from tests.support.peers import INTRUDER, NODE, peer_context, pin
from tests.support.records import ALERT, APPLICATION_DATA, HANDSHAKE, make_record, recut
from trio_duplex import Role
from trio_duplex.testing import GARBAGE, PLAINTEXT, End

SERVER, CLIENT = Role.SERVER, Role.CLIENT


# ------------------------------------------------------------------------- ways to leave or to stay


async def stays(peer: OddPeer) -> None:
    await peer.listen()


async def hangs_up(peer: OddPeer) -> None:
    await peer.wire.aclose()


async def half_closes(peer: OddPeer) -> None:
    await peer.wire.send_eof()
    await peer.listen()


async def resets(peer: OddPeer) -> None:
    await peer.wire.reset()


def after(*steps: Play) -> Play:
    """One after the other."""

    async def play(peer: OddPeer) -> None:
        for step in steps:
            await step(peer)

    return play


def either(*ends: Play) -> dict[str, Play]:
    return {end.__name__.replace("_", " "): end for end in ends}


def then(before: Play, *ends: Play) -> dict[str, Play]:
    """The same beginning, with each of these ends."""
    return {end.__name__.replace("_", " "): after(before, end) for end in ends}


def says(data: bytes) -> Play:
    async def play(peer: OddPeer) -> None:
        await peer.wire.send(data)

    return play


async def waits(peer: OddPeer) -> None:
    await trio.sleep(0.2)


# --------------------------------------------------------------------------------------- in the window


async def urgent_then_speaks(peer: OddPeer) -> None:
    await peer.tcp.socket.send(b"!", socket.MSG_OOB)
    await peer.open(CLIENT)
    await peer.tcp.socket.send(b"!", socket.MSG_OOB)
    await ends_well(peer)


async def urgent_then_silent(peer: OddPeer) -> None:
    await peer.tcp.socket.send(b"!", socket.MSG_OOB)
    await peer.open(SERVER)
    await peer.tcp.socket.send(b"!", socket.MSG_OOB)
    await ends_well(peer)


async def ends_well(peer: OddPeer) -> None:
    assert await peer.ask(b"still here") == b"still here"
    await peer.tls.send_close_notify()
    await peer.wire.receive_to_end()
    assert peer.report.end is not End.RESET


# -------------------------------------------------------------------------------------- in its opening


def start_of_hello(size: int) -> Play:
    async def play(peer: OddPeer) -> None:
        await peer.wire.send(peer.hello()[:size])

    return play


async def whole_hello(peer: OddPeer) -> None:
    await peer.wire.send(peer.hello())


async def hello_in_records_of_1(peer: OddPeer) -> None:
    await peer.wire.send(recut(peer.hello(), 1))
    await peer.open(CLIENT)
    await ends_well(peer)


async def hello_byte_by_byte(peer: OddPeer) -> None:
    hello = peer.hello()
    await peer.wire.dribble(hello[:100])
    await peer.wire.send(hello[100:])
    await peer.open(CLIENT)
    await ends_well(peer)


async def hello_in_drips(peer: OddPeer) -> None:
    """So slowly that it does not get done."""
    with trio.move_on_after(10):
        try:
            await peer.wire.dribble(peer.hello(), pause=0.05)
        except trio.BrokenResourceError:
            return


async def hello_of_60_kb(peer: OddPeer) -> None:
    context = peer_context(CLIENT, peer.version)
    context.set_alpn_protocols([f"{number:0>250}" for number in range(240)])
    hello = peer.hello(context)
    assert len(hello) > 60_000
    await peer.wire.send(hello)
    await peer.open(CLIENT)
    await ends_well(peer)


async def hello_of_200_kb(peer: OddPeer) -> None:
    """As its header says; there is no need to send it all."""
    hello = peer.hello()
    body = b"\x01" + (200_000).to_bytes(3, "big") + hello[9:]
    await peer.wire.send(make_record(HANDSHAKE, body))
    await peer.listen()


async def malformed_hello(peer: OddPeer) -> None:
    """Its session ID is longer than it is itself."""
    await peer.wire.send(
        make_record(HANDSHAKE, b"\x01\0\0\x26\x03\x03" + bytes(32) + b"\xff" + bytes(3))
    )
    await peer.listen()


async def hello_among_empty_records(peer: OddPeer) -> None:
    """OpenSSL would take it, and we could not see whether it is one of ours."""
    parts = (make_record(HANDSHAKE, bytes([byte])) for byte in peer.hello()[5:35])
    await peer.wire.send((make_record(HANDSHAKE, b"") * 3).join(parts))
    await peer.listen()


async def hello_of_ours(peer: OddPeer) -> None:
    """A splice: what we say to one silent connection is relayed into another."""
    async with await trio.open_tcp_stream(*peer.tcp.socket.getpeername()[:2]) as stream:
        await peer.wire.send(b"\x16")  # or we would be TLS client here, too
        hello = bytes(await stream.receive_some())
        await peer.wire.send(hello[1:])
        await peer.listen()


FOREIGN = {
    "HTTP": PLAINTEXT["http"],
    "HTTP answer": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PROXY v1": PLAINTEXT["proxy"],
    "PROXY v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    "DTLS": b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x30\x01",
    "telnet": b"\xff\xfd\x18\xff\xfd\x20",
    "SIP": PLAINTEXT["sip"],
    "SIP answer": b"SIP/2.0 200 OK\r\n\r\n",
    "RTSP": b"DESCRIBE rtsp://node.example/1 RTSP/1.0\r\n\r\n",
    "RTSP answer": b"RTSP/1.0 200 OK\r\n\r\n",
    "SSH": PLAINTEXT["ssh"],
    "SMTP, FTP": PLAINTEXT["smtp"],
    "NNTP": b"200 news.example ready\r\n",
    "POP3": b"+OK ready\r\n",
    "IMAP": b"* OK ready\r\n",
    "SMTP client": b"EHLO node.example\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "VNC": b"RFB 003.008\n",
    "XMPP, NETCONF": b'<?xml version="1.0"?><hello xmlns="urn:ietf:params:xml:ns:netconf:base:1.0">',
    "AMQP": b"AMQP\0\0\x09\x01",
    "BitTorrent": b"\x13BitTorrent protocol" + bytes(48),
    "STUN": b"\0\x01\0\0\x21\x12\xa4\x42" + bytes(12),
    "PostgreSQL, SSL": b"\0\0\0\x08\x04\xd2\x16\x2f",
    "PostgreSQL": b"\0\0\0\x28\0\x03\0\0user\0postgres\0\0",
    "MySQL": b"\x4a\0\0\0\x0a8.0.36\0" + bytes(60),
    "MQTT": b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04node",
    "LDAP": b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0",
    "LDAP StartTLS": b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037",
    "SMB": b"\0\0\0\x85\xffSMB\x72" + bytes(30),
    "RDP": b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
    "SOCKS4": b"\x04\x01\x01\xbb\xc0\0\x02\x01\0",
    "SOCKS5": b"\x05\x01\0",
    "zeros": PLAINTEXT["zeros"],
    "a line of text": b"hello?\r\n",
    "random bytes": b"\xc0\xff\xee" * 20,
}
"""Of each protocol that `classify` names, what its clients or servers send first."""


def foreign(data: bytes) -> Play:
    return after(says(data), stays)


# ------------------------------------------------------------------------ in answer to our ClientHello


async def greeted(peer: OddPeer) -> None:
    await peer.be_greeted()


def part_of_flight(size: int) -> Play:
    async def play(peer: OddPeer) -> None:
        await peer.wire.send((await peer.flight())[:size])

    return play


async def answer_byte_by_byte(peer: OddPeer) -> None:
    flight = await peer.flight()
    await peer.wire.dribble(flight[:100])
    await peer.wire.send(flight[100:])
    await peer.open(SERVER)
    await ends_well(peer)


async def malformed_server_hello(peer: OddPeer) -> None:
    await peer.be_greeted()
    await peer.wire.send(make_record(HANDSHAKE, b"\x02\0\0\x05hello"))
    await peer.listen()


async def crosses(peer: OddPeer) -> None:
    await peer.be_greeted()
    await peer.wire.send(peer.hello())
    peer.begun = None  # it will not go on
    # unexpected_message, as all TLS clients say
    await peer.wire.send(make_record(ALERT, b"\x02\x0a"))
    await peer.listen()


async def echoes(peer: OddPeer) -> None:
    await peer.wire.send(await peer.be_greeted())
    await peer.listen()


# ----------------------------------------------------------------------------------- in the handshake


def speaks(context: Callable[[OddPeer], ssl.SSLContext]) -> Play:
    """A TLS client with this context, as far as it gets."""

    async def play(peer: OddPeer) -> None:
        try:
            await peer.begin(CLIENT, context(peer)).handshake()
        except (ssl.SSLError, EOFError):
            pass
        await peer.listen()

    return play


def is_silent(context: Callable[[OddPeer], ssl.SSLContext]) -> Play:
    """A TLS server with this context, as far as it gets."""

    async def play(peer: OddPeer) -> None:
        try:
            await peer.wire.send(await peer.flight(context(peer)))
            await peer.tls.handshake()
        except (ssl.SSLError, EOFError):
            pass
        await peer.listen()

    return play


def without_certificate(peer: OddPeer) -> ssl.SSLContext:
    return peer_context(CLIENT, peer.version, certificate=None)


def of_strangers(role: Role) -> Callable[[OddPeer], ssl.SSLContext]:
    return lambda peer: peer_context(role, peer.version, certificate=INTRUDER)


def trusting_strangers(role: Role) -> Callable[[OddPeer], ssl.SSLContext]:
    return lambda peer: peer_context(role, peer.version, certificate=NODE, trust=STRANGER)


def too_old(role: Role) -> Callable[[OddPeer], ssl.SSLContext]:
    def make(_: OddPeer) -> ssl.SSLContext:
        context = peer_context(role)
        context.set_ciphers("ALL:@SECLEVEL=0")
        pin(context, ssl.TLSVersion.TLSv1_1)
        return context

    return make


PONDERED = "pondered.example"
"""The peer policy takes its time over who is called this."""

PONDERED_CERTIFICATE = AUTHORITY.issue_cert(PONDERED)


def pondered(role: Role) -> Play:
    """Handshake until the peer policy is asked; it answers when the next step is done."""

    async def play(peer: OddPeer) -> None:
        context = peer_context(role, peer.version, certificate=PONDERED_CERTIFICATE)
        async with trio.open_nursery() as nursery:
            # The server may hold its last flight back, and the handshake then waits.
            nursery.start_soon(peer.begin(role, context).handshake)
            await peer.asked.wait()
            nursery.cancel_scope.cancel()
        peer.verdict.set()

    return play


def pondered_then(end: Play, *roles: Role) -> dict[str, Play]:
    return {f"as TLS {role}": after(pondered(role), end) for role in roles}


# --------------------------------------------------------------------------------- on an open connection


def opened(role: Role) -> Play:
    async def play(peer: OddPeer) -> None:
        await peer.open(role)

    return play


def open_then(*ends: Play) -> dict[str, Play]:
    return {
        f"{end.__name__.replace('_', ' ')}, as TLS {role}": after(opened(role), end)
        for role in Role
        for end in ends
    }


async def ends_in_half(peer: OddPeer) -> None:
    """close_notify and FIN; what we still send can be read."""
    await peer.tls.send_close_notify()
    await peer.wire.send_eof()
    await peer.wire.receive_to_end()
    assert peer.report.end is not End.RESET


async def says_garbage(peer: OddPeer) -> None:
    await peer.wire.send(GARBAGE)
    await peer.listen()


async def says_plain_text(peer: OddPeer) -> None:
    await peer.wire.send(b"GET / HTTP/1.1\r\n\r\n")
    await peer.listen()


async def says_too_long_a_record(peer: OddPeer) -> None:
    await peer.wire.send(make_record(APPLICATION_DATA, bytes(0x4801)))
    await peer.listen()


async def resets_unread(peer: OddPeer) -> None:
    """While it is being sent to."""
    await peer.tls.send_all(b"flood")
    await trio.sleep(0.05)
    await peer.wire.reset()


async def is_asked_to_leave(peer: OddPeer) -> None:
    """We close; it is gone by then."""
    await peer.tls.send_all(b"bye")
    await peer.wire.reset()


async def wait_over(peer: OddPeer) -> None:
    """Read nothing, and wait until the connection has ended for the server."""
    with trio.fail_after(peer.patience):
        await peer.over.wait()


async def stops_reading(peer: OddPeer) -> None:
    await peer.tls.send_all(b"flood")
    await wait_over(peer)


async def stops_reading_as_we_close(peer: OddPeer) -> None:
    await peer.tls.send_all(b"clog")
    await wait_over(peer)


async def falls_silent(peer: OddPeer) -> None:
    assert await peer.ask(b"idle") == b"idle"
    await peer.listen()


def forges(role: Role, message: Callable[[], bytes]) -> Play:
    """Sends a handshake message on the open connection, under its keys."""

    async def play(peer: OddPeer) -> None:
        log = peer.scratch / "keys"
        await peer.open(role, logging_context(role, peer.version, log))
        server_hello = peer.report.sent if role is SERVER else peer.report.received
        forge = forger(peer.version, role, log, server_hello)
        forge.number += 1  # the record of data that `open` sent
        await peer.wire.send(forge.seal(HANDSHAKE, message()))
        if isinstance(forge, Forger12):
            await goes_on(peer, forge)
        else:
            await peer.listen()

    return play


async def goes_on(peer: OddPeer, forge: Forger12) -> None:
    """A warning, and then as if nothing had been."""
    await peer.wire.send(forge.seal(APPLICATION_DATA, b"still here"))
    while (found := forge.opened(peer.report.received))[-1] != (APPLICATION_DATA, b"still here"):
        assert await peer.wire.receive(), found
    (warning,) = (plain for kind, plain in found if kind == ALERT)
    assert warning == b"\x01\x64"  # warning, no_renegotiation
    peer.warned = "no_renegotiation, a warning"
    await peer.wire.send(forge.seal(ALERT, b"\x01\0"))
    await peer.wire.receive_to_end()  # OpenSSL has not seen what the forge has read


def hello_request() -> bytes:
    return HELLO_REQUEST


def another_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = peer_context(CLIENT).wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()[5:]
