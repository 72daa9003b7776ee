"""How long to wait for the peer's first bytes: pure, with the clock passed in.

Today a window is a plain number of seconds. Rules by network and the memory of
peers have their place here.
"""

from __future__ import annotations

DEFAULT_WINDOW = 5.0
"""Seconds. Most TLS clients speak within 5 ms, but a cold JVM takes 350 ms and a
cold Erlang on a busy machine 1.1 s, and one lost SYN-ACK or first segment costs
3 s more. Silent peers do not mind: twelve stacks tried all waited longer."""
