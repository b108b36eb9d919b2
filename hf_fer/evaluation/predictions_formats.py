"""The formats of predictions files (`hf_fer.evaluation.predictions_file`): tables of checked columns, unchecked rows.

Memory is bounded: by the length of a line, and in Parquet by the number of rows and the size of a row group.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hf_fer.errors import FerError
from hf_fer.evaluation.whole_files import write_whole
from hf_fer.labels import find_expression

SUFFIXES = (".csv", ".parquet", ".jsonl")
MAX_LINE = 1 << 16  # bytes; half of csv's own field limit

_COLUMNS = "id, label and/or p_<class>, and factor"
_WAYS = f"the columns are {_COLUMNS}"
PREDICT_COLUMNS = frozenset(  # of `hf-fer predict --csv`
    (
        *("path", "frame", "seconds", "face", "score", "reliability", "error"),
        *("xmin", "ymin", "xmax", "ymax", "detection_score"),
    )
)
_PARQUET_ROWS = 4096  # in one batch


class RowFault(Exception):
    """What is wrong with a row. A text may be made only where it is told: a file may have a million faulty rows.

    Attributes:
        kind: rows of one kind are counted together.
        text: half a sentence, of what is wrong.
        way_out: half a sentence, of what to do.
        id: of the row, where its cells could not be put in the order of the columns.
    """

    def __init__(self, kind: str, text: str | Callable[[], str], way_out: str, id: object = None) -> None:
        super().__init__(kind)
        self.kind, self.text, self.way_out, self.id = kind, text, way_out, id


def empty_cell(column: str) -> RowFault:
    """The fault of a row without a value in `column`."""
    return RowFault(f"empty {column}", f"{cut_name(column)} is empty", "fill it in, or leave the whole column out")


# Columns


def check_columns(columns: Sequence[str], path: Path) -> None:
    """Raises FerError for a column that stands twice, that means nothing here, or that is lacking."""
    name = file_name(path)
    seen: set[str] = set()
    twice = [column for column in columns if column in seen or seen.add(column)]
    if twice:
        raise FerError(f"{name} has the column {cut(twice[0])} more than once; {_WAYS}, each once.")
    unknown = [c for c in columns if c not in ("id", "label", "factor") and not c.startswith("p_")]
    if unknown:
        if PREDICT_COLUMNS.issuperset(unknown):
            hint = (
                "a table of `hf-fer predict --no-detect --csv` becomes a predictions file by renaming path to id, with "
                "the ids of the split, and dropping all other columns but label and p_<class>"
            )
        elif len(columns) == 1 and re.search("[;\t]", columns[0]):
            hint = f"separate the columns by commas; {_WAYS}"
        else:
            near = _meant(unknown[0][:64])
            hint = f"drop or rename them{f' (did you mean {near!r}?)' if near else ''}; {_WAYS}"
        listed = ", ".join(cut(column) for column in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise FerError(f"{name} has columns that mean nothing here, {listed}{more}; {hint}.")
    if "id" not in columns:
        raise FerError(f"{name} has no column id; {_WAYS}.")
    if "label" not in columns and not any(column.startswith("p_") for column in columns):
        raise FerError(f"{name} has neither a column label nor p_<class>, so no answers; {_WAYS}.")


def _meant(column: str) -> str | None:
    if find_expression(column) is not None:
        return f"p_{column}"
    if column.lower() in ("image_name", "image", "file", "file_name", "filename", "name"):
        return "id"
    near = difflib.get_close_matches(column.strip().lower(), ("id", "label", "factor", "probabilities"), n=1)
    return near[0] if near else None


# Reading the formats


@dataclass(frozen=True)
class Table:
    """Names of columns (`probabilities` as its `p_` columns); for each row its place and its cells in this order."""

    columns: list[str]
    rows: Iterator[tuple[str, Sequence[object] | RowFault]]
    text: bool  # numbers are written as text


def open_table(path: Path, most_rows: int, where: str) -> Table:
    """The table in a file of one of `SUFFIXES`; rows are read as they are asked for.

    Args:
        path: the file.
        most_rows: more rows than this are refused where the format says their number beforehand.
        where: what the rows are of, for people.

    Raises:
        FerError: no such file, or not in its format; columns as in `check_columns`.
    """
    check_suffix(path)
    if not _is(path.is_file):
        raise FerError(
            f"There is no predictions file {file_name(path)}; give the path of a {', '.join(SUFFIXES[:-1])} or "
            f"{SUFFIXES[-1]} file."
        )
    if path.suffix.lower() == ".parquet":
        return _open_parquet(path, most_rows, where)
    return _open_csv(path) if path.suffix.lower() == ".csv" else _open_jsonl(path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and lines that are not blank, without their ends."""
    number = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise FerError(
                        f"{file_name(path)}, line {number}: longer than {MAX_LINE} bytes; write one row a line."
                    )
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text:
                    yield number, text
    except UnicodeDecodeError as error:
        raise FerError(
            f"{file_name(path)}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8."
        ) from None
    except OSError as error:
        raise FerError(
            f"{file_name(path)} cannot be read ({error.strerror}); check the file and its rights."
        ) from error


def _open_csv(path: Path) -> Table:
    def parse(number: int, line: str) -> list[str]:
        # Line by line: an unclosed quote then costs its own line, not the memory for the rest of the file.
        try:
            return next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise FerError(
                f"{file_name(path)}, line {number}: broken CSV ({error}); separate cells by commas, double the quotes "
                "inside quoted cells, and keep a row on one line."
            ) from None

    lines = _lines(path)
    number, header = next(lines, (0, None))
    if header is None:
        raise FerError(f"{file_name(path)} is empty; {_WAYS}.")
    columns = parse(number, header)
    check_columns(columns, path)
    return Table(
        columns=columns,
        rows=((f"line {number}", parse(number, line)) for number, line in lines),
        text=True,
    )


def _open_jsonl(path: Path) -> Table:
    def parse(number: int, line: str) -> dict[str, object]:
        try:
            row = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            reason = (
                f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else _one_line(error)
            )
            raise FerError(
                f"{file_name(path)}, line {number}: broken JSON ({reason}); write one object a line, such as "
                '{"id": "test/0", "label": "anger"}.'
            ) from None
        if not isinstance(row, dict):
            raise FerError(
                f"{file_name(path)}, line {number}: {cut(row)} is not an object; write one object a line, such as "
                '{"id": "test/0", "label": "anger"}.'
            )
        return row

    lines = _lines(path)
    number, line = next(lines, (0, None))
    if line is None:
        raise FerError(f"{file_name(path)} is empty; write one object a line, with {_COLUMNS}.")
    first = parse(number, line)
    nested = first.get("probabilities", {})
    if "probabilities" in first and (not isinstance(nested, dict) or not nested):
        raise FerError(
            f"{file_name(path)}, line {number}: probabilities is {cut(nested)}, not an object from class to "
            'probability; write {"anger": 0.9, ...}.'
        )
    flat = [key for key in first if key != "probabilities"]
    _check_one_kind(path, flat, nested)

    columns = [*flat, *(f"p_{name}" for name in nested)]
    check_columns(columns, path)

    def cells(row: dict[str, object]) -> Sequence[object] | RowFault:
        own = row.get("probabilities", {})
        fault = None
        if row.keys() != first.keys():
            fault = _keys_fault("keys", first, row)
        elif own is None:
            fault = empty_cell("probabilities")
        elif not isinstance(own, dict):
            text = f"probabilities is {cut(own)}, not an object"
            fault = RowFault("no object", text, "write it as an object")
        elif own.keys() != nested.keys():
            fault = _keys_fault("classes", nested, own)
        if fault is not None:
            fault.id = row.get("id")
            return fault
        return [*(row[key] for key in flat), *(own[key] for key in nested)]

    def rows() -> Iterator[tuple[str, Sequence[object] | RowFault]]:
        yield f"line {number}", cells(first)
        for at, text in lines:
            yield f"line {at}", cells(parse(at, text))

    return Table(columns, rows(), text=False)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"{cut(twice)} stands twice in one object")
    return row


def _keys_fault(what: str, first: Mapping[str, object], row: Mapping[str, object]) -> RowFault:
    def text() -> str:
        lacking = [key for key in first if key not in row]
        odd = [key for key in row if key not in first]
        return f"the row {f'lacks {cut(lacking[0])}' if lacking else f'has {cut(odd[0])}'}, unlike the first row"

    return RowFault(what, text, f"give every row the same {what}")


def _check_one_kind(path: Path, flat: Iterable[str], nested: Collection[str]) -> None:
    if nested and any(name.startswith("p_") for name in flat):
        raise FerError(f"{file_name(path)} has both probabilities and p_<class>; write one of them.")


def _open_parquet(path: Path, most_rows: int, where: str) -> Table:
    pa, pq = _pyarrow()
    try:
        metadata = pq.read_metadata(path)
        leaves = {metadata.schema.column(i).path for i in range(metadata.num_columns)}
        # Text as dictionaries: a text that stands in a million rows is then kept once.
        file = pq.ParquetFile(path, metadata=metadata, read_dictionary=[n for n in ("id", "label") if n in leaves])
        schema, count = file.schema_arrow, metadata.num_rows
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _broken_parquet(path, error) from error
    if count > most_rows:
        raise FerError(
            f"{file_name(path)} has {count} rows, more than the {most_rows} that the images of {where} can have; write "
            "one row for each image and factor."
        )
    big = next((g for g in groups if g.total_byte_size > (1 << 24) + g.num_rows * 1024), None)
    if big is not None:
        raise FerError(
            f"{file_name(path)} has a row group of {big.num_rows} rows and {big.total_byte_size} bytes, too much for "
            f"ids and probabilities; {_WAYS}."
        )
    if len(set(schema.names)) != len(schema.names):
        check_columns(schema.names, path)
    flat = [name for name in schema.names if name != "probabilities"]
    nested: list[str] = []
    if "probabilities" in schema.names:
        struct = schema.field("probabilities").type
        if not pa.types.is_struct(struct) or not struct.num_fields:
            raise FerError(
                f"{file_name(path)}: probabilities is {cut_name(str(struct))}, not a struct from class to probability; "
                "write a struct, or p_<class> columns."
            )
        nested = [struct.field(i).name for i in range(struct.num_fields)]
        if len(set(nested)) != len(nested):
            raise FerError(f"{file_name(path)}: probabilities names a class more than once; name each once.")
    _check_one_kind(path, flat, nested)
    columns = [*flat, *(f"p_{name}" for name in nested)]
    check_columns(columns, path)
    for name in flat:
        _check_type(pa, path, name, schema.field(name).type)
    for name in nested:
        _check_type(pa, path, f"p_{name}", schema.field("probabilities").type.field(name).type)

    def rows() -> Iterator[tuple[str, Sequence[object] | RowFault]]:
        row = 0
        try:
            with file:
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                    arrays = [batch.column(name) for name in flat]
                    if nested:
                        arrays += batch.column("probabilities").flatten()
                    for cells in zip(*(_values(pa, path, array) for array in arrays), strict=True):
                        yield f"row {row}", cells
                        row += 1
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, FerError):
                raise
            raise _broken_parquet(path, error, f" after row {row - 1}" if row else "") from error

    return Table(columns, rows(), text=False)


def _check_type(pa: Any, path: Path, name: str, kind: Any) -> None:
    text = name in ("id", "label")
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    if text:
        fits = types.is_string(kind) or types.is_large_string(kind)
    else:
        fits = types.is_floating(kind) or types.is_integer(kind)
    if not fits and not types.is_null(kind):
        raise FerError(
            f"{file_name(path)}: the column {cut_name(name)} is {cut_name(str(kind))}, not "
            f"{'text' if text else 'numbers'}; write it as {'string' if text else 'double'}."
        )


def _values(pa: Any, path: Path, array: Any) -> list[object]:
    if pa.types.is_dictionary(array.type):
        import pyarrow.compute as pc

        dictionary = array.dictionary
        if pa.types.is_string(dictionary.type) or pa.types.is_large_string(dictionary.type):
            longest = pc.max(pc.binary_length(dictionary)).as_py() or 0
            if longest > MAX_LINE:
                raise FerError(f"{file_name(path)} has a text of {longest} bytes in a cell; write ids and labels only.")
        array = array.dictionary_decode()
    return array.to_pylist()


def _broken_parquet(path: Path, error: BaseException, after: str = "") -> FerError:
    return FerError(f"{file_name(path)} cannot be read as Parquet{after} ({_one_line(error)}); write the file anew.")


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise FerError("Parquet needs pyarrow; `pip install pyarrow`, or use .csv or .jsonl.") from error
    return pyarrow, pyarrow.parquet


# Writing the formats


@dataclass(frozen=True)
class TableToWrite:
    """N ids, K classes, and for each factor an `(N, K)` float64 table of probabilities; all checked."""

    ids: list[str]
    classes: list[str]
    factors: list[float]
    tables: list[np.ndarray]

    @property
    def has_factor(self) -> bool:
        return self.factors != [1.0]

    def rows(self) -> Iterator[tuple[str, str, float, list[float]]]:
        """id, label, factor, probabilities."""
        for factor, table in zip(self.factors, self.tables, strict=True):
            best = table.argmax(axis=1)
            for i, name in enumerate(self.ids):
                yield name, self.classes[best[i]], factor, table[i].tolist()


def write_table(path: Path, content: TableToWrite, overwrite: bool) -> None:
    """Writes the file under a temporary name beside it, then renames it: it is there whole or not at all."""
    write = {".csv": _write_csv, ".parquet": _write_parquet, ".jsonl": _write_jsonl}[path.suffix.lower()]
    write_whole(path, lambda file: write(content, file), overwrite)


def _write_csv(content: TableToWrite, file: BinaryIO) -> None:
    # csv writes a float by repr(): the shortest text that is read back to the same bits.
    line = _Line()
    writer = csv.writer(line, lineterminator="\n")
    factor_name = ["factor"] if content.has_factor else []
    writer.writerow(["id", "label", *factor_name, *(f"p_{name}" for name in content.classes)])
    _write_line(file, line.text)
    for name, label, factor, row in content.rows():
        writer.writerow([name, label, *([_plain(factor)] if content.has_factor else []), *row])
        _write_line(file, line.text)


class _Line:
    """The last line that a csv writer wrote."""

    text = ""

    def write(self, text: str) -> int:
        self.text = text
        return len(text)


def _write_jsonl(content: TableToWrite, file: BinaryIO) -> None:
    for name, label, factor, row in content.rows():
        entry: dict[str, object] = {"id": name, "label": label}
        if content.has_factor:
            entry["factor"] = _plain(factor)
        entry["probabilities"] = dict(zip(content.classes, row, strict=True))
        _write_line(file, json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n")


def _write_line(file: BinaryIO, line: str) -> None:
    data = line.encode()
    if len(data) > MAX_LINE:
        raise FerError(f"A row would have {len(data)} bytes, more than {MAX_LINE}; use shorter names or fewer classes.")
    file.write(data)


def _write_parquet(content: TableToWrite, file: BinaryIO) -> None:
    pa, pq = _pyarrow()
    count = len(content.factors)
    best = [content.classes[k] for table in content.tables for k in table.argmax(axis=1)]
    columns: dict[str, Any] = {"id": pa.array(content.ids * count, pa.string()), "label": pa.array(best, pa.string())}
    if content.has_factor:
        columns["factor"] = pa.array(np.repeat(content.factors, len(content.ids)), pa.float64())
    for k, name in enumerate(content.classes):
        columns[f"p_{name}"] = pa.array(np.concatenate([table[:, k] for table in content.tables]), pa.float64())
    pq.write_table(pa.table(columns), file)


def _plain(factor: float) -> float | int:
    return int(factor) if factor.is_integer() else factor


# Small things


def check_suffix(path: Path) -> None:
    """Raises FerError unless the suffix is one of `SUFFIXES`."""
    if path.suffix.lower() not in SUFFIXES:
        raise FerError(
            f"{file_name(path)} has none of the suffixes of a predictions file; choose {', '.join(SUFFIXES[:-1])} or "
            f"{SUFFIXES[-1]}."
        )


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def file_name(path: Path) -> str:
    """The path as errors name it: one line, not endless."""
    text = str(path)
    return text if text.isprintable() and len(text) <= 400 else cut(text, 400)


def cut(value: object, limit: int = 80) -> str:
    """`repr`, which escapes control characters, cut after `limit` characters."""
    # Sliced first: the value may be as long as a line may be.
    try:
        text = repr(value[:limit] if isinstance(value, str | bytes) else value)
    except RecursionError:  # nested about as deep as JSON can be read
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def cut_name(name: str) -> str:
    """A name without quotes, where it is one that needs none."""
    return name if name.isprintable() and len(name) <= 60 else cut(name)


def _one_line(error: BaseException) -> str:
    return cut_name(" ".join(str(error).split())[:200]) if str(error).isprintable() else cut(str(error), 200)
