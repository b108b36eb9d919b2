"""Tables in Markdown files: the record's figures, only between the markers, and only from inside the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from record_factory import make_record

from hf_fer.errors import FerError
from hf_fer.evaluation.leaderboard import build_leaderboard
from hf_fer.evaluation.markdown import TIMES, TO, escape, shorten, table
from hf_fer.evaluation.tables import fill_tables, render_table

OPEN, CLOSE = "<!-- table: resolutions results/a.json -->", "<!-- /table -->"


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """A record, which also lies in `results/a.json`."""
    record = make_record("a", factors=(2, 1, 4), n=640)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/a.json").write_text(json.dumps(record), encoding="utf-8")
    return record


@pytest.fixture
def leaderboard() -> dict[str, Any]:
    records = [
        ("a.json", make_record("a|b")),
        ("b.json", make_record("c")),
        ("c.json", make_record("d", dataset="rafdb")),
    ]
    return build_leaderboard(records)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "page.md"
    path.write_bytes(text.encode("utf-8"))
    return path


# --- tables -------------------------------------------------------------------------------------


def test_the_table_of_resolutions_has_the_records_figures(record: dict[str, Any]) -> None:
    head, _, *rows = render_table(record, "resolutions").splitlines()
    assert head == "| face | accuracy, % | mean class accuracy, % |"
    expected = []
    for factor, side in ((1, 48), (2, 24), (4, 12)):  # from sharp to blurred, as the reader expects it
        scores = record["resolutions"][str(factor)]
        cells = []
        for key in ("accuracy", "mean_class_accuracy"):
            low, high = scores["ci95"][key]
            cells.append(f"{100 * scores[key]:.1f} ({100 * low:.1f}{TO}{100 * high:.1f})")
        expected.append(f"| {TIMES}{factor} ({side} px) | {cells[0]} | {cells[1]} |")
    assert rows == expected


def test_sizes_in_pixels_stand_only_where_they_are_known() -> None:
    def faces(**changes: Any) -> list[str]:
        rows = render_table(make_record("a", factors=(1, 2.5), **changes), "resolutions").splitlines()[2:]
        return [row.split("|")[1].strip() for row in rows]

    assert faces(dataset="affectnet") == [f"{TIMES}1", f"{TIMES}2.5"]
    assert faces(dataset="affectnet", reference_side=224) == [f"{TIMES}1 (224 px)", f"{TIMES}2.5 (90 px)"]
    assert faces(reference_side=224) == [f"{TIMES}1 (224 px)", f"{TIMES}2.5 (90 px)"]


def test_the_table_of_classes_has_the_records_figures(record: dict[str, Any]) -> None:
    rows = render_table(record, "per_class").splitlines()[2:]
    per_class = record["resolutions"]["1"]["per_class"]
    assert rows == [
        f"| {name} | {100 * row['precision']:.1f} | {100 * row['recall']:.1f} | {100 * row['f1']:.1f} | "
        f"{row['support']} |"
        for name, row in per_class.items()
    ]
    assert len(rows) == 8


def test_the_table_of_a_board(leaderboard: dict[str, Any]) -> None:
    first, second = (render_table(leaderboard, f"board:{board['slug']}") for board in leaderboard["boards"])
    assert render_table(leaderboard, "board") == first
    assert "| a\\|b |" in first
    assert "| d |" in second
    for row in leaderboard["boards"][0]["rows"]:
        assert f" {100 * row['figures']['accuracy']:.2f} (" in first
    with pytest.raises(FerError, match=r"no board 'x'; there are ferplus-test-standard-\w+, rafdb-"):
        render_table(leaderboard, "board:x")


@pytest.mark.parametrize("kind", ["", "boards", "board:", "resolutions:x", "<b>"])
def test_unknown_kinds(record: dict[str, Any], kind: str) -> None:
    with pytest.raises(
        FerError, match=r"There is no table .*; choose one of resolutions, per_class, board, board:SLUG"
    ):
        render_table(record, kind)


def test_content_of_another_kind(record: dict[str, Any], leaderboard: dict[str, Any]) -> None:
    with pytest.raises(FerError, match="made of a leaderboard, and this is a result record"):
        render_table(record, "board")
    with pytest.raises(FerError, match="made of a result record, and this is a leaderboard"):
        render_table(leaderboard, "per_class")
    del leaderboard["boards"][0]["rows"][0]["figures"]["nll"]
    with pytest.raises(FerError, match="lacks 'nll'"):
        render_table(leaderboard, "board")
    leaderboard["boards"][0]["rows"][0]["figures"]["nll"] = "<b>1</b>"
    with pytest.raises(FerError, match="not a number"):
        render_table(leaderboard, "board")
    with pytest.raises(FerError, match="another version"):
        render_table({"boards": []}, "board")


# --- files --------------------------------------------------------------------------------------


def test_only_what_is_between_the_markers_changes(tmp_path: Path, record: dict[str, Any]) -> None:
    page = "\ufeff# Title\r\n\r\n{0}\r\n{1}{2}\r\n\u2028 tail \x0c no end of line"
    path = write(tmp_path, page.format(OPEN, "| old |\r\n| --- |\r\n", CLOSE))
    path.chmod(0o640)
    assert fill_tables(path, check=True) is False
    assert b"| old |" in path.read_bytes()
    assert fill_tables(path) is False
    filled = "".join(f"{line}\r\n" for line in render_table(record, "resolutions").splitlines())
    assert path.read_bytes().decode("utf-8") == page.format(OPEN, filled, CLOSE)
    assert path.stat().st_mode & 0o777 == 0o640
    assert fill_tables(path, check=True) is True
    assert fill_tables(path) is True
    assert {entry.name for entry in tmp_path.iterdir()} == {"page.md", "results"}  # nothing temporary stays


def test_several_tables_code_blocks_and_lists(tmp_path: Path, record: dict[str, Any]) -> None:
    page = (
        f"Write `{OPEN}` like this:\n```md\n{OPEN}\n{CLOSE}\n```\n~~~~\n~~~\n<!-- table: nonsense\n~~~~\n"
        f"- item\n\n  {OPEN}\n{{0}}  {CLOSE}\n<!-- table: per_class results/a.json -->\n{{1}}{CLOSE}\n"
    )
    path = write(tmp_path, page.format("", ""))
    assert fill_tables(path) is False
    resolutions = "".join(f"  {line}\n" for line in render_table(record, "resolutions").splitlines())
    assert path.read_text(encoding="utf-8") == page.format(resolutions, render_table(record, "per_class") + "\n")
    assert fill_tables(path, check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a\n{OPEN}\ntext\n", "line 2: the table is not closed"),
        (f"{OPEN}\n{OPEN}\n{CLOSE}\n", "line 1: the table is not closed"),
        (f"a\n\n{CLOSE}\n", "line 3: a table is closed that was not opened"),
        (f"<!-- table: resolutions -->\n{CLOSE}\n", "line 1: .* is no marker"),
        (f"<!--table resolutions results/a.json-->\n{CLOSE}\n", "line 1: .* is no marker"),
        (f"{OPEN} more\n{CLOSE}\n", "line 1: .* is no marker"),
        (f"{OPEN}\n<!-- /tables -->\n{CLOSE}", None),
        (f"\n<!-- table: rows results/a.json -->\n{CLOSE}\n", "line 2: There is no table 'rows'"),
        (f"<!-- table: resolutions results/b.json -->\n{CLOSE}\n", "line 1: .*b.json"),
        (f"<!-- table: board results/a.json -->\n{CLOSE}\n", "line 1: .* is no leaderboard"),
        (f"text `{OPEN}`\n", "has no tables to fill"),
        ("", "has no tables to fill"),
    ],
)
@pytest.mark.usefixtures("record")
def test_markers_that_are_wrong(tmp_path: Path, text: str, message: str | None) -> None:
    path = write(tmp_path, text)
    if message is None:  # another word
        assert fill_tables(path) is False
        return
    for check in (True, False):
        with pytest.raises(FerError, match=message):
            fill_tables(path, check)
    assert path.read_bytes().decode() == text


@pytest.mark.parametrize(
    "where",
    ["../results/a.json", "/etc/passwd", "~/a.json", "C:\\a.json", "sub/../../results/a.json", "link.json", "."],
)
@pytest.mark.usefixtures("record")
def test_no_file_outside_is_read(tmp_path: Path, where: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    (inner / "link.json").symlink_to(tmp_path / "results/a.json")
    path = write(inner, f"<!-- table: resolutions {where} -->\n{CLOSE}\n")
    with pytest.raises(FerError, match=r"line 1: .*(leads out of the folder|is not a path relative)"):
        fill_tables(path)


def test_a_path_may_have_spaces_and_turn_back_inside(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "my results").mkdir()
    (tmp_path / "my results/a b.json").write_text(json.dumps(record))
    path = write(tmp_path, f"<!-- table: resolutions results/../my results/a b.json -->\n{CLOSE}\n")
    fill_tables(path)
    assert render_table(record, "resolutions") in path.read_text(encoding="utf-8")


def test_files_that_cannot_be_filled(tmp_path: Path) -> None:
    with pytest.raises(FerError, match="cannot be read"):
        fill_tables(tmp_path / "none.md")
    (tmp_path / "latin.md").write_bytes(b"\xe9")
    with pytest.raises(FerError, match="is not UTF-8"):
        fill_tables(tmp_path / "latin.md")


# --- Markdown -----------------------------------------------------------------------------------


def test_text_is_escaped_and_cut() -> None:
    assert escape("a|b <i>_x_ snake_case http://e") == "a\\|b &lt;i&gt;\\_x\\_ snake_case http\\://e"
    assert shorten("a\nb", 3) == "a b"
    assert shorten("abcd", 4) == "abcd"
    assert shorten("abcde", 4) == "abc\u2026"
    assert table(("a", "b", "c"), [["1", "2", "3"]], left=2) == "| a | b | c |\n| --- | --- | ---: |\n| 1 | 2 | 3 |"
