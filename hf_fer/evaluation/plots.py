"""Plots of results: confusion matrix, training curves, accuracy against resolution, figures of a method, embeddings.

Drawn with matplotlib's objects (`Figure` on an Agg canvas), without `pyplot`: no global state, no display,
safe in threads. matplotlib is imported when a plot is drawn. The file type follows the suffix of the path
(`.png`, `.svg`, `.pdf`).
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_fer.errors import FerError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B7280"
# Of classes: his eight with grey for black, which is left for what is marked.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#8C8C8C")
CLASS_MARKERS = ("o", "^", "s", "D", "v", "P")  # another one for each eight classes
SYMBOLS = {"s_A": "$s_A$", "s_P": "$s_P$", "tau": "$\\tau$"}
DPI = 150


def plot_confusion_matrix(
    matrix: Sequence[Sequence[int]] | np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike[str],
    title: str | None = None,
) -> Path:
    """Confusion matrix coloured by the share of each true class, with percentages and counts in the cells.

    Args:
        matrix: `(K, K)` non-negative integers, rows are the truth.
        names: the `K` class names.
        path: image file to write.
        title: title; the overall and mean class accuracy stand below it.

    Returns:
        The path written.

    Raises:
        FerError: a matrix that is not `(K, K)` for the `K` names, or negative counts.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    size = len(names)
    if counts.shape != (size, size) or size == 0 or (counts < 0).any():
        raise FerError(
            f"A confusion matrix of {size} classes needs ({size}, {size}) counts >= 0, got an array of shape "
            f"{counts.shape}."
        )
    support = counts.sum(axis=1)
    shares = np.divide(counts, support[:, None], out=np.zeros(counts.shape), where=support[:, None] > 0)
    side = max(4.2, 0.82 * size + 1.9)
    figure = _figure(side + 1.0, side)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for row in range(size):
        for column in range(size):
            if counts[row, column] == 0:
                continue
            strong = row == column
            axes.text(
                column,
                row,
                f"{100 * shares[row, column]:.1f} %\n{counts[row, column]:,}",
                ha="center",
                va="center",
                fontsize=8.5,
                fontweight="bold" if strong else "normal",
                color="white" if shares[row, column] > 0.5 else "#1F2937",
            )
    axes.set_xticks(range(size), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), [f"{name}\n(n = {n:,})" for name, n in zip(names, support, strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    # White lines between the cells, without ticks of their own.
    axes.set_xticks(np.arange(1, size) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, size) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03, ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.ax.set_yticklabels(["0 %", "25 %", "50 %", "75 %", "100 %"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    total, present = int(support.sum()), support > 0
    note = ""
    if total:
        accuracy, recall = np.trace(counts) / total, np.diagonal(shares)[present].mean()
        note = f"accuracy {100 * accuracy:.2f} %, mean class accuracy {100 * recall:.2f} %, n = {total:,}"
    axes.set_title("\n".join(filter(None, [title, note])), fontsize=10.5, loc="left")
    return _save(figure, path)


def plot_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Training curves by epoch: losses, validation accuracy, learning rate.

    Args:
        history: one mapping for each epoch. Read where present: `epoch` (default: position, from 1),
            `train_loss`, `val_loss`, `val_accuracy`, `val_mean_class_accuracy`, `lr`; also spelt with `eval_`,
            `validation_` or nothing for `val_`, and `learning_rate` for `lr`. The line passes over epochs without
            a value. The last epoch whose `best` is true is circled; without any, the most accurate.
        path: image file to write.

    Returns:
        The path written.

    Raises:
        FerError: an empty history, or one without any of these keys.
    """
    if not history:
        raise FerError("There are no epochs to plot: the history is empty.")
    epochs = [float(entry.get("epoch", i + 1)) for i, entry in enumerate(history)]
    panels = [
        ("loss", [("training", "train_loss", BLUE), ("validation", "val_loss", ORANGE)]),
        (
            "validation accuracy",
            [("accuracy", "val_accuracy", BLUE), ("mean class accuracy", "val_mean_class_accuracy", ORANGE)],
        ),
        ("learning rate", [("learning rate", "lr", GREEN)]),
    ]
    drawn = []
    for title, curves in panels:
        found = [(label, values, colour) for label, key, colour in curves if (values := _series(history, key))]
        if found:
            drawn.append((title, found))
    if not drawn:
        raise FerError(
            f"The history has no curve to plot: its keys are {', '.join(sorted(map(str, history[0])))}; "
            f"expected train_loss, "
            "val_loss, val_accuracy or lr."
        )
    from matplotlib.ticker import MaxNLocator

    figure = _figure(4.2 * len(drawn) + 0.3, 3.5)
    for i, (title, found) in enumerate(drawn):
        axes = figure.add_subplot(1, len(drawn), i + 1)
        for label, values, colour in found:
            known = np.isfinite(values)
            points = np.asarray(epochs)[known], np.asarray(values)[known]
            axes.plot(*points, color=colour, label=label, linewidth=1.8, **_marker(points[0]))
        if title == "validation accuracy":
            _percent_axis(axes)
            label, values, colour = found[0]
            chosen = [i for i, entry in enumerate(history) if entry.get("best") and np.isfinite(values[i])]
            best = chosen[-1] if chosen else int(np.nanargmax(values))
            axes.scatter(
                [epochs[best]],
                [values[best]],
                s=70,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.6,
                zorder=4,
            )
            axes.set_title(f"{title} ({100 * values[best]:.2f} % in epoch {epochs[best]:g})", fontsize=10, loc="left")
        else:
            axes.set_title(title, fontsize=10, loc="left")
        if len(found) > 1:
            axes.legend(frameon=False, fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        _tidy(axes)
    return _save(figure, path)


def plot_resolution_curve(record: Mapping[str, Any], path: str | os.PathLike[str], *, side: int | None = None) -> Path:
    """Accuracy and mean class accuracy against the resolution factor, with their 95 % intervals.

    Args:
        record: a result record (`evaluate_model`) with several entries in `resolutions`.
        path: image file to write.
        side: side in pixels of the faces at factor 1, to label the axis in pixels; default: the record's
            `reference_side`, else the axis shows factors alone.

    Returns:
        The path written.

    Raises:
        FerError: the record has no `resolutions`.
    """
    resolutions = record.get("resolutions")
    if not resolutions:
        raise FerError("The record has no resolutions to plot; make one with evaluate_model(resolutions=(1, 2, 4, 8)).")
    side = side or record.get("reference_side")
    entries = sorted(((float(factor), metrics) for factor, metrics in resolutions.items()), key=lambda entry: entry[0])
    factors = np.array([factor for factor, _ in entries])
    figure = _figure(5.8, 4.0)
    axes = figure.add_subplot()
    for key, label, colour, marker, lift in (
        ("accuracy", "accuracy", BLUE, "o", 9),
        ("mean_class_accuracy", "mean class accuracy", ORANGE, "s", -15),
    ):
        values = np.array([metrics[key] for _, metrics in entries])
        axes.plot(factors, values, color=colour, marker=marker, linewidth=1.8, markersize=6, label=label, zorder=3)
        intervals = [metrics.get("ci95", {}).get(key) for _, metrics in entries]
        if all(intervals):
            low, high = np.array(intervals).T
            axes.fill_between(factors, low, high, color=colour, alpha=0.15, linewidth=0)
        for factor, value in zip(factors, values, strict=True):
            axes.annotate(
                f"{100 * value:.1f}",
                (factor, value),
                xytext=(0, lift),
                textcoords="offset points",
                ha="center",
                fontsize=8.5,
                color=colour,
            )
    axes.set_xscale("log", base=2)
    axes.margins(x=0.08, y=0.14)
    axes.minorticks_off()
    if side:
        axes.set_xticks(factors, [f"{max(1, round(side / f))} px\n(x{f:g})" for f in factors])
        axes.set_xlabel("side of the face (factor)")
    else:
        axes.set_xticks(factors, [f"x{f:g}" for f in factors])
        axes.set_xlabel("down-sampling factor")
    _percent_axis(axes)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    title = " on ".join(str(record[key]) for key in ("model", "dataset") if record.get(key))
    if record.get("n"):
        title += f" (n = {record['n']:,})"
    axes.set_title(title, fontsize=10.5, loc="left")
    _tidy(axes)
    return _save(figure, path)


def plot_training_scalars(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """What the method measured in training, by epoch: a panel for each `train_...` of the history but `train_loss`.

    For HSAC these are its Figure 6 (`s_A` and `τ`) and each part of its loss.

    Args:
        history: one mapping for each epoch, as in `metrics.jsonl`; `epoch` defaults to the position, from 1. The line
            passes over epochs without a value.
        path: image file to write.

    Returns:
        The path written.

    Raises:
        FerError: an empty history, or one without such values.
    """
    if not history:
        raise FerError("There are no epochs to plot: the history is empty.")
    epochs = np.array([float(entry.get("epoch", i + 1)) for i, entry in enumerate(history)])
    keys = dict.fromkeys(key for entry in history for key in entry if key.startswith("train_") and key != "train_loss")
    found = {key.removeprefix("train_"): np.asarray(values) for key in keys if (values := _series(history, key))}
    if not found:
        raise FerError(
            f"The history has no train_... but train_loss to plot: its keys are {', '.join(sorted(history[0]))}."
        )
    from matplotlib.ticker import MaxNLocator

    figure, panels = _small_multiples(len(found), 4, 3.5, 2.5)
    for axes, (name, values) in zip(panels, found.items(), strict=True):
        known = np.isfinite(values)
        axes.plot(epochs[known], values[known], color=BLUE, linewidth=1.8, **_marker(epochs[known]))
        axes.set_title(_readable(name), fontsize=9.5, loc="left")
        axes.set_title(f"last {_digits(values[known][-1])}", fontsize=8.5, loc="right", color=GREY)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch", fontsize=9)
        axes.tick_params(labelsize=8.5)
        _tidy(axes)
    return _save(figure, path)


def plot_diagnostics(summary: Mapping[str, Any], path: str | os.PathLike[str], title: str | None = None) -> Path:
    """The figures of a method by class: a panel for each, a bar for each class, a dashed line for the mean of all.

    Args:
        summary: what `hf_fer.evaluation.diagnostics.summarize` returns.
        path: image file to write.
        title: title of the whole.

    Returns:
        The path written.

    Raises:
        FerError: the summary has no figures (the method has none).
    """
    figures = summary.get("figures")
    if not figures:
        raise FerError("The summary has no figures to plot: this method measures none of its own.")
    counts = summary["n_per_class"]
    figure, panels = _small_multiples(len(figures), 3, 3.7, 1.0 + 0.34 * len(counts), sharey=True)
    means = {
        name: np.array([np.nan if entry["per_class"][label] is None else entry["per_class"][label] for label in counts])
        for name, entry in figures.items()
    }
    ends = {name: float(np.nanmax(np.abs([*values, figures[name]["mean"]]))) or 1.0 for name, values in means.items()}
    comparable = max(ends.values()) < 5 * min(ends.values())
    for axes, (name, entry) in zip(panels, figures.items(), strict=True):
        end = max(ends.values()) if comparable else ends[name]
        axes.barh(range(len(counts)), np.nan_to_num(means[name]), color=BLUE, height=0.66)
        axes.axvline(entry["mean"], color=ORANGE, linewidth=1.4, linestyle="--")
        for row, value in enumerate(means[name]):  # in a column of their own, where no bar and no line gets
            text, colour = (_digits(value), "#1F2937") if np.isfinite(value) else ("no images", GREY)
            axes.text(1.37 * end, row, text, ha="right", va="center", fontsize=8.5, color=colour)
        axes.set_xlim(-1.05 * end if (means[name] < 0).any() else 0, 1.38 * end)
        axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.001 * end])
        axes.set_yticks(range(len(counts)), [f"{label} (n = {n:,})" for label, n in counts.items()], fontsize=9)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8.5)
        axes.set_title(_readable(name), fontsize=10, loc="left")
        axes.set_title(f"mean {_digits(entry['mean'])}", fontsize=8.5, loc="right", color=ORANGE)
        axes.set_xlabel("\n".join(textwrap.wrap(entry["meaning"], 46)), fontsize=8.5, color=GREY)
        _tidy(axes, grid="x")
    panels[0].invert_yaxis()  # shared: the first class on top in all
    if title:
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left")
    return _save(figure, path)


def plot_tsne(
    points: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    scores: Mapping[str, Any] | None = None,
    marked: np.ndarray | None = None,
    marked_label: str = "hard samples",
) -> Path:
    """A t-SNE map of embeddings, coloured by true class, with the two scores of the embeddings (GReFEL Fig. 5).

    Args:
        points: (n, 2), as `hf_fer.evaluation.embeddings.tsne` returns them.
        labels: (n,) class ids of these points.
        names: the K class names; those without a point are not in the legend.
        path: image file to write.
        title: title; the scores stand below it.
        scores: what `cluster_scores` returns, of all embeddings.
        marked: (n,) bool, points to mark with a black dot, such as HSAC's hard samples, `τ = 0` (HSAC Fig. 7).
        marked_label: what they are.

    Returns:
        The path written.

    Raises:
        FerError: no points, or shapes or labels that do not fit.
    """
    points, labels = np.asarray(points, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or labels.shape != points.shape[:1]:
        raise FerError(f"A map needs points (n, 2) and labels (n,), got {points.shape} and {labels.shape}.")
    if labels.min() < 0 or labels.max() >= len(names):
        raise FerError(f"The labels go from {labels.min()} to {labels.max()}; there are {len(names)} class names.")
    if marked is not None and np.shape(marked) != labels.shape:
        raise FerError(f"marked must be one truth value a point, {labels.shape}, got {np.shape(marked)}.")
    figure = _figure(7.4, 5.6)
    axes = figure.add_subplot()
    size = float(np.clip(9000 / len(points), 9, 40))
    # In random order: drawn class by class, the last would cover the others.
    order = np.random.default_rng(0).permutation(len(points))
    for round_ in range(0, len(names), len(CLASS_COLOURS)):
        rows = order[(labels[order] >= round_) & (labels[order] < round_ + len(CLASS_COLOURS))]
        colours = [CLASS_COLOURS[label - round_] for label in labels[rows]]
        axes.scatter(*points[rows].T, s=size, c=colours, marker=_class_marker(round_), alpha=0.85, linewidths=0)
    for k, name in enumerate(names):
        count = int((labels == k).sum())
        if count:
            style = {"color": CLASS_COLOURS[k % len(CLASS_COLOURS)], "marker": _class_marker(k), "s": 36}
            axes.scatter([], [], label=f"{name} ({count:,})", linewidths=0, **style)
    if marked is not None and np.any(marked):
        rows = np.asarray(marked, dtype=bool)
        label = f"{marked_label} ({int(rows.sum()):,})"
        axes.scatter(*points[rows].T, s=max(5.0, 0.35 * size), color="black", linewidths=0, label=label)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.2)
    axes.set_xticks([])  # the units of the map mean nothing
    axes.set_yticks([])
    axes.spines[:].set_color("#D1D5DB")
    axes.set_aspect("equal", adjustable="datalim")
    notes = [f"t-SNE of {len(points):,} embeddings"]
    if scores is not None:
        notes[0] = f"t-SNE of {len(points):,} embeddings; scores of all {scores['n']:,}:"
        notes.append(
            f"no cluster scores, since {scores['reason']}"
            if scores["davies_bouldin"] is None
            else f"Davies-Bouldin {scores['davies_bouldin']:.2f} (lower is better), "
            f"Calinski-Harabasz {scores['calinski_harabasz']:.1f} (higher is better)"
        )
    axes.set_title("\n".join(filter(None, [title, *notes])), fontsize=10.5, loc="left")
    return _save(figure, path)


# Drawing


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(path, dpi=DPI, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    except ValueError as error:  # matplotlib lists the suffixes it knows
        raise FerError(f"The plot cannot be written to {path}: {error}.") from error
    return path


def _small_multiples(
    count: int, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """`count` panels of `width` by `height` inches, in rows of at most `columns` equally full ones."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    figure = _figure(columns * width, rows * height)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
    for axes in panels[count:]:
        axes.remove()
    return figure, [*panels[:count]]


def _readable(name: str) -> str:
    return SYMBOLS.get(name, name.replace("_", " "))


def _digits(value: float) -> str:
    """Three of them."""
    return f"{value:#.3g}".rstrip(".")


def _class_marker(k: int) -> str:
    return CLASS_MARKERS[k // len(CLASS_COLOURS) % len(CLASS_MARKERS)]


def _tidy(axes: Axes, grid: str = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(axis=grid, color="#E5E7EB", linewidth=0.8)
    axes.set_axisbelow(True)


def _percent_axis(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=None))


def _marker(points: Sequence[float]) -> dict[str, Any]:
    # Dots on a short run (a single epoch would otherwise be invisible), a plain line on a long one.
    return {"marker": "o", "markersize": 4} if len(points) <= 25 else {}


def _series(history: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    keys = [key, *(prefix + key[4:] for prefix in ("eval_", "validation_") if key.startswith("val_"))]
    if key.startswith("val_") and key != "val_loss":
        keys.append(key[4:])
    if key == "lr":
        keys.append("learning_rate")
    values = []
    for entry in history:
        value = next((entry[k] for k in keys if entry.get(k) is not None), None)
        values.append(float("nan") if value is None else float(value))
    return values if np.isfinite(values).any() else []
