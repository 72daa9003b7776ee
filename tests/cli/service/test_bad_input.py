"""Every option with bad input: one line on stderr, the documented exit code, nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pwd
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from trio_duplex.cli._command import command
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.option import options_of
from trio_duplex.cli._service.settings import ProcessSettings

pytestmark = pytest.mark.slow


USAGE, CREDENTIALS, ADDRESS = 2, 3, 4


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("trio_duplex")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that would do; the working directory has the certificates."""
    monkeypatch.chdir(folder)
    files = ["--cert", "node.pem", "--key", "node.key", "--trust", "ca.pem"]
    return ["--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", *files]


def sockets() -> set[str]:
    """The sockets that this process has open."""
    found: set[str] = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            found.add(str(link.readlink()))
    return {target for target in found if target.startswith("socket:")}


def fails(code: int, *arguments: str, says: str = "") -> Result:
    """Run the command; it must end with this code and one line, and leave no socket."""
    before = sockets()
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    (line,) = result.stderr.splitlines()
    assert line.startswith("trio-duplex: ")
    assert says in line
    assert not result.stdout
    if not sockets() <= before:
        gc.collect()  # one that only the collector closes is a ResourceWarning
    assert sockets() <= before
    return result


def test_the_good_options_are_good(good: list[str]) -> None:
    # All but the last step: the address is taken.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fails(ADDRESS, "proxy", *good, "--listen", address, says="somebody else listens there")


BAD = {
    "listen": ["nonsense", "127.0.0.1:x", "::1:8443", "unix:", "unix:" + "x" * 200, "fd:"],
    "to": ["nonsense", ":80", "127.0.0.1:0", "unix:"],
    "to-server": ["nonsense"],
    "to-client": ["nonsense"],
    "send-proxy": ["v3"],
    "connect-timeout": ["0", "-1", "nan", "soon"],
    "half-close-timeout": ["0"],
    "cert": [""],
    "key": [""],
    "trust": [""],
    "crl": [""],
    "key-passphrase-file": [""],
    "key-passphrase-fd": ["x", "-1"],
    "peer-name": ["", "a b", "*.example."],
    "peer-pin": ["", "sha256:00", "md5:00"],
    "alpn": ["", "ä"],
    "allow": ["nonsense", "10.0.0.1/8", "10.0.0.0/99"],
    "deny": ["nonsense"],
    "window": ["-1", "nan", "5s", ""],
    "handshake-timeout": ["0", "-1", "x"],
    "workers": ["0", "-1", "1.5", "inf", "many", "1025"],
    "connections": ["0", "-1", "1.5", "many"],
    "when-full": ["panic"],
    "connections-per-address": ["0"],
    "connections-per-identity": ["0"],
    "pending": ["0"],
    "pending-per-address": ["0"],
    "client-handshakes": ["0"],
    "server-handshakes": ["0"],
    "turn-timeout": ["-1"],
    "greeting-patience": ["-1"],
    "opening-patience": ["-1"],
    "close-timeout": ["-1"],
    "connection-timeout": ["0"],
    "idle-timeout": ["0"],
    "send-timeout": ["0"],
    "keepalive": ["0"],
    "ack-timeout": ["0"],
    "unsent-bytes": ["0", "-1", "many"],
    "log-format": ["xml"],
    "drain-timeout": ["-1"],
    "reload-every": ["0"],
    "watch": ["0"],
    "pass-env": ["", "A-B"],
    "env": ["A", "=b", "1=2"],
    "processes": ["0"],
    "eof-grace": ["-1"],
    "term-grace": ["nan"],
}
FLAGS = {"anonymous-clients", "no-handshake-threads", "verbose", "quiet"}
EXEC = {"pass-env", "env", "processes", "eof-grace", "term-grace"}


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in BAD.items() for value in values]
)
def test_bad_values(good: list[str], option: str, value: str) -> None:
    kind = "exec" if option in EXEC else "proxy"
    options = [*good[:2], *good[4:]] if kind == "exec" else good
    program = ["--", "cat"] if kind == "exec" else []
    fails(USAGE, kind, *options, f"--{option}={value}", *program, says=f"--{option}: ")


def test_every_option_is_tried() -> None:
    kinds: list[type[Any]] = [all_kinds()[name].settings for name in ("proxy", "exec")]
    kinds.append(ProcessSettings)
    options = {
        name for cls in kinds for _, name, made, _ in options_of(cls)
        if not made.argument
    }  # fmt: skip
    assert {*BAD, *FLAGS} >= options - {"workers", "user", "group"}  # those have tests of their own


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--nope"], "--nope"),
        (["--listen"], "--listen"),
        (["stray"], "stray"),
        ([], "--listen ADDR is missing"),
        (["--listen", ":0"], "--to ADDR"),
        (["--listen", ":0", "--to-server", ":1"], "names no host"),
        (["--listen", ":0", "--to-server", "h:1"], "TLS client"),
        (["--listen", ":0", "--to", "h:1"], "--cert FILE is missing"),
        (["--listen", ":0", "--to", "h:1", "--cert", "node.pem"], "--trust FILE is missing"),
    ],
)
def test_usage(good: list[str], arguments: list[str], says: str) -> None:
    fails(USAGE, "proxy", *arguments, says=says)


@pytest.mark.parametrize(
    ("program", "says"),
    [([], "-- PROGRAM"), (["./absent"], "./absent"), (["node.pem"], "node.pem")],
)
def test_programs_that_cannot_run(good: list[str], program: list[str], says: str) -> None:
    fails(USAGE, "exec", *good[:2], *good[4:], "--", *program, says=says)


@pytest.mark.parametrize("option", ["--cert", "--key", "--trust", "--crl", "--key-passphrase-file"])
@pytest.mark.parametrize("what", ["absent", "folder", "unreadable", "rubbish"])
def test_bad_files(
    good: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    what: str,
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what != "absent":
        path.write_bytes(b"\xff\x00 nothing of the kind")
    if what == "unreadable":
        path.chmod(0)
    if option == "--key-passphrase-file" and what == "rubbish":
        pytest.skip("a passphrase may be anything")
    with as_a_user_without_rights(tmp_path) if what == "unreadable" else contextlib.nullcontext():
        reason = "Permission denied" if what == "unreadable" else ""
        fails(CREDENTIALS, "proxy", *good, option, path.name, says=reason)


@contextlib.contextmanager
def as_a_user_without_rights(*folders: Path) -> Iterator[None]:
    """Be nobody for a while if we are root, who can read every file; nobody may enter the folders."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody").pw_uid
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody, -1)
    os.seteuid(nobody)  # the kernel takes root's capabilities away, too: capabilities(7)
    try:
        yield
    finally:
        os.seteuid(0)


def encrypted_key(tmp_path: Path) -> Path:
    key = load_pem_private_key(Path("node.key").read_bytes(), None)
    path = tmp_path / "encrypted.key"
    path.write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
        )
    )
    path.chmod(0o600)
    return path


def test_an_encrypted_key_without_a_passphrase(good: list[str], tmp_path: Path) -> None:
    fails(CREDENTIALS, "proxy", *good, "--key", str(encrypted_key(tmp_path)), says="key-passphrase")


def test_an_encrypted_key_with_a_wrong_passphrase(good: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "passphrase"
    wrong.write_text("open rice\n")
    options = ["--key", str(encrypted_key(tmp_path)), "--key-passphrase-file", str(wrong)]
    result = fails(CREDENTIALS, "proxy", *good, *options)
    assert "rice" not in result.stderr


@pytest.mark.parametrize("by", ["file", "fd"])
def test_an_encrypted_key_with_its_passphrase(good: list[str], tmp_path: Path, by: str) -> None:
    options = ["--key", str(encrypted_key(tmp_path))]
    if by == "file":
        (tmp_path / "passphrase").write_text("open sesame\n")
        options += ["--key-passphrase-file", str(tmp_path / "passphrase")]
    else:
        read, write = os.pipe()
        os.write(write, b"open sesame\n")
        os.close(write)
        options += ["--key-passphrase-fd", str(read)]
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the key is read before
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fails(ADDRESS, "proxy", *good, *options, "--listen", address)


def test_a_key_of_another_certificate(good: list[str]) -> None:
    fails(CREDENTIALS, "proxy", *good, "--key", "peer.key")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("nowhere.invalid:0", "does not resolve"),
        ("192.0.2.1:0", "not of this machine"),
        ("unix:/nowhere/at/all", "directory does not exist"),
        ("unix:node.pem", "somebody else listens there"),
        ("fd:absent", "absent"),
        ("fd:900", "fd:900"),
        ("fd:0", "fd:0"),
    ],
)
def test_addresses_that_cannot_be_had(good: list[str], address: str, says: str) -> None:
    fails(ADDRESS, "proxy", *good, "--listen", address, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "can't read"),
        ("listen = [", "not TOML"),
        ("\xff=", "not TOML"),
        ("[proxy]\nlisen = ':0'", "did you mean 'listen'?"),
        ("[proxy]\npeer_name = 'a'", "did you mean 'peer-name'?"),
        ("certt = 'x'", "did you mean 'cert'?"),
        ("proxy = 3", "must be a table"),
        ("[proxy.web]\nwindow = true", "window"),
        (
            "[proxy.web]\nwindow = 'soon'",
            "[proxy.web]: window: 'soon' is neither a number of seconds nor one of",
        ),
        ("[proxy.web]\nlisten = [[]]", "listen"),
        ("[proxy.web]\nanonymous-clients = 'yes'", "neither true nor false"),
        ("cert = '${ABSENT_VARIABLE}'", "no variable 'ABSENT_VARIABLE'"),
        ("[proxy]\nto = 'h:1'", "--listen ADDR is missing"),
        ("listen = ':1'\nto = 'h:1'\n[proxy.a]\n[proxy.b]", "give each its own"),
    ],
)
def test_bad_configuration(good: list[str], tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "service.toml"
    if text is not None:
        path.write_text(text)
    fails(USAGE, "proxy", "--config", str(path), says=says)
