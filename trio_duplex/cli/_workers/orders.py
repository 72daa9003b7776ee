"""What supervisor and worker say to each other: single bytes on a socket pair.

The socket pair also tells of a death: when one of the two is gone, the other
reads the end.
"""

from __future__ import annotations

import enum


class Order(bytes, enum.Enum):
    """What a supervisor tells a worker."""

    RETIRE = b"r"
    """Accept nothing new, and end when the last connection has ended by itself."""

    DRAIN = b"d"
    """The same, with ``--drain-timeout``."""

    END = b"e"
    """End at once."""


class Report(bytes, enum.Enum):
    """What a worker tells its supervisor."""

    READY = b"R"
    """It serves."""

    ALIVE = b"A"
    """Its loop turns."""
