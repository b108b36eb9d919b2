"""What is in a dataset: counts, sizes, contact sheets; and whether it is sound: broken images, leaks between splits."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FerError
from .imbalance import stable_permutation
from .prepare import decoded_image, image_bytes, image_size, stored_tables, with_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasets import Dataset, DatasetDict
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

#: Of a larger split, so many images are measured, by a seeded choice.
MEASURED = 20_000
#: How many broken images and how many leaks are named.
LISTED = 20
#: Images in a row of a contact sheet, rows, and side of one in pixels.
SHEET, CELL = 8, 64

# As in hf_fer.evaluation.plots: Okabe and Ito's palette, which the colour-blind can tell apart.
_COLOURS, _GREY, _DPI = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"), "#6B7280", 150
_GAP = 2


def dataset_statistics(splits: DatasetDict, *, seed: int = 0, progress: bool = False) -> dict[str, dict[str, Any]]:
    """Counts and image sizes of every split, from the labels and the images' headers; nothing is decoded.

    Args:
        splits: with columns `image` and `label`.
        seed: of the choice of `MEASURED` images in a split that has more.
        progress: show a progress bar on standard error.

    Returns:
        For each split: `images`; `classes` (`{name: images}`); `unlabelled`; `imbalance_factor` (largest over
        smallest class, None where a class is empty); `sizes`, see `_measure`; `votes` (images with votes, None
        without the column); `groups` (`{"images": …, "groups": …}`, or None).
    """
    from tqdm.auto import tqdm

    _refuse_streams(splits)
    measured = {split: _measured_rows(len(dataset), seed) for split, dataset in splits.items()}
    total = sum(map(len, measured.values()))
    result = {}
    with tqdm(total=total, unit="image", desc="measure", disable=not progress) as bar:
        for split, dataset in splits.items():
            names = dataset.features["label"].names
            labels = _labels(dataset)
            counts = np.bincount(labels[labels >= 0], minlength=len(names)).tolist()
            result[str(split)] = {
                "images": len(dataset),
                "classes": dict(zip(names, counts, strict=True)),
                "unlabelled": int((labels < 0).sum()),
                "imbalance_factor": max(counts) / min(counts) if min(counts) else None,
                "sizes": _measure(dataset, measured[split], bar),
                "votes": _with_votes(dataset),
                "groups": _with_group(dataset),
            }
    return result


def save_plots(statistics: Mapping[str, Mapping[str, Any]], folder: Path, title: str) -> list[Path]:
    """Write `classes.png` (images per class and split) and `sizes.png` (shorter sides) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _plot_classes(statistics, folder / "classes.png", title),
        _plot_sizes(statistics, folder / "sizes.png", title),
    ]


def save_contact_sheets(splits: DatasetDict, folder: Path, *, seed: int = 0) -> list[Path]:
    """Write `<split>_<class>.png` into `folder`: up to 8x8 images by a seeded choice, each in a square of 64 pixels.

    Pictures of people do not belong into a repository, so the folder gets a `.gitignore` of everything in it.
    """
    _refuse_streams(splits)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    written = []
    for split, dataset in splits.items():
        labels = _labels(dataset)
        order = stable_permutation(len(labels), seed)
        for k, name in enumerate(dataset.features["label"].names):
            chosen = np.sort(order[labels[order] == k][: SHEET * SHEET])
            if len(chosen):
                path = folder / f"{split}_{name}.png"
                _contact_sheet(dataset, chosen).save(path)
                written.append(path)
    return written


def check_images(splits: DatasetDict, *, fast: bool = False, progress: bool = False) -> dict[str, Any]:
    """Look at every image: is it there, can it be decoded, does it stand in two splits?

    Args:
        splits: with columns `image` and `label`.
        fast: read only headers; then duplicates are equal files, not equal pixels.
        progress: show a progress bar on standard error.

    Returns:
        images: how many there are, by split.
        broken: how many cannot be decoded or have no label.
        broken_first: `(split, row, reason)` of the first `LISTED` of them.
        repeated: by split, how many images are the same as an earlier one of the split.
        leaks: for each two splits that share images: `splits`, `images` (of the second that are in the first, too),
            `other_label` (how many of these have another label there, where its first copy counts), `first` (up to
            `LISTED` times `(row of the second, its label, row of the first, its label)`).
    """
    from tqdm.auto import tqdm

    _refuse_streams(splits)
    total = sum(len(dataset) for dataset in splits.values())
    broken, listed = 0, []
    hashes, rows = {}, {}
    threads = min(8, os.cpu_count() or 1)  # Pillow decodes without holding Python's lock
    with (
        tqdm(total=total, unit="image", desc="check", disable=not progress) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for split, dataset in splits.items():
            labels = _labels(dataset)
            found = np.zeros(len(dataset), dtype=np.uint64)
            sound = np.ones(len(dataset), dtype=bool)
            for row, (hashed, reason) in enumerate(_inspected(dataset, fast, pool)):
                if reason is None and labels[row] < 0:
                    reason = "there is no label"
                if reason is not None:
                    broken += 1
                    if len(listed) < LISTED:
                        listed.append((str(split), row, reason))
                found[row], sound[row] = hashed or 0, hashed is not None
                bar.update()
            rows[split] = np.flatnonzero(sound)
            hashes[split] = found[sound]
    return {
        "images": {str(split): len(dataset) for split, dataset in splits.items()},
        "broken": broken,
        "broken_first": listed,
        "repeated": {str(split): len(values) - len(np.unique(values)) for split, values in hashes.items()},
        "leaks": [
            leak
            for first, second in itertools.combinations(splits, 2)
            if (leak := _leak(splits, first, second, hashes, rows)) is not None
        ],
    }


# --- labels, votes, groups --------------------------------------------------------------------------


def _refuse_streams(splits: Mapping[str, Any]) -> None:
    if not all(hasattr(dataset, "__len__") for dataset in splits.values()):
        raise FerError("A streamed data set has no rows to choose from; load it without streaming.")


def _labels(dataset: Dataset) -> np.ndarray:
    """(N,) int64; -1 where there is no label."""
    return np.array([-1 if label is None else label for label in _column(dataset, "label")], dtype=np.int64)


def _column(dataset: Dataset, name: str) -> list[Any]:
    return [value for table in stored_tables(dataset, [name], 10_000) for value in table.column(name).to_pylist()]


def _with_votes(dataset: Dataset) -> int | None:
    if "votes" not in dataset.column_names:
        return None
    return sum(bool(votes) and any(votes) for votes in _column(dataset, "votes"))


def _with_group(dataset: Dataset) -> dict[str, int] | None:
    if "group" not in dataset.column_names:
        return None
    groups = [group for group in _column(dataset, "group") if group is not None]
    return {"images": len(groups), "groups": len(set(groups))}


# --- sizes ------------------------------------------------------------------------------------------


def _measured_rows(images: int, seed: int) -> np.ndarray:
    if images <= MEASURED:
        return np.arange(images)
    return np.sort(stable_permutation(images, seed)[:MEASURED])


def _measure(dataset: Dataset, rows: np.ndarray, bar: Any) -> dict[str, Any]:
    """Sizes of the images in `rows`.

    Returns:
        measured: how many have a size; unreadable: how many of those looked at have none.
        shorter_side: its `min`, `median` and `max` in pixels.
        common: up to five `["WxH", images]`, most frequent first.
        histogram: `[[shorter side, images], …]` by side.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    unreadable = 0
    chosen = dataset if len(rows) == len(dataset) else dataset.select(rows)
    for table in stored_tables(chosen, ["image"]):
        for value in table.column("image").to_pylist():
            try:
                sizes[image_size(image_bytes(value))] += 1
            except FerError:
                unreadable += 1
            bar.update()
    sides: Counter[int] = Counter()
    for (width, height), count in sizes.items():
        sides[min(width, height)] += count
    every = sorted(sides.elements())
    return {
        "measured": len(every),
        "unreadable": unreadable,
        "shorter_side": {"min": every[0], "median": every[len(every) // 2], "max": every[-1]} if every else None,
        "common": [[f"{width}x{height}", count] for (width, height), count in sizes.most_common(5)],
        "histogram": [[side, sides[side]] for side in sorted(sides)],
    }


# --- plots ------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes: Axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GREY)
    axes.grid(axis=grid, color="#E5E7EB", linewidth=0.8)
    axes.set_axisbelow(True)


def _plot_classes(statistics: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    names = list(next(iter(statistics.values()))["classes"])
    thick = 0.8 / len(statistics)
    figure = _figure(7.0, 0.9 + len(names) * max(0.36, 0.19 * len(statistics)))
    axes = figure.add_subplot()
    for i, (split, figures) in enumerate(statistics.items()):
        counts = [figures["classes"][name] for name in names]
        places = np.arange(len(names)) - 0.4 + (i + 0.5) * thick
        factor = figures["imbalance_factor"]
        note = "" if factor is None else f", factor {factor:.3g}"
        bars = axes.barh(
            places,
            counts,
            thick * 0.92,
            color=_COLOURS[i % len(_COLOURS)],
            label=f"{split} (n = {figures['images']:,}{note})",
        )
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=2, fontsize=7.5, color="#1F2937")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel("images")
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    _tidy(axes, "x")
    axes.tick_params(axis="y", length=0)
    return _save(figure, path)


def _plot_sizes(statistics: Mapping[str, Mapping[str, Any]], path: Path, title: str) -> Path:
    sides = {split: np.array(figures["sizes"]["histogram"]).reshape(-1, 2) for split, figures in statistics.items()}
    every = np.concatenate(list(sides.values()))
    low, high = (every[:, 0].min(), every[:, 0].max()) if len(every) else (1, 1)
    # At most 40 bars of a whole number of pixels each; a single size still gets a bar one can see.
    step = max(1, -(-(high - low + 1) // 40))
    edges = np.arange(low, high + step + 1, step) - 0.5
    if len(edges) < 6:
        edges = np.arange(low - 3, high + 4) - 0.5
    figure = _figure(7.0, 3.4)
    axes = figure.add_subplot()
    weights = [part[:, 1] / max(1, part[:, 1].sum()) for part in sides.values()]
    labels = [
        f"{split} (n = {figures['sizes']['measured']:,}"
        + (f" of {figures['images']:,})" if figures["sizes"]["measured"] < figures["images"] else ")")
        for split, figures in statistics.items()
    ]
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(sides))]
    axes.hist([part[:, 0] for part in sides.values()], edges, weights=weights, label=labels, color=colours)
    axes.set_xlabel("shorter side of the image, pixels")
    axes.set_ylabel("share of the split")
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.legend(frameon=False, fontsize=8.5)
    _tidy(axes, "y")
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=_DPI, facecolor="white", bbox_inches="tight", pad_inches=0.12)
    return path


# --- contact sheets ---------------------------------------------------------------------------------


def _contact_sheet(dataset: Dataset, rows: Sequence[int] | np.ndarray) -> Image.Image:
    from PIL import Image, ImageDraw, ImageOps

    columns = min(SHEET, len(rows))
    lines = -(-len(rows) // SHEET)
    step = CELL + _GAP
    sheet = Image.new("RGB", (columns * step + _GAP, lines * step + _GAP), "white")
    values = (
        value for table in stored_tables(dataset.select(rows), ["image"]) for value in table.column("image").to_pylist()
    )
    for i, value in enumerate(values):
        x, y = _GAP + i % SHEET * step, _GAP + i // SHEET * step
        try:
            cell = ImageOps.contain(decoded_image(image_bytes(value)), (CELL, CELL), Image.Resampling.BICUBIC)
        except FerError:  # crossed out: `check` says why
            cell = Image.new("RGB", (CELL, CELL), "#E5E7EB")
            ImageDraw.Draw(cell).line([(0, 0), (CELL, CELL), (CELL, 0), (0, CELL)], fill=_COLOURS[1])
        sheet.paste(cell, (x + (CELL - cell.width) // 2, y + (CELL - cell.height) // 2))
    return sheet


# --- broken images and duplicates -------------------------------------------------------------------


def _inspected(dataset: Dataset, fast: bool, pool: ThreadPoolExecutor) -> Iterator[tuple[int | None, str | None]]:
    """For each row a hash of the image's content, or None and the reason why there is none."""

    def inspect(value: Mapping[str, Any] | None) -> tuple[int | None, str | None]:
        try:
            data = image_bytes(value)
            if fast:
                image_size(data)
                content = data
            else:
                image = decoded_image(data)
                content = b"%dx%d " % image.size + image.tobytes()
        except FerError as error:
            return None, with_path(error, value)
        # 64 bits: among three million images two different ones meet with a chance of one in four million.
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"), None

    for table in stored_tables(dataset, ["image"]):
        yield from pool.map(inspect, table.column("image").to_pylist())


def _leak(
    splits: DatasetDict, first: str, second: str, hashes: Mapping[str, np.ndarray], rows: Mapping[str, np.ndarray]
) -> dict[str, Any] | None:
    """What two splits share, see `check_images`; None for nothing."""
    contents, places = np.unique(hashes[first], return_index=True)
    if not len(contents):
        return None
    at = np.minimum(np.searchsorted(contents, hashes[second]), len(contents) - 1)
    shared = np.flatnonzero(contents[at] == hashes[second])
    if not len(shared):
        return None
    here, there = rows[second][shared], rows[first][places[at[shared]]]
    labels = {split: _labels(splits[split]) for split in (first, second)}
    names = [*splits[first].features["label"].names, "no label"]  # -1 is the last
    pairs = [
        (int(i), names[labels[second][i]], int(j), names[labels[first][j]])
        for i, j in zip(here[:LISTED], there[:LISTED], strict=True)
    ]
    return {
        "splits": [str(first), str(second)],
        "images": len(shared),
        "other_label": int((labels[second][here] != labels[first][there]).sum()),
        "first": pairs,
    }
