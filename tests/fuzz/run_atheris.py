"""Fuzz one target with atheris: ``python run_atheris.py TARGET SECONDS FOLDER``.

The folder keeps what was found to be of interest, so that the next run begins there, and what made
the target fail. The exit code is not 0 if anything did.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(name: str, seconds: int, folder: Path) -> None:
    # By name: it is a compiled package of some 30 MB, which nothing else needs.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["trio_duplex", "harness"]):
        harness = importlib.import_module("harness")
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(harness.seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "max_len": 5000,
        "artifact_prefix": f"{folder}/{name}-",
        "print_final_stats": 1,
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], harness.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
