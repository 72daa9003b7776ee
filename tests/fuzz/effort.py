"""How long to fuzz: shortly and always alike in the tests, as long as told and at random by hand."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("TRIO_DUPLEX_EXAMPLES", "0"))
"""Examples for each property; `nox -s fuzz` sets it."""

effort = settings(
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    deadline=None,  # a loaded machine is no bug
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
