"""A folder of result records in, a folder with the leaderboard out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FerError
from .leaderboard import MARK, VERSION, build_leaderboard
from .markdown import one_line, shorten

_JSON, _MARKDOWN, _HTML = "leaderboard.json", "README.md", "leaderboard.html"
_MOST_BYTES = 256 << 20


def read_records(folder: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every `*.json` below a folder: (path relative to it, with `/`; record), by path.

    Raises:
        FerError: there is no such folder, nothing in it, or files that are no records: all of them, with the reasons.
    """
    from .records import read_record

    folder = Path(folder)
    if not folder.is_dir():
        raise FerError(f"{folder} is no folder; pass the one with the records that `hf-fer evaluate` wrote.")
    records, bad = [], []
    for path in _json_files(folder):
        file = path.relative_to(folder).as_posix()
        try:
            if not file.isprintable():
                raise FerError("its name has characters that cannot be shown")
            if path.is_symlink() and path.is_dir():
                raise FerError("links to folders are not followed")
            records.append((file, read_record(path)))
        except FerError as error:
            reason = str(error).removeprefix("The record ").removeprefix(f"{path} ")
            bad.append(f"{one_line(file)}: {shorten(reason, 500)}")
    if bad:
        raise FerError(
            f"{len(bad)} of the {len(bad) + len(records)} JSON files in {folder} are no result records, so there is no "
            "leaderboard; move them away, or put them right:\n- " + "\n- ".join(bad)
        )
    if not records:
        raise FerError(f"There is no *.json in {folder}; write records there with `hf-fer evaluate`.")
    return records


def write_leaderboard(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    title: str | None = None,
    rank_by: str | None = None,
    force: bool = False,
) -> list[Path]:
    """The leaderboard of the records in a folder: `leaderboard.json`, `README.md`, `leaderboard.html` and plots.

    The same records give the same bytes, the plots' as far as matplotlib's version goes. Files are written under
    temporary names and then renamed; plots of an earlier leaderboard that this one has not are deleted.

    Args:
        folder: see `read_records`.
        out: folder to write to; it is made. It may hold `folder`, but must not be or be in it.
        title: of the pages; by default "Leaderboard".
        rank_by: see `build_leaderboard`.
        force: replace files that no earlier leaderboard wrote.

    Returns:
        The paths written.

    Raises:
        FerError: see `read_records` and `build_leaderboard`; `out` is in `folder` or no folder, a file of another
            kind is in the way, or `out` cannot be written to.
    """
    folder, out = Path(folder), Path(out)
    records = read_records(folder)
    inside = out.resolve()
    if inside == folder.resolve() or folder.resolve() in inside.parents:
        raise FerError(f"{out} is in the folder of the records, {folder}, and would be read as one; choose another.")
    if out.exists() and not out.is_dir():
        raise FerError(f"{out} is a file; name a folder for the leaderboard.")
    leaderboard = build_leaderboard(records, rank_by)
    leaderboard = {**leaderboard, "title": title or "Leaderboard", "records_folder": _seen_from(out, folder)}
    try:
        return _write(leaderboard, out, force)
    except OSError as error:
        raise FerError(
            f"The leaderboard cannot be written to {out} ({error.strerror or error}); see that there is room and that "
            "you may write there."
        ) from error


def read_leaderboard(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_leaderboard` wrote as `leaderboard.json`.

    Raises:
        FerError: the file cannot be read, or is none.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it is larger than {_MOST_BYTES >> 20} MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not _is_leaderboard(content):
            raise ValueError(f"it was not written by `{MARK} build`, or by another version of it")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise FerError(f"{path} is no leaderboard ({reason}); pass a leaderboard.json.") from error
    return content


def _json_files(folder: Path) -> list[Path]:
    found = []

    def fail(error: OSError) -> None:
        raise FerError(f"{error.filename} cannot be read ({error.strerror}); make it readable, or move it away.")

    for where, folders, files in os.walk(folder, onerror=fail):
        found += [Path(where, name) for name in files if name.lower().endswith(".json")]
        found += [Path(where, name) for name in folders if Path(where, name).is_symlink()]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _seen_from(out: Path, folder: Path) -> str | None:
    try:
        return folder.resolve().relative_to(out.resolve()).as_posix()
    except ValueError:  # elsewhere: the address would say where on this machine
        return None


def _write(leaderboard: dict[str, Any], out: Path, force: bool) -> list[Path]:
    from .leaderboard_pages import build_page, to_html, to_markdown
    from .leaderboard_plots import plots_of

    plots = [plot for board in leaderboard["boards"] for plot in plots_of(board)]
    leaderboard["boards"] = [
        {**board, "plots": [{"file": plot.file, "description": plot.description} for plot in plots_of(board)]}
        for board in leaderboard["boards"]
    ]
    names = [_JSON, _MARKDOWN, _HTML, *(plot.file for plot in plots)]
    earlier = _earlier_plots(out)
    _check_free(out, names, earlier, force)
    page = build_page(leaderboard)
    texts = {
        _JSON: json.dumps(leaderboard, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        _MARKDOWN: to_markdown(page),
        _HTML: to_html(page),
    }
    out.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".writing-leaderboard-", dir=out))
    try:
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8", newline="\n")
        for plot in plots:
            plot.draw(unfinished / plot.file)
        for name in sorted(earlier - set(names)):
            (out / name).unlink(missing_ok=True)
        # leaderboard.json first: it says which plots are ours, should this be the last thing that we do.
        return [(unfinished / name).replace(out / name) for name in names]
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_free(out: Path, names: list[str], earlier: set[str], force: bool) -> None:
    from .leaderboard_pages import HTML_MARK, MARKDOWN_MARK

    marks = {_MARKDOWN: MARKDOWN_MARK, _HTML: HTML_MARK}

    def ours(path: Path) -> bool:
        if not path.is_file() or path.is_symlink():
            return False
        if path.name == _JSON:
            return _own_json(path) is not None
        if path.name not in marks:
            return path.name in earlier
        with path.open("rb") as file:
            return file.read(len(marks[path.name])) == marks[path.name].encode()

    there = [name for name in names if os.path.lexists(out / name)]
    folders = [name for name in there if (out / name).is_dir()]
    if folders:
        raise FerError(f"{out} has folders where the leaderboard has files ({', '.join(folders)}); choose another.")
    foreign = [name for name in there if not ours(out / name)]
    if foreign and not force:
        raise FerError(
            f"{out} has files that no leaderboard wrote and that would be lost ({', '.join(foreign)}); choose another "
            "folder, or replace them with --force."
        )


def _earlier_plots(out: Path) -> set[str]:
    """The plots that an earlier leaderboard says it wrote here."""
    content = _own_json(out / _JSON)
    if content is None:
        return set()
    try:
        files = [str(plot["file"]) for board in content["boards"] for plot in board["plots"]]
    except (KeyError, TypeError):
        return set()
    # Somebody else's list must not have us delete somebody else's files.
    plain = [file for file in files if file.startswith("leaderboard-") and file.endswith(".png") and file.isprintable()]
    return {file for file in plain if Path(file).name == file and _is_png(out / file)}


def _own_json(path: Path) -> Mapping[str, Any] | None:
    try:
        return read_leaderboard(path)
    except FerError:
        return None


def _is_leaderboard(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and content.get("written_by") == MARK
        and content.get("leaderboard_version") == VERSION
        and isinstance(content.get("boards"), list)
    )


def _is_png(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"
