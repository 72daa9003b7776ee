"""The fuzzer's targets, on its seeds and on what is near them: they hold, and get somewhere."""

from __future__ import annotations

import random
import re
import ssl

import pytest

from trio_duplex import CredentialsError, PeerIdentity
from trio_duplex._wire.hello import client_hello_random
from trio_duplex.certificates import check_certificate
from trio_duplex.openings import OpeningKind, classify

from .effort import EXAMPLES
from .harness import NOW, TARGETS, mutated, seeds

pytestmark = pytest.mark.slow


@pytest.mark.filterwarnings("ignore")  # cryptography's, of what it will not take for ever
@pytest.mark.parametrize("target", TARGETS)
def test_targets_hold(target: str) -> None:
    chance = random.Random(None if EXAMPLES else 1)
    for seed in seeds(target):
        TARGETS[target](seed)
        for _ in range(EXAMPLES or 60):
            TARGETS[target](mutated(seed, chance))


def test_seeds_get_far() -> None:
    openings = seeds("opening")
    assert {classify(seed).kind for seed in openings} > {
        OpeningKind.CLIENT_HELLO,
        OpeningKind.NOT_TLS,
    }
    assert sum(client_hello_random(seed) is not None for seed in openings) >= 2
    assert any("a.example" in PeerIdentity.from_der(seed).names for seed in seeds("identity"))
    for seed in seeds("pem"):
        assert check_certificate(certificate_chain=seed, trust=seed, now=NOW)


LEAF = seeds("identity")[0]
UNREADABLE = {
    "version 35": LEAF.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020122")),
    # The organisation, of which the first byte would be the number of bits to leave out.
    "a name in a BIT STRING": re.sub(
        rb"(\x55\x04\x0a)\x0c(.)t", lambda m: m[1] + b"\x03" + m[2] + b"\0", LEAF, flags=re.DOTALL
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_the_fuzzer_found(name: str) -> None:
    der = UNREADABLE[name]
    assert der != LEAF
    with pytest.raises(ValueError):
        PeerIdentity.from_der(der)
    pem = ssl.DER_cert_to_PEM_cert(der).encode()
    with pytest.raises(CredentialsError):
        check_certificate(certificate_chain=pem, now=NOW)
