"""TLS contexts for peers, the same on every build of Python.

The defaults of `ssl.SSLContext` depend on the build. Debian's 3.11 takes a FIN
without a close_notify for a clean end (``OP_IGNORE_UNEXPECTED_EOF``, which CPython
sets up to 3.11.2), allows TLS 1.0, and has 60 cipher suites, including static RSA
and pre-shared keys. In a test, a peer must not behave differently on another
machine, so ours have the defaults of python.org's builds.
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
    """Make a context with the defaults of python.org's builds, on every build.

    It verifies the other end's certificate, but not its name. Set ``check_hostname``
    or ``verify_mode`` to change that.

    Args:
        role: The role that it plays; None for a context that can play both.
        kind: The class of the context.
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
