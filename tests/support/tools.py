"""Programs of other people that tests talk to: `openssl`, `socat`, `gnutls-cli`, and more of the kind.

A test asks for one with ``require_tool("socat")``, in its body or in a fixture. Where it is absent the
test is skipped, and the end of the run says so loudly (`conftest.py`); with ``CI=true`` the test fails,
because a check that CI leaves out is a check that nobody runs.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

#: How many tests asked in vain for each tool in this run; the terminal summary reads it.
absent: Counter[str] = Counter()


def require_tool(name: str) -> str:
    """The path of a program that the test cannot do without.

    Args:
        name: As it is typed, for example ``"socat"``. Its Debian package belongs in `.ci/install-tools`.
    """
    __tracebackhide__ = True
    # Debian has servers in /usr/sbin, which is on root's PATH alone; the tests run them as anybody.
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if path is not None:
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(f"{name} is not on PATH, and in CI no tool may be missing: .ci/install-tools")
    absent[name] += 1
    pytest.skip(f"{name} is not on PATH")
