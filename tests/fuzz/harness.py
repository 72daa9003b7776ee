"""The pure parts under any bytes: targets for a coverage-guided fuzzer (`run_atheris.py`) and the tests."""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import ssl
from collections.abc import Callable
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.authority import AUTHORITY, STRANGERS, rsa_key
from tests.support.contexts import new_context
from tests.support.records import HANDSHAKE, make_record
from trio_duplex import (
    AllOf,
    AnyOf,
    CredentialsError,
    NamedByAddress,
    NamedPeer,
    PeerIdentity,
    PeerRejectedError,
    PinnedPeer,
    Role,
    RolesAllowed,
)
from trio_duplex._trust.blocks import find_private_key, load_revocation_lists
from trio_duplex._trust.pem import Pem
from trio_duplex._trust.policy import judge
from trio_duplex._wire.cost import object_to_client_hello, object_to_server_hello
from trio_duplex._wire.hello import HelloKind, HelloReader, client_hello_random, whole_hello
from trio_duplex.certificates import check_certificate
from trio_duplex.openings import Opening, OpeningKind, classify

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

# ------------------------------------------------------------------------------------------- targets


def opening(data: bytes) -> None:
    """What the bytes look like, however far they have come; and the random in them."""
    verdict: Opening | None = None
    for end in range(min(len(data), 30) + 1):
        now = classify(data[:end])
        assert now.looks_like.isascii()
        assert now.looks_like.isprintable()
        assert 0 < len(now.looks_like) < 80
        if verdict is not None:
            assert (now.kind, now.message) == (verdict.kind, verdict.message)
        elif now.kind is not OpeningKind.INCOMPLETE:
            verdict = now
    assert len(data) < 6 or verdict is not None

    found = client_hello_random(data)
    if found is not None:
        assert len(found) == 32
        # It needs no more than it has seen, and it may come in other records.
        assert client_hello_random(data + b"\xff" * 10) == found
        assert client_hello_random(recut(data, 1 + len(data) % 40)) == found
    for message_type in (1, 2):
        hello(data, message_type)


GROUPS = frozenset([23, 24, 25, 29, 30, *range(256, 261)])


def hello(data: bytes, message_type: int) -> None:
    """The hello in the bytes, if there is one, and what it would cost."""
    reader = HelloReader(message_type)
    kind = reader.feed(data)
    piecemeal = HelloReader(message_type)
    for byte in data:
        if piecemeal.feed(bytes([byte])) is not HelloKind.INCOMPLETE:
            break
    assert piecemeal.kind is kind
    quick = whole_hello(data, message_type)
    if kind is HelloKind.COMPLETE:
        message = reader.message
        assert len(message) == reader.size
        assert piecemeal.message == message
        assert quick is None or (quick[0], max(0, quick[1])) == (message, reader.behind)
        if (found := client_hello_random(data)) is not None and message_type == 1:
            assert message[6:38] == found
        object_to_client_hello(message, GROUPS)
        object_to_server_hello(message)
    else:
        assert quick is None
    # What is no hello at all must not raise either.
    object_to_client_hello(data, GROUPS)
    object_to_server_hello(data)


def recut(data: bytes, size: int) -> bytes:
    """The handshake messages in records of another size; an incomplete record counts as whole."""
    payload = b""
    while len(data) > 5:
        length = int.from_bytes(data[3:5], "big")
        if length and data[0] != HANDSHAKE:
            break
        payload += data[5 : 5 + length]
        data = data[5 + length :]
    return b"".join(
        make_record(HANDSHAKE, part)
        for part in (payload[start : start + size] for start in range(0, len(payload), size))
    )


POLICIES = (
    NamedPeer("a.example", "192.0.2.1", "spiffe://a.example/b"),
    NamedByAddress({"192.0.2.0/24": ["a.example"]}),
    PinnedPeer("sha256:" + "0" * 64),
    RolesAllowed({"a.example": {Role.SERVER}}),
    AllOf(NamedPeer("a.example"), NamedPeer("b.example")),
    AnyOf(NamedPeer("a.example"), NamedPeer("b.example")),
)


def identity(data: bytes) -> None:
    """A peer's certificate, and what the policies make of it."""
    try:
        peer = PeerIdentity.from_der(data)
    except ValueError:
        return
    assert str(peer).isascii()
    assert str(peer).isprintable()
    assert len(str(peer)) < 1000
    assert peer == PeerIdentity.from_der(data)
    for policy in POLICIES:
        with contextlib.suppress(PeerRejectedError, StopIteration):
            judge(policy, peer, Role.CLIENT, ("192.0.2.1", 1)).send(None)


def pem(data: bytes) -> None:
    """Our own certificate and key, as a user may hand them in."""
    with contextlib.suppress(CredentialsError):
        find_private_key(Pem("it", data))
    with contextlib.suppress(CredentialsError):
        load_revocation_lists(Pem("it", data))
    try:
        checks = check_certificate(certificate_chain=data, trust=data, now=NOW)
    except CredentialsError:
        return
    assert all(str(check) for check in checks)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "opening": opening,
    "identity": identity,
    "pem": pem,
}

# --------------------------------------------------------------------------------------------- seeds


def our_client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        new_context(Role.CLIENT).wrap_bio(
            ssl.MemoryBIO(), outgoing, server_hostname="a.example"
        ).do_handshake()
    return outgoing.read()


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Where to begin: bytes that get far."""
    if target == "opening":
        start = b"\x01\x00\x00\x50\x03\x03" + bytes(range(80))
        return (
            b"\x16\x03\x01\x00\x56" + start,
            b"".join(b"\x16\x03\x01\x00\x01" + start[i : i + 1] for i in range(60)),
            b"\x16\x03\x03\x00\x00\x14\x03\x03\x00\x00" * 3 + b"\x16\x03\x01\x00\x56" + start,
            our_client_hello(),
            # A HelloRetryRequest for ffdhe8192
            b"\x16\x03\x03\x00\x38\x02\x00\x00\x34\x03\x03"
            + bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
            + bytes.fromhex("00 1301 00 000c 002b0002 0304 00330002 0104"),
            b"\x15\x03\x03\x00\x02\x02\x28",
            b"\x80\x2e\x01\x00\x02",
            b"GET / HTTP/1.1\r\n",
        )
    leaf = AUTHORITY.issue_cert(
        "a.example", "*.b.example", "192.0.2.1", "2001:db8::1", common_name="a.example"
    )
    other = STRANGERS.issue("a.example", key=rsa_key()).as_trustme()
    if target == "identity":
        pems = [leaf.cert_chain_pems[0], other.cert_chain_pems[0], AUTHORITY.cert_pem]
        return tuple(
            x509.load_pem_x509_certificate(blob.bytes()).public_bytes(Encoding.DER) for blob in pems
        )
    return (
        leaf.private_key_and_cert_chain_pem.bytes() + AUTHORITY.cert_pem.bytes(),
        other.private_key_and_cert_chain_pem.bytes(),
    )


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A seed with a few changes, for where there is no atheris."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[at : at + 1] = chance.randbytes(1)
            case 1:
                data[at:at] = chance.randbytes(chance.randint(1, 9))
            case 2:
                del data[at : at + chance.randint(1, 9)]
            case _:
                del data[at:]
    return bytes(data)
