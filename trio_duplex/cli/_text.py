"""Text that others wrote, made fit for a terminal or a line."""

from __future__ import annotations


def plain(text: str) -> str:
    """Escape what does not print: a certificate's or a peer's words command no terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
