"""What we present and whom we trust: `trio_duplex._trust.credentials`."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.support.authority import AUTHORITY, STRANGER
from tests.support.contexts import new_context
from tests.support.peers import NODE, TLS12, connection_pair, each_role, peer_context
from trio_duplex import Credentials, CredentialsError, Role, SelfConnectionError

CHAIN = b"".join(blob.bytes() for blob in NODE.cert_chain_pems)
KEY = NODE.private_key_pem.bytes()
BOTH = NODE.private_key_and_cert_chain_pem.bytes()
TRUST = AUTHORITY.cert_pem.bytes()


def as_path(folder: Path, name: str, pem: bytes) -> Path:
    path = folder / name
    path.write_bytes(pem)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("convert", [bytes, str, Path])
async def test_mutual_from_bytes_or_paths(convert: type, tmp_path: Path) -> None:
    def source(name: str, pem: bytes) -> bytes | str | Path:
        if convert is bytes:
            return pem
        path = as_path(tmp_path, name, pem)
        return str(path) if convert is str else path

    apart = Credentials.mutual(
        certificate_chain=source("chain.pem", CHAIN),
        private_key=source("key.pem", KEY),
        trust=source("trust.pem", TRUST),
        allow_self=True,
    )
    together = Credentials.mutual(
        certificate_chain=source("both.pem", BOTH),
        trust=source("trust.pem", TRUST),
        allow_self=True,
    )
    server, client = await connection_pair(server=apart, client=together)
    assert server.tls.getpeercert() == client.tls.getpeercert() != {}


@each_role
@pytest.mark.parametrize("of", ["files", "contexts"])
async def test_ourselves_are_refused_by_default(of: str, role: Role) -> None:
    mine = Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY)
    if of == "contexts":
        mine = Credentials(
            server_context=mine.server_context,
            client_context=mine.client_context,
            own_certificate=NODE,
        )
    certificate = ssl.PEM_cert_to_DER_cert(NODE.cert_chain_pems[0].bytes().decode())
    with pytest.raises(SelfConnectionError):
        await mine.material.admit(certificate, tuple, role, None)


async def test_mutual_from_trustme_with_an_intermediate() -> None:
    intermediate = AUTHORITY.create_child_ca()
    leaf = intermediate.issue_cert("leaf.example")
    mine = Credentials.mutual(certificate_chain=leaf, trust=AUTHORITY, allow_self=True)
    # Each end trusts the root alone, so the intermediate must have been sent.
    await connection_pair(server=mine, client=mine)


def test_key_material_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Credentials.mutual(certificate_chain=CHAIN, private_key=KEY, trust=TRUST)
    with pytest.raises(CredentialsError):
        Credentials.mutual(certificate_chain=CHAIN, private_key=b"no key", trust=TRUST)
    assert list(tmp_path.iterdir()) == []


@each_role
def test_mutual_demands_a_certificate_and_tls_1_2_in_both_roles(role: Role) -> None:
    context = Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY).context(role)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.minimum_version is TLS12
    assert not context.check_hostname
    assert [cert["subject"] for cert in context.get_ca_certs()] != []


@each_role
def test_each_context_is_of_its_role(role: Role) -> None:
    mine = Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY)
    protocol = {Role.SERVER: ssl.PROTOCOL_TLS_SERVER, Role.CLIENT: ssl.PROTOCOL_TLS_CLIENT}[role]
    assert mine.context(role).protocol is protocol
    assert mine.context(role) is (
        mine.server_context if role is Role.SERVER else mine.client_context
    )


@each_role
def test_no_renegotiation_in_either_role_whoever_made_the_contexts(role: Role) -> None:
    contexts = {each: peer_context(each) for each in Role}
    assert not contexts[role].options & ssl.OP_NO_RENEGOTIATION
    Credentials(server_context=contexts[Role.SERVER], client_context=contexts[Role.CLIENT])
    assert contexts[role].options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
@each_role
def test_a_context_that_requires_no_certificate_is_refused(
    role: Role, mode: ssl.VerifyMode
) -> None:
    contexts = {each: peer_context(each) for each in Role}
    contexts[role].verify_mode = mode
    with pytest.raises(ValueError, match=str(role)):
        Credentials(server_context=contexts[Role.SERVER], client_context=contexts[Role.CLIENT])


def test_swapped_contexts_are_refused() -> None:
    with pytest.raises(ValueError):
        Credentials(
            server_context=peer_context(Role.CLIENT), client_context=peer_context(Role.SERVER)
        )


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")
async def test_one_context_for_both_roles_is_enough() -> None:
    context = new_context(None)
    NODE.configure_cert(context)
    AUTHORITY.configure_trust(context)
    mine = Credentials(server_context=context, client_context=context, allow_self=True)
    await connection_pair(server=mine, client=mine)


@pytest.mark.parametrize("tickets", [0, 2])
def test_session_tickets(tickets: int) -> None:
    mine = Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY, session_tickets=tickets)
    assert mine.server_context.num_tickets == tickets


def test_no_session_tickets_unless_asked_for() -> None:
    assert not Credentials.mutual(
        certificate_chain=NODE, trust=AUTHORITY
    ).server_context.num_tickets


def encrypted_key() -> bytes:
    key = serialization.load_pem_private_key(KEY, None)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"certificate_chain": "no/such/file.pem"}, CredentialsError),
        ({"private_key": "no/such/file.pem"}, CredentialsError),
        ({"trust": "no/such/file.pem"}, CredentialsError),
        ({"certificate_chain": b"no PEM"}, CredentialsError),
        ({"trust": b"no PEM"}, CredentialsError),
        (
            {"private_key": STRANGER.issue_cert("a.example").private_key_pem.bytes()},
            CredentialsError,
        ),
        ({"private_key": encrypted_key()}, CredentialsError),  # and no prompt on the terminal
        ({"session_tickets": -1}, ValueError),
        ({"alpn": "h2"}, ValueError),
        ({"alpn": [""]}, ValueError),
        ({"alpn": ["x" * 256]}, ValueError),
        ({"alpn": ["caf\xe9"]}, ValueError),
    ],
)
def test_invalid_credentials(wrong: dict[str, object], error: type[Exception]) -> None:
    right: dict[str, object] = {"certificate_chain": CHAIN, "private_key": KEY, "trust": TRUST}
    mutual: Callable[..., Credentials] = Credentials.mutual
    with pytest.raises(error):
        mutual(**right | wrong)


def test_contexts_are_replaced_only_by_reload() -> None:
    mine = Credentials.mutual(certificate_chain=NODE, trust=AUTHORITY)
    with pytest.raises(AttributeError):
        mine.server_context = mine.client_context  # type: ignore[misc]
