"""The Prometheus collector: `trio_duplex.metrics`."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import textwrap
import threading
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

import trio_duplex
from tests.serve.test_room import serving, talk
from tests.support.authority import AUTHORITY
from tests.support.peers import NODE, MemoryListener, credentials, peer_stream
from trio_duplex import Connection, Limits, Role, Server, Statistics, serve_tcp
from trio_duplex._serve.acceptor import Acceptor
from trio_duplex._stream.settings import Settings
from trio_duplex.metrics import ServerCollector

pytestmark = pytest.mark.slow


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(registry: CollectorRegistry) -> Samples:
    """What a scrape reads, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"trio_duplex_{name}", frozenset(labels.items())


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry(auto_describe=True)


async def visit(memory: MemoryListener) -> None:
    """Peers of all kinds, one after the other, and one of each that stays."""
    await talk(memory.connect(), Role.CLIENT)
    await talk(memory.connect(), Role.SERVER)
    await memory.connect().send_all(b"SSH-2.0-x\r\n")
    await trio.sleep(0.1)
    await memory.connect().aclose()
    await trio.sleep(0.1)
    tls = peer_stream(memory.connect(), Role.CLIENT)
    await tls.send_all(b"raise")
    await trio.sleep(1)


async def handler(connection: Connection) -> None:
    async for chunk in connection:
        if chunk == b"raise":
            raise ZeroDivisionError
        await connection.send_all(chunk)


async def test_every_number_of_the_statistics(
    registry: CollectorRegistry, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory, handler=handler, pending=1) as watched:
        registry.register(ServerCollector(watched.server))
        await visit(memory)
        await peer_stream(memory.connect(), Role.CLIENT).do_handshake()  # stays open
        memory.connect()
        await trio.sleep(0.1)
        memory.connect()
        await trio.sleep(0.1)
        samples = scraped(registry)
        statistics = watched.server.statistics()
    assert samples[key("accepted_total")] == statistics.accepted == 8
    assert samples[key("decisions_total", role="server", reason="spoke")] == 4
    assert samples[key("decisions_total", role="client", reason="silent")] == 1
    assert samples[key("handshakes_total", role="server")] == 3
    assert samples[key("handshakes_total", role="client")] == 1
    assert samples[key("failures_total", error="NotTLSError")] == 1
    assert samples[key("failures_total", error="PeerClosedError")] == 1
    assert samples[key("failures_total", error="LimitError")] == 1
    assert samples[key("handler_failures_total", error="ZeroDivisionError")] == 1
    assert samples[key("closed_total")] == statistics.closed == 3
    assert samples[key("limits_total", limit="pending")] == 1
    assert samples[key("pauses_total")] == 0
    assert samples[key("received_bytes_total")] == statistics.bytes_received == 15
    assert samples[key("sent_bytes_total")] == statistics.bytes_sent == 10
    assert samples[key("observers_disabled_total")] == 0
    assert samples[key("pending_connections")] == 1
    assert samples[key("open_connections")] == 1
    assert statistics.certificate_not_after is not None
    assert samples[key("certificate_not_after")] == statistics.certificate_not_after.timestamp()
    for role in Role:
        assert samples[key("handshakes_in_progress", role=str(role))] == 0
    assert samples[key("decision_seconds_count")] == statistics.decision_seconds.count == 5
    assert samples[key("decision_seconds_sum")] == statistics.decision_seconds.total == 5
    assert samples[key("decision_seconds_bucket", le="0.001")] == 4
    assert samples[key("decision_seconds_bucket", le="2.5")] == 4
    assert samples[key("decision_seconds_bucket", le="5.0")] == 5
    assert samples[key("decision_seconds_bucket", le="+Inf")] == 5


async def test_every_field_is_exported(
    registry: CollectorRegistry, autojump_clock: trio.testing.MockClock
) -> None:
    """A number that is added to the statistics must not be forgotten here."""
    read: set[str] = set()

    class Watching:
        def __init__(self, statistics: Statistics) -> None:
            self._statistics = statistics

        def __getattr__(self, name: str) -> Any:
            read.add(name)
            return getattr(self._statistics, name)

    memory = MemoryListener()
    async with serving(memory) as watched:
        collector = ServerCollector(watched.server)
        statistics = watched.server.statistics()
        setattr(watched.server, "statistics", lambda: Watching(statistics))  # noqa: B010 - not mypy's
        list(collector.collect())
        delattr(watched.server, "statistics")
    assert read == set(Statistics.__annotations__)


async def test_names_and_labels(
    registry: CollectorRegistry, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory, handler=handler) as watched:
        registry.register(ServerCollector({"one": watched.server}))
        await visit(memory)
        families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    for family in families:
        assert re.fullmatch(r"trio_duplex_[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert set(sample.labels) <= {
                "server",
                "role",
                "reason",
                "error",
                "kind",
                "limit",
                "le",
            }
            assert sample.labels["server"] == "one"
    # Few, whatever peers do.
    assert sum(len(family.samples) for family in families) < 60


async def test_several_servers_in_one_collector(
    registry: CollectorRegistry, autojump_clock: trio.testing.MockClock
) -> None:
    one, other = MemoryListener(), MemoryListener()
    async with serving(one) as first, serving(other) as second:
        collector = ServerCollector({"fleet": first.server})
        registry.register(collector)
        collector.servers["backup"] = second.server
        await talk(one.connect(), Role.CLIENT)
        for _ in range(2):
            await talk(other.connect(), Role.CLIENT)
        samples = scraped(registry)
        assert samples[key("accepted_total", server="fleet")] == 1
        assert samples[key("accepted_total", server="backup")] == 2
        assert samples[key("handshakes_total", server="backup", role="server")] == 2
        assert samples[key("decision_seconds_count", server="backup")] == 2


async def test_a_server_that_has_ended_keeps_its_counts(
    registry: CollectorRegistry, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryListener()
    async with serving(memory) as watched:
        await talk(memory.connect(), Role.CLIENT)
    registry.register(ServerCollector(watched.server))
    assert scraped(registry)[key("accepted_total")] == 1


async def test_a_registry_takes_them_once(
    registry: CollectorRegistry, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving(MemoryListener()) as watched:
        registry.register(ServerCollector(watched.server))
        with pytest.raises(ValueError, match="trio_duplex_accepted"):
            registry.register(ServerCollector(watched.server))


async def test_over_http_and_from_other_threads(registry: CollectorRegistry) -> None:
    with trio.fail_after(30):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with serving(*listeners) as watched:
            registry.register(ServerCollector(watched.server))
            http, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
            (address,) = watched.server.addresses
            errors: list[Exception] = []
            done = threading.Event()

            def scrape() -> None:
                while not done.is_set():
                    try:
                        generate_latest(registry)
                    except Exception as exc:  # noqa: BLE001 - it is shown below
                        errors.append(exc)

            scraper = threading.Thread(target=scrape)
            scraper.start()
            try:
                for _ in range(10):
                    dial = await trio.open_tcp_stream("127.0.0.1", address[1])  # type: ignore[arg-type]
                    await talk(dial, Role.CLIENT)
                url = f"http://127.0.0.1:{http.server_port}/metrics"
                page = await trio.to_thread.run_sync(partial(urllib.request.urlopen, url))
                with page:
                    assert b"\ntrio_duplex_accepted_total 10.0\n" in page.read()
            finally:
                done.set()
                http.shutdown()
                http.server_close()
                await trio.to_thread.run_sync(scraper.join)
                await trio.to_thread.run_sync(thread.join)
            assert errors == []


def test_without_prometheus_client_it_says_what_to_install() -> None:
    script = """
        import sys
        sys.modules["prometheus_client"] = None
        sys.modules["prometheus_client.core"] = None
        try:
            import trio_duplex.metrics
        except ModuleNotFoundError as exc:
            print(exc)
        import trio_duplex
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert "trio-duplex[metrics]" in ran.stdout
    assert "prometheus_client" in ran.stdout


def test_the_library_does_not_need_it() -> None:
    script = "import sys, trio_duplex; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_table_in_the_documentation() -> None:
    """Each metric has its row there, with its labels, and no other."""
    page = (Path(__file__).parents[1] / "docs" / "limits.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`trio_duplex_[^|]*) \|([^|]*)\|", page, re.MULTILINE)
    listed = {
        name: set(re.findall(r"`(\w+)`", labels))
        for names, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    server = Server([], Acceptor(credentials(), Settings(), Limits(), []), trio.CancelScope())
    made = {
        family.name + "_total" * (family.type == "counter"): set(family._labelnames)  # type: ignore[attr-defined]
        for family in ServerCollector(server).collect()
    }
    assert listed == made


async def test_the_example_in_the_documentation(
    monkeypatch: pytest.MonkeyPatch, registry: CollectorRegistry, tmp_path: Path
) -> None:
    """It runs as it stands, but for where it listens."""
    NODE.private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    NODE.private_key_pem.write_to_path(tmp_path / "node.key")
    AUTHORITY.cert_pem.write_to_path(tmp_path / "fleet-ca.pem")
    monkeypatch.chdir(tmp_path)
    started = trio.Event()
    monkeypatch.setattr(prometheus_client, "REGISTRY", registry)
    monkeypatch.setattr(prometheus_client, "start_http_server", lambda *_, **__: started.set())
    monkeypatch.setattr(trio_duplex, "serve_tcp", partial(serve_somewhere, serve_tcp))
    example = Path(__file__).parents[1] / "docs" / "examples" / "metrics.py"
    main = runpy.run_path(str(example))["main"]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main)
            await started.wait()
            assert scraped(registry)[key("accepted_total")] == 0
            nursery.cancel_scope.cancel()


async def serve_somewhere(
    serve: Any,
    handler: Any,
    port: int,
    credentials: Any,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve(handler, 0, credentials, host="127.0.0.1", task_status=task_status)
