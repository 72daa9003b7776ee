"""What odd peers do, one function each."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import trio

from tests.odd_peers.act import Act
from tests.odd_peers.forge import HELLO_REQUEST, Forger12, forger, logging_context
from tests.support.peers import (
    ALERT,
    APPLICATION_DATA,
    AUTHORITY,
    HANDSHAKE,
    INTRUDER,
    NODE,
    STRANGER,
    peer_context,
    pin,
    record,
    recut,
)
from trio_duplex import Role

SERVER, CLIENT = Role.SERVER, Role.CLIENT
Play = Callable[[Act], Awaitable[object]]


# ------------------------------------------------------------------------- ways to leave or to stay


async def stays(act: Act) -> None:
    await act.hear_out()


async def hangs_up(act: Act) -> None:
    await act.hang_up()


async def half_closes(act: Act) -> None:
    await act.fin()
    await act.hear_out()


async def resets(act: Act) -> None:
    act.reset()


def after(*steps: Play) -> Play:
    """One after the other."""

    async def play(act: Act) -> None:
        for step in steps:
            await step(act)

    return play


def either(*ends: Play) -> dict[str, Play]:
    return {end.__name__.replace("_", " "): end for end in ends}


def then(before: Play, *ends: Play) -> dict[str, Play]:
    """The same beginning, with each of these ends."""
    return {end.__name__.replace("_", " "): after(before, end) for end in ends}


def says(data: bytes) -> Play:
    async def play(act: Act) -> None:
        await act.say(data)

    return play


async def waits(act: Act) -> None:
    await trio.sleep(0.2)


# --------------------------------------------------------------------------------------- in the window


async def urgent_then_speaks(act: Act) -> None:
    await act.say_urgently(b"!")
    await act.open(CLIENT)
    await act.say_urgently(b"!")
    await ends_well(act)


async def urgent_then_silent(act: Act) -> None:
    await act.say_urgently(b"!")
    await act.open(SERVER)
    await act.say_urgently(b"!")
    await ends_well(act)


async def ends_well(act: Act) -> None:
    assert await act.ask(b"still here") == b"still here"
    await act.say(act.close_notify())
    await act.hear_out()
    assert not act.was_reset


# -------------------------------------------------------------------------------------- in its opening


def start_of_hello(size: int) -> Play:
    async def play(act: Act) -> None:
        await act.say(act.hello()[:size])

    return play


async def whole_hello(act: Act) -> None:
    await act.say(act.hello())


async def hello_in_records_of_1(act: Act) -> None:
    await act.say(recut(act.hello(), 1))
    await act.open(CLIENT)
    await ends_well(act)


async def hello_byte_by_byte(act: Act) -> None:
    hello = act.hello()
    await act.say_bytewise(hello[:100], 0)
    await act.say(hello[100:])
    await act.open(CLIENT)
    await ends_well(act)


async def hello_in_drips(act: Act) -> None:
    """So slowly that it does not get done."""
    with trio.move_on_after(10):
        try:
            await act.say_bytewise(act.hello(), 0.05)
        except trio.BrokenResourceError:
            return


async def hello_of_60_kb(act: Act) -> None:
    context = peer_context(CLIENT, act.version)
    context.set_alpn_protocols([f"{number:0>250}" for number in range(240)])
    hello = act.hello(context)
    assert len(hello) > 60_000
    await act.say(hello)
    await act.open(CLIENT)
    await ends_well(act)


async def hello_of_200_kb(act: Act) -> None:
    """As its header says; there is no need to send it all."""
    hello = act.hello()
    body = b"\x01" + (200_000).to_bytes(3, "big") + hello[9:]
    await act.say(record(HANDSHAKE, body))
    await act.hear_out()


async def malformed_hello(act: Act) -> None:
    """Its session ID is longer than it is itself."""
    await act.say(record(HANDSHAKE, b"\x01\0\0\x26\x03\x03" + bytes(32) + b"\xff" + bytes(3)))
    await act.hear_out()


async def hello_among_empty_records(act: Act) -> None:
    """OpenSSL would take it, and we could not see whether it is one of ours."""
    parts = (record(HANDSHAKE, bytes([byte])) for byte in act.hello()[5:35])
    await act.say((record(HANDSHAKE, b"") * 3).join(parts))
    await act.hear_out()


async def hello_of_ours(act: Act) -> None:
    """A splice: what we say to one silent connection is relayed into another."""
    async with await trio.open_tcp_stream(*act.stream.socket.getpeername()[:2]) as stream:
        await act.say(b"\x16")  # or we would be TLS client here, too
        hello = await Act(stream, act.version, act.scratch).be_greeted()
        await act.say(hello[1:])
        await act.hear_out()


GARBAGE = bytes(range(0x80, 0xC0)) * 2

FOREIGN = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: node.example\r\n\r\n",
    "HTTP answer": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "PROXY v1": b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 8443\r\n",
    "PROXY v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12),
    "DTLS": b"\x16\xfe\xfd\0\0\0\0\0\0\0\0\0\x30\x01",
    "telnet": b"\xff\xfd\x18\xff\xfd\x20",
    "SIP": b"OPTIONS sip:node.example SIP/2.0\r\n\r\n",
    "SIP answer": b"SIP/2.0 200 OK\r\n\r\n",
    "RTSP": b"DESCRIBE rtsp://node.example/1 RTSP/1.0\r\n\r\n",
    "RTSP answer": b"RTSP/1.0 200 OK\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "SMTP, FTP": b"220 mail.example ESMTP\r\n",
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
    "zeros": bytes(64),
    "a line of text": b"hello?\r\n",
    "random bytes": b"\xc0\xff\xee" * 20,
}
"""Of each protocol that `classify` names, what its clients or servers send first."""


def foreign(data: bytes) -> Play:
    return after(says(data), stays)


# ------------------------------------------------------------------------ in answer to our ClientHello


async def greeted(act: Act) -> None:
    await act.be_greeted()


def part_of_flight(size: int) -> Play:
    async def play(act: Act) -> None:
        await act.say((await act.flight())[:size])

    return play


async def answer_byte_by_byte(act: Act) -> None:
    flight = await act.flight()
    await act.say_bytewise(flight[:100], 0)
    await act.say(flight[100:])
    await act.open(SERVER)
    await ends_well(act)


async def malformed_server_hello(act: Act) -> None:
    await act.be_greeted()
    await act.say(record(HANDSHAKE, b"\x02\0\0\x05hello"))
    await act.hear_out()


async def crosses(act: Act) -> None:
    await act.be_greeted()
    await act.say(act.hello())
    act.tls = None  # it will not go on
    await act.say(record(ALERT, b"\x02\x0a"))  # unexpected_message, as all TLS clients say
    await act.hear_out()


async def echoes(act: Act) -> None:
    await act.say(await act.be_greeted())
    await act.hear_out()


# ----------------------------------------------------------------------------------- in the handshake


def speaks(context: Callable[[Act], ssl.SSLContext]) -> Play:
    """A TLS client with this context, as far as it gets."""

    async def play(act: Act) -> None:
        try:
            await act.handshake(CLIENT, context(act))
        except (ssl.SSLError, AssertionError):
            pass
        await act.hear_out()

    return play


def is_silent(context: Callable[[Act], ssl.SSLContext]) -> Play:
    """A TLS server with this context, as far as it gets."""

    async def play(act: Act) -> None:
        try:
            await act.say(await act.flight(context(act)))
            await act.handshake(SERVER)
        except (ssl.SSLError, AssertionError):
            pass
        await act.hear_out()

    return play


def without_certificate(act: Act) -> ssl.SSLContext:
    return peer_context(CLIENT, act.version, certificate=None)


def of_strangers(role: Role) -> Callable[[Act], ssl.SSLContext]:
    return lambda act: peer_context(role, act.version, certificate=INTRUDER)


def trusting_strangers(role: Role) -> Callable[[Act], ssl.SSLContext]:
    return lambda act: peer_context(role, act.version, certificate=NODE, trust=STRANGER)


def too_old(role: Role) -> Callable[[Act], ssl.SSLContext]:
    def make(_: Act) -> ssl.SSLContext:
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

    async def play(act: Act) -> None:
        context = peer_context(role, act.version, certificate=PONDERED_CERTIFICATE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(act.handshake, role, context)  # our last flight may be held back
            await act.asked.wait()
            nursery.cancel_scope.cancel()
        act.verdict.set()

    return play


def pondered_then(end: Play, *roles: Role) -> dict[str, Play]:
    return {f"as TLS {role}": after(pondered(role), end) for role in roles}


# --------------------------------------------------------------------------------- on an open connection


def opened(role: Role) -> Play:
    async def play(act: Act) -> None:
        await act.open(role)

    return play


def open_then(*ends: Play) -> dict[str, Play]:
    return {
        f"{end.__name__.replace('_', ' ')}, as TLS {role}": after(opened(role), end)
        for role in Role
        for end in ends
    }


async def ends_in_half(act: Act) -> None:
    """close_notify and FIN; what we still send can be read."""
    await act.say(act.close_notify())
    await half_closes(act)
    assert not act.was_reset


async def says_garbage(act: Act) -> None:
    await act.say(record(APPLICATION_DATA, GARBAGE))
    await act.hear_out()


async def says_plain_text(act: Act) -> None:
    await act.say(b"GET / HTTP/1.1\r\n\r\n")
    await act.hear_out()


async def says_too_long_a_record(act: Act) -> None:
    await act.say(record(APPLICATION_DATA, bytes(0x4801)))
    await act.hear_out()


async def resets_unread(act: Act) -> None:
    """While it is being sent to."""
    await act.say(act.seal(b"flood"))
    await trio.sleep(0.05)
    act.reset()


async def is_asked_to_leave(act: Act) -> None:
    """We close; it is gone by then."""
    await act.say(act.seal(b"bye"))
    act.reset()


async def stops_reading(act: Act) -> None:
    await act.say(act.seal(b"flood"))
    await act.stop_reading()


async def stops_reading_as_we_close(act: Act) -> None:
    await act.say(act.seal(b"clog"))
    await act.stop_reading()


async def falls_silent(act: Act) -> None:
    assert await act.ask(b"idle") == b"idle"
    await act.hear_out()


def forges(role: Role, message: Callable[[], bytes]) -> Play:
    """Sends a handshake message on the open connection, under its keys."""

    async def play(act: Act) -> None:
        log = act.scratch / "keys"
        await act.open(role, logging_context(role, act.version, log))
        server_hello = act.sent if role is SERVER else act.received
        forge = forger(act.version, role, log, server_hello)
        forge.number += 1  # the record of data that `open` sent
        await act.say(forge.seal(HANDSHAKE, message()))
        if isinstance(forge, Forger12):
            await goes_on(act, forge)
        else:
            await act.hear_out()

    return play


async def goes_on(act: Act, forge: Forger12) -> None:
    """A warning, and then as if nothing had been."""
    await act.say(forge.seal(APPLICATION_DATA, b"still here"))
    while (found := forge.opened(act.received))[-1] != (APPLICATION_DATA, b"still here"):
        assert await act.hear(), found
    (warning,) = (plain for kind, plain in found if kind == ALERT)
    assert warning == b"\x01\x64"  # warning, no_renegotiation
    act.warned = "no_renegotiation, a warning"
    await act.say(forge.seal(ALERT, b"\x01\0"))
    await act.hear_out()


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
