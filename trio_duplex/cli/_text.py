"""Making text from outside safe for a terminal or for one line."""

from __future__ import annotations


def plain(text: str) -> str:
    """Escape unprintable characters, so that text from a peer can't control the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
