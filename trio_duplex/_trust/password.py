"""The password of an encrypted private key: bytes, or a function that gives them; never shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import attrs

from trio_duplex._trust.pem import CredentialsError

Password = bytes | Callable[[], bytes]


@attrs.frozen(repr=False, eq=False)
class PasswordSource:
    """Where the password is to be had from, at each reload anew."""

    given: Password | None

    def __repr__(self) -> str:
        return "<no password>" if self.given is None else "<password>"

    def check(self) -> None:
        """Check its type, without asking for it.

        Raises:
            TypeError: It is neither bytes nor a function.
        """
        if (
            self.given is not None
            and not isinstance(self.given, bytes)
            and not callable(self.given)
        ):
            raise TypeError(
                "password must be bytes, or a function that returns them, "
                f"not {type(self.given).__name__}"
            )

    def get(self) -> bytes | None:
        """The password; None if there is none.

        Raises:
            CredentialsError: The function failed, or gave something else.
        """
        if self.given is None or isinstance(self.given, bytes):
            return self.given
        return self._ask(self.given)

    def asked_once(self) -> PasswordSource:
        """The same, but the function is called at most once: for one reload with several keys."""
        if self.given is None or isinstance(self.given, bytes):
            return self
        return PasswordSource(cache(self.for_openssl))

    def for_openssl(self) -> bytes:
        """What OpenSSL is told if it asks; it must never ask on the terminal."""
        return self.get() or b""

    def _ask(self, function: Callable[[], bytes]) -> bytes:
        try:
            answer = _Answer(function())
        except CredentialsError:
            raise
        except Exception as exc:
            raise CredentialsError(
                f"the password function failed with {type(exc).__name__}"
            ) from exc
        if not isinstance(answer.value, bytes):
            raise CredentialsError(
                f"the password function returned {type(answer.value).__name__}, not bytes"
            )
        return answer.value


@attrs.frozen(repr=False, eq=False)
class _Answer:
    """What the function returned, so that no traceback shows it."""

    value: object
