"""From settings to credentials: `trio_duplex.cli._service.material`."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

from trio_duplex.cli._command import command
from trio_duplex.cli._kinds import all_kinds
from trio_duplex.cli._service.configuration import Configuration
from trio_duplex.cli._service.material import make_credentials
from trio_duplex.cli._service.settings import CredentialSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A folder with ``node.pem``, whose key is slow, and ``ca.pem``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf = authority.issue_cert("node.example", key_type=trustme.KeyType.RSA)
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "node.pem")
    (tmp_path / "node.pem").chmod(0o600)
    return tmp_path


@pytest.mark.parametrize("on_the_event_loop", [False, True])
def test_slow_key_signs_in_threads_unless_told_otherwise(
    slow: Path, on_the_event_loop: bool
) -> None:
    credentials = make_credentials(
        CredentialSettings(
            cert=slow / "node.pem",
            trust=slow / "ca.pem",
            no_handshake_threads=on_the_event_loop,
        )
    )
    assert credentials._material.slow_key is not on_the_event_loop


@pytest.mark.parametrize("kind", ["proxy", "exec", "echo"])
def test_handshake_threads_in_a_file(slow: Path, kind: str) -> None:
    more = {"proxy": "to = '127.0.0.1:1'", "exec": "program = ['cat']"}.get(kind, "")
    file = slow / "service.toml"
    file.write_text(
        "cert = 'node.pem'\ntrust = 'ca.pem'\nno-handshake-threads = true\nunsent-bytes = 16384\n"
        f"[{kind}.it]\nlisten = ':0'\n{more}\n"
    )
    plan, defects = Configuration(kinds=all_kinds(), kind=None, file=file).defects()
    assert defects == []
    (service,) = plan.services
    assert not make_credentials(service.settings)._material.slow_key
    assert service.settings.limits().unsent_bytes == 16384


@pytest.mark.parametrize("name", ["proxy", "exec", "echo", "connect"])
def test_help_names_it(name: str) -> None:
    assert "--no-handshake-threads" in CliRunner().invoke(command, [name, "--help"]).output
