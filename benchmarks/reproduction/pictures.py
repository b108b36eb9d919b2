"""What each row gains on the table's first one, its baseline, as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from hf_fer.evaluation.plots import CLASS_COLOURS, CLASS_MARKERS, GREY

from .summary import figure
from .tables import Table, in_sentence

DPI = 150


def plot_gains(
    table: Table,
    found: dict[tuple[str, str], dict[int, dict[str, Any]]],
    columns: list[tuple[str, str, str]],
    path: Path,
) -> Path:
    """Draws the difference to the first row, in points, with its sample standard deviation over the seeds.

    The difference is taken seed by seed, from the same start, so what the seeds share does not blur it.

    Args:
        table: whose rows.
        found: records by (row, condition) and seed.
        columns: (condition, metric, factor) along the axis; all of one metric.
        path: the image to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.2, 4.2), dpi=DPI, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    base, *others = [row.name for row in table.rows]
    step = 0.7 / max(1, len(others))
    for k, row in enumerate(others):
        colour, marker = CLASS_COLOURS[k % len(CLASS_COLOURS)], CLASS_MARKERS[k % len(CLASS_MARKERS)]
        drawn = False
        for place, (condition, metric, factor) in enumerate(columns):
            mine, its = found[row, condition], found[base, condition]
            gaps = [
                100 * (figure(mine[seed], metric, factor) - figure(its[seed], metric, factor))
                for seed in mine.keys() & its.keys()
            ]
            if not gaps:
                continue
            deviation = statistics.stdev(gaps) if len(gaps) > 1 else 0
            axes.errorbar(
                place + (k - (len(others) - 1) / 2) * step,
                statistics.fmean(gaps),
                yerr=deviation,
                color=colour,
                marker=marker,
                markersize=6,
                capsize=2.5,
                linewidth=1.3,
                linestyle="",
                label=None if drawn else row,
            )
            drawn = True
    axes.axhline(0, color=GREY, linewidth=1)
    axes.annotate(
        in_sentence(base), (1, 0), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
        va="center", fontsize=8.5, color=GREY,
    )  # fmt: skip
    for place in range(1, len(columns)):
        axes.axvline(place - 0.5, color="#E5E7EB", linewidth=0.8)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_xticks(range(len(columns)), [condition or f"x{factor}" for condition, _, factor in columns])
    axes.set_ylabel(columns[0][1].replace("_", " ") + ", points gained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    if axes.get_legend_handles_labels()[0]:  # none as long as the first row stands alone
        picture.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    title = f"{table.letter}. {table.title}\nDifference to the first row, mean ± deviation over the seeds"
    axes.set_title(title, fontsize=10, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, facecolor="white")
    return path
