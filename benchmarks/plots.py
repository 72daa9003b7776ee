"""SVG plots of a run, for the docs: a bar for each subject, with its quartiles."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.report import BASE, number
from benchmarks.results import Key, Run

CUT = 2.0
"""How far beyond the second longest bar a plot goes at most."""

OURS, OTHERS = "#2e86c1", "#9fb0bc"
INK = "#7d8794"
"""Text and lines: a grey that reads on white and on black, because the page may be either."""

GAP = 5
"""Points between the end of an error bar and its number."""

PLOTS = (
    (
        "handshake",
        "cpu",
        "Server CPU for one TLS 1.3 handshake (mutual, P-256), µs (less is better)",
    ),
    ("memory-pending", "memory", "Memory for each silent peer held open, kB (less is better)"),
    ("memory-idle", "memory", "Memory for each idle connection, kB (less is better)"),
    ("bulk-receive-tls1.3", "rate", "Received in each second of CPU, MB (more is better)"),
    ("bulk-send-tls1.3", "rate", "Sent in each second of CPU, MB (more is better)"),
    (
        "latency",
        "p99",
        "From dial to first echo at 200 a second, 99th percentile, ms (less is better)",
    ),
)


def draw(run: Run, folder: Path) -> list[Path]:
    """Draw what was measured, a file for each; returns the files."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same run gives the same bytes: no dates, no random ids.
    mpl.rcParams["svg.hashsalt"] = "trio_duplex"
    mpl.rcParams["svg.fonttype"] = "none"
    for part in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"):
        mpl.rcParams[part] = INK
    folder.mkdir(parents=True, exist_ok=True)
    grown = [_growth(run, folder / "performance-pending.svg")] if _levels(run) else []
    return grown + [
        _bars(run, scenario, figure, title, folder / f"performance-{scenario}.svg")
        for scenario, figure, title in PLOTS
        if run.subjects(scenario, figure)
    ]


def _levels(run: Run) -> list[int]:
    """How many silent peers were held in the run, in order; of the plot of `benchmarks.scenarios.pending`."""
    return sorted(
        int(figure.removeprefix("memory at ").replace(",", ""))
        for figure in run.figures("pending")
        if figure.startswith("memory at ")
    )


def _growth(run: Run, path: Path) -> Path:
    """Memory of all pending peers, and a speaking client's p99 beside them, as they grow."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    levels = _levels(run)
    drawing, panels = plt.subplots(1, 2, figsize=(7, 2.6))
    for axes, figure, title in zip(
        panels,
        ("memory", "p99"),
        ("Pending peers' memory, MB (less is better)", "Client's p99, ms (less is better)"),
        strict=True,
    ):
        summaries = [
            run.summary(Key("pending", f"{figure} at {level:,}", BASE)) for level in levels
        ]
        drawn = [(level, each) for level, each in zip(levels, summaries, strict=True) if each]
        axes.plot(
            [level for level, _ in drawn],
            [summary.median for _, summary in drawn],
            color=OURS,
            marker="o",
            markersize=3,
        )
        axes.fill_between(
            [level for level, _ in drawn],
            [summary.low for _, summary in drawn],
            [summary.high for _, summary in drawn],
            color=OURS,
            alpha=0.2,
            linewidth=0,
        )
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("silent peers pending", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None}, transparent=True)
    plt.close(drawing)
    return path


def _bars(run: Run, scenario: str, figure: str, title: str, path: Path) -> Path:
    from matplotlib import pyplot as plt

    rows = [
        (subject, summary)
        for subject in run.subjects(scenario, figure)
        if (summary := run.summary(Key(scenario, figure, subject))) is not None
    ]
    rows.sort(key=lambda row: row[1].median, reverse=True)
    drawing, axes = plt.subplots(figsize=(7, 0.6 + 0.32 * len(rows)))
    axes.barh(
        [subject for subject, _ in rows],
        [summary.median for _, summary in rows],
        xerr=[
            [summary.median - summary.low for _, summary in rows],
            [summary.high - summary.median for _, summary in rows],
        ],
        color=[OURS if subject.startswith(BASE) else OTHERS for subject, _ in rows],
        error_kw={"linewidth": 1, "capsize": 2, "ecolor": INK},
    )
    # What is far off would squeeze all others: it ends at the edge, and its number is behind the edge,
    # where there is neither bar nor error bar.
    edge = CUT * rows[1][1].high if len(rows) > 1 else math.inf
    cut = any(summary.high > edge for _, summary in rows)
    for position, (_, summary) in enumerate(rows):
        axes.annotate(
            ("… " if summary.high > edge else "") + number(summary.median),
            (min(summary.high, edge), position),
            xytext=(GAP, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            annotation_clip=False,
        )
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    if cut:
        axes.set_xlim(0, edge)
    drawing.tight_layout()
    drawing.savefig(path, metadata={"Date": None}, transparent=True)
    plt.close(drawing)
    return path
