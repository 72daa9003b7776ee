"""Where a service listens, and where a backend is: TCP, a Unix socket, or an inherited one."""

from __future__ import annotations

import re

import attrs

from trio_duplex.cli._options import format_host_port


@attrs.frozen
class TcpAddress:
    """A TCP address; an empty host listens on every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_host_port(self.host, self.port)


@attrs.frozen
class UnixAddress:
    """A Unix socket's path; one that begins with ``@`` is in Linux's abstract namespace."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@attrs.frozen
class InheritedAddress:
    """A listening socket that we inherit, by its name (``LISTEN_FDNAMES``) or number."""

    name: str

    def __str__(self) -> str:
        return f"fd:{self.name}"


ListenAddress = TcpAddress | UnixAddress | InheritedAddress
BackendAddress = TcpAddress | UnixAddress


BACKEND_FORMS = "HOST:PORT, [V6]:PORT or unix:PATH"


def listen_address(text: str) -> ListenAddress:
    """Read an address to listen on.

    Raises:
        ValueError: It is none.
    """
    if text.startswith("fd:"):
        if not re.fullmatch(r"[\x21-\x7e]{1,255}", text[3:]) or ":" in text[3:]:
            raise ValueError(f"{text!r} names no inherited socket: write fd:NAME or fd:3")
        return InheritedAddress(text[3:])
    if text.startswith("unix:"):
        return _unix(text)
    return _tcp(text, "HOST:PORT, [V6]:PORT, unix:PATH or fd:NAME", any_host=True)


def backend_address(text: str, forms: str = BACKEND_FORMS) -> BackendAddress:
    """Read an address to connect to.

    Args:
        text: What was written.
        forms: What may be written, for the message.

    Raises:
        ValueError: It is none.
    """
    if text.startswith("unix:"):
        return _unix(text)
    address = _tcp(text, forms, any_host=False)
    if address.port == 0:
        raise ValueError(f"{text!r}: nobody listens at port 0")
    return address


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path or "\0" in path:
        raise ValueError(f"{text!r} has no path: write unix:/run/NAME.sock")
    if len(path.encode()) > 107:  # sun_path, unix(7)
        raise ValueError(f"the path of a Unix socket has at most 107 bytes, not {len(path)}")
    return UnixAddress(path)


def _tcp(text: str, forms: str, *, any_host: bool) -> TcpAddress:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or (":" in host and not bracketed) or (bracketed and not host):
        raise ValueError(f"{text!r} is not {forms}, such as 127.0.0.1:8443 or [::1]:8443")
    if not host and not any_host:
        raise ValueError(f"{text!r} names no host, such as 127.0.0.1{text}")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"{port!r} in {text!r} is not a port, 0 to 65535")
    return TcpAddress(host, int(port))
