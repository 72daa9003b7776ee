"""TLS contexts for peers, the same on every build of Python.

`ssl.SSLContext` begins with what its Python was built with. Debian's 3.11 takes a
FIN without a close_notify for a clean end (``OP_IGNORE_UNEXPECTED_EOF``, which
CPython sets up to 3.11.2), allows TLS 1.0, and has 60 cipher suites, static RSA and
pre-shared keys among them. A peer whose behaviour depends on the machine is of no
use in a test, so ours begin with what python.org's builds have.
"""

from __future__ import annotations

import ssl
from typing import TypeVar, overload

from trio_duplex import Role

CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
"""The default cipher list of CPython (``PY_SSL_DEFAULT_CIPHERS`` in Modules/_ssl.c)."""


Context = TypeVar("Context", bound=ssl.SSLContext)


@overload
def new_context(role: Role | None) -> ssl.SSLContext: ...
@overload
def new_context(role: Role | None, kind: type[Context]) -> Context: ...
def new_context(role: Role | None, kind: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    """Make a context that begins as those of python.org's builds do, on every build.

    It verifies the other end's certificate, but not its name: set ``check_hostname``
    or ``verify_mode`` for anything else.

    Args:
        role: The role that it plays; None for one that can play both.
        kind: The class to make it of.
    """
    protocol = {
        Role.SERVER: ssl.PROTOCOL_TLS_SERVER,
        Role.CLIENT: ssl.PROTOCOL_TLS_CLIENT,
        None: ssl.PROTOCOL_TLS,
    }[role]
    context = kind(protocol)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return context
