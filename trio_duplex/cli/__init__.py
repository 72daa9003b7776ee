"""The ``trio-duplex`` command. It uses only public names, like any other program.

Its dependencies beyond the library (click, rich, cattrs, trustme) are in the extra
``cli``. Without them, `main` prints one line about that.
"""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys

__all__ = ["main"]

_OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Errors of standard output. Errors of files are reported by the code that writes them."""

_EXTRA = {"cattrs", "click", "rich", "trustme"}


def main() -> None:
    """Run the command with the process's arguments. The console script calls this.

    Raises:
        SystemExit: Always. 0: all well; 1: something failed, or the extra
            ``cli`` is not installed; 2: the command line is wrong; 130 or
            143: ended by SIGINT or SIGTERM.
    """
    # A third of the time of a start was the garbage collector's, and so was most of that of an
    # end: it looked at the same objects, made by imports, again and again, and freed nearly nothing.
    # `Subcommands.get_command` enables it before a subcommand runs.
    gc.disable()
    atexit.register(gc.freeze)
    try:
        from trio_duplex.cli._command import command

        try:
            command(prog_name="trio-duplex")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # raises here if the disk is full, and not at the interpreter's exit
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(f"trio-duplex needs {missing}: pip install 'trio-duplex[cli]'")
    except OSError as exc:
        if exc.errno not in _OUTPUT_ERRORS:
            raise
        # Python flushes once more at exit, and that must not fail loudly.
        if sys.stdout is not None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if exc.errno != errno.EPIPE:  # EPIPE: the reader has left, so nobody needs to be told
            sys.stderr.write(f"trio-duplex: can't write standard output: {exc.strerror}\n")
        sys.exit(1)
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
    finally:
        gc.enable()
