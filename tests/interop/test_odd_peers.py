"""Programs that dial the wrong port, and HAProxy in front of the right one.

Each of them is told apart from a TLS peer by what it really sends, while a healthy speaking and a
healthy silent peer on the same port do not notice.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from pathlib import Path

import attrs
import pytest

from tests.interop.harness import (
    MESSAGE,
    SILENT_HOST,
    TIMEOUT,
    EchoServer,
    Files,
    dial,
    program,
    python_context,
    python_dials,
)
from tests.support.tools import require_tool
from trio_duplex import HandshakeError, NotTLSError, Reason, Role

pytestmark = pytest.mark.interop


class Neighbour:
    """A healthy peer: echoes before, while and after something odd happens beside it.

    Args:
        port: Where to dial.
        files: Its certificate, and whom it trusts.
        role: The TLS role that it plays.
    """

    def __init__(self, port: int, files: Files, role: Role) -> None:
        self._role = role
        self._context = python_context(files, role)
        self._socket = dial(port, role)
        self.port: int = self._socket.getsockname()[1]
        self._odd_is_over = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"Neighbour {role}")
        self._thread.start()

    def finish(self) -> None:
        self._odd_is_over.set()
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        def pause() -> None:
            assert self._odd_is_over.wait(TIMEOUT)

        try:
            echo = python_dials(self._socket, self._context, self._role, halfway=pause)
            assert echo == MESSAGE
        except BaseException as exc:  # noqa: BLE001 - raised by finish()
            self._failure = exc


@contextlib.contextmanager
def neighbours(server: EchoServer, files: Files) -> Generator[None]:
    """Healthy peers of both kinds, which must not notice what happens meanwhile."""
    peers = {role: Neighbour(server.watched_port, files, role) for role in Role}
    try:
        yield
    finally:
        for peer in peers.values():
            peer.finish()
    for role, peer in peers.items():
        outcome = server.outcome(peer.port)
        assert outcome.role is role.other
        assert outcome.is_echo()


# ------------------------------------------------------------------------- the wrong programs


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        pytest.param("curl -s http://127.0.0.1:PORT/", "an HTTP request", id="http"),
        pytest.param(
            "curl -s --http2-prior-knowledge http://127.0.0.1:PORT/",
            "an HTTP/2 preface",
            id="http2",
        ),
        pytest.param("curl -s mqtt://127.0.0.1:PORT/x", "an MQTT CONNECT", id="mqtt"),
        pytest.param("curl -s rtsp://127.0.0.1:PORT/x", "an RTSP request", id="rtsp"),
        pytest.param(
            "curl -s --proxy socks5://127.0.0.1:PORT http://127.0.0.1:1/",
            "a SOCKS5 greeting",
            id="socks5",
        ),
        pytest.param(
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no "
            "-o UserKnownHostsFile=/dev/null -p PORT 127.0.0.1",
            "an SSH banner",
            id="ssh",
        ),
        pytest.param(
            "openssl s_client -connect 127.0.0.1:PORT -starttls postgres",
            "a PostgreSQL SSLRequest",
            id="postgres",
        ),
        pytest.param(
            "openssl s_client -connect 127.0.0.1:PORT -starttls xmpp",
            "an XML stream, as of XMPP or NETCONF",
            id="xmpp",
        ),
        pytest.param(
            "openssl s_client -connect 127.0.0.1:PORT -starttls ldap",
            "an LDAP ExtendedRequest",
            id="ldap",
        ),
        pytest.param(
            "socat FILE:TEXT TCP:127.0.0.1:PORT", r"plain text beginning 'hello\n'", id="text"
        ),
    ],
)
def test_a_program_that_speaks_something_else(
    server: EchoServer, files: Files, tmp_path: Path, command: str, seen: str
) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n")
    tool, *arguments = (
        command.replace("PORT", str(server.watched_port)).replace("TEXT", str(text)).split()
    )
    with neighbours(server, files), program(require_tool(tool), *arguments) as peer:
        error = server.outcome().error
        peer.communicate(timeout=TIMEOUT)  # it is told to go, and goes
    assert type(error) is NotTLSError
    assert error.role is Role.SERVER
    assert error.seen == seen


def test_a_client_of_mail_waits_for_a_banner_and_greets(server: EchoServer, files: Files) -> None:
    # Silent as a TLS server is; and what we send it, it takes for the banner, because there is a
    # line feed in every ClientHello: the number of the extension supported_groups.
    where = ("-connect", f"127.0.0.1:{server.watched_port}", "-bind", f"{SILENT_HOST}:0")
    options = (*where, "-starttls", "smtp")
    with (
        neighbours(server, files),
        program(require_tool("openssl"), "s_client", *options) as peer,
    ):
        error = server.outcome().error
        peer.communicate(timeout=TIMEOUT)
    assert type(error) is NotTLSError
    assert error.role is Role.CLIENT
    assert error.seen == "an SMTP client's greeting"


def test_a_client_of_mysql_waits_for_a_greeting_and_hangs_up(
    server: EchoServer, files: Files
) -> None:
    where = ("-connect", f"127.0.0.1:{server.watched_port}", "-bind", f"{SILENT_HOST}:0")
    options = (*where, "-starttls", "mysql")
    with (
        neighbours(server, files),
        program(require_tool("openssl"), "s_client", *options) as peer,
    ):
        error = server.outcome().error
        peer.communicate(timeout=TIMEOUT)
    assert type(error) is HandshakeError
    assert error.role is Role.CLIENT


# ------------------------------------------------------------------------------------ HAProxy

HAPROXY = """
defaults
    mode tcp
    timeout connect 120s
    timeout client 120s
    timeout server 120s
listen speaking
    bind fd@{speaking}
    server us 127.0.0.1:{port}
listen silent
    bind fd@{silent}
    server us 127.0.0.1:{port} source {silent_host}
listen v1
    bind fd@{v1}
    server us 127.0.0.1:{port} send-proxy
listen v2
    bind fd@{v2}
    server us 127.0.0.1:{port} send-proxy-v2
frontend web
    mode http
    bind fd@{web}
    http-request return status 200
"""


@attrs.frozen
class HAProxy:
    """The ports of one HAProxy.

    Attributes:
        speaking: Relays to `EchoServer.watched_port`.
        silent: The same, from the address of silent peers.
        v1: Relays what speaks, with a PROXY protocol header of version 1 in front.
        v2: Of version 2.
        web: No relay, but a web server.
    """

    speaking: int
    silent: int
    v1: int
    v2: int
    web: int


@pytest.fixture(scope="module")
def haproxy(server: EchoServer, files: Files) -> Generator[HAProxy]:
    names = [field.name for field in attrs.fields(HAProxy)]
    with contextlib.ExitStack() as stack:
        # It inherits its listeners, which leaves it no port to miss and us nothing to wait for.
        listeners = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in names
        }
        descriptors = {name: listener.fileno() for name, listener in listeners.items()}
        configuration = files.folder / "haproxy.cfg"
        configuration.write_text(
            HAPROXY.format(port=server.watched_port, silent_host=SILENT_HOST, **descriptors)
        )
        command = (require_tool("haproxy"), "-db", "-q", "-f", configuration)
        stack.enter_context(program(*command, pass_fds=list(descriptors.values()), discard=True))
        yield HAProxy(**{name: one.getsockname()[1] for name, one in listeners.items()})


@pytest.mark.parametrize("role", Role)
def test_both_roles_work_through_haproxy(
    server: EchoServer, files: Files, haproxy: HAProxy, role: Role
) -> None:
    port = haproxy.speaking if role is Role.SERVER else haproxy.silent
    with socket.create_connection(("127.0.0.1", port)) as sock:
        echo = python_dials(sock, python_context(files, role.other), role.other)
    assert echo == MESSAGE
    outcome = server.outcome()
    assert outcome.role is role
    assert outcome.opened.decision.reason is (
        Reason.SPOKE if role is Role.SERVER else Reason.SILENT
    )
    assert outcome.is_echo()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_sends_a_proxy_header(
    server: EchoServer, files: Files, haproxy: HAProxy, version: str
) -> None:
    port = haproxy.v1 if version == "v1" else haproxy.v2
    with neighbours(server, files), socket.create_connection(("127.0.0.1", port)) as sock:
        error = server.outcome().error
        sock.settimeout(TIMEOUT)
        assert sock.recv(1) == b""
    assert type(error) is NotTLSError
    assert error.role is Role.SERVER
    assert error.seen == f"a PROXY protocol {version} header"


def test_a_web_server_that_dials_in_answers_our_client_hello(
    server: EchoServer, files: Files, haproxy: HAProxy
) -> None:
    ways = (
        f"TCP:127.0.0.1:{haproxy.web}",
        f"TCP:127.0.0.1:{server.watched_port},bind={SILENT_HOST}",
    )
    with neighbours(server, files), program(require_tool("socat"), *ways):
        error = server.outcome().error
    assert type(error) is NotTLSError
    assert error.role is Role.CLIENT
    assert error.seen == "an HTTP response"
