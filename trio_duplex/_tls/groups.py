"""Which key exchange groups this OpenSSL uses: Python does not tell, but a ClientHello does."""

from __future__ import annotations

import ssl
from functools import lru_cache

from trio_duplex._wire.cost import named_groups
from trio_duplex._wire.hello import whole_hello
from trio_duplex._wire.records import CLIENT_HELLO_TYPE


@lru_cache
def usable_groups(security_level: int) -> frozenset[int]:
    """The groups of a context that was told of none, by its OpenSSL security level.

    They depend on the build, on the machine's ``openssl.cnf``, and on the level,
    which from 4 on excludes X25519. A context for which ``set_ecdh_curve`` was
    called has one of them, which is then no finite field.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers(f"DEFAULT:@SECLEVEL={security_level}")
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = whole_hello(outgoing.read(), CLIENT_HELLO_TYPE)
    assert hello is not None  # OpenSSL's own
    return frozenset(named_groups(hello))
