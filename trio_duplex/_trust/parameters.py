"""The TLS parameters that users may set (version, ciphers, groups), for every context the same."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence

import attrs

from trio_duplex._trust.symmetry import FLOOR

_VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)

CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
"""The suites of TLS 1.2 that are forward-secret, use AEAD, and do without finite fields (RFC 9325
section 4.2), preferred first. Python's own list depends on its build: Debian's 3.11 allows static
RSA and pre-shared keys. All suites of TLS 1.3 have these properties."""

SECURITY_LEVEL = 2
"""The lowest OpenSSL security level: 112 bits, so no RSA keys under 2,048 bits and no SHA-1. It is
the default in python.org's builds."""

# From the names of RFC 8422 and NIST to those by which OpenSSL looks up a single group.
_CURVES = {
    "P-256": "prime256v1",
    "SECP256R1": "prime256v1",
    "P-384": "secp384r1",
    "SECP384R1": "secp384r1",
    "P-521": "secp521r1",
    "SECP521R1": "secp521r1",
    "X25519": "X25519",
    "X448": "X448",
}


@attrs.frozen
class Parameters:
    """The TLS parameters of a user, the same in both roles.

    Attributes:
        minimum_version: The lowest TLS version.
        ciphers: An OpenSSL cipher list for TLS 1.2; None for `CIPHERS`.
        groups: Names of groups for the key exchange, preferred first; empty for the default.
    """

    minimum_version: ssl.TLSVersion = FLOOR
    ciphers: str | None = None
    groups: tuple[str, ...] = ()

    @classmethod
    def checked(
        cls, minimum_version: ssl.TLSVersion, ciphers: str | None, groups: Sequence[str]
    ) -> Parameters:
        """Check a user's parameters by setting them on a context.

        Raises:
            ValueError: A parameter is out of range, or unknown to this OpenSSL.
        """
        if minimum_version not in _VERSIONS:
            raise ValueError(
                "minimum_version is ssl.TLSVersion.TLSv1_2 or TLSv1_3, "
                f"not {getattr(minimum_version, 'name', minimum_version)!r}"
            )
        if isinstance(groups, str):
            raise ValueError(f'groups is a list of names, such as ["{groups}"], not a string')
        self = cls(minimum_version, ciphers, tuple(groups))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._set_ciphers(context)
        self._set_groups(context)
        if ciphers is not None:
            _refuse_weak(context)
        return self

    def apply(self, context: ssl.SSLContext) -> None:
        """Set the parameters on a context."""
        context.minimum_version = self.minimum_version
        self._set_ciphers(context)
        self._set_groups(context)

    def _set_ciphers(self, context: ssl.SSLContext) -> None:
        if self.ciphers is None:
            level = max(context.security_level, SECURITY_LEVEL)
            context.set_ciphers(f"{':'.join(CIPHERS)}:@SECLEVEL={level}")
            return
        try:
            context.set_ciphers(self.ciphers)
        except ssl.SSLError as exc:
            raise ValueError(
                f"ciphers is an OpenSSL cipher list of TLS 1.2, not {self.ciphers!r}: {exc}"
            ) from exc

    def _set_groups(self, context: ssl.SSLContext) -> None:
        if not self.groups:
            return
        if odd := [name for name in self.groups if name.lower().startswith(("ffdhe", "modp"))]:
            raise ValueError(
                f"{odd[0]} is a finite-field group, whose computations let a stranger stop the "
                "event loop; groups takes only elliptic curves"
            )
        # Typed by hand, because type checkers use the standard library of 3.11, and this is in 3.15.
        set_groups: Callable[[str], None] | None = getattr(context, "set_groups", None)
        if set_groups is None and len(self.groups) > 1:
            raise ValueError(
                "on this Python, groups can name only one group (3.15 is the first that can set "
                f"several), not {len(self.groups)}: {', '.join(self.groups)}"
            )
        try:
            if set_groups is not None:
                set_groups(":".join(self.groups))
            else:
                for name in self.groups:  # the only one
                    context.set_ecdh_curve(_CURVES.get(name.upper(), name))
        except (ssl.SSLError, TypeError, ValueError) as exc:
            raise ValueError(
                f"this OpenSSL or Python does not know all of the groups {self.groups}: {exc}"
            ) from exc


def _refuse_weak(context: ssl.SSLContext) -> None:
    for suite in context.get_ciphers():
        # Such a suite does not authenticate by certificates, or does not encrypt.
        if suite["auth"] in ("auth-null", "auth-psk", "auth-srp") or not suite["strength_bits"]:
            raise ValueError(
                f"ciphers allows {suite['name']}, which has no certificates or no encryption"
            )
        if suite["kea"] == "kx-dhe":
            raise ValueError(
                f"ciphers allows {suite['name']}, whose finite-field key exchange lets a stranger "
                "stop the event loop; add !kDHE"
            )


def keep_tightened(old: ssl.SSLContext, new: ssl.SSLContext) -> None:
    """Copy the stricter settings that a user has made on a context while it was in use.

    A reload must not undo them: a minimum version that was raised, an option or
    a verification flag that was set.
    """
    new.minimum_version = max(old.minimum_version, new.minimum_version)
    if old.maximum_version is not ssl.TLSVersion.MAXIMUM_SUPPORTED:
        new.maximum_version = old.maximum_version
    new.options |= old.options
    new.verify_flags |= old.verify_flags


def narrow_ciphers(context: ssl.SSLContext) -> tuple[str, ...]:
    """Remove the TLS 1.2 suites from a user's context that are not among `CIPHERS`.

    A context is left unchanged if no TLS 1.2 suite would be left, because OpenSSL does not
    take an empty list. Such a context must not allow TLS 1.2.

    Returns:
        The removed suites that the user must have allowed explicitly, because a
        new context does not have them.
    """
    had = {suite["name"]: suite["protocol"] for suite in context.get_ciphers()}
    kept = [name for name in had if name in CIPHERS]
    if not kept:
        return ()
    context.set_ciphers(":".join(kept))
    odd = {name for name, protocol in had.items() if protocol != "TLSv1.3"}.difference(kept)
    by_default = {suite["name"] for suite in ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).get_ciphers()}
    return tuple(sorted(odd - by_default))
