"""The tab Leaderboard: the boards of the result records, to sort and to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..evaluation.leaderboard import latency_on, row_name
from ..evaluation.leaderboard_pages import FIGURE_NAMES
from ..evaluation.markdown import NONE
from . import charts
from .guard import for_api

if TYPE_CHECKING:
    import pandas as pd
    from gradio.components.plot import AltairPlotData
    from pandas.io.formats.style import Styler

_PERCENT = {
    "accuracy": "Accuracy, %",
    "mean_class_accuracy": "Mean class acc., %",
    "average_low_resolution": "Low-res. mean, %",
    "f1_macro": "Macro F1, %",
}
_WIDTHS = ["62px", "214px", *["86px"] * 9]
_PLAIN = {"nll": "NLL", "ece": "ECE", "brier": "Brier"}


def packaged_leaderboard() -> Path:
    """The copy of leaderboard/leaderboard.json that comes inside the package."""
    return Path(__file__).resolve().parent / "leaderboard.json"


def load_leaderboard(records: str | os.PathLike[str] | None) -> dict[str, Any]:
    """The leaderboard of a folder of records, or the one inside the package.

    Raises:
        FerError: the folder cannot be read, or holds other files than records.
    """
    from ..evaluation.leaderboard import build_leaderboard
    from ..evaluation.leaderboard_folder import read_leaderboard, read_records

    if records is None:
        return read_leaderboard(packaged_leaderboard())
    return build_leaderboard(read_records(records))


def leaderboard_tab(leaderboard: Mapping[str, Any]) -> None:
    """Builds the tab's content."""
    boards = {board["slug"]: board for board in leaderboard["boards"]}
    first = leaderboard["boards"][0]

    def show(slug: str) -> tuple[Any, ...]:
        board = boards[slug]
        frame = board_table(board)
        return gr.Dropdown(choices=_sortable(frame), value="Rank"), _styled(frame), _curves(board), _caption(board)

    def sort(slug: str, column: str) -> Styler:
        frame = board_table(boards[slug])
        return _styled(frame.sort_values(column, ascending=column not in _PERCENT.values(), kind="stable"))

    @for_api
    def data(slug: str) -> dict[str, Any]:
        frame = board_table(boards[slug])
        return {"heading": boards[slug]["heading"], "headers": list(frame.columns), "data": _cells(frame)}

    gr.Markdown(
        "Scored by `hf-fer evaluate`. Rows stand on one board only where data, protocol, resolutions and number of "
        "images are the same.",
        elem_classes="hf-lead",
    )
    frame = board_table(first)
    with gr.Row():
        board = gr.Dropdown(
            [(entry["heading"], slug) for slug, entry in boards.items()],
            value=first["slug"],
            label="Board",
            scale=4,
            min_width=320,
            elem_id="hf-board",
        )
        # The table's headings sort too, but only by mouse.
        column = gr.Dropdown(
            _sortable(frame), value="Rank", label="Sort, best first, by", min_width=200, elem_id="hf-board-sort"
        )
    table = gr.Dataframe(
        _styled(frame),
        datatype="auto",
        column_widths=_WIDTHS,
        label="Models, best first",
        interactive=False,
        wrap=True,
        max_height=460,
        buttons=["fullscreen", "copy"],
        elem_id="hf-board-table",
    )
    caption = gr.Markdown(_caption(first), elem_classes="hf-lead")
    lines = _lines(first)
    curves = gr.Plot(
        _plot_data(first, lines) if lines else None,
        label="Accuracy against resolution",
        show_label=False,
        visible=bool(lines),
        elem_id="hf-board-curves",
    )
    quick: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}
    board.input(show, board, [column, table, curves, caption], **quick)
    column.input(sort, [board, column], table, **quick)
    gr.Button(visible=False).click(
        data,
        board,
        gr.JSON(visible=False, label="board"),
        api_name="leaderboard",
        api_description="The ranked rows of a board.",
        queue=False,
    )


def board_table(board: Mapping[str, Any]) -> pd.DataFrame:
    """One row a model, figures as numbers so that they sort."""
    import pandas as pd

    machine = board["machines"][0] if board["machines"] else None
    rows = []
    for row in board["rows"]:
        figures = row["figures"]
        entry: dict[str, Any] = {"Rank": row["rank"], "Model": row["model"]}
        for key, name in _PERCENT.items():
            if key != "average_low_resolution" or any(factor > 1 for factor in board["compared"]["factors"]):
                entry[name] = _rounded(figures[key], 2, 100)
        entry |= {name: _rounded(figures[key], 3) for key, name in _PLAIN.items()}
        if machine is not None:
            latency = latency_on(row, machine)
            entry["Latency, ms"] = None if latency is None else _rounded(latency["median_ms"], 2)
        entry["Million weights"] = _rounded(row["parameters"], 2, 1e-6)
        rows.append(entry)
    return pd.DataFrame(rows)


def _rounded(value: float | None, digits: int, scale: float = 1) -> float | None:
    return None if value is None else round(scale * value, digits)


def _sortable(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name != "Model"]


def _styled(frame: pd.DataFrame) -> Styler:
    """The same numbers of decimals down a column; the values below stay numbers and sort as such."""
    digits = {name: 3 if name in _PLAIN.values() else 2 for name in frame.columns if name not in ("Rank", "Model")}
    return frame.style.format({name: f"{{:.{count}f}}" for name, count in digits.items()}, na_rep=NONE)


def _cells(frame: pd.DataFrame) -> list[list[Any]]:
    """JSON knows no NaN."""
    return [[None if value != value else value for value in row] for row in frame.astype(object).to_numpy().tolist()]


def _lines(board: Mapping[str, Any]) -> list[charts.Line]:
    """Accuracy by factor, where there is more than one."""
    factors = board["compared"]["factors"]
    models = [row["model"] for row in board["rows"]]
    lines: list[charts.Line] = []
    for row in board["rows"]:
        name = row["model"] if models.count(row["model"]) == 1 else row_name(row)
        lines.append((name, factors, [row["by_factor"][f"{factor:g}"]["accuracy"] for factor in factors]))
    return lines if len(factors) > 1 else []


def _plot_data(board: Mapping[str, Any], lines: list[charts.Line]) -> AltairPlotData:
    axes = charts.Axes(
        "Accuracy against resolution", charts.OVER_FACTORS, "accuracy", factors=max(board["compared"]["factors"])
    )
    words = "The accuracy of each model at every resolution"
    return charts.plot_data(lines, charts.method_lines([name for name, *_ in lines]), axes, words)


def _curves(board: Mapping[str, Any]) -> gr.Plot:
    lines = _lines(board)
    return gr.Plot(value=_plot_data(board, lines), visible=True) if lines else gr.Plot(visible=False)


def _caption(board: Mapping[str, Any]) -> str:
    """What the rank and the latency are."""
    machine = f" Latency: median time for one image on {board['machines'][0]['words']}." if board["machines"] else ""
    return f"Ranked by {FIGURE_NAMES[board['ranked_by']]}.{machine}"
