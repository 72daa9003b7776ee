"""Handshake messages on an open connection, which no TLS library lets a peer send just so.

The keys come from the key log (``SSLContext.keylog_filename``), and the records are made by hand, for the
one cipher suite of each TLS version that the peers here use.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
import struct
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.support.peers import TLS12, peer_context
from tests.support.records import APPLICATION_DATA, CHANGE_CIPHER_SPEC, split_records
from trio_duplex import Role

HELLO_REQUEST = b"\0\0\0\0"
"""A whole handshake message (RFC 5246 section 7.4.1.1)."""


def logging_context(role: Role, version: ssl.TLSVersion, log: Path) -> ssl.SSLContext:
    """The context of a peer whose keys are logged, and whose cipher suite is known."""
    context = peer_context(role, version)
    context.keylog_filename = str(log)
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")  # of TLS 1.2; 1.3 begins with AES-256
    if role is Role.SERVER:
        context.num_tickets = 0  # or the records of TLS 1.3 would not be counted from 0
    return context


def forger(version: ssl.TLSVersion, role: Role, log: Path, server_hello: bytes) -> Forger:
    """Read the keys of the connection that the log holds.

    Args:
        version: The TLS version.
        role: The role that the peer plays.
        log: The key log.
        server_hello: What the TLS server has sent, from its first byte on.
    """
    lines = [line.split() for line in log.read_text().splitlines() if line[0] != "#"]
    if version is not TLS12:
        secrets = {label: bytes.fromhex(secret) for label, _, secret in lines}
        return Forger13(secrets[f"{role.value.upper()}_TRAFFIC_SECRET_0"])
    ((_, client_random, master),) = lines
    randoms = server_hello[11:43] + bytes.fromhex(client_random)
    block = _prf(bytes.fromhex(master), b"key expansion" + randoms, 2 * 16 + 2 * 4)
    client, server = (block[:16], block[32:36]), (block[16:32], block[36:40])
    return Forger12(client, server) if role is Role.CLIENT else Forger12(server, client)


class Forger:
    """Makes encrypted records."""

    number: int
    """Of the next record."""

    def seal(self, kind: int, payload: bytes) -> bytes:
        """A record of this type."""
        made = self._sealed(kind, payload, struct.pack(">Q", self.number))
        self.number += 1
        return made

    def _sealed(self, kind: int, payload: bytes, number: bytes) -> bytes:
        raise NotImplementedError


class Forger12(Forger):
    """TLS 1.2, AES-128-GCM (RFC 5288); it can read, too.

    Args:
        mine: Key and salt for what the peer sends.
        theirs: For what it receives.
    """

    number = 1  # Finished was 0

    def __init__(self, mine: tuple[bytes, bytes], theirs: tuple[bytes, bytes]) -> None:
        self._key, self._salt = mine
        self._their_key, self._their_salt = theirs

    def _sealed(self, kind: int, payload: bytes, number: bytes) -> bytes:
        associated = number + struct.pack(">BHH", kind, 0x0303, len(payload))
        sealed = number + AESGCM(self._key).encrypt(self._salt + number, payload, associated)
        return struct.pack(">BHH", kind, 0x0303, len(sealed)) + sealed

    def opened(self, received: bytes) -> list[tuple[int, bytes]]:
        """The type and content of each encrypted record in all that was received."""
        every = list(split_records(received))
        first = 1 + [kind for kind, _ in every].index(CHANGE_CIPHER_SPEC)
        found = []
        for number, (kind, part) in enumerate(every[first:]):
            associated = struct.pack(">QBHH", number, kind, 0x0303, len(part) - 8 - 16)
            nonce = self._their_salt + part[:8]
            found.append((kind, AESGCM(self._their_key).decrypt(nonce, part[8:], associated)))
        return found


class Forger13(Forger):
    """TLS 1.3, AES-256-GCM.

    Args:
        secret: The application traffic secret of what the peer sends.
    """

    number = 0

    def __init__(self, secret: bytes) -> None:
        self._key, self._iv = (expand(secret, label, size) for label, size in KEYS)

    def _sealed(self, kind: int, payload: bytes, number: bytes) -> bytes:
        nonce = bytes(a ^ b for a, b in zip(self._iv, bytes(4) + number, strict=True))
        header = struct.pack(">BHH", APPLICATION_DATA, 0x0303, len(payload) + 1 + 16)
        return header + AESGCM(self._key).encrypt(nonce, payload + bytes([kind]), header)


KEYS = ((b"key", 32), (b"iv", 12))


def expand(secret: bytes, label: bytes, size: int) -> bytes:
    """RFC 8446 section 7.1, HKDF-Expand-Label."""
    info = struct.pack(">HB", size, 6 + len(label)) + b"tls13 " + label + b"\0"
    return HKDFExpand(hashes.SHA384(), size, info).derive(secret)


def _prf(secret: bytes, seed: bytes, size: int) -> bytes:
    """RFC 5246 section 5."""
    made, a = b"", seed
    while len(made) < size:
        a = hmac.digest(secret, a, hashlib.sha256)
        made += hmac.digest(secret, a + seed, hashlib.sha256)
    return made[:size]
