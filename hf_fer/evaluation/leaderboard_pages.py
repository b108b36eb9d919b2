"""The pages of a leaderboard, Markdown and HTML: one document, written twice. Pure.

Names come from records, so from anywhere: whatever is shown is escaped for the page that it is shown on.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from . import markdown
from .leaderboard import MARK, latency_on, machine_words, row_name
from .markdown import NONE, TIMES, TO, shorten

#: How the pages begin: what has it may be replaced.
MARKDOWN_MARK = f"<!-- written by {MARK}: edits are lost -->"
HTML_MARK = f"<!DOCTYPE html>\n{MARKDOWN_MARK}"

LONGEST = 200  # characters of a name; a longer one ends in an ellipsis
FIGURE_NAMES: dict[str, str] = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "f1_macro": "macro F1",
    "challenge_score": "challenge score",
    "top2_accuracy": "top-2 accuracy",
    "average_low_resolution": "mean accuracy over the lower resolutions",
    "nll": "NLL",
    "ece": "ECE",
    "brier": "Brier score",
}
_WITH_INTERVAL = ("accuracy", "mean_class_accuracy")
_SHARES = ("accuracy", "mean_class_accuracy", "f1_macro", "top2_accuracy", "average_low_resolution")


@dataclass(frozen=True)
class Heading:
    text: str
    level: int
    anchor: str | None = None


@dataclass(frozen=True)
class Paragraph:
    """`text` is ours, with `{}` for each of the `values`, which may be anybody's."""

    text: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    text: str
    anchor: str


@dataclass(frozen=True)
class Picture:
    file: str
    description: str


@dataclass(frozen=True)
class Cell:
    """`order` is what a column is sorted by, where that is not the text."""

    text: str
    order: float | None = None
    address: str | None = None


@dataclass(frozen=True)
class Table:
    """The first `left` columns are text. With a `summary` the table is folded away under it."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int
    summary: str | None = None


Block = Heading | Paragraph | Link | Picture | Table


@dataclass(frozen=True)
class Page:
    title: str
    blocks: list[Block]


# --- what is on the page ------------------------------------------------------------------------


def build_page(leaderboard: Mapping[str, Any]) -> Page:
    """The document of a leaderboard as `hf_fer.evaluation.leaderboard_folder.write_leaderboard` completes it.

    Args:
        leaderboard: what `build_leaderboard` returns, with `title`, with `records_folder` (the address of the records
            seen from the page, or None) and in each board `plots`: a list of `file` and `description`.
    """
    boards, records = leaderboard["boards"], leaderboard["records"]
    blocks: list[Block] = [
        Paragraph(
            f"{records:,} result record{_s(records)} on {len(boards)} board{_s(len(boards))}, written by `hf-fer "
            "leaderboard build`. Rows stand on one board only where data, classes, protocol, conditions, resolutions "
            "and number of images are the same; figures of different boards must not be compared."
        )
    ]
    if len(boards) > 1:
        blocks += [Link(board["heading"], board["slug"]) for board in boards]
    for board in boards:
        blocks.append(Heading(board["heading"], 2, board["slug"]))
        blocks += _board_blocks(board, leaderboard["records_folder"])
    return Page(shorten(leaderboard["title"], LONGEST), [*blocks, *_reading(leaderboard)])


def _board_blocks(board: Mapping[str, Any], folder: str | None) -> list[Block]:
    compared = board["compared"]
    images = ", ".join(f"{name} {compared['images'][name]:,}" for name in compared["classes"])
    better = "higher" if board["higher_is_better"] else "lower"
    at = "" if compared["factors"] == [1] else f", at {TIMES}{compared['factors'][0]:g} where no factor is named"
    blocks: list[Block] = [
        Paragraph("Images of each class: {}.", (shorten(images, 2000),)),
        Paragraph(f"Ranked by {FIGURE_NAMES[board['ranked_by']]} ({better} is better){at}."),
        figures_table(board),
    ]
    if board["machines"]:
        machine = board["machines"][0]["words"]
        blocks.append(Paragraph("Latency: median time for one image, on {} unless said otherwise.", (machine,)))
    blocks += [Picture(plot["file"], plot["description"]) for plot in board["plots"]]
    if len(compared["factors"]) > 1:
        blocks += [_factors_table(board, key) for key in ("accuracy", "mean_class_accuracy")]
    blocks.append(_origin_table(board, folder))
    if board["superseded"]:
        count = len(board["superseded"])
        blocks.append(
            Paragraph(
                f"Not ranked: {count} earlier record{_s(count)} of the same model, revision and source, with other "
                "figures."
            )
        )
        blocks.append(_superseded_table(board, folder))
    return blocks


def figures_table(board: Mapping[str, Any]) -> Table:
    """The ranked rows with their figures."""
    lower = [factor for factor in board["compared"]["factors"] if factor > 1]
    average = f"mean accuracy at {', '.join(f'{TIMES}{factor:g}' for factor in lower)}, %"
    columns: dict[str, str] = {
        "accuracy": "accuracy, %",
        "mean_class_accuracy": "mean class accuracy, %",
        **({"average_low_resolution": average} if lower else {}),
        "f1_macro": "macro F1, %",
        "challenge_score": "challenge score",
        **({"top2_accuracy": "top-2 accuracy, %"} if board["ranked_by"] == "top2_accuracy" else {}),
        "nll": "NLL",
        "ece": "ECE",
        "brier": "Brier",
    }
    timed = bool(board["machines"])
    head = ("rank", "model", *columns.values(), *(["latency, ms"] if timed else []), "parameters")
    rows = tuple(
        (
            *_place(row),
            *(_figure(row, key) for key in columns),
            *([_latency(row, board["machines"][0])] if timed else []),
            _count(row["parameters"]),
        )
        for row in board["rows"]
    )
    return Table(head, rows, 2)


def _factors_table(board: Mapping[str, Any], key: str) -> Table:
    factors = [f"{factor:g}" for factor in board["compared"]["factors"]]
    rows = tuple(
        (*_place(row), *(_share(row["by_factor"][factor], key) for factor in factors)) for row in board["rows"]
    )
    head = ("rank", "model", *(f"{TIMES}{factor}, %" for factor in factors))
    return Table(head, rows, 2, f"{FIGURE_NAMES[key].capitalize()} by resolution, with 95 % intervals")


def _origin_table(board: Mapping[str, Any], folder: str | None) -> Table:
    head = (
        "rank", "model", "revision", "scored", "epoch selected by", "condition stated by", "classes it lacks",
        "PyTorch", "transformers", "evaluated", "record", "same figures again in", "training seed",
    )  # fmt: skip
    rows = tuple(
        (
            Cell(str(row["rank"]), row["rank"]),
            _text(row["model"]),
            _text(row["revision"]),
            _text(row["source"]),
            _text(row["training"]["selected_by"]),
            _text(row["training"]["stated_by"]),
            _text(", ".join(row["missing_classes"])),
            *_when_and_with_what(row, folder),
            _text(", ".join(repeat["file"] for repeat in row["repeats"]), limit=1 << 20),
            _count(row["training"]["seed"], separator=""),
        )
        for row in board["rows"]
    )
    return Table(head, rows, len(head) - 1, "Where each row comes from")


def _superseded_table(board: Mapping[str, Any], folder: str | None) -> Table:
    keys = list(dict.fromkeys(("accuracy", "mean_class_accuracy", "f1_macro", board["ranked_by"])))
    names = [FIGURE_NAMES[key] + (", %" if key in _SHARES else "") for key in keys]
    head = ("model", "PyTorch", "transformers", "evaluated", "record", "newer record", *names)
    rows = tuple(
        (
            _text(row_name(row)),
            *_when_and_with_what(row, folder),
            _text(row["superseded_by"]),
            *(_figure(row, key) for key in keys),
        )
        for row in board["superseded"]
    )
    return Table(head, rows, 6)


def _reading(leaderboard: Mapping[str, Any]) -> list[Block]:
    rows = [row for board in leaderboard["boards"] for row in board["rows"]]
    methods = sorted({method for board in leaderboard["boards"] for method in board["intervals"]})
    superseded = sum(len(board["superseded"]) for board in leaderboard["boards"])
    repeats = sum(len(row["repeats"]) for row in rows)
    blocks: list[Block] = [
        Heading("How to read this", 2),
        Paragraph(
            "Behind a figure, in brackets: its 95 % interval over the images of the test split ({}). It says how far "
            "the figure depends on which images were drawn, not how far on the seed of the training. Where intervals "
            "overlap, the order may be chance.",
            ("; ".join(methods),),
        ),
        Paragraph("Rows with the same figure share a rank and stand by name."),
        Paragraph(
            f"Left apart: {superseded:,} record{_s(superseded)} with a newer one of the same model, revision and "
            f"source that has other figures (the newer one is ranked), and {repeats:,} with the same figures as a "
            "newer one (shown once)."
        ),
    ]
    if any(row["latencies"] for row in rows):
        blocks.append(
            Paragraph(
                "Latencies are plotted together only if device, processor, threads and number format are the same."
            )
        )
    if any(row["training"]["stated_by"] for row in rows):
        blocks.append(
            Paragraph(
                "A condition of a protocol is stated by the report of the training run, or by who called the "
                "evaluation; the latter nobody has checked."
            )
        )
    return blocks


def _place(row: Mapping[str, Any]) -> tuple[Cell, Cell]:
    return Cell(str(row["rank"]), row["rank"]), _text(row_name(row))


def _when_and_with_what(row: Mapping[str, Any], folder: str | None) -> tuple[Cell, ...]:
    address = None if folder is None else quote(f"{folder}/{row['file']}")
    return (
        _text(row["versions"]["torch"]),
        _text(row["versions"]["transformers"]),
        _text(row["date"][:10]),
        Cell(shorten(row["file"], LONGEST), address=address),
    )


def _text(text: str | None, limit: int = LONGEST) -> Cell:
    return Cell(shorten(text or "", limit) or NONE)


def _count(value: int | None, separator: str = ",") -> Cell:
    return Cell(NONE) if value is None else Cell(f"{value:{separator}}", value)


def _figure(row: Mapping[str, Any], key: str) -> Cell:
    value = row["figures"][key]
    if value is None:
        return Cell(NONE)
    value = markdown.finite(value, key)
    if key not in _SHARES:
        return Cell(f"{value:.4f}", value)
    return _share({**row["figures"], "ci95": row["ci95"]}, key)


def _share(scores: Mapping[str, Any], key: str) -> Cell:
    bounds = f" ({markdown.interval(scores, key)})" if key in _WITH_INTERVAL and key in scores["ci95"] else ""
    return Cell(markdown.percent(scores, key) + bounds, scores[key])


def _latency(row: Mapping[str, Any], machine: Mapping[str, Any]) -> Cell:
    if entry := latency_on(row, machine):
        return Cell(_milliseconds(entry), entry["median_ms"])
    return _text("; ".join(f"{_milliseconds(entry)} on {machine_words(entry)}" for entry in row["latencies"]))


def _milliseconds(entry: Mapping[str, Any]) -> str:
    median = markdown.figure(entry, "median_ms")
    return f"{median:.2f}" if median >= 1 else f"{median:.3g}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


# --- Markdown -----------------------------------------------------------------------------------


def to_markdown(page: Page) -> str:
    """The page as Markdown that GitHub and the Hub render."""
    pieces = [f"{MARKDOWN_MARK}\n# {_md(page.title)}"]
    for previous, block in zip([None, *page.blocks], page.blocks, strict=False):
        joint = "\n" if isinstance(block, Link) and isinstance(previous, Link) else "\n\n"
        pieces.append(joint + _block_md(block))
    return "".join(pieces) + "\n"


def table_md(table: Table) -> str:
    """A table as Markdown, without its summary."""
    rows = [[_cell_md(cell) for cell in row] for row in table.rows]
    return markdown.table([_md(name) for name in table.head], rows, table.left)


def _block_md(block: Block) -> str:
    if isinstance(block, Heading):
        # An address of its own: GitHub derives one from the text, and the texts of two boards may be the same.
        anchor = f'<a id="{block.anchor}"></a>\n\n' if block.anchor else ""
        return f"{anchor}{'#' * block.level} {_md(block.text)}"
    if isinstance(block, Paragraph):
        return block.text.format(*map(_md, block.values))
    if isinstance(block, Link):
        return f"- [{_md(block.text)}](#{block.anchor})"
    if isinstance(block, Picture):
        return f"![{_md(block.description)}]({quote(block.file)})"
    if block.summary is None:
        return table_md(block)
    return f"<details>\n<summary>{html.escape(block.summary)}</summary>\n\n{table_md(block)}\n\n</details>"


def _cell_md(cell: Cell) -> str:
    text = _md(cell.text)
    return f"[{text}]({cell.address})" if cell.address else text


def _md(text: str) -> str:
    # Figures need no escapes, and read better without; a number that begins a line would be a list.
    plain = re.fullmatch(rf"[\d.,%() {TO}{TIMES}]*", text)
    return text if plain else markdown.escape(text, len(text))


# --- HTML ---------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark;
  --line: #d1d5db; --faint: #6b7280; --back: #ffffff; --text: #1f2937; --link: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --line: #4b5563; --faint: #9ca3af; --back: #111827; --text: #e5e7eb; --link: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--back); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; font-size: 1.2rem; }
a { color: var(--link); }
p { max-width: 48rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; }
th { color: var(--faint); font-weight: 600; }
th.text, td.text { text-align: left; }
td.text { white-space: normal; min-width: 4rem; max-width: 22rem; }
th[role] { cursor: pointer; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; }
figcaption { color: var(--faint); font-size: .875rem; }
summary { cursor: pointer; }
"""

# A click on a column's name sorts by it, another one turns the order round; cells without a figure stay last.
_SCRIPT = """
for (const head of document.querySelectorAll("th")) {
  const sort = () => {
    const body = head.closest("table").tBodies[0], column = head.cellIndex;
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.cells[column];
      return head.className === "text" ? cell.textContent : parseFloat(cell.dataset.order ?? "NaN");
    };
    const compare = (a, b) => {
      const x = value(a), y = value(b);
      if (typeof x === "string") return down ? y.localeCompare(x) : x.localeCompare(y);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return down ? y - x : x - y;
    };
    body.append(...[...body.rows].sort(compare));
  };
  head.tabIndex = 0;
  head.setAttribute("role", "columnheader");
  head.title = "sort";
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}
"""


def to_html(page: Page) -> str:
    """The page as HTML that needs nothing but its pictures: style and script are inside, no other script may run."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"script-src 'sha256-{digest}'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-src 'none'"
    body = "\n".join(_block_html(block) for block in page.blocks)
    body = re.sub(r"</li>\n</ul>\n<ul>\n<li>", "</li>\n<li>", body)
    return f"""{HTML_MARK}
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_h(page.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{_h(page.title)}</h1>
{body}
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _block_html(block: Block) -> str:
    if isinstance(block, Heading):
        anchor = f' id="{_h(block.anchor)}"' if block.anchor else ""
        return f"<h{block.level}{anchor}>{_h(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        text = re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(block.text))
        return f"<p>{text.format(*map(_h, block.values))}</p>"
    if isinstance(block, Link):
        return f'<ul>\n<li><a href="#{_h(block.anchor)}">{_h(block.text)}</a></li>\n</ul>'
    if isinstance(block, Picture):
        image = f'<img src="{_h(quote(block.file))}" alt="{_h(block.description)}" loading="lazy">'
        return f"<figure>{image}<figcaption>{_h(block.description)}</figcaption></figure>"
    kinds = [' class="text"' if k < block.left and name != "rank" else "" for k, name in enumerate(block.head)]
    head = "".join(f'<th scope="col"{kind}>{_h(name)}</th>' for kind, name in zip(kinds, block.head, strict=True))
    rows = "\n".join(
        f"<tr>{''.join(_cell_html(cell, kind) for cell, kind in zip(row, kinds, strict=True))}</tr>"
        for row in block.rows
    )
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    table = f'<div class="scroll" tabindex="0">{table}</div>'
    return table if block.summary is None else f"<details><summary>{_h(block.summary)}</summary>{table}</details>"


def _cell_html(cell: Cell, kind: str) -> str:
    order = "" if cell.order is None or not math.isfinite(cell.order) else f' data-order="{cell.order!r}"'
    text = f'<a href="{_h(cell.address)}">{_h(cell.text)}</a>' if cell.address else _h(cell.text)
    return f"<td{kind}{order}>{text}</td>"


def _h(text: str) -> str:
    return html.escape(text, quote=True)
