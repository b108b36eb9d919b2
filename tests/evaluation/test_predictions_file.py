"""Predictions files: what is read, to the bit; what is refused, and how it is said."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_fer.errors import FerError
from hf_fer.evaluation.predictions_file import MAX_FACTORS, image_ids, read_predictions, write_predictions
from hf_fer.evaluation.predictions_formats import MAX_LINE, PREDICT_COLUMNS
from hf_fer.labels import EXPRESSIONS
from hf_fer.predict_output import COLUMNS

FORMATS = ["csv", "parquet", "jsonl"]
IDS = ["test/0", "test/1", "test/2", "test/3"]
WHERE = "drawn (test)"
CLASSES = ["Angry", "happy", "fear"]


def save(path: Path, rows: list[dict[str, object]]) -> Path:
    """`rows` as a file in the format of the suffix; what CSV writes as empty is null elsewhere."""
    if path.suffix == ".csv":
        columns = list(rows[0])
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({key: [row[key] for row in rows] for key in rows[0]}), path)
    return path


def good_rows(ids: Iterable[str] = IDS) -> list[dict[str, object]]:
    """Of every id the probabilities of `CLASSES`; "happy" is the answer everywhere."""
    return [{"id": name, "p_Angry": 0.25, "p_happy": 0.5, "p_fear": 0.25} for name in ids]


def refused(path: Path, ids: list[str] = IDS, **options: object) -> str:
    with pytest.raises(FerError) as error:
        read_predictions(path, ids, where=WHERE, **options)  # type: ignore[arg-type]
    text = str(error.value)
    assert path.name in text and text.endswith(".") and len(text) < 1200, text
    assert text.isprintable(), text  # one line, no control characters
    return text


@pytest.fixture(params=FORMATS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"answers.{request.param}"


def at(path: Path, row: int) -> str:
    """Where an error says that a row is: CSV has a header, JSON lines none, Parquet counts rows."""
    return {".csv": f"line {row + 2}", ".jsonl": f"line {row + 1}", ".parquet": f"row {row}"}[path.suffix]


# What is read


def test_labels_in_any_order_as_they_are_spelt(path: Path) -> None:
    rows = [{"id": name, "label": label} for name, label in zip(IDS, ["Happy", "anger", "joy", "other"], strict=True)]
    read = read_predictions(save(path, rows[::-1]), IDS, where=WHERE)
    assert read.answers == {1.0: ["Happy", "anger", "joy", "other"]}
    assert read.probabilities is None and read.classes == ()
    assert read.meanings == {"Happy": "happiness", "anger": "anger", "joy": "happiness", "other": "other"}


def test_probabilities_are_ordered_by_id_and_answer_by_arg_max(path: Path) -> None:
    rows = good_rows()
    rows[1] |= {"p_Angry": 0.5, "p_happy": 0.5, "p_fear": 0.0}
    rows[2] |= {"p_Angry": 0.0, "p_happy": 0.0, "p_fear": 1.0}
    read = read_predictions(save(path, [rows[2], rows[0], rows[3], rows[1]]), IDS, where=WHERE)
    assert read.classes == ("Angry", "happy", "fear")
    assert read.answers == {1.0: ["happy", "Angry", "fear", "happy"]}
    expected = [[0.25, 0.5, 0.25], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [0.25, 0.5, 0.25]]
    assert read.probabilities is not None and list(read.probabilities) == [1.0]
    assert read.probabilities[1.0].dtype == np.float64
    assert np.array_equal(read.probabilities[1.0], expected)
    assert read.meanings == {"Angry": "anger", "happy": "happiness", "fear": "fear"}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_nested_probabilities(suffix: str, tmp_path: Path) -> None:
    rows = [{"id": name, "label": "happiness", "probabilities": {"fear": 0.25, "happy": 0.75}} for name in IDS]
    path = save(tmp_path / f"a.{suffix}", rows)
    read = read_predictions(path, IDS, where=WHERE)
    assert read.classes == ("fear", "happy")
    assert read.answers == {1.0: ["happiness"] * 4}  # the label's spelling, not the column's
    assert np.array_equal(read.probabilities[1.0], [[0.25, 0.75]] * 4)


def test_json_keys_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": "test/0", "probabilities": {"fear": 0.25, "happy": 0.75}}\n'
        '\n{"probabilities": {"happy": 0.75, "fear": 0.25}, "id": "test/1"}\n'
    )
    read = read_predictions(path, IDS[:2], where=WHERE)
    assert np.array_equal(read.probabilities[1.0], [[0.25, 0.75]] * 2)


def test_several_factors(path: Path) -> None:
    rows = [row | {"factor": factor} for factor in (4, 1, 2.5) for row in good_rows()]
    for row in rows[:4]:
        row |= {"p_Angry": 0.5, "p_happy": 0.25}
    read = read_predictions(save(path, rows), IDS, where=WHERE)
    assert list(read.answers) == list(read.probabilities) == [1.0, 2.5, 4.0]
    assert read.answers[4.0] == ["Angry"] * 4 and read.answers[2.5] == ["happy"] * 4
    assert read.probabilities[4.0][0].tolist() == [0.5, 0.25, 0.25]
    asked = read_predictions(path, IDS, where=WHERE, factors=[4, 1, 2.5])
    assert list(asked.answers) == [4.0, 1.0, 2.5]


def test_a_label_may_be_any_of_the_tied(path: Path) -> None:
    rows = [
        row | {"label": label} for row, label in zip(good_rows(), ["happiness", "Happy", "anger", "joy"], strict=True)
    ]
    rows[2] |= {"p_Angry": 0.5, "p_fear": 0.0}
    assert read_predictions(save(path, rows), IDS, where=WHERE).answers[1.0] == ["happiness", "Happy", "anger", "joy"]


def test_aliases(path: Path) -> None:
    rows = [
        {"id": name, "label": label, "p_LABEL_0": p, "p_ahegao": 1 - p, "p_sad": 0.0}
        for name, label, p in zip(IDS, ["anger", "ahegao", "LABEL_0", "LABEL_0"], [0.75, 0.25, 0.5, 1.0], strict=True)
    ]
    read = read_predictions(save(path, rows), IDS, where=WHERE, aliases={"LABEL_0": "angry", "ahegao": None})
    assert read.classes == ("LABEL_0", "ahegao", "sad")
    assert read.answers[1.0] == ["anger", "ahegao", "LABEL_0", "LABEL_0"]
    assert read.meanings == {"LABEL_0": "anger", "ahegao": None, "sad": "sadness", "anger": "anger"}


def test_aliases_of_labels_alone(path: Path) -> None:
    rows = [{"id": name, "label": label} for name, label in zip(IDS, ["A", "N", "happy", "A"], strict=True)]
    read = read_predictions(save(path, rows), IDS, where=WHERE, aliases={"A": "fear", "N": None})
    assert read.answers[1.0] == ["A", "N", "happy", "A"]
    assert read.meanings == {"A": "fear", "N": None, "happy": "happiness"}


def test_csv_as_spreadsheets_save_it(tmp_path: Path) -> None:
    path = tmp_path / "A.CSV"
    path.write_bytes(
        b'\xef\xbb\xbf"id",label,p_anger,p_fear\r\n"a,""b""",anger,.5,5e-1\r\n\r\n017,fear, 0.25 ,+0.75\r\n'
    )
    read = read_predictions(path, ["017", 'a,"b"'], where=WHERE)
    assert read.answers == {1.0: ["fear", "anger"]}  # "017" stays text
    assert read.probabilities[1.0].tolist() == [[0.25, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
@pytest.mark.parametrize("number", ["float16", "float32", "float64"])
def test_parquet_types(tmp_path: Path, kind: str, number: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.dictionary(pa.int32(), pa.string()) if kind == "dictionary" else getattr(pa, kind)()
    p = np.full(4, 0.5, dtype=number)
    table = pa.table(
        {
            "id": pa.array(IDS).cast(text),
            "label": pa.array(["fear", "anger"] * 2).cast(text),
            "factor": pa.array([2] * 4, pa.int8()),
            "p_anger": p,
            "p_fear": p,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    read = read_predictions(tmp_path / "a.parquet", IDS, where=WHERE)
    assert read.answers == {2.0: ["fear", "anger"] * 2}
    assert read.probabilities[2.0].tolist() == [[0.5, 0.5]] * 4


# What is refused in every format: one sentence with the first row, its id, the count, and the way out


def test_missing_ids(path: Path) -> None:
    text = refused(save(path, good_rows(["test/3", "test/0"])))
    assert "lacks 2 of the 4 images of drawn (test), the first of them 'test/1'; every image needs a row" in text


def test_missing_ids_of_one_factor(path: Path) -> None:
    rows = [row | {"factor": factor} for factor in (1, 2) for row in good_rows()]
    assert "lacks 1 of the 4 images of drawn (test) at factor 2, the first of them 'test/3'" in refused(
        save(path, rows[:-1])
    )


def test_factors_that_were_asked_for(path: Path) -> None:
    rows = [row | {"factor": factor} for factor in (1, 2) for row in good_rows()]
    save(path, rows)
    assert "has no rows at factor 8, only at 1, 2; add those of all 4 images" in refused(path, factors=[1, 2, 8])
    text = refused(path, factors=[2])
    assert f"{at(path, 0)} (id 'test/0'): factor 1 was not asked for, only 2 (4 of 8 rows are like this)" in text
    save(path, good_rows())
    assert "no column factor, so its rows are of factor 1, not 1, 2" in refused(path, factors=[1, 2])
    assert list(read_predictions(path, IDS, where=WHERE, factors=[1]).answers) == [1.0]


def test_duplicate_ids(path: Path) -> None:
    text = refused(save(path, good_rows([*IDS, "test/2", "test/0"])))
    assert (
        f"{at(path, 4)} (id 'test/2'): this id stands in the file before (2 of 6 rows are like this); write one" in text
    )
    rows = [row | {"factor": factor} for factor in (1, 2) for row in good_rows()]
    text = refused(save(path, [*rows, rows[-1]]))
    assert f"{at(path, 8)} (id 'test/3'): this id stands in the file before for factor 2 (1 of 9 rows is like" in text


def test_unknown_ids(path: Path) -> None:
    text = refused(save(path, good_rows([*IDS, "nowhere", "test/4", "x" * 5000])))
    assert f"{at(path, 4)} (id 'nowhere'): drawn (test) has no image of this id (3 of 7 rows are like this)" in text
    assert "such as 'test/0'" in text


def test_ids_of_another_split_by_their_prefix(path: Path) -> None:
    text = refused(save(path, good_rows(["test/0", "train/1", "train/2", "train/3"])))
    assert f"{at(path, 1)} (id 'train/1'): these are ids of split train, not of drawn (test) (3 of 4 rows are" in text


def test_ids_of_another_split_by_name(path: Path) -> None:
    calls = []

    def others() -> dict[str, list[str]]:
        calls.append(1)
        return {"validation": ["v.png"], "train": ["t.png", "u.png"]}

    ids = ["a.png", "b.png"]
    save(path, good_rows(["a.png", "t.png", "u.png"]))
    for given_as in (others, others()):
        text = refused(path, ids, other_splits=given_as)
        assert "(id 't.png'): these are ids of split train, not of drawn (test) (2 of 3 rows are like this)" in text
    assert len(calls) == 2  # once for the file, once above
    save(path, good_rows(ids))
    read_predictions(path, ids, where=WHERE, other_splits=others)
    assert len(calls) == 2  # not needed where all is well


def test_a_slash_in_an_image_name_is_no_split(path: Path) -> None:
    save(path, good_rows(["s1/1", "s2/2"]))
    assert "has no image of this id" in refused(path, ["s1/1", "s1/7"])


def test_unknown_labels(path: Path) -> None:
    rows = [{"id": name, "label": label} for name, label in zip(IDS, ["happy", "hapiness", "0", "sad"], strict=True)]
    text = refused(save(path, rows))
    assert (
        f"{at(path, 1)} (id 'test/1'): label 'hapiness' is not an expression name (did you mean 'happiness'?); the "
        "vocabulary is neutral"
    ) in text
    assert "(2 of 4 rows are like this); say what it means with aliases=" in text
    assert "--label-map NAME=EXPRESSION" in text


def test_unknown_classes_are_listed(path: Path) -> None:
    text = refused(save(path, [{"id": name, "p_LABEL_0": 0.5, "p_hapy": 0.5} for name in IDS]))
    assert "'LABEL_0', 'hapy' (did you mean 'happy'?) are not expression names" in text
    assert "--label-map" in text


def test_classes_that_name_one_expression_twice(path: Path) -> None:
    text = refused(save(path, [{"id": name, "p_happy": 0.5, "p_joy": 0.5} for name in IDS]))
    assert "'happiness' more than once ('happy', 'joy')" in text


def test_aliases_that_the_file_does_not_need(path: Path) -> None:
    save(path, good_rows())
    assert "has no class or label 'Fear', for which there is an alias" in refused(path, aliases={"Fear": "anger"})
    with pytest.raises(FerError, match="alias for 'fear': 'cat' is not an expression name"):
        read_predictions(path, IDS, where=WHERE, aliases={"fear": "cat"})
    with pytest.raises(FerError, match="aliases must be a mapping"):
        read_predictions(path, IDS, where=WHERE, aliases=["fear"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"p_Angry": 0.2487}, "the probabilities sum to 0.9987, not 1"),
        ({"p_Angry": 0.2513}, "the probabilities sum to 1.0013, not 1"),
        ({"p_Angry": 3.0, "p_happy": -1.0, "p_fear": 8.5}, "p_happy is -1, negative"),
        ({"p_Angry": -1e-300}, "p_Angry is -1e-300, negative"),
        ({"p_fear": math.nan}, "p_fear is NaN"),
        ({"p_fear": math.inf}, "p_fear is infinite"),
        ({"p_fear": -math.inf}, "p_fear is infinite"),
        ({"p_Angry": 1e308, "p_happy": 1e308, "p_fear": 1e308}, "the probabilities sum to inf, not 1"),
        ({"p_happy": None}, "p_happy is empty"),
        ({"id": None}, "id is empty"),
        ({"label": None}, "label is empty"),
        ({"label": " "}, "label is empty"),
        ({"label": "fear"}, "label 'fear' has the probability 0.25, but p_happy is 0.5"),
        ({"label": "contempt"}, "label 'contempt' has no column among p_<class>"),
        ({"factor": None}, "factor is empty"),
        ({"factor": 0.5}, "factor is "),
        ({"factor": math.nan}, "factor is "),
        ({"factor": math.inf}, "factor is "),
    ],
)
def test_wrong_values(path: Path, bad: dict[str, object], said: str) -> None:
    rows = [{**row, "label": "happy", "factor": 1.0} for row in good_rows()]
    rows[1] |= bad
    rows[3] |= bad
    text = refused(save(path, rows))
    who = "" if "id" in bad else " (id 'test/1')"
    assert f"{at(path, 1)}{who}: {said}" in text
    assert "(2 of 4 rows are like this); " in text


def test_sums_within_the_tolerance_are_kept_as_they_are(path: Path) -> None:
    rows = good_rows()
    rows[0]["p_Angry"], rows[1]["p_Angry"] = 0.2492, 0.2508
    read = read_predictions(save(path, rows), IDS, where=WHERE)
    assert read.probabilities[1.0][:2, 0].tolist() == [0.2492, 0.2508]


def test_the_fault_that_comes_first_is_told_with_its_own_count(path: Path) -> None:
    rows = good_rows([*IDS, "nowhere"])
    rows[1]["p_happy"] = 0.75
    rows[2]["p_happy"] = -0.5
    text = refused(save(path, rows))
    assert f"{at(path, 1)} (id 'test/1'): the probabilities sum to 1.25, not 1 (1 of 5 rows is like this)" in text


def test_columns(path: Path) -> None:
    def said(**row: object) -> str:
        return refused(save(path, [{"id": "test/0", "label": "sad", **row}]))

    assert "mean nothing here, 'score', 'path', 'error'; a table of `hf-fer predict --no-detect --csv` becomes" in said(
        score=1, path="x", error="y"
    )
    assert {*COLUMNS} - {"label"} == PREDICT_COLUMNS
    assert "'anger', 'fear'; drop or rename them (did you mean 'p_anger'?)" in said(anger=0.5, fear=0.5)
    assert "'Factor'; drop or rename them (did you mean 'factor'?)" in said(Factor=1)
    assert "'c0', 'c1', 'c2', 'c3', 'c4' and 15 more; drop" in said(**{f"c{i}": 1 for i in range(20)})
    assert "has no column id;" in refused(save(path, [{"label": "sad"}]))
    assert "did you mean 'id'" in refused(save(path, [{"image_name": "a", "label": "sad"}]))
    assert "neither a column label nor p_<class>" in refused(save(path, [{"id": "a", "factor": 1}]))


def test_too_many_factors(path: Path) -> None:
    rows = [{"id": "test/0", "label": "sad", "factor": 1 + i} for i in range(MAX_FACTORS)]
    assert len(read_predictions(save(path, rows), IDS[:1], where=WHERE).answers) == MAX_FACTORS
    rows.append({"id": "test/0", "label": "sad", "factor": 2.5})
    text = refused(save(path, rows), IDS[:1])
    assert ("more than the 64 that" if path.suffix == ".parquet" else "factor 2.5 comes after 64 others") in text


@pytest.mark.parametrize("factors", [[], [0.5], [1, 1.0], [math.nan], ["x"], [math.inf]])
def test_wrong_factors_asked_for(tmp_path: Path, factors: list[float]) -> None:
    with pytest.raises(FerError, match="factors"):
        read_predictions(tmp_path / "a.csv", IDS, where=WHERE, factors=factors)


@pytest.mark.parametrize("ids", [[], ["a", "a"]])
def test_ids_must_be_ids(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(FerError, match=r"ids of drawn \(test\) must be at least one and differ"):
        read_predictions(tmp_path / "a.csv", ids, where=WHERE)


@pytest.mark.parametrize("name", ["a.json", "a.tsv", "a", "a.csv.gz", ".csv"])
def test_suffixes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("id,label\ntest/0,sad\n")
    assert "none of the suffixes of a predictions file; choose .csv, .parquet or .jsonl" in refused(tmp_path / name)
    with pytest.raises(FerError, match="none of the suffixes"):
        write_predictions(tmp_path / name, ["a"], ["sad"], {1: np.ones((1, 1))})


def test_no_file(path: Path) -> None:
    assert "There is no predictions file" in refused(path)
    path.mkdir()
    assert "There is no predictions file" in refused(path)
    long = path.with_name("x" * 300 + path.suffix)
    with pytest.raises(FerError, match="There is no predictions file"):
        read_predictions(long, IDS, where=WHERE)


def test_empty_files(path: Path) -> None:
    path.write_bytes(b"")
    text = refused(path)
    assert ("cannot be read as Parquet" if path.suffix == ".parquet" else "is empty;") in text
    if path.suffix == ".jsonl":
        path.write_text("\n\n")
        assert "is empty;" in refused(path)
    elif path.suffix == ".csv":
        path.write_text("id,label\n\n")
        assert "has no rows; write one for each of the 4 images" in refused(path)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"id": pa.array([], pa.string()), "label": pa.array([], pa.string())}), path)
        assert "has no rows; write one for each of the 4 images" in refused(path)


def test_hostile_text_is_cut_and_escaped(path: Path) -> None:
    nasty = "\x1b[2J\u202e" + "x" * 3000
    assert r"\x1b[2J\u202e" in refused(save(path, good_rows([nasty])))
    assert r"\x1b[2J\u202e" in refused(save(path, [{"id": "test/0", "label": nasty}]))
    assert r"\x1b[2J\u202e" in refused(save(path, [{"id": "test/0", f"p_{nasty}": 1.0}]))
    assert r"\x1b[2J\u202e" in refused(save(path, [{"id": "test/0", "label": "sad", nasty: 1.0}]))


def test_wrong_rows_are_not_kept(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "a.csv"
    with path.open("w") as file:
        file.write("id,label,factor\n")
        for i in range(4_000):
            file.write(f"unknown{i}/{'x' * 200},sad{' ' * (i % 100)},1\n")
            file.write(f"test/0,sad{' ' * (i % 100)}{i},{1 + i}\n")
    tracemalloc.start()
    text = refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "(4000 of 8000 rows are like this)" in text
    assert peak < 400_000, peak  # the file has 1.4 MB


# What text formats alone can have


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("half", "p_fear is 'half', not a number"),
        ("50%", "p_fear is '50%', not a number"),
        ("1_0", "p_fear is '1_0', not a number"),
        ("0x1p0", "p_fear is '0x1p0', not a number"),
        ("\u0660.\u0665", "p_fear is "),
        ("1e", "p_fear is '1e', not a number"),
        (".", "p_fear is '.', not a number"),
        ("-", "p_fear is '-', not a number"),
        ("1" * 60_000 + "x", "p_fear is '1111"),
        ("1e999", "p_fear is infinite"),
        ("NAN", "p_fear is NaN"),
        ("+Infinity", "p_fear is infinite"),
        ("", "p_fear is empty"),
        ("  ", "p_fear is empty"),
    ],
)
def test_csv_cells(tmp_path: Path, cell: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"id,p_anger,p_fear\ntest/0,0.5,{cell}\n", encoding="utf-8")
    assert f"line 2 (id 'test/0'): {said}" in refused(path)


@pytest.mark.parametrize("row", ["test/1", "test/1,sad,1", ",,,", '"test/1"'])
def test_csv_rows_of_other_lengths(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"id,label\ntest/0,sad\n{row}\n{row}\n")
    text = refused(path)
    assert "cells for 2 columns (2 of 3 rows are like this); write one cell for each column" in text
    assert "a.csv, line 3" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'id,label\ntest/0,"sad\ntest/1,sad\n', "line 2: broken CSV"),
        (b'id,label\n"test/0"x,sad\n', "line 2: broken CSV"),
        (b"id,label\rtest/0,sad\r", "line 1: broken CSV"),  # line ends of the old Mac
        (b"id,label\ntest/0,s\xe4d\n", "line 2: not UTF-8"),
        ("id,label\ntest/0,sad\n".encode("utf-16"), "line 1: not UTF-8"),
        (b"id,label,label\ntest/0,sad,sad\n", "has the column 'label' more than once"),
        (b"id,label,\ntest/0,sad,\n", "mean nothing here, ''"),
        (b"id;label\ntest/0;sad\n", "separate the columns by commas"),
        (b"id\tlabel\ntest/0\tsad\n", "separate the columns by commas"),
        (b"id,label\ntest/0," + b"x" * MAX_LINE + b"\n", f"line 2: longer than {MAX_LINE} bytes"),
        (b"id,p_\ntest/0,1\n", "'' is not an expression name"),
        (b"id,probabilities\ntest/0,1\n", "mean nothing here, 'probabilities'"),
    ],
)
def test_broken_csv(tmp_path: Path, text: bytes, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text)
    assert said in refused(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "test/0", "label": "sad"', "line 1: broken JSON (Expecting ',' delimiter at column 32)"),
        ('{"id": "test/0", "label": "sad"}\n{"id"}', "line 2: broken JSON"),
        ('[{"id": "test/0", "label": "sad"}]', "line 1: [{'id': 'test/0', 'label': 'sad'}] is not an object"),
        ("[" * 60_000, "line 1: broken JSON"),
        ('{"id": "test/0", "label": "sad", "label": "sad"}', "'label' stands twice in one object"),
        ('{"id": "test/0", "probabilities": {"sad": 1, "sad": 0}}', "'sad' stands twice in one object"),
        ('{"id": "test/0", "probabilities": {"sad": 1}, "p_fear": 0}', "both probabilities and p_<class>"),
        ('{"id": "test/0", "probabilities": [1]}', "line 1: probabilities is [1], not an object"),
        ('{"id": "test/0", "probabilities": {}}', "line 1: probabilities is {}, not an object"),
        ('{"id": 0, "label": "sad"}', "line 1: id is 0, not text"),
        ('{"id": "test/0", "label": 3}', "line 1 (id 'test/0'): label is 3, not text"),
        ('{"id": "test/0", "label": NaN}', "line 1 (id 'test/0'): label is nan, not text"),
        ('{"id": "test/0", "p_sad": "1"}', "line 1 (id 'test/0'): p_sad is '1', not a number"),
        ('{"id": "test/0", "p_sad": true}', "line 1 (id 'test/0'): p_sad is True, not a number"),
        ('{"id": "test/0", "p_sad": [1]}', "line 1 (id 'test/0'): p_sad is [1], not a number"),
        ('{"id": "test/0", "p_sad": NaN}', "line 1 (id 'test/0'): p_sad is NaN (1 of 1 rows is"),
        ('{"id": "test/0", "p_sad": -Infinity}', "line 1 (id 'test/0'): p_sad is infinite"),
        ('{"id": "test/0", "p_sad": 1e999}', "line 1 (id 'test/0'): p_sad is infinite"),
        ('{"id": "test/0", "p_sad": 1' + "0" * 400 + "}", "line 1 (id 'test/0'): p_sad is infinite"),
        ('{"id": "test/0", "p_sad": -1' + "0" * 400 + "}", "line 1 (id 'test/0'): p_sad is infinite"),
        (
            '{"id": "test/0", "label": "sad"}\n{"id": "test/1"}',
            "line 2 (id 'test/1'): the row lacks 'label', unlike the",
        ),
        (
            '{"id": "test/0", "label": "sad"}\n{"id": "test/1", "label": "sad", "z": 1}',
            "the row has 'z', unlike the first row (1 of 2",
        ),
        (
            '{"id": "test/0", "probabilities": {"sad": 1}}\n{"id": "test/1", "probabilities": {"fear": 1}}',
            "line 2 (id 'test/1'): the row lacks 'sad', unlike the first row (1 of 2 rows is like this); give every "
            "row the same classes",
        ),
        (
            '{"id": "test/0", "probabilities": {"sad": 1}}\n{"id": "test/1", "probabilities": null}',
            "line 2 (id 'test/1'): probabilities is empty",
        ),
        (
            '{"id": "test/0", "probabilities": {"sad": 1}}\n{"id": "test/1", "probabilities": 1}',
            "line 2 (id 'test/1'): probabilities is 1, not an object",
        ),
        ('{"id": "' + "x" * MAX_LINE + '"}', "line 1: longer than"),
    ],
)
def test_broken_json(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert said in refused(path)


def test_json_with_a_byte_order_mark_and_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = '{"id": "test/0", "label": "sad"}\n'
    path.write_bytes(row.encode("utf-8-sig"))
    assert read_predictions(path, IDS[:1], where=WHERE).answers == {1.0: ["sad"]}
    path.write_bytes(row.encode("utf-16"))
    assert "line 1: not UTF-8" in refused(path)


# What Parquet alone can have


def test_broken_parquet(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", good_rows())
    whole = path.read_bytes()
    path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    assert "cannot be read as Parquet" in refused(path)
    path.write_bytes(whole[:-20])
    assert "cannot be read as Parquet" in refused(path)
    path.write_bytes(b"PAR1" + b"\xff" * 200 + whole[204:])  # the end is whole, the data is not
    assert "cannot be read as Parquet" in refused(path)


def test_parquet_types_that_are_no_text_and_no_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def said(**columns: object) -> str:
        pq.write_table(pa.table({"id": pa.array(["test/0"]), **columns}), tmp_path / "a.parquet")
        return refused(tmp_path / "a.parquet")

    assert "the column id is int64, not text; write it as string" in said(id=pa.array([17]), label=pa.array(["sad"]))
    assert "the column label is binary, not text" in said(label=pa.array([b"sad"]))
    assert "the column p_sad is string, not numbers; write it as double" in said(p_sad=pa.array(["1"]))
    assert "the column p_sad is bool, not numbers" in said(p_sad=pa.array([True]))
    assert "the column factor is string, not numbers" in said(factor=pa.array(["1"]), label=pa.array(["sad"]))
    assert "probabilities is double, not a struct" in said(probabilities=pa.array([1.0]))
    as_map = pa.array([[("sad", 1.0)]], pa.map_(pa.string(), pa.float64()))
    assert "not a struct from class to probability; write a struct, or p_<class>" in said(probabilities=as_map)
    assert "the column p_sad is string" in said(probabilities=pa.array([{"sad": "1"}]))
    assert "both probabilities and p_<class>" in said(probabilities=pa.array([{"sad": 1.0}]), p_sad=pa.array([1.0]))
    empty = pa.array([None], pa.struct([("sad", pa.float64())]))
    assert "row 0 (id 'test/0'): p_sad is empty" in said(probabilities=empty)
    assert "row 0 (id 'test/0'): label is empty" in said(label=pa.nulls(1))
    double = pa.StructArray.from_arrays([pa.array([1.0]), pa.array([0.0])], names=["sad", "sad"])
    assert "names a class more than once" in said(probabilities=double)
    twice = pa.Table.from_arrays([pa.array(["test/0"]), pa.array(["sad"]), pa.array(["sad"])], ["id", "label", "label"])
    pq.write_table(twice, tmp_path / "a.parquet")
    assert "has the column 'label' more than once" in refused(tmp_path / "a.parquet")


def test_parquet_with_too_many_rows_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    path = save(tmp_path / "a.parquet", good_rows([f"test/{i}" for i in range(300)]))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", None)
    assert "has 300 rows, more than the 256 that the images of drawn (test) can have" in refused(path)


def test_parquet_with_huge_texts_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.parquet", [{"id": "test/0", "label": "x" * (MAX_LINE + 1)}] * 200)
    assert f"has a text of {MAX_LINE + 1} bytes in a cell" in refused(path)
    save(path, [{"id": f"test/{i}", "label": f"{i:03}" + "x" * 300_000} for i in range(100)])
    assert "too much for ids and probabilities" in refused(path)


# Ids


def test_image_ids() -> None:
    from datasets import Dataset

    assert image_ids(Dataset.from_dict({"label": [0, 1]}), "test") == ["test/0", "test/1"]
    named = Dataset.from_dict({"image_name": ["b.png", "a.png"], "label": [0, 1]})
    assert image_ids(named, "test") == ["b.png", "a.png"]
    assert image_ids(named.with_format("numpy"), "test") == ["b.png", "a.png"]
    assert image_ids(named.select([1]), "test") == ["a.png"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", ""], "Row 1 of split 'test': image_name is '', not a name"),
        (["a", None], "Row 1 of split 'test': image_name is None, not a name"),
        (["a", "b", "a"], "Row 2 of split 'test': image_name is 'a' as in row 0"),
        ([1, 2], "Row 0 of split 'test': image_name is 1, not a name"),
    ],
)
def test_image_names_that_are_no_ids(names: list[object], said: str) -> None:
    from datasets import Dataset

    with pytest.raises(FerError, match="remove the column to have the ids test/0") as error:
        image_ids(Dataset.from_dict({"image_name": names}), "test")
    assert said in str(error.value)


# Writing

ODD = [0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1e-17, 0.1, 1 / 3, math.nextafter(1, 0), 1.0, 1.0009]
ODD_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=20)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[str], dict[float, np.ndarray]]:
    """Ids, classes, and for one to three factors rows of odd floats that sum to about 1."""
    ids = draw(st.lists(ODD_TEXT, min_size=1, max_size=4, unique=True))
    classes = draw(st.lists(st.sampled_from(EXPRESSIONS), min_size=2, max_size=8, unique=True))
    factors = draw(st.lists(st.sampled_from([1.0, 1.1, 2.0, 1e300, 1.00001]), min_size=1, unique=True))
    cell = st.one_of(st.sampled_from(ODD), st.floats(0, 1))

    def row() -> list[float]:
        values: list[float] = []
        for _ in classes[1:]:
            value = draw(cell)
            values.append(value if sum(values) + value <= 1.0009 else 0.0)
        return [*values, max(0.0, 1 - sum(values))]

    return ids, classes, {factor: np.array([row() for _ in ids]) for factor in factors}


@pytest.mark.parametrize("suffix", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables())
def test_round_trip_to_the_bit(tmp_path: Path, suffix: str, table: tuple) -> None:
    ids, classes, probabilities = table
    path = tmp_path / f"a.{suffix}"
    assert write_predictions(path, ids, classes, probabilities, overwrite=True) == path
    read = read_predictions(path, ids, where=WHERE, factors=list(probabilities))
    assert read.classes == tuple(classes)
    assert list(read.probabilities) == list(probabilities)
    for factor, expected in probabilities.items():
        assert read.probabilities[factor].tobytes() == expected.tobytes()
        assert read.answers[factor] == [classes[k] for k in expected.argmax(axis=1)]


def test_round_trip_of_other_names_and_single_precision(path: Path) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), size=500).astype(np.float32)
    ids = [f"im, {i}\t\"q\" 'ü'.png" for i in range(500)]
    aliases = {"LABEL_0": "anger", "a,b": "fear", "ahegao": None}
    write_predictions(path, ids, list(aliases), {1: p})
    read = read_predictions(path, ids[::-1], where=WHERE, aliases=aliases)
    assert np.array_equal(read.probabilities[1.0][::-1], p.astype(np.float64))


def test_what_is_written_is_what_the_contract_says(tmp_path: Path) -> None:
    p = np.array([[0.25, 0.75]])
    for name in ("a.csv", "a.jsonl"):
        write_predictions(tmp_path / name, ["x"], ["fear", "sad"], {1: p})
        write_predictions(tmp_path / f"f{name}", ["x"], ["fear", "sad"], {1: p, 2.5: p})
    assert (tmp_path / "a.csv").read_text() == "id,label,p_fear,p_sad\nx,sad,0.25,0.75\n"
    assert (tmp_path / "fa.csv").read_text() == (
        "id,label,factor,p_fear,p_sad\nx,sad,1,0.25,0.75\nx,sad,2.5,0.25,0.75\n"
    )
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {
        "id": "x",
        "label": "sad",
        "probabilities": {"fear": 0.25, "sad": 0.75},
    }
    assert [json.loads(line)["factor"] for line in (tmp_path / "fa.jsonl").read_text().splitlines()] == [1, 2.5]


def test_writing_refuses_an_existing_file(path: Path) -> None:
    p = {1: np.ones((1, 1))}
    path.write_text("old")
    with pytest.raises(FerError, match="exists already; choose another file name, or overwrite it on purpose"):
        write_predictions(path, ["a"], ["sad"], p)
    assert path.read_text() == "old"
    write_predictions(path, ["a"], ["sad"], p, overwrite=True)
    assert read_predictions(path, ["a"], where=WHERE).answers == {1.0: ["sad"]}
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FerError, match=r"cannot be written \(No space left on device\)"):
        write_predictions(path, ["a"], ["sad"], {1: np.ones((1, 1))}, overwrite=True)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_writing_makes_folders_and_says_where_it_cannot(path: Path) -> None:
    inside = path.parent / "new" / "folder" / path.name
    write_predictions(inside, ["a"], ["sad"], {1: np.ones((1, 1))})
    assert inside.is_file()
    with pytest.raises(FerError, match="cannot be written"):
        write_predictions(inside / path.name, ["a"], ["sad"], {1: np.ones((1, 1))})


ONE = np.array([[0.5, 0.5], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("ids", "classes", "probabilities", "said"),
    [
        (["a", "a"], ["sad", "fear"], {1: ONE}, r"ids\[1\] is 'a', the same as one before"),
        (["a", ""], ["sad", "fear"], {1: ONE}, r"ids\[1\] is '', not a text"),
        (["a", 1], ["sad", "fear"], {1: ONE}, r"ids\[1\] is 1, not a text"),
        (["a", "b\nc"], ["sad", "fear"], {1: ONE}, r"ids\[1\] is 'b\\nc', not one line"),
        (["a", "\ud800"], ["sad", "fear"], {1: ONE}, r"ids\[1\] is '\\ud800', not one line of UTF-8"),
        (["a", "b" * 5000], ["sad", "fear"], {1: ONE}, r"ids\[1\] is 'bbb.*too long"),
        (["a", "b"], ["sad", "sad"], {1: ONE}, r"classes\[1\] is 'sad', the same"),
        ([], ["sad", "fear"], {1: np.empty((0, 2))}, "no ids to write"),
        (["a", "b"], ["sad"], {1: ONE}, r"shape \(2, 2\), not \(2, 1\)"),
        (["a"], ["sad", "fear"], {1: ONE}, r"shape \(2, 2\), not \(1, 2\)"),
        (["a", "b"], ["sad", "fear"], {1: "x"}, r"shape"),
        (["a", "b"], ["sad", "fear"], {0.5: ONE}, "numbers of at least 1"),
        (["a", "b"], ["sad", "fear"], {}, "0 factors"),
        (["a", "b"], ["sad", "fear"], {2: [[0.5, 0.5], [math.nan, 1]]}, r"factor 2, row 1 \(id 'b'\).*\(1 of 2 rows"),
        (["a", "b"], ["sad", "fear"], {1: ONE * 2}, r"row 0 \(id 'a'\).*\(2 of 2 rows"),
        (["a", "b"], ["sad", "fear"], {1: [[0.5, 0.5], [-0.0005, 1]]}, r"row 1 \(id 'b'\) are not numbers >= 0"),
        (["a", "b"], ["sad", "fear"], {1: [[math.inf, 0], [1, 0]]}, r"row 0"),
    ],
)
def test_what_cannot_be_written(path: Path, ids: list[str], classes: list[str], probabilities: dict, said: str) -> None:
    with pytest.raises(FerError, match=said):
        write_predictions(path, ids, classes, probabilities)
    assert not list(path.parent.iterdir())
