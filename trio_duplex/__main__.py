"""``python -m trio_duplex``: the ``trio-duplex`` command, even if that is not on the PATH."""

from trio_duplex.cli import main

if __name__ == "__main__":
    main()
