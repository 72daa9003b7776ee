"""Peers' TLS contexts, the same on every build of Python: `trio_duplex.testing._contexts`."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest

from tests.support.contexts import new_context
from trio_duplex import Role

SUITES = {
    f"{kind}-{cipher}"
    for kind in ("ECDHE-ECDSA", "ECDHE-RSA")
    for cipher in (
        "AES256-GCM-SHA384",
        "AES128-GCM-SHA256",
        "CHACHA20-POLY1305",
        "AES256-SHA384",
        "AES128-SHA256",
    )
} | {
    "DHE-RSA-AES256-GCM-SHA384",
    "DHE-RSA-AES128-GCM-SHA256",
    "DHE-RSA-AES256-SHA256",
    "DHE-RSA-AES128-SHA256",
}
"""What OpenSSL 3.0 makes of CPython's default list, for TLS 1.2."""

OWN_START = {
    "tests/support/contexts.py": "says what it is that tests do not use",
    "tests/testing/test_contexts.py": "likewise",
    "tests/trust/test_hardening.py": "compares with what this Python has by default",
    "tests/stream/test_trios_own.py": "Trio's own tests make it so",
    "tests/trust/test_own.py": "reads the system's own roots",
    "tests/trust/test_parameters.py": "asks which curves this Python can set",
    "tests/trust/test_symmetry.py": "a protocol of one TLS version",
}
"""Files that make a context directly, each with the reason."""

each_protocol = pytest.mark.parametrize("role", [*Role, None], ids=str)
pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")


class OwnContext(ssl.SSLContext):
    pass


@each_protocol
def test_contexts_are_those_of_python_org(role: Role | None) -> None:
    context = new_context(role)
    assert not context.options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.security_level == 2
    suites = context.get_ciphers()
    assert {one["name"] for one in suites if one["protocol"] != "TLSv1.3"} == SUITES
    assert sum(one["protocol"] == "TLSv1.3" for one in suites) == 3
    assert (context.check_hostname, context.verify_mode) == (False, ssl.CERT_REQUIRED)
    assert type(new_context(role, OwnContext)) is OwnContext


@pytest.mark.slow
def test_tests_make_no_other_context() -> None:
    root = Path(__file__).parents[2]
    making = re.compile(r"ssl\.(SSLContext|create_default_context)\(")
    found = {
        str(path.relative_to(root))
        for path in (root / "tests").rglob("*.py")
        if "consumers" not in path.parts and making.search(path.read_text(encoding="utf-8"))
    }
    assert found <= set(OWN_START)
