"""``trio-duplex certs``: write an authority and certificates for a lab to files."""

from __future__ import annotations

import ipaddress
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import idna

from trio_duplex.cli._certs.authority import Authority, IPAddress, Issued, Subject
from trio_duplex.cli._certs.files import write_new
from trio_duplex.cli._examples import ExampleCommand
from trio_duplex.cli._service.exits import ServiceError
from trio_duplex.cli._text import PROSE_WIDTH

DEFAULT_DAYS = 90
AUTHORITY = "ca"

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+")


def node_name(text: str) -> str | IPAddress:
    """Parse a node's name: a DNS name, which may be internationalised, or an IP address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    try:
        name = idna.encode(text, uts46=True).decode() if not text.isascii() else text.lower()
    except idna.IDNAError as exc:
        raise click.BadParameter(f"{text!r} is not a DNS name: {exc}") from None
    if name == AUTHORITY:
        raise click.BadParameter(f"{name!r} is the name of the authority's own files")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise click.BadParameter(
            f"{text!r} is not a DNS name, such as node.example, or an IP address"
        )
    return name


def ip_address(text: str) -> IPAddress:
    """Parse an IP address."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an IP address") from None


def uri(text: str) -> str:
    """Check a URI."""
    if not _URI.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not a URI, such as spiffe://lab.example/{{name}}")
    return text


@click.command(cls=ExampleCommand, example="trio-duplex certs lab a.example b.example")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.argument("names", metavar="NAME...", nargs=-1, required=True, type=node_name)
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=DEFAULT_DAYS,
    show_default=True,
    metavar="DAYS",
    help="How long the certificates are valid.",
)
@click.option(
    "--ip",
    "ips",
    type=ip_address,
    multiple=True,
    metavar="ADDRESS",
    help="An IP address to put into each certificate, too. May be repeated.",
)
@click.option(
    "--uri",
    "uris",
    type=uri,
    multiple=True,
    metavar="URI",
    help="A URI to put into each, too; {name} in it is the node's name. May be repeated.",
)
def certs(
    folder: Path,
    names: Sequence[str | IPAddress],
    days: int,
    ips: Sequence[IPAddress],
    uris: Sequence[str],
) -> None:
    """Make certificates for tests and labs, one for each NAME, in files in DIR.

    DIR/ca.pem and DIR/ca.key are an authority, which is made if it does not exist
    yet. DIR/NAME.pem and DIR/NAME.key are a node's certificate and private key,
    for both TLS roles. Nothing is overwritten. Do not use this in production:
    everybody who can read ca.key can pretend to be any node.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    subjects = [_subject(name, ips, uris) for name in dict.fromkeys(names)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        authority, made = _authority(folder, now, days)
        files = {} if made is None else _files(folder, AUTHORITY, made)
        for subject in subjects:
            issued = authority.issue(subject, now=now, days=days)
            files |= _files(folder, subject.name, issued)
        write_new(files)
    except FileExistsError as exc:
        raise ServiceError(
            f"{exc}, and nothing was written: move it away, or use another name or DIR"
        ) from exc
    except OSError as exc:
        raise ServiceError(f"can't write {exc.filename or folder}: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise ServiceError(f"{folder}: {exc}") from exc
    width = min(PROSE_WIDTH, shutil.get_terminal_size().columns)
    for line in _output(folder, subjects, files, days):
        # Commands and paths are to be copied, and stay as they are.
        folds = len(line) > width and not line.startswith((" ", "made "))
        sys.stdout.write((_folded(line, width) if folds else line) + "\n")


def _folded(line: str, width: int) -> str:
    # A path within a sentence is to be copied, too.
    return textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)


def _subject(name: str | IPAddress, ips: Sequence[IPAddress], uris: Sequence[str]) -> Subject:
    text = str(name)
    return Subject(
        text,
        dns_names=[text] if isinstance(name, str) else [],
        ip_addresses=[*([] if isinstance(name, str) else [name]), *ips],
        uris=[each.replace("{name}", text) for each in uris],
    )


def _authority(folder: Path, now: datetime, days: int) -> tuple[Authority, Issued | None]:
    """Load the authority of the folder, or make a new one and return what to write of it."""
    certificate, key = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key"
    if not certificate.exists() and not key.exists():
        return Authority.create(now=now, days=days)
    for path in (certificate, key):
        if not path.exists():
            raise ValueError(
                f"there is an authority, but it can't issue anything without {path.name}: "
                "put it back, or use another DIR"
            )
    try:
        return Authority.load(certificate.read_bytes(), key.read_bytes()), None
    except ValueError as exc:
        raise ValueError(f"{AUTHORITY}.pem and {AUTHORITY}.key can't be used: {exc}") from exc


def _files(folder: Path, name: str, issued: Issued) -> dict[Path, bytes]:
    return {folder / f"{name}.pem": issued.certificate, folder / f"{name}.key": issued.key}


# ------------------------------------------------------------------------------------------------------------- output


def _output(
    folder: Path, subjects: Sequence[Subject], files: dict[Path, bytes], days: int
) -> Iterator[str]:
    shown = shlex.quote(str(folder))
    for path in files:
        yield f"made {path}"
    yield ""
    if folder / f"{AUTHORITY}.pem" not in files:
        yield f"The existing authority {shown}/ca.pem issued them."
    yield f"They are for tests and labs, and valid for {days} days. Use on each node:"
    for subject in subjects:
        name = shlex.quote(subject.name)
        yield f"  {subject.name}:"
        yield f"    --cert {shown}/{name}.pem"
        yield f"    --key {shown}/{name}.key"
        yield f"    --trust {shown}/ca.pem"
    yield f"Keep {shown}/ca.key secret: with it, anybody can make a certificate for any node."
    yield ""
    yield from OPERATORS.splitlines()


OPERATORS = """\
In production, use your own authority for the same certificates.
step-ca:
  step ca certificate NAME NAME.pem NAME.key
certbot:
  certbot certonly --standalone -d NAME \\
    --server https://CA/acme/acme/directory
cert-manager, a Certificate with these usages:
  [digital signature, server auth, client auth]
openssl:
  openssl req -new -newkey ec -noenc \\
    -pkeyopt ec_paramgen_curve:P-256 \\
    -keyout NAME.key -out NAME.csr \\
    -subj /CN=NAME \\
    -addext subjectAltName=DNS:NAME \\
    -addext keyUsage=critical,digitalSignature \\
    -addext extendedKeyUsage=serverAuth,clientAuth
  openssl x509 -req -in NAME.csr -days 90 \\
    -copy_extensions copy \\
    -CA ca.pem -CAkey ca.key -out NAME.pem
Public authorities issue certificates only for TLS servers. The peer chooses our role, so that is \
not enough. `trio-duplex check` checks a certificate for both.
"""
"""What operators do in place of this; commands fit 50 columns, and running text is folded."""
