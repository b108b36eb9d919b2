"""Tables in Markdown files, filled from result records and leaderboards so that no figure is copied by hand.

<!-- table: resolutions results/mek.json -->
<!-- /table -->
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FerError
from .leaderboard import VERSION
from .markdown import TIMES, escape, interval, one_line, percent, table

KINDS = ("resolutions", "per_class", "board", "board:SLUG")

# Side in pixels of every image of a data set, where they are all alike.
_SIDES = {"ferplus": 48, "fer2013": 48}
_MOST_BYTES = 16 << 20

_MARKER = re.compile(r"<!--\s*/?\s*table\b", re.IGNORECASE)
_OPEN = re.compile(r"<!-- table: (?P<kind>\S+) (?P<path>\S(?:.*\S)?) -->")
_CLOSE = "<!-- /table -->"
_FENCE = re.compile(r"\s*(?P<fence>`{3,}(?=[^`]*$)|~{3,})(?P<rest>.*)")


def render_table(content: Mapping[str, Any], kind: str) -> str:
    """A Markdown table, without an end of line at its end.

    Args:
        content: a result record for `resolutions` (accuracy and mean class accuracy by size of the face, in percent,
            with 95 % intervals) and `per_class` (precision, recall, F1 and images of each class at the first factor);
            a leaderboard (`hf_fer.evaluation.leaderboard_folder.read_leaderboard`) for `board` (its first board) and
            `board:SLUG`.
        kind: one of these.

    Raises:
        FerError: an unknown kind, content of another kind or form, or a board that there is not.
    """
    name, slug = _parse_kind(kind)
    is_leaderboard = "boards" in content
    if is_leaderboard != (name == "board"):
        needed, got = ("leaderboard", "result record") if name == "board" else ("result record", "leaderboard")
        raise FerError(f"A table {name} is made of a {needed}, and this is a {got}; name another file or kind.")
    try:
        if name == "board":
            return _board_table(content, slug)
        return _resolutions_table(content) if name == "resolutions" else _per_class_table(content)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has an unexpected form ({one_line(error)})"
        raise FerError(f"No table {name} can be made: the file {what}; write it again.") from error


def fill_tables(path: str | os.PathLike[str], check: bool = False) -> bool:
    """Write the tables of a Markdown file anew, between `<!-- table: KIND PATH -->` and `<!-- /table -->`.

    Markers stand on lines of their own; those in fenced code blocks are text. What is outside stays, to the byte.

    Args:
        path: the Markdown file. It is written under a temporary name and then renamed.
        check: change nothing.

    Returns:
        Whether the file was up to date already.

    Raises:
        FerError: the file cannot be read or written or has no tables; a marker that is unknown, not closed or not
            opened (with the number of its line); a PATH that is absolute or leads out of the file's folder; or what
            `render_table` raises.
    """
    path = Path(path).resolve()  # the file itself is replaced, not a link to it
    text = _read(path)
    tables = _find_tables(text, path)
    if not tables:
        raise FerError(f"{path} has no tables to fill; mark one with `<!-- table: KIND PATH -->` and `{_CLOSE}`.")
    lines = text.splitlines(keepends=True)
    for found in reversed(tables):
        try:
            rendered = render_table(_load(path.parent, found), found.kind)
        except FerError as error:
            raise FerError(f"{path}, line {found.first + 1}: {error}") from error
        marker = lines[found.first]
        indent, end = marker[: marker.index("<")], "\r\n" if marker.endswith("\r\n") else "\n"
        lines[found.first + 1 : found.last] = [f"{indent}{line}{end}" for line in rendered.split("\n")]
    filled = "".join(lines)
    if filled == text:
        return True
    if not check:
        _replace(path, filled)
    return False


def _parse_kind(kind: str) -> tuple[str, str | None]:
    """(name, slug of a board)."""
    name, colon, slug = kind.partition(":")
    if name not in ("resolutions", "per_class", "board") or (colon and (name != "board" or not slug)):
        raise FerError(f"There is no table {one_line(repr(kind))}; choose one of {', '.join(KINDS)}.")
    return name, slug or None


# --- tables -------------------------------------------------------------------------------------


def _resolutions_table(record: Mapping[str, Any]) -> str:
    side = record["reference_side"] or _SIDES.get(record["dataset"])
    rows = []
    for factor in sorted(record["resolutions"], key=float):
        scores = record["resolutions"][factor]
        face = f"{TIMES}{float(factor):g}" + (f" ({max(1, round(side / float(factor)))} px)" if side else "")
        figures = (
            f"{percent(scores, key, 1)} ({interval(scores, key, 1)})" for key in ("accuracy", "mean_class_accuracy")
        )
        rows.append([face, *figures])
    return table(("face", "accuracy, %", "mean class accuracy, %"), rows)


def _per_class_table(record: Mapping[str, Any]) -> str:
    first = record["resolutions"][min(record["resolutions"], key=float)]
    rows = [
        [escape(name), *(percent(row, key, 1) for key in ("precision", "recall", "f1")), f"{row['support']:,}"]
        for name, row in first["per_class"].items()
    ]
    return table(("class", "precision, %", "recall, %", "F1, %", "images"), rows)


def _board_table(leaderboard: Mapping[str, Any], slug: str | None) -> str:
    from .leaderboard_pages import figures_table, table_md

    if leaderboard.get("leaderboard_version") != VERSION:
        raise FerError("This leaderboard is of another version; build it again.")
    boards = {board["slug"]: board for board in leaderboard["boards"]}
    if slug and slug not in boards:
        raise FerError(f"There is no board {one_line(repr(slug))}; there are {one_line(', '.join(boards), 2000)}.")
    return table_md(figures_table(boards[slug] if slug else leaderboard["boards"][0]))


# --- markers and files --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """`first` and `last` are the indices of the lines with the markers."""

    kind: str
    path: str
    first: int
    last: int


def _find_tables(text: str, file: Path) -> list[_Table]:
    found: list[_Table] = []
    fence, opened, first = "", None, 0
    for index, whole in enumerate(text.splitlines()):
        line = whole.strip()
        where = f"{file}, line {index + 1}"
        if match := _FENCE.match(whole):
            mark, rest = match["fence"], match["rest"]
            if not fence:
                fence = mark
            elif mark[0] == fence[0] and len(mark) >= len(fence) and not rest.strip():
                fence = ""
            continue
        if fence or not _MARKER.match(line):
            continue
        if line == _CLOSE:
            if opened is None:
                raise FerError(f"{where}: a table is closed that was not opened; remove the marker.")
            found.append(_Table(opened["kind"], opened["path"], first, index))
            opened = None
        elif opened is not None:
            raise FerError(f"{file}, line {first + 1}: the table is not closed; write `{_CLOSE}` below it.")
        else:
            opened, first = _OPEN.fullmatch(line), index
            if opened is None:
                raise FerError(f"{where}: {one_line(line)} is no marker; write `<!-- table: KIND PATH -->`.")
    if opened is not None:
        raise FerError(f"{file}, line {first + 1}: the table is not closed; write `{_CLOSE}` below it.")
    return found


def _load(folder: Path, found: _Table) -> Mapping[str, Any]:
    from .leaderboard_folder import read_leaderboard
    from .records import read_record

    name, _ = _parse_kind(found.kind)
    shown = one_line(found.path)
    if re.match(r"[/\\~]|[A-Za-z]:", found.path) or not found.path.isprintable():
        raise FerError(f"{shown} is not a path relative to the folder of the file; write one such as results/a.json.")
    path = (folder / found.path).resolve()
    if folder.resolve() not in path.parents:
        raise FerError(f"{shown} leads out of the folder of the file; keep what tables are made of inside it.")
    return read_leaderboard(path) if name == "board" else read_record(path)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise FerError(f"{path} is larger than {_MOST_BYTES >> 20} MiB; name a Markdown file.")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise FerError(f"{path} cannot be read ({error.strerror}); name a Markdown file.") from error
    except UnicodeDecodeError as error:
        raise FerError(f"{path} is not UTF-8 text ({error.reason}); name a Markdown file.") from error


def _replace(path: Path, text: str) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        unfinished = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8"))
            shutil.copymode(path, unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FerError(f"{path} cannot be written ({error.strerror}); see that there is room there.") from error
