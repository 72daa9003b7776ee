"""What ``-v`` tells of a connection: decision, TLS, chain, and how it was verified. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cryptography import x509

from trio_duplex import Address, PeerIdentity, Reason
from trio_duplex.cli._connect.settings import ConnectSettings
from trio_duplex.cli._options import format_host_port
from trio_duplex.cli._service.facts import Facts
from trio_duplex.cli._text import plain

_WHY = {
    Reason.SPOKE: "the peer spoke first, after {waited:.3f} s",
    Reason.SILENT: "the peer was silent for {waited:.3f} s",
    Reason.ANNOUNCED: "the peer announced that it is the TLS server",
    Reason.RULE: "--role said so",
    Reason.REMEMBERED: "the peer took this role lately",
}


def report(facts: Facts, settings: ConnectSettings) -> Iterator[str]:
    """Yield the lines that describe an open connection."""
    yield f"connected: {_address(facts.local_address)} to {_address(facts.remote_address)}"
    yield f"role: {facts.role} ({_WHY[facts.reason].format(waited=facts.waited)})"
    yield f"TLS: {facts.version}, {facts.cipher}" + (", resumed" if facts.resumed else "")
    if facts.alpn or settings.alpn:
        yield f"ALPN: {facts.alpn or 'nothing in common'}"
    if facts.identity is None:
        yield "peer: anonymous"
        yield "verified: no, --anonymous-clients admits whoever comes without a certificate"
        return
    yield f"peer: {plain(str(facts.identity))}"
    chain = facts.identity.chain or (facts.identity.certificate,)
    for number, certificate in enumerate(chain):
        yield f"chain {number}: {_certificate(certificate)}"
    if not facts.identity.chain:
        yield "chain: this Python tells no more of it than the first certificate"
    yield f"verified: {'; '.join(_verified(settings, facts.identity))}"


def _verified(settings: ConnectSettings, identity: PeerIdentity) -> Iterator[str]:
    yield f"its chain ends in an authority of {settings.trust}"
    if settings.peer_name:
        yield f"it bears a name that --peer-name admits ({_either(settings.peer_name)})"
    if settings.peer_pin:
        yield "it has a pin that --peer-pin admits"
    if settings.crl:
        yield f"{_either(list(map(str, settings.crl)))} does not revoke it"
    if not settings.peer_name and not settings.peer_pin:
        names = identity.names
        advice = f"--peer-name {plain(names[0])}" if names else "--peer-pin"
        yield f"its name was not asked for, so any peer of that authority will do: {advice} admits this one only"


def _either(names: Sequence[str]) -> str:
    return " or ".join(names)


def _certificate(der: bytes) -> str:
    try:
        read = x509.load_der_x509_certificate(der)
        subject, issuer = read.subject.rfc4514_string(), read.issuer.rfc4514_string()
    except (ValueError, TypeError):
        return "can't be read"
    said = "self-signed" if subject == issuer else f"issued by {issuer!r}"
    return plain(f"{subject!r}, {said}, until {read.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")


def _address(address: Address | None) -> str:
    if address is None or isinstance(address, str):
        return address or "a socket without a name"
    return format_host_port(*address[:2])
