"""Fixtures for pytest, made of `trio_duplex.testing`.

pytest loads this module in every run where trio_duplex is installed (entry
point ``pytest11``), so it imports nothing but pytest: the kit, and trio, come
with the first fixture that is used. ``-p no:trio_duplex`` leaves it out.

All fixtures are plain functions, none is async: what needs Trio is an async
context manager or a coroutine that the *test* enters or awaits. So they work
with pytest-trio, with or without its ``trio_mode``, and with anyio's plugin on
its Trio backend.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

if TYPE_CHECKING:
    from trio_duplex import Credentials, testing

    P = TypeVar("P", bound=testing.Peer)

_PEERS = pytest.StashKey["list[testing.Peer]"]()
_NONE: list[testing.Peer] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, with a failure, what each scripted peer of the test saw."""
    if call.excinfo is not None:
        for peer in item.stash.get(_PEERS, _NONE):
            item.add_report_section(call.when, peer.kind, str(peer.report))
        item.stash[_PEERS] = []
    return (yield)


@pytest.fixture(scope="session")
def _duplex_kit() -> Any:  # noqa: ANN401 - a module, which has no type of its own
    """The kit, if all that it needs is installed."""
    if importlib.util.find_spec("trustme") is None:
        pytest.fail(
            "the fixtures of trio_duplex need trustme, which is not installed: "
            "python -m pip install 'trio-duplex[testing]'",
            pytrace=False,
        )
    from trio_duplex import testing

    return testing


# -------------------------------------------------------------------- certificates


@pytest.fixture(scope="session")
def duplex_authority(_duplex_kit: Any) -> testing.Authority:  # noqa: ANN401
    """A certificate authority to throw away: issues certificates, good and flawed.

    Example::

        @pytest.mark.parametrize("flaw", [Flaw.EXPIRED, Flaw.WRONG_AUTHORITY])
        async def test_refuses(flaw, duplex_authority, duplex_server, speaking_peer):
            flawed = duplex_authority.flawed(flaw, "node.example")
            async with duplex_server() as server:
                report = await speaking_peer(credentials=flawed).run(server)
            assert report.alert
    """
    authority: testing.Authority = _duplex_kit.Authority()
    return authority


@pytest.fixture(scope="session")
def duplex_credentials(duplex_authority: testing.Authority) -> Credentials:
    """Credentials of `duplex_authority` for the end under test, for both roles.

    Example::

        async def test_serves(duplex_credentials, nursery):
            await nursery.start(my_service.serve, duplex_credentials)
    """
    return duplex_authority.credentials("server.example", "localhost", "127.0.0.1", "::1")


@pytest.fixture(scope="session")
def duplex_certificate(duplex_authority: testing.Authority) -> testing.Certificate:
    """The certificate of `duplex_authority` that the peers of the fixtures present.

    Example::

        def test_with_openssl(duplex_certificate, duplex_thread_server, tmp_path):
            server, files = duplex_thread_server(), duplex_certificate.write(tmp_path)
            subprocess.run(["openssl", "s_client", "-cert", files.certificate_chain, ...])
    """
    return duplex_authority.certificate("peer.example", "localhost", "127.0.0.1", "::1")


# ------------------------------------------------------------------------- servers


@pytest.fixture
def duplex_server(
    _duplex_kit: Any,  # noqa: ANN401
    duplex_credentials: Credentials,
) -> Generator[testing.ServerFactory]:
    """Start a server for the length of an ``async with`` block: `trio_duplex.testing.open_server`.

    It has `duplex_credentials` unless given others, and listens on a free port
    of 127.0.0.1 unless given a listener. It is drained at the end of the
    block; an error of the handler fails the test.

    Example::

        async def test_echo(duplex_server, silent_peer):
            async with duplex_server(my_handler, window=0.1) as server:
                report = await silent_peer(say=b"hello").run(server)
            assert report.heard == b"hello"
    """
    contexts: list[testing.ServerContext] = []

    def start(
        handler: Any = _duplex_kit.echo,  # noqa: ANN401 - typed by the protocol
        credentials: Credentials | None = None,
        **options: Any,  # noqa: ANN401
    ) -> testing.ServerContext:
        context: testing.ServerContext = _duplex_kit.open_server(
            handler, credentials or duplex_credentials, **options
        )
        contexts.append(context)
        return context

    yield start
    if not all(context.entered for context in contexts):
        pytest.fail(
            "duplex_server(...) was called, but its server was never started: "
            "'async with duplex_server(...) as server'",
            pytrace=False,
        )


@pytest.fixture
def duplex_thread_server(
    _duplex_kit: Any,  # noqa: ANN401
    duplex_credentials: Credentials,
) -> Generator[testing.ThreadServerFactory]:
    """Start a server in a background thread, until the test ends: `trio_duplex.testing.thread_server`.

    For tests that do not use Trio. It has `duplex_credentials` unless given
    others. At the end of the test it is drained; an error of the handler is an
    error of the test.

    Example::

        def test_asyncio_client(duplex_thread_server):
            server = duplex_thread_server(my_handler)
            asyncio.run(my_client(server.host, server.port))
    """
    with contextlib.ExitStack() as servers:

        def start(
            handler: Any = _duplex_kit.echo,  # noqa: ANN401 - typed by the protocol
            credentials: Credentials | None = None,
            **options: Any,  # noqa: ANN401
        ) -> testing.ThreadServer:
            server: testing.ThreadServer = servers.enter_context(
                _duplex_kit.thread_server(handler, credentials or duplex_credentials, **options)
            )
            return server

        yield start


@pytest.fixture
def duplex_listener(_duplex_kit: Any) -> testing.MemoryListener:  # noqa: ANN401
    """A listener in memory: with ``autojump_clock``, a window takes no real time.

    Example::

        async def test_window(duplex_listener, duplex_server, silent_peer, autojump_clock):
            async with duplex_server(listener=duplex_listener, window=5) as server:
                report = await silent_peer().run(server)
            assert report.seconds >= 5
    """
    listener: testing.MemoryListener = _duplex_kit.open_memory_listener()
    return listener


# --------------------------------------------------------------------------- peers
# Each fixture is a class: a subclass of the kit's that presents `duplex_certificate`,
# trusts `duplex_authority`, and whose transcript is shown when the test fails.


def _from_fixture(
    cls: type[P], request: pytest.FixtureRequest, certificate: testing.Certificate
) -> type[P]:
    item = request.node

    class FromFixture(cls):  # type: ignore[valid-type, misc]  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401
            super().__init__(*args, **options)
            item.stash.setdefault(_PEERS, []).append(self)

        def default_credentials(self) -> testing.Certificate:
            return certificate

    FromFixture.__name__ = FromFixture.__qualname__ = cls.__name__
    return cast("type[P]", FromFixture)


@pytest.fixture
def speaking_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.SpeakingPeer]:
    """A TLS client: it sends its ClientHello at once.

    `trio_duplex.testing.SpeakingPeer` has its options.

    Example::

        async def test_speaks(duplex_server, speaking_peer):
            async with duplex_server(my_handler) as server:
                report = await speaking_peer(say=b"hello").run(server)
            report.assert_role(Role.CLIENT)
    """
    return _from_fixture(_duplex_kit.SpeakingPeer, request, duplex_certificate)


@pytest.fixture
def silent_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.SilentPeer]:
    """A TLS server that dialled: it stays silent until a ClientHello comes.

    `trio_duplex.testing.SilentPeer` has its options.

    Example::

        async def test_silent(duplex_server, silent_peer):
            async with duplex_server(my_handler, window=0.1) as server:
                report = await silent_peer().run(server)
            report.assert_role(Role.SERVER)
    """
    return _from_fixture(_duplex_kit.SilentPeer, request, duplex_certificate)


@pytest.fixture
def announcing_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.AnnouncingPeer]:
    """A silent peer that says so at once, with a plaintext HelloRequest.

    `trio_duplex.testing.AnnouncingPeer` has its options.

    Example::

        report = await announcing_peer().run(server)
        report.assert_role(Role.SERVER)
    """
    return _from_fixture(_duplex_kit.AnnouncingPeer, request, duplex_certificate)


@pytest.fixture
def late_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.LatePeer]:
    """A speaking peer that takes its time before the ClientHello.

    `trio_duplex.testing.LatePeer` has its options.

    Example::

        async with duplex_server(listener=duplex_listener, window=5) as server:
            report = await late_peer(late_by=4.9).run(server)
        report.assert_role(Role.CLIENT)
    """
    return _from_fixture(_duplex_kit.LatePeer, request, duplex_certificate)


@pytest.fixture
def dribbling_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.DribblingPeer]:
    """A speaking peer that sends its ClientHello a few bytes at a time.

    `trio_duplex.testing.DribblingPeer` has its options.

    Example::

        report = await dribbling_peer(size=1, pause=0.01, record_size=1).run(server)
        report.assert_role(Role.CLIENT)
    """
    return _from_fixture(_duplex_kit.DribblingPeer, request, duplex_certificate)


@pytest.fixture
def partial_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.PartialPeer]:
    """Sends the start of a ClientHello, and then nothing any more.

    `trio_duplex.testing.PartialPeer` has its options.

    Example::

        report = await partial_peer(size=3).run(server)
        assert report.seconds < 31
    """
    return _from_fixture(_duplex_kit.PartialPeer, request, duplex_certificate)


@pytest.fixture
def plaintext_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.PlaintextPeer]:
    """Speaks first, and something else than TLS.

    `trio_duplex.testing.PlaintextPeer` has its options.

    Example::

        report = await plaintext_peer(say=PLAINTEXT["ssh"]).run(server)
        assert report.received == b""
    """
    return _from_fixture(_duplex_kit.PlaintextPeer, request, duplex_certificate)


@pytest.fixture
def hanging_up_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.HangingUpPeer]:
    """Hangs up with a bare FIN, at a chosen moment.

    `trio_duplex.testing.HangingUpPeer` has its options.

    Example::

        await hanging_up_peer(after=Role.CLIENT).run(server)
    """
    return _from_fixture(_duplex_kit.HangingUpPeer, request, duplex_certificate)


@pytest.fixture
def resetting_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.ResettingPeer]:
    """Resets the connection (RST), at a chosen moment.

    `trio_duplex.testing.ResettingPeer` has its options.

    Example::

        await resetting_peer(when_greeted=True).run(server)
    """
    return _from_fixture(_duplex_kit.ResettingPeer, request, duplex_certificate)


@pytest.fixture
def half_closing_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.HalfClosingPeer]:
    r"""Half-closes, and goes on listening until the other end finishes.

    `trio_duplex.testing.HalfClosingPeer` has its options.

    Example::

        report = await half_closing_peer(say=b"\x16").run(server)
        assert report.end
    """
    return _from_fixture(_duplex_kit.HalfClosingPeer, request, duplex_certificate)


@pytest.fixture
def echoing_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.EchoingPeer]:
    """Sends back all that it is sent, raw: our own ClientHello too.

    `trio_duplex.testing.EchoingPeer` has its options.

    Example::

        report = await echoing_peer().run(server)
        assert report.alert == "unexpected_message"
    """
    return _from_fixture(_duplex_kit.EchoingPeer, request, duplex_certificate)


@pytest.fixture
def crossing_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.CrossingPeer]:
    """Makes glare: answers the other end's ClientHello with its own.

    `trio_duplex.testing.CrossingPeer` has its options.

    Example::

        report = await crossing_peer().run(server)
        assert report.alert == "unexpected_message"
    """
    return _from_fixture(_duplex_kit.CrossingPeer, request, duplex_certificate)


@pytest.fixture
def clogged_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.CloggedPeer]:
    """Completes the handshake, and never reads again.

    `trio_duplex.testing.CloggedPeer` has its options.

    Example::

        await clogged_peer(hold=60).run(server)  # with autojump_clock
    """
    return _from_fixture(_duplex_kit.CloggedPeer, request, duplex_certificate)


@pytest.fixture
def garbage_peer(
    _duplex_kit: Any,  # noqa: ANN401
    request: pytest.FixtureRequest,
    duplex_certificate: testing.Certificate,
) -> type[testing.GarbagePeer]:
    """Completes the handshake, and then sends garbage on the wire.

    `trio_duplex.testing.GarbagePeer` has its options.

    Example::

        report = await garbage_peer().run(server)
        assert report.alert == "bad_record_mac"
    """
    return _from_fixture(_duplex_kit.GarbagePeer, request, duplex_certificate)
