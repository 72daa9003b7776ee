"""Certificates in a folder, as a user of the command has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.authority import AUTHORITY
from tests.support.material import write_pair
from tests.support.ports import held_port


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``ca.pem``, and certificate and key of ``node`` (ours) and ``peer``."""
    made = tmp_path_factory.mktemp("certificates")
    AUTHORITY.cert_pem.write_to_path(made / "ca.pem")
    for name in ("node", "peer"):
        leaf = AUTHORITY.issue_cert(f"{name}.example", common_name=f"the {name}")
        leaf.cert_chain_pems[0].write_to_path(made / f"{name}.pem")
        leaf.private_key_pem.write_to_path(made / f"{name}.key")
        (made / f"{name}.key").chmod(0o600)
    return made


@pytest.fixture(scope="session")
def credentials(folder: Path) -> list[str]:
    """The options that name our certificate, key and trust."""
    return [
        "--cert",
        str(folder / "node.pem"),
        "--key",
        str(folder / "node.key"),
        "--trust",
        str(folder / "ca.pem"),
    ]


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder of certificates that a test may change."""
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("node", "peer"):
        write_pair(tmp_path, name, f"{name}.example")
    return tmp_path


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port of 127.0.0.1 at which nobody listens, unless this test does."""
    with held_port() as port:
        yield port
