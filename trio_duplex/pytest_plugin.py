"""Fixtures for pytest, made of `trio_duplex.testing`.

pytest loads this module in every run where trio_duplex is installed (entry
point ``pytest11``), so it imports only pytest. The kit and Trio are imported
when the first fixture is used. ``-p no:trio_duplex`` turns this plugin off.

None of the fixtures is async. Whatever needs Trio is an async context manager
or a coroutine that the *test* enters or awaits. So the fixtures work with
pytest-trio, with or without its ``trio_mode``, and with anyio's plugin on its
Trio backend.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import pytest

if TYPE_CHECKING:
    from trio_duplex import Credentials, testing

    P = TypeVar("P", bound=testing.Peer)

    class _PeerMaker(Protocol):
        def __call__(self, cls: type[P], /) -> type[P]: ...


_PEERS = pytest.StashKey["list[testing.Peer]"]()


# This is not a hook wrapper, because the old and the new style of wrappers need different versions
# of pluggy. It need not be one: it only adds sections to a report that another hook makes.
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Show, with a failure, what each scripted peer of the test saw."""
    if call.excinfo is not None:
        peers = item.stash.setdefault(_PEERS, [])
        while peers:  # show each peer only once, even if the clean-up fails as well
            peer = peers.pop(0)
            item.add_report_section(call.when, peer.kind, str(peer.report))


@pytest.fixture(scope="session")
def _duplex_kit() -> Any:
    """The testing kit. The test fails if a dependency of the kit is missing."""
    if importlib.util.find_spec("trustme") is None:
        pytest.fail(
            "the fixtures of trio_duplex need trustme, which is not installed: "
            "python -m pip install 'trio-duplex[testing]'",
            pytrace=False,
        )
    from trio_duplex import testing

    return testing


@pytest.fixture(scope="session")
def duplex_authority(_duplex_kit: Any) -> testing.Authority:
    """A throw-away certificate authority, which issues good and flawed certificates.

    Example::

        import pytest
        from trio_duplex.testing import Flaw

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


@pytest.fixture
def duplex_server(
    _duplex_kit: Any, duplex_credentials: Credentials
) -> Generator[testing.ServerFactory]:
    """Start a server for an ``async with`` block (`trio_duplex.testing.open_server`).

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
        handler: Any = _duplex_kit.echo, credentials: Credentials | None = None, **options: Any
    ) -> testing.ServerContext:
        mine = credentials or duplex_credentials
        contexts.append(_duplex_kit.open_server(handler, mine, **options))
        return contexts[-1]

    yield start
    if not all(context.entered for context in contexts):
        pytest.fail(
            "duplex_server(...) was called, but its server was never started: "
            "'async with duplex_server(...) as server'",
            pytrace=False,
        )


@pytest.fixture
def duplex_thread_server(
    _duplex_kit: Any, duplex_credentials: Credentials
) -> Generator[testing.ThreadServerFactory]:
    """Start a server in a background thread, until the test ends (`trio_duplex.testing.thread_server`).

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
            handler: Any = _duplex_kit.echo, credentials: Credentials | None = None, **options: Any
        ) -> Any:
            mine = credentials or duplex_credentials
            return servers.enter_context(_duplex_kit.thread_server(handler, mine, **options))

        yield start


@pytest.fixture
def duplex_listener(_duplex_kit: Any) -> testing.MemoryListener:
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


@pytest.fixture
def _duplex_peer(
    request: pytest.FixtureRequest, duplex_certificate: testing.Certificate
) -> _PeerMaker:
    """Make the subclass that a fixture returns, from a class of the kit."""
    item = request.node

    def make(cls: Any) -> Any:
        def init(self: testing.Peer, **options: Any) -> None:
            cls.__init__(self, **options)
            item.stash.setdefault(_PEERS, []).append(self)

        def default_credentials(_: testing.Peer) -> testing.Certificate:
            return duplex_certificate

        own = {"__init__": init, "default_credentials": default_credentials}
        return type(cls.__name__, (cls,), own)

    return make


@pytest.fixture
def speaking_peer(_duplex_peer: _PeerMaker) -> type[testing.SpeakingPeer]:
    """A TLS client: it sends its ClientHello at once (`trio_duplex.testing.SpeakingPeer`).

    Example::

        async def test_speaks(duplex_server, speaking_peer):
            async with duplex_server(my_handler) as server:
                report = await speaking_peer(say=b"hello").run(server)
            report.assert_role(Role.CLIENT)
    """
    from trio_duplex.testing import SpeakingPeer

    return _duplex_peer(SpeakingPeer)


@pytest.fixture
def silent_peer(_duplex_peer: _PeerMaker) -> type[testing.SilentPeer]:
    """A TLS server that dialled: it stays silent until a ClientHello comes (`trio_duplex.testing.SilentPeer`).

    Example::

        async def test_silent(duplex_server, silent_peer):
            async with duplex_server(my_handler, window=0.1) as server:
                report = await silent_peer().run(server)
            report.assert_role(Role.SERVER)
    """
    from trio_duplex.testing import SilentPeer

    return _duplex_peer(SilentPeer)


@pytest.fixture
def announcing_peer(_duplex_peer: _PeerMaker) -> type[testing.AnnouncingPeer]:
    """A silent peer that says so at once, with an announcement (`trio_duplex.testing.AnnouncingPeer`).

    Example::

        (await announcing_peer().run(server)).assert_role(Role.SERVER)
    """
    from trio_duplex.testing import AnnouncingPeer

    return _duplex_peer(AnnouncingPeer)


@pytest.fixture
def late_peer(_duplex_peer: _PeerMaker) -> type[testing.LatePeer]:
    """A speaking peer that takes its time before the ClientHello (`trio_duplex.testing.LatePeer`).

    Example::

        report = await late_peer(late_by=4.9).run(server)  # with window=5
        report.assert_role(Role.CLIENT)
    """
    from trio_duplex.testing import LatePeer

    return _duplex_peer(LatePeer)


@pytest.fixture
def dribbling_peer(_duplex_peer: _PeerMaker) -> type[testing.DribblingPeer]:
    """A speaking peer that sends its ClientHello a few bytes at a time (`trio_duplex.testing.DribblingPeer`).

    Example::

        report = await dribbling_peer(size=1, pause=0.005, record_size=1).run(server)
        report.assert_role(Role.CLIENT)
    """
    from trio_duplex.testing import DribblingPeer

    return _duplex_peer(DribblingPeer)


@pytest.fixture
def partial_peer(_duplex_peer: _PeerMaker) -> type[testing.PartialPeer]:
    """Sends the start of a ClientHello, and then nothing any more (`trio_duplex.testing.PartialPeer`).

    Example::

        report = await partial_peer(size=3).run(server)
        assert report.seconds < 31
    """
    from trio_duplex.testing import PartialPeer

    return _duplex_peer(PartialPeer)


@pytest.fixture
def plaintext_peer(_duplex_peer: _PeerMaker) -> type[testing.PlaintextPeer]:
    """Speaks first, and something else than TLS (`trio_duplex.testing.PlaintextPeer`).

    Example::

        await plaintext_peer(say=PLAINTEXT["ssh"]).run(server)
    """
    from trio_duplex.testing import PlaintextPeer

    return _duplex_peer(PlaintextPeer)


@pytest.fixture
def hanging_up_peer(_duplex_peer: _PeerMaker) -> type[testing.HangingUpPeer]:
    """Hangs up with a bare FIN, at a chosen moment (`trio_duplex.testing.HangingUpPeer`).

    Example::

        await hanging_up_peer(after=Role.CLIENT).run(server)
    """
    from trio_duplex.testing import HangingUpPeer

    return _duplex_peer(HangingUpPeer)


@pytest.fixture
def resetting_peer(_duplex_peer: _PeerMaker) -> type[testing.ResettingPeer]:
    """Resets the connection (RST), at a chosen moment (`trio_duplex.testing.ResettingPeer`).

    Example::

        await resetting_peer(when_greeted=True).run(server)
    """
    from trio_duplex.testing import ResettingPeer

    return _duplex_peer(ResettingPeer)


@pytest.fixture
def half_closing_peer(_duplex_peer: _PeerMaker) -> type[testing.HalfClosingPeer]:
    r"""Half-closes, and goes on listening until the other end finishes (`trio_duplex.testing.HalfClosingPeer`).

    Example::

        await half_closing_peer(say=b"\x16").run(server)
    """
    from trio_duplex.testing import HalfClosingPeer

    return _duplex_peer(HalfClosingPeer)


@pytest.fixture
def echoing_peer(_duplex_peer: _PeerMaker) -> type[testing.EchoingPeer]:
    """Sends back all that it is sent, raw: our own ClientHello too (`trio_duplex.testing.EchoingPeer`).

    Example::

        report = await echoing_peer().run(server)
        assert report.alert == "unexpected_message"
    """
    from trio_duplex.testing import EchoingPeer

    return _duplex_peer(EchoingPeer)


@pytest.fixture
def crossing_peer(_duplex_peer: _PeerMaker) -> type[testing.CrossingPeer]:
    """Makes glare: answers the other end's ClientHello with its own (`trio_duplex.testing.CrossingPeer`).

    Example::

        report = await crossing_peer().run(server)
        assert isinstance(report.error, OSError)  # it aborts, as most TLS clients do
    """
    from trio_duplex.testing import CrossingPeer

    return _duplex_peer(CrossingPeer)


@pytest.fixture
def clogged_peer(_duplex_peer: _PeerMaker) -> type[testing.CloggedPeer]:
    """Completes the handshake, and never reads again (`trio_duplex.testing.CloggedPeer`).

    Example::

        await clogged_peer(hold=60).run(server)  # with autojump_clock
    """
    from trio_duplex.testing import CloggedPeer

    return _duplex_peer(CloggedPeer)


@pytest.fixture
def garbage_peer(_duplex_peer: _PeerMaker) -> type[testing.GarbagePeer]:
    """Completes the handshake, and then sends garbage on the wire (`trio_duplex.testing.GarbagePeer`).

    Example::

        report = await garbage_peer().run(server)
        assert report.alert == "bad_record_mac"
    """
    from trio_duplex.testing import GarbagePeer

    return _duplex_peer(GarbagePeer)
