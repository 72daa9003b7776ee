"""`trio-duplex demo`, in process and as a process of its own; real sockets throughout."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import sys

import attrs
import pytest
import trio
from click.testing import CliRunner, Result
from rich.console import Console

from tests.support.command import PATIENCE, complete
from trio_duplex import PeerClosedError, Reason, Role
from trio_duplex.cli import main
from trio_duplex.cli._command import command
from trio_duplex.cli._demo import demo as _demo
from trio_duplex.cli._demo import peers as demo_peers
from trio_duplex.cli._demo.peers import Authority, Outcome
from trio_duplex.cli._demo.verdict import Ours, Theirs
from trio_duplex.cli._run import run

pytestmark = pytest.mark.slow

LINE = re.compile(
    r"(?P<verdict>ok|WRONG) +(?P<name>[a-z]+ peer) (?P<address>127\.0\.0\.1:\d+): "
    r"waited (?P<waited>\d+\.\d{3}) s, role (?P<role>server|client|not taken)"
    r"( \((?P<why>spoke|silent|announced|remembered)\))?,? (?P<what>.+)"
)


def demo(*args: str) -> Result:
    # Plain calls: the command runs Trio itself.
    return CliRunner().invoke(command, ["demo", *args])


def lines(result: Result) -> dict[str, re.Match[str]]:
    unfolded = result.output.replace("\n" + " " * 6, " ")
    found = [match for line in unfolded.splitlines() if (match := LINE.fullmatch(line))]
    return {match["name"]: match for match in found}


# ------------------------------------------------------------------------------------------------- all is well
#
# With a window of 4 s: the peers that speak may be late for a shorter one on a busy machine.


def test_every_peer_gets_its_role() -> None:
    result = demo("--window", "4")
    assert result.exit_code == 0, result.output
    by_name = lines(result)
    assert {name: (line["role"], line["why"]) for name, line in by_name.items()} == {
        "silent peer": ("client", "silent"),
        "speaking peer": ("server", "spoke"),
        "announced peer": ("client", "announced"),
        "plaintext peer": ("server", "spoke"),
        "vanishing peer": ("not taken", None),
        "remembered peer": ("client", "remembered" if sys.platform == "linux" else "silent"),
    }
    assert {line["verdict"] for line in by_name.values()} == {"ok"}
    assert len({line["address"] for line in by_name.values()}) == 6
    assert float(by_name["silent peer"]["waited"]) >= 4
    for name in ("silent peer", "speaking peer", "announced peer", "remembered peer"):
        assert re.match(r"TLSv1\.[23] \S+, ", by_name[name]["what"])
    assert by_name["plaintext peer"]["what"].startswith("NotTLSError: ")
    assert by_name["vanishing peer"]["what"].startswith("PeerClosedError: ")
    assert "\x1b" not in result.output  # no colours where there is no terminal


def test_without_a_measured_round_trip_nobody_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on systems other than Linux: the full window is right there."""
    monkeypatch.setattr("trio_duplex._stream.lesson.round_trip", lambda _: None)
    result = demo("--window", "4")
    assert result.exit_code == 0, result.output
    assert lines(result)["remembered peer"]["why"] == "silent"


def test_ipv6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on loopback")
    result = demo("--window", "4", "--listen", "[::1]:0")
    assert result.exit_code == 0, result.output


# ---------------------------------------------------------------------------------------------- something is wrong


def peer(name: str) -> demo_peers.Peer:
    (found,) = [each for each in demo_peers.PEERS if each.name == name]
    return found


def test_a_peer_in_the_other_role_is_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    liar = attrs.evolve(peer("silent peer"), behave=demo_peers.speak_tls)
    monkeypatch.setattr(demo_peers, "PEERS", (liar, peer("speaking peer")))
    result = demo("--window", "5")
    assert result.exit_code == 1
    verdicts = {name: line["verdict"] for name, line in lines(result).items()}
    assert verdicts == {"silent peer": "WRONG", "speaking peer": "ok"}


def test_a_peer_that_trusts_somebody_else_is_found_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    async def speak(stream: trio.SocketStream, authority: Authority) -> Theirs:
        stranger = Authority.create()
        return await demo_peers.speak_tls(stream, stranger)

    stranger = attrs.evolve(peer("speaking peer"), behave=speak)
    monkeypatch.setattr(demo_peers, "PEERS", (stranger,))
    result = demo("--window", "5")
    assert result.exit_code == 1
    line = lines(result)["speaking peer"]
    assert line["verdict"] == "WRONG"
    assert "SSLCertVerificationError" in line["what"]  # what the peer itself saw


def test_a_peer_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(stream: trio.SocketStream, authority: Authority) -> Theirs:
        await trio.sleep_forever()

    monkeypatch.setattr(demo_peers, "PATIENCE", 0.1)
    monkeypatch.setattr(demo_peers, "PEERS", (attrs.evolve(peer("speaking peer"), behave=hang),))
    result = demo("--window", "0.1")
    assert result.exit_code == 1
    assert "TooSlowError" in result.output


def test_a_connection_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cut(stream: trio.SocketStream, authority: Authority) -> Theirs:
        tls = trio.SSLStream(stream, authority.peer_client, server_hostname=demo_peers.NODE_NAME)
        await tls.do_handshake()
        await stream.aclose()  # without close_notify
        return Theirs(sent=b"")

    monkeypatch.setattr(demo_peers, "PEERS", (attrs.evolve(peer("speaking peer"), behave=cut),))
    result = demo("--window", "5")
    assert result.exit_code == 1
    assert "BrokenResourceError" in lines(result)["speaking peer"]["what"]


def test_a_listener_that_nobody_can_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(host: str, port: int) -> trio.SocketStream:
        raise ConnectionRefusedError

    monkeypatch.setattr(trio, "open_tcp_stream", refused)
    result = demo("--window", "0.1")
    assert result.exit_code == 1
    assert result.output.count("WRONG") >= 4
    assert not isinstance(result.exception, ConnectionRefusedError)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = demo("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["--window", "-1"],
        ["--window", "nan"],
        ["--window", "inf"],
        ["--window", "soon"],
        ["--listen", "8443"],
        ["--colour"],
    ],
)
def test_usage_errors(args: list[str]) -> None:
    assert demo(*args).exit_code == 2


# ------------------------------------------------------------------------------------------------------ how it looks


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit_the_terminal(width: int) -> None:
    error = PeerClosedError("the peer left", seen="end of stream", received=0, reset=False)
    tls = ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305")
    ours = Ours(waited=1.0, role=Role.CLIENT, reason=Reason.SILENT, tls=tls, received=b"[b]hi")
    outcomes = [
        Outcome("silent peer", "[fe80::1]:4711", ours, Theirs(sent=b"", received=b"[b]hi"), []),
        Outcome("b peer", "[::1]:2", attrs.evolve(ours, error=error), Theirs(sent=b""), ["a", "b"]),
        Outcome("c peer", "nowhere", None, Theirs(sent=b"", error=OSError()), ["no end"]),
    ]
    console = Console(
        file=io.StringIO(), width=width, force_terminal=True, color_system=None, markup=False
    )
    for outcome in outcomes:
        _demo._print_line(console, outcome)
    console.print(_demo._table(outcomes))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    if width == 80:  # what is continued is indented, and a number keeps its unit
        assert text.startswith(
            "ok    silent peer [fe80::1]:4711: waited 1.000 s, role client (silent)\n"
            "      TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305, echoed '[b]hi'\n"
        )
    assert "[fe80::1]:4711" in text  # not taken for markup
    assert "[b]hi" in text


# --------------------------------------------------------------------------------------------------- how it ends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels(number: signal.Signals) -> None:
    cancelled = False

    async def told_to_stop() -> int:
        nonlocal cancelled
        signal.raise_signal(number)
        try:
            await trio.sleep_forever()
        finally:
            cancelled = True

    assert run(told_to_stop) == 128 + number
    assert cancelled


def test_run_passes_codes_and_exceptions_on() -> None:
    async def seven() -> int:
        return 7

    async def fail() -> int:
        raise LookupError

    async def interrupted() -> int:
        raise KeyboardInterrupt

    assert run(seven) == 7
    assert run(interrupted) == 130
    with pytest.raises(LookupError):
        run(fail)


def command_line(*args: str) -> list[str]:
    return [sys.executable, "-m", "trio_duplex", *args]


def test_a_process() -> None:
    done = complete("demo", "--window", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\nok ") == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_ends_at_a_signal(number: signal.Signals) -> None:
    with subprocess.Popen(
        command_line("demo", "--window", "60"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:  # comes as it happens, or this would hang
            if "speaking peer" in line:
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    assert "Traceback" not in out + err
    assert "silent" not in out


def test_a_process_whose_reader_has_left() -> None:
    with subprocess.Popen(
        command_line("demo", "--window", "4"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert err == b""


@pytest.mark.parametrize("missing", ["click", "rich", "trustme"])
def test_without_the_extra(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = ['trio-duplex', 'demo']\n"
        "from trio_duplex.cli import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'trio-duplex[cli]'" in done.stderr


@pytest.mark.parametrize("module", ["trio_duplex", "trio_duplex.cli"])
def test_python_m(module: str) -> None:
    # In a process of its own: in ours, pytest's import hook stands before what runpy needs.
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "demo" in done.stdout


def test_a_missing_module_of_somebody_else_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ModuleNotFoundError(name="elsewhere")

    monkeypatch.setattr("trio_duplex.cli._command.command", broken)
    with pytest.raises(ModuleNotFoundError):
        main()


def test_interrupted_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trio_duplex.cli._command.command", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
