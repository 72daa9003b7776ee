"""The default detection window."""

from __future__ import annotations

DEFAULT_WINDOW = 5.0
"""Seconds. Most TLS clients speak within 5 ms, but a cold JVM takes 350 ms, a cold
Erlang on a busy machine takes 1.1 s, and one lost SYN-ACK or first segment adds 3 s.
Silent peers tolerate it: of twelve TLS stacks tried, all waited longer than this."""
