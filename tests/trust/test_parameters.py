"""TLS parameters that users may set: in both roles, in each context, and after a reload."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from trio.testing import MockClock

from tests.support.authority import FLEET, Leaf, rsa_key
from tests.support.trust import context, meet, mutual
from trio_duplex import Role
from trio_duplex._trust.parameters import Parameters

pytestmark = pytest.mark.slow


TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
each_role = pytest.mark.parametrize("role", list(Role), ids=str)
each_version = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLS1.2", "TLS1.3"])
PEER = FLEET.issue("peer.example")
SUITE = "ECDHE-ECDSA-AES256-GCM-SHA384"


@each_role
@each_version
@pytest.mark.parametrize("minimum", [TLS12, TLS13], ids=["from 1.2", "from 1.3"])
async def test_minimum_version(
    minimum: ssl.TLSVersion, version: ssl.TLSVersion, role: Role, autojump_clock: MockClock
) -> None:
    credentials = mutual(minimum_version=minimum)
    for _ in range(2):
        meeting = await meet(credentials, role, context(role.other, PEER, version=version))
        assert (meeting.error is None) is (version >= minimum)
        credentials.reload()


@each_role
def test_what_was_tightened_on_a_context_is_kept_at_a_reload(role: Role) -> None:
    credentials = mutual(certificates_by_name={"other.example": FLEET.issue("other.example")})
    before = credentials.context(role)
    before.minimum_version = before.maximum_version = TLS13
    before.options |= ssl.OP_NO_COMPRESSION
    before.verify_flags |= ssl.VERIFY_X509_STRICT
    for _ in range(2):
        credentials.reload()
        after = credentials.context(role)
        assert after is not before
        assert after.minimum_version is after.maximum_version is TLS13
        assert after.options & ssl.OP_NO_COMPRESSION
        assert after.verify_flags & ssl.VERIFY_X509_STRICT
        assert credentials.context(role.other).minimum_version is TLS12


@pytest.mark.parametrize(
    "odd",
    [
        {"minimum_version": ssl.TLSVersion.TLSv1_1},
        {"minimum_version": ssl.TLSVersion.MINIMUM_SUPPORTED},
        {"minimum_version": "1.3"},
        {"ciphers": "nonsense"},
        {"ciphers": "eNULL"},
        {"ciphers": "aNULL"},
        {"ciphers": "PSK"},
        {"ciphers": "AECDH-AES256-SHA:@SECLEVEL=0"},
        {"ciphers": "SRP-AES-256-CBC-SHA:@SECLEVEL=0"},
        {"ciphers": "DHE-RSA-AES128-GCM-SHA256"},
        {"groups": "X25519"},
        {"groups": ["no-such-group"]},
        {"groups": ["ffdhe2048"]},
        {"groups": ["SHA256"]},  # OpenSSL knows the name, but no such group
    ],
    ids=str,
)
def test_parameters_that_can_not_be_set(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(odd))):
        mutual(**odd)


@each_role
async def test_ciphers(role: Role, autojump_clock: MockClock) -> None:
    credentials = mutual(ciphers=SUITE)
    meeting = await meet(credentials, role, context(role.other, PEER, version=TLS12))
    (connection,) = meeting.handled
    assert connection.cipher == SUITE
    other = context(role.other, PEER, version=TLS12)
    other.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    assert (await meet(credentials, role, other)).error is not None


def sets_x25519() -> bool:
    """Whether this Python can: Debian 12's, 3.11.2, can't."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ecdh_curve("X25519")
    except ssl.SSLError:
        return False
    return True


x25519 = pytest.mark.skipif(not sets_x25519(), reason="too old")


@each_role
@pytest.mark.parametrize(
    ("name", "curve"),
    [
        ("P-256", "prime256v1"),
        ("secp256r1", "prime256v1"),
        ("P-384", "secp384r1"),
        ("SECP384R1", "secp384r1"),
        ("P-521", "secp521r1"),
        ("SECP521R1", "secp521r1"),
        pytest.param("x25519", "X25519", marks=x25519),
        pytest.param("x448", "X448", marks=x25519),
    ],
)
async def test_one_group(name: str, curve: str, role: Role, autojump_clock: MockClock) -> None:
    credentials = mutual(groups=[name])
    for theirs in dict.fromkeys([curve, "prime256v1", "secp384r1"]):
        # In TLS 1.2, OpenSSL asks the same list whether a certificate's key may be used.
        peer = context(role.other, PEER, version=TLS13)
        peer.set_ecdh_curve(theirs)
        assert ((await meet(credentials, role, peer)).error is None) is (theirs == curve)


CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}


@each_role
@pytest.mark.parametrize("theirs", ["P-256", "P-384", "RSA"])
@pytest.mark.parametrize(
    "group",
    [
        "P-256",
        "P-384",
        pytest.param("X25519", marks=x25519),
    ],
)
async def test_one_group_in_tls_1_2(
    group: str, theirs: str, role: Role, autojump_clock: MockClock
) -> None:
    """There the list is also that of the curves that a certificate's key may be on."""
    ours = "RSA" if group == "X25519" else group
    credentials = mutual(issue_on(ours), groups=[group], allow_self=True)
    meeting = await meet(credentials, role, context(role.other, issue_on(theirs), version=TLS12))
    assert (meeting.error is None) is (theirs in {group, "RSA"})
    # Only as TLS client is it also a matter of our own key: it was we that named the list.
    wrong = mutual(issue_on("P-384" if group == "P-256" else "P-256"), groups=[group])
    meeting = await meet(wrong, role, context(role.other, issue_on("RSA"), version=TLS12))
    assert (meeting.error is None) is (role is Role.SERVER)


def issue_on(kind: str) -> Leaf:
    if kind == "RSA":
        return FLEET.issue("peer.example", key=rsa_key())
    return FLEET.issue("peer.example", key=ec.generate_private_key(CURVES[kind]))


def test_several_groups() -> None:
    """They can be set from Python 3.15 on; before, it says so."""
    if hasattr(ssl.SSLContext, "set_groups"):
        mutual(groups=["X25519", "P-256"])
    else:
        with pytest.raises(ValueError, match=r"3\.15"):
            mutual(groups=["X25519", "P-256"])


def test_several_groups_where_python_can(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        ssl.SSLContext, "set_groups", lambda _, groups: told.append(groups), raising=False
    )
    Parameters.checked(TLS12, None, ["X25519", "P-256"])
    assert told == ["X25519:P-256"]


def test_no_group_is_chosen_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group only would cost clients of another a round trip."""

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(ssl.SSLContext, "set_ecdh_curve", fail)
    mutual()
