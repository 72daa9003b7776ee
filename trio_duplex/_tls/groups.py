"""Finding out which key exchange groups this OpenSSL uses, from a ClientHello of its own.

Python has no function for this.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

from trio_duplex._wire.cost import named_groups
from trio_duplex._wire.hello import whole_hello
from trio_duplex._wire.records import CLIENT_HELLO_TYPE


@lru_cache
def usable_groups(security_level: int) -> frozenset[int]:
    """Return the default groups of a context with this OpenSSL security level.

    They depend on the build, on the machine's ``openssl.cnf``, and on the level:
    X25519 is excluded from level 4 on. A context on which ``set_ecdh_curve`` was
    called has only one group, which is not a finite field.
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
    return frozenset(named_groups(hello[0]))
