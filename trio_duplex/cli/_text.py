"""Text: how wide it is where no terminal says so, and making text from outside safe for a terminal."""

from __future__ import annotations

PROSE_WIDTH = 80
"""The width of running text in a pipe."""


def plain(text: str) -> str:
    """Escape unprintable characters, so that text from a peer can't control the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
