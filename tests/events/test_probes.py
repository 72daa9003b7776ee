"""Health checks and port scans among the failures: `trio_duplex._events.probes`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio
import trio.testing

from tests.serve.test_serve import serving
from tests.support.peers import (
    MemoryListener,
    RecordingStream,
    client_hello,
    credentials,
    receive_all,
)
from trio_duplex import (
    DuplexError,
    DuplexListener,
    GlareError,
    HandshakeError,
    HandshakeTimeoutError,
    LimitError,
    NotTLSError,
    PeerClosedError,
    PeerRejectedError,
    Server,
    serve_listeners,
    serve_tcp,
)
from trio_duplex._events.probes import MutedNetworks, host_of, probe_of
from trio_duplex.events import Event, NegotiationFailed, Probe


def not_tls(received: bytes) -> NotTLSError:
    return NotTLSError("no", received=received[:64])


CHECKS = [
    b"OPTIONS / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: www\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: 10.0.0.1:8443\r\n",
    b"GET /readyz?verbose HTTP/1.1\r\nHost: 10.0.0.1:8443\r\n",
    b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: kube-probe/1.29\r\n",
    b"GET / HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: ELB-HealthChecker/2.0\r\n",
]
OTHERS = [
    b"GET / HTTP/1.1\r\nHost: node.example\r\nUser-Agent: curl/8.5\r\n",
    b"POST /health HTTP/1.1\r\n",
    b"OPTIONS sip:node.example SIP/2.0\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"",
]


@pytest.mark.parametrize(
    ("error", "probe"),
    [
        (HandshakeError("x", hung_up=True), Probe.HUNG_UP),
        (HandshakeError("x"), None),
        (HandshakeTimeoutError("x", timeout=30), None),
        (GlareError("x", missed_by=1, window=5), None),
        (PeerRejectedError("x"), None),
        (PeerClosedError("x", received=0, reset=False), None),  # an error of its own
        *((not_tls(received), Probe.HTTP) for received in CHECKS),
        *((not_tls(received), None) for received in OTHERS),
    ],
)
def test_what_an_error_looks_like(error: DuplexError, probe: Probe | None) -> None:
    assert probe_of(error, muted=False) is probe
    assert probe_of(error, muted=True) is Probe.MUTED


@pytest.mark.parametrize("muted", [False, True])
@pytest.mark.parametrize("error", [ZeroDivisionError(), LimitError("x", limit="pending", value=3)])
def test_our_own_faults_are_not_probes(error: Exception, muted: bool) -> None:
    assert probe_of(error, muted=muted) is None


@pytest.mark.parametrize(
    ("peer", "muted"),
    [
        ("192.0.2.7:4711", True),
        ("192.0.3.7:4711", False),
        ("[::ffff:192.0.2.7]:4711", True),
        ("[2001:db8::1]:4711", True),
        ("[2001:db8::1%eth0]:4711", True),
        ("[2001:db9::1]:4711", False),
        ("198.51.100.1:1", True),
        ("198.51.100.2:1", False),
        ("/run/192.0.2.7:1", False),
        ("@abstract", False),
        (None, False),
    ],
)
def test_muted_networks(peer: str | None, muted: bool) -> None:
    networks = MutedNetworks(["192.0.2.0/24", "2001:db8::/32", "198.51.100.1"])
    assert networks
    for _ in range(2):
        assert (peer in networks) is muted
    assert peer not in MutedNetworks()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("192.0.2.0/24", TypeError),
        (7, TypeError),
        (["192.0.2.7/24"], ValueError),
        (["node.example"], ValueError),
    ],
)
async def test_wrong_networks_are_refused_at_the_door(wrong: Any, error: type[Exception]) -> None:
    memory = MemoryListener()
    with pytest.raises(error):
        await serve_listeners(receive_all, [memory], credentials(), muted_networks=wrong)
    with pytest.raises(error):
        await serve_tcp(receive_all, 0, credentials(), muted_networks=wrong)
    with pytest.raises(error):
        DuplexListener(memory, credentials(), muted_networks=wrong)
    assert not memory.closed


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::1%eth0]:4711", "2001:db8::1%eth0"),
        ("/run/a:1", "/run/a:1"),
        ("@a:1", "@a:1"),
        (None, None),
    ],
)
def test_host_of(peer: str | None, host: str | None) -> None:
    assert host_of(peer) == host


# ------------------------------------------------------------------------------------- through a server

Script = Callable[[RecordingStream], Awaitable[object]]


async def says_hello_and_leaves(stream: RecordingStream) -> None:
    await stream.send_all(client_hello())
    await trio.sleep(1)
    await stream.aclose()


async def waits_for_ours_and_leaves(stream: RecordingStream) -> None:
    await stream.receive_some(1)
    await stream.aclose()


async def asks_in_http(stream: RecordingStream) -> None:
    await stream.send_all(CHECKS[0])
    await receive_all(stream)


async def is_a_browser(stream: RecordingStream) -> None:
    await stream.send_all(OTHERS[0])
    await receive_all(stream)


@pytest.mark.parametrize(
    ("script", "probes", "failed", "level"),
    [
        (says_hello_and_leaves, {Probe.HUNG_UP: 1}, {}, logging.DEBUG),
        (waits_for_ours_and_leaves, {Probe.HUNG_UP: 1}, {}, logging.DEBUG),
        (asks_in_http, {Probe.HTTP: 1}, {}, logging.DEBUG),
        (is_a_browser, {}, {"NotTLSError": 1}, logging.INFO),
    ],
)
async def test_health_checks_are_counted_separately(
    script: Script,
    probes: dict[Probe, int],
    failed: dict[str, int],
    level: int,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")
    memory, events = MemoryListener(), list[Event]()
    async with serving(receive_all, memory, window=5, observers=[events.append]) as server:
        await script(memory.connect())
        await trio.sleep(10)
        statistics = server.statistics()
        assert (statistics.probes, statistics.failed) == (probes, failed)
    (told,) = (event for event in events if isinstance(event, NegotiationFailed))
    assert told.probe in (probes or {None})
    assert [record.levelno for record in caplog.records if "failed" in record.message] == [level]


async def test_a_muted_network_over_tcp(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="trio_duplex")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def serve(task_status: trio.TaskStatus[Server]) -> None:
                await serve_tcp(
                    receive_all,
                    0,
                    credentials(),
                    host="127.0.0.1",
                    muted_networks=["127.0.0.2"],
                    task_status=task_status,
                )

            server: Server = await nursery.start(serve)
            ((_, port),) = cast("list[tuple[str, int]]", server.addresses)
            for host in ("127.0.0.1", "127.0.0.2"):
                stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=host)
                async with stream:
                    await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n")
                    await receive_all(stream)
            while server.statistics().accepted != 2 or server.statistics().pending:
                await trio.sleep(0.001)
            statistics = server.statistics()
            server.cancel_scope.cancel()
    assert statistics.failed == {"NotTLSError": 1}
    assert statistics.probes == {Probe.MUTED: 1}
    failed = [record for record in caplog.records if "failed" in record.message]
    assert [record.levelno for record in failed] == [logging.INFO, logging.DEBUG]
