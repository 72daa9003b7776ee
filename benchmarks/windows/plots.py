"""Plots of the simulation: what silent peers wait, against how many speaking peers get the wrong role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.windows.simulate import Result

FIXED, OURS, TEXT = "#7d8f9b", "#2a86c4", "#808080"
"""Colours that can be read on white and on black."""


def draw(results: Sequence[Result], path: Path) -> None:
    """Draw one point for each policy; less is better both ways."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "trio_duplex"  # the same run gives the same bytes
    mpl.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    drawing, axes = plt.subplots(figsize=(7, 4.2))
    lowest = 0.5 / max(result.speaking for result in results)  # where none was wrong
    for result in results:
        fixed = result.policy.startswith("fixed")
        rate = max(result.wrong_rate, lowest)
        axes.plot(
            result.median,
            1e4 * rate,
            marker="o" if fixed else "D",
            color=FIXED if fixed else OURS,
            linestyle="none",
        )
        axes.annotate(
            result.policy.removeprefix("fixed "),
            (result.median, 1e4 * rate),
            xytext=(6, 5 if fixed else -12),
            textcoords="offset points",
            fontsize=8,
            color=FIXED if fixed else OURS,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("what a silent peer waits in the median, s (less is better)", color=TEXT)
    axes.set_ylabel("wrong roles in 10,000 speaking peers\n(less is better)", color=TEXT)
    axes.tick_params(colors=TEXT, which="both")
    for spine in axes.spines.values():
        spine.set_color(TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12, y=0.1)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None}, transparent=True)
    plt.close(drawing)
