"""A hello that would cost too much is refused before OpenSSL sees it: `trio_duplex._wire.cost`."""

from __future__ import annotations

import pytest

from tests.support.hellos import (
    FINITE,
    GREASE,
    HYBRID,
    P256,
    USABLE,
    X25519,
    extension,
    hello,
    numbers,
    server_hello,
    vector,
)
from tests.support.peers import client_hello
from trio_duplex._wire.alerts import ALERT_HANDSHAKE_FAILURE, ALERT_ILLEGAL_PARAMETER
from trio_duplex._wire.cost import (
    MAX_AUTHORITIES,
    MAX_ENTRIES,
    MAX_SHARES,
    MAX_SUITES,
    is_retry,
    named_groups,
    object_to_client_hello,
    object_to_server_hello,
    selects_tls_1_3,
)


@pytest.mark.parametrize("group", FINITE)
@pytest.mark.parametrize(
    ("groups", "shares"),
    [
        pytest.param(("ff",), ("ff",), id="only group"),
        pytest.param((X25519, "ff"), ("ff",), id="only share"),
        pytest.param((X25519, "ff"), ("ff", X25519), id="first share"),
        pytest.param((HYBRID, "ff"), (HYBRID, "ff"), id="first share that we can use"),
        pytest.param((GREASE, X25519, "ff"), (GREASE, "ff", X25519), id="behind grease"),
        pytest.param(("ff", X25519), (), id="we would ask for it"),
        pytest.param((HYBRID, "ff", P256), (HYBRID,), id="we would ask for it, no share usable"),
    ],
)
def test_hello_that_leads_to_a_finite_field_is_refused(
    group: int, groups: tuple[object, ...], shares: tuple[object, ...]
) -> None:
    def filled(names: tuple[object, ...]) -> tuple[int, ...]:
        return tuple(name if isinstance(name, int) else group for name in names)

    objection = object_to_client_hello(hello(filled(groups), filled(shares)), USABLE)
    assert objection is not None
    assert objection.alert == ALERT_HANDSHAKE_FAILURE
    assert "ffdhe" in objection.seen


@pytest.mark.parametrize("group", FINITE)
def test_session_id_does_not_hide_a_finite_field(group: int) -> None:
    assert object_to_client_hello(hello((group,), (group,), session_id=b"i" * 32), USABLE)


@pytest.mark.parametrize(
    ("groups", "shares"),
    [
        ((X25519,), (X25519,)),
        ((X25519, *FINITE), (X25519,)),
        ((*FINITE, X25519), (X25519,)),
        ((X25519, 260), (X25519, 260)),
        ((HYBRID, X25519, 260), (HYBRID, X25519, 260)),
        ((HYBRID, P256, 260), (HYBRID,)),
        ((P256, 260), ()),
        ((GREASE,), ()),
        (None, None),
        ((260, X25519), None),  # no TLS 1.3 without shares
    ],
)
def test_hello_that_leads_to_a_curve_passes(
    groups: tuple[int, ...] | None, shares: tuple[int, ...] | None
) -> None:
    assert object_to_client_hello(hello(groups, shares), USABLE) is None


def test_hybrid_group_passes_if_openssl_knows_it() -> None:
    message = hello((HYBRID, 260), (HYBRID, 260))
    assert object_to_client_hello(message, USABLE) is not None
    assert object_to_client_hello(message, USABLE | {HYBRID}) is None


def test_tls_1_2_has_no_finite_fields() -> None:
    assert object_to_client_hello(hello((260,), (260,), versions=b"\x03\x03"), USABLE) is None


def names_of_authorities(count: int) -> bytes:
    return extension(47, vector(b"\x00\x02\x30\x00" * count))


def shares_we_do_not_know(count: int) -> bytes:
    return hello(shares=(*range(0x7000, 0x7000 + count), X25519))


@pytest.mark.parametrize(
    "long",
    [
        pytest.param(lambda more: hello(suites=b"\x13\x01" * (MAX_SUITES + more)), id="suites"),
        pytest.param(lambda more: hello((X25519,) * (MAX_ENTRIES + more)), id="groups"),
        *(
            pytest.param(
                lambda more, kind=kind: hello(
                    extra=extension(kind, vector(b"\x04\x03" * (MAX_ENTRIES + more)))
                ),
                id=f"signature algorithms {kind}",
            )
            for kind in (13, 50)
        ),
        pytest.param(
            lambda more: hello(extra=names_of_authorities(MAX_AUTHORITIES + more)), id="authorities"
        ),
        pytest.param(lambda more: shares_we_do_not_know(MAX_SHARES - 1 + more), id="shares"),
    ],
)
def test_very_long_lists_are_refused(long: object) -> None:
    assert callable(long)
    assert object_to_client_hello(long(0), USABLE) is None
    objection = object_to_client_hello(long(1), USABLE)
    assert objection is not None
    assert objection.alert == ALERT_ILLEGAL_PARAMETER


def test_long_list_of_long_names_passes() -> None:
    names = extension(47, vector((vector(b"\x30" + bytes(99))) * 300))
    assert object_to_client_hello(hello(extra=names), USABLE) is None


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("group", FINITE)
def test_server_hello_that_selects_a_finite_field_is_refused(group: int, retry: bool) -> None:
    objection = object_to_server_hello(server_hello(group, retry=retry))
    assert objection is not None
    assert objection.alert == ALERT_HANDSHAKE_FAILURE


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("group", [None, X25519, P256, HYBRID])
def test_server_hello_that_selects_a_curve_passes(group: int | None, retry: bool) -> None:
    message = server_hello(group, retry=retry)
    assert object_to_server_hello(message) is None
    assert is_retry(message) is retry
    assert selects_tls_1_3(message)


def test_our_own_openssl_names_both_kinds() -> None:
    """OpenSSL uses both kinds of groups. If this fails, `cost` is not needed any more."""
    groups = named_groups(client_hello()[5:])
    assert X25519 in groups
    assert set(FINITE) & set(groups)


@pytest.mark.parametrize(
    "message", [hello((260,), (260,)), server_hello(X25519)], ids=["client", "server"]
)
def test_truncated_hello_raises_nothing(message: bytes) -> None:
    for end in range(len(message)):
        object_to_client_hello(message[:end], USABLE)
        object_to_server_hello(message[:end])
        is_retry(message[:end])


def test_extensions_before_a_truncation_count() -> None:
    """OpenSSL computes with the first share, then finds that the next one is broken."""
    shares = numbers(260) + vector(b"k" * 32) + numbers(X25519) + b"\x7f\xff"
    message = hello(shares=None, extra=extension(51, vector(shares)))
    assert object_to_client_hello(message, USABLE) is not None
