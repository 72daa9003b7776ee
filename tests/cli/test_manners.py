"""Manners of the command: a full disk, a closed pipe, no window, and files that are something else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.authority import FLEET
from tests.support.command import complete

pytestmark = pytest.mark.slow


PRINTING = {
    "help": ["--help"],
    "man": ["man"],
    "check": ["check", "--cert=node.pem", "--key=node.key", "--trust=ca.pem"],
    "certs": ["certs", "lab", "x.example"],
    "demo": ["demo", "--window=0.1"],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    leaf = FLEET.issue("node.example")
    (tmp_path / "node.pem").write_bytes(leaf.chain_pem)
    (tmp_path / "node.key").write_bytes(leaf.key_pem)
    (tmp_path / "ca.pem").write_bytes(FLEET.pem)
    return tmp_path


def run(
    *words: str, folder: Path, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    # In a new Python if its output can't be written: Python itself has something to say about that.
    return complete(*words, cwd=folder, stdout=stdout, fresh=stdout != subprocess.PIPE)


@pytest.mark.parametrize("name", sorted(PRINTING))
def test_full_disk(name: str, folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        result = run(*PRINTING[name], folder=folder, stdout=full.fileno())
    assert result.returncode == 1
    assert "can't write standard output: No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", sorted(PRINTING))
def test_closed_pipe(name: str, folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run(*PRINTING[name], folder=folder, stdout=writer)
    finally:
        os.close(writer)
    assert result.returncode in (0, 1)
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_demo_without_a_window(folder: Path) -> None:
    result = run("demo", "--window=0", folder=folder)
    assert result.returncode == 0, result.stdout
    assert "WRONG" not in result.stdout


@pytest.mark.parametrize(
    ("content", "looks_like", "remedy"),
    [
        (b"", "it is empty", ""),
        (b"hello\n", "it is not PEM", "look at its first line"),
        (FLEET.issue("x.example").der, "a certificate in DER", "openssl x509 -inform DER"),
        (FLEET.issue("x.example").key_pem, "a private key in its place", ""),
    ],
    ids=["empty", "text", "der", "key"],
)
@pytest.mark.parametrize("command", ["check", "echo"])
def test_file_errors_say_which_file_what_it_is_and_what_to_do(
    command: str, content: bytes, looks_like: str, remedy: str, folder: Path
) -> None:
    (folder / "mine.crt").write_bytes(content)
    listen = ["--listen=127.0.0.1:0"] if command == "echo" else []
    result = run(
        command, *listen, "--cert=mine.crt", "--key=node.key", "--trust=ca.pem",
        folder=folder,
    )  # fmt: skip
    said = result.stdout + result.stderr
    assert result.returncode != 0
    for words in ("mine.crt", looks_like, remedy):
        assert words in said, said
    assert "Traceback" not in said
