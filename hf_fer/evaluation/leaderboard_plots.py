"""The pictures of a leaderboard: accuracy against resolution and latency, recall of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .leaderboard import latency_on, row_name
from .markdown import TIMES, one_line
from .plots import CLASS_COLOURS, CLASS_MARKERS, GREY, _figure, _percent_axis, _save, _tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS = 8  # rows in the bars of recall: more cannot be told apart
MOST_LINES = 24  # rows in the other plots
LONGEST = 44  # characters of a name
_LINES = ("-", "--", ":")


class Draw(Protocol):
    def __call__(self, path: Path) -> Path: ...


@dataclass(frozen=True)
class Plot:
    """A picture to draw: the name of its file, what it shows, and `draw(path)`."""

    file: str
    description: str
    draw: Draw


def plots_of(board: Mapping[str, Any]) -> list[Plot]:
    """The pictures that a board has figures for.

    Accuracy against resolution where there are several factors; accuracy against latency for each machine on which at
    least two rows were timed; the recall of each class always, of the best `MOST_BARS` rows.
    """
    plots = []
    if len(board["compared"]["factors"]) > 1:
        what = "Accuracy against resolution" + _of(len(board["rows"]), MOST_LINES)
        draw = partial(plot_accuracy_by_resolution, board)
        plots.append(Plot(f"leaderboard-{board['slug']}-resolution.png", what, draw))
    timed = [machine for machine in board["machines"] if machine["rows"] > 1]
    for number, machine in enumerate(timed, start=1):
        what = f"Accuracy against latency on {machine['words']}" + _of(machine["rows"], MOST_LINES)
        draw = partial(plot_accuracy_by_latency, board, machine)
        name = "latency" if number == 1 else f"latency-{number}"
        plots.append(Plot(f"leaderboard-{board['slug']}-{name}.png", what, draw))
    what = "Recall of each class" + _of(len(board["rows"]), MOST_BARS)
    plots.append(Plot(f"leaderboard-{board['slug']}-recall.png", what, partial(plot_recall, board)))
    return plots


def plot_accuracy_by_resolution(board: Mapping[str, Any], path: Path) -> Path:
    """A line for each row; intervals as bars where there are few rows."""
    rows, factors = board["rows"][:MOST_LINES], board["compared"]["factors"]
    figure = _figure(8.6, _height(4.2, rows))
    axes = figure.add_subplot()
    for position, row in enumerate(rows):
        scores = [row["by_factor"][f"{factor:g}"] for factor in factors]
        values = np.array([entry["accuracy"] for entry in scores])
        if len(rows) <= 4:
            _error_bars(axes, factors, values, np.array([entry["ci95"]["accuracy"] for entry in scores]), position)
        line = _LINES[position // len(CLASS_COLOURS) % len(_LINES)]
        axes.plot(factors, values, label=_label(row), linestyle=line, linewidth=1.8, markersize=6, **_look(position))
    axes.set_xscale("log", base=2)
    axes.minorticks_off()
    side = board["compared"]["reference_side"]
    axes.set_xticks(factors, [f"{TIMES}{f:g}" + (f"\n{max(1, round(side / f))} px" if side else "") for f in factors])
    axes.set_xlabel("down-sampling factor")
    axes.set_ylabel("accuracy")
    axes.margins(x=0.06, y=0.1)
    _percent_axis(axes)
    _finish(axes, board, "Accuracy against resolution" + _of(len(board["rows"]), MOST_LINES))
    return _save(figure, path)


def plot_accuracy_by_latency(board: Mapping[str, Any], machine: Mapping[str, Any], path: Path) -> Path:
    """A point for each row timed on `machine`, at the median; a whisker up to the 90th percentile."""
    from matplotlib.ticker import LogLocator

    timed = [(k, row, entry) for k, row in enumerate(board["rows"]) if (entry := latency_on(row, machine))]
    shown = timed[:MOST_LINES]
    figure = _figure(8.6, _height(4.2, shown))
    axes = figure.add_subplot()
    for position, row, entry in shown:
        accuracy, median = row["figures"]["accuracy"], entry["median_ms"]
        _error_bars(axes, [median], np.array([accuracy]), np.array([row["ci95"]["accuracy"]]), position)
        axes.plot([median, max(median, entry["p90_ms"])], [accuracy] * 2, color=_look(position)["color"], alpha=0.6)
        axes.plot([median], [accuracy], linestyle="none", label=_label(row), markersize=8, zorder=3, **_look(position))
    medians = [entry["median_ms"] for _, _, entry in shown]
    if max(medians) > 12 * min(medians):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    else:
        axes.set_xlim(0, 1.08 * max(max(entry["median_ms"], entry["p90_ms"]) for _, _, entry in shown))
    axes.set_xlabel("latency of one image, ms (median; line up to the 90th percentile)")
    axes.set_ylabel("accuracy")
    axes.margins(y=0.1)
    _percent_axis(axes)
    what = "Accuracy against latency" + _of(len(timed), MOST_LINES)
    _finish(axes, board, what, _drawable(one_line(machine["words"])))
    return _save(figure, path)


def plot_recall(board: Mapping[str, Any], path: Path) -> Path:
    """Bars of the recall of each class, for the best rows."""
    from matplotlib.ticker import PercentFormatter

    rows, images = board["rows"][:MOST_BARS], board["compared"]["images"]
    classes = board["compared"]["classes"]
    figure = _figure(8.6, _height(1.2 + len(classes) * (0.22 + 0.11 * len(rows)), rows))
    axes = figure.add_subplot()
    height = 0.82 / len(rows)
    for position, row in enumerate(rows):
        places = np.arange(len(classes)) - 0.41 + (position + 0.5) * height
        values = [row["recall"][name] if images[name] else 0.0 for name in classes]
        axes.barh(places, values, height=height, color=_look(position)["color"], label=_label(row))
    for place, name in enumerate(classes):
        if not images[name]:
            axes.text(0.01, place, "no images", va="center", fontsize=8.5, color=GREY)
    axes.set_yticks(
        range(len(classes)), [_drawable(f"{one_line(name, 24)} (n = {images[name]:,})") for name in classes]
    )
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(classes) - 0.5, -0.5)  # the first class on top
    axes.set_xlim(0, 1)
    axes.set_xlabel("recall")
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    _finish(axes, board, "Recall of each class" + _of(len(board["rows"]), MOST_BARS), grid="x")
    return _save(figure, path)


# --- drawing ------------------------------------------------------------------------------------


def _finish(axes: Axes, board: Mapping[str, Any], what: str, *more: str, grid: str = "y") -> None:
    compared = board["compared"]
    where = f"{one_line(compared['dataset'], LONGEST)}, {one_line(compared['split'], LONGEST)} split"
    title = [what, f"{_drawable(where)}, n = {compared['n']:,}", *more]
    axes.set_title("\n".join(title), fontsize=10.5, loc="left")
    # Beside the axes: among a dozen lines there is no place for it.
    axes.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    _tidy(axes, grid=grid)


def _error_bars(axes: Axes, x: Sequence[float], values: np.ndarray, bounds: np.ndarray, position: int) -> None:
    # A percentile interval need not hold the figure itself.
    errors = np.maximum(0.0, [values - bounds[:, 0], bounds[:, 1] - values])
    colour = _look(position)["color"]
    axes.errorbar(x, values, yerr=errors, fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.5, alpha=0.6)


def _look(position: int) -> dict[str, Any]:
    """Colour and marker of a row, the same in all plots of a board."""
    return {
        "color": CLASS_COLOURS[position % len(CLASS_COLOURS)],
        "marker": CLASS_MARKERS[position // len(CLASS_COLOURS) % len(CLASS_MARKERS)],
    }


def _height(least: float, rows: Sequence[Any]) -> float:
    return max(least, 1.0 + 0.19 * len(rows))  # inches; a line of the legend takes 0.19


def _of(count: int, most: int) -> str:
    return "" if count <= most else f" (the best {most} of {count:,} rows)"


def _label(row: Mapping[str, Any]) -> str:
    """The rank, which leads back to the table, and as much of the name as there is room for."""
    name = one_line(row_name(row), 1 << 20)
    if len(name) > LONGEST:  # the ends tell names apart
        name = f"{name[: LONGEST // 2]}\u2026{name[-(LONGEST // 2 - 1) :]}"
    return f"{row['rank']}. {_drawable(name)}"


def _drawable(text: str) -> str:
    """`text` without formulas, and with boxes for what the font lacks, which matplotlib would warn about."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_char_index
    return "".join(c if known(ord(c)) else "\u25a1" for c in text).replace("$", r"\$")
