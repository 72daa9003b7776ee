"""The password of an encrypted private key: bytes, or a function that returns them; never shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import attrs

from trio_duplex._trust.pem import CredentialsError

Password = bytes | Callable[[], bytes]


@attrs.frozen(repr=False, eq=False)
class PasswordSource:
    """A source of the password; a function is called again at each reload."""

    given: Password | None

    def __repr__(self) -> str:
        return "<no password>" if self.given is None else "<password>"

    def check(self) -> None:
        """Check the type of the source, without calling a function.

        Raises:
            TypeError: The source is neither bytes nor a function.
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
        """Return the password; None if there is none.

        Raises:
            CredentialsError: The function raised, or did not return bytes.
        """
        if self.given is None or isinstance(self.given, bytes):
            return self.given
        return self._ask(self.given)

    def asked_once(self) -> PasswordSource:
        """Return a source that calls the function at most once, for one reload with several keys."""
        if self.given is None or isinstance(self.given, bytes):
            return self
        return PasswordSource(cache(self.for_openssl))

    def for_openssl(self) -> bytes:
        """Return the password for OpenSSL, or b"" so that OpenSSL never asks on the terminal."""
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
    """Hides what the function returned from tracebacks."""

    value: object
