"""The ``trio-duplex`` command. It uses the public names alone, as any program would.

What it needs beyond the library (click, rich, cattrs, trustme) comes with the extra
``cli``; without it, `main` says so in one line.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"cattrs", "click", "rich", "trustme"}


def main() -> None:
    """Run the command with the process's arguments; what the console script calls.

    Raises:
        SystemExit: Always. 0: all well; 1: something failed, or the extra
            ``cli`` is not installed; 2: the command line is wrong; 130 or
            143: ended by SIGINT or SIGTERM.
    """
    try:
        from trio_duplex.cli._command import command

        command(prog_name="trio-duplex")
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(f"trio-duplex needs {missing}: pip install 'trio-duplex[cli]'")
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
