"""``python -m trio_duplex.cli``: the same as ``python -m trio_duplex``."""

from trio_duplex.cli import main

if __name__ == "__main__":
    main()
