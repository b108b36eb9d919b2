"""Predictions files: the answers of systems that are no transformers models, in CSV, Parquet or JSON lines.

Columns: `id` (text, see `image_ids`), `label` (the answer's name) and/or one `p_<class>` for each class (its
probability), optionally `factor` (resolution factor >= 1; without the column every row is of factor 1). In JSON lines
and Parquet `probabilities`, an object (struct) from class to probability, may stand instead of the `p_` columns.

A file comes from outside: every row is checked, nothing is skipped, re-normalised or filled in, and of a faulty row
nothing but the first one's description is kept, so that memory is bounded by the number of images.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics.scores import ROW_SUM_TOLERANCE
from hf_fer.evaluation.predictions_formats import (
    RowFault,
    TableToWrite,
    check_suffix,
    cut,
    cut_name,
    empty_cell,
    file_name,
    open_table,
    write_table,
)
from hf_fer.evaluation.whole_files import refuse_existing, write_whole
from hf_fer.labels import EXPRESSIONS, OTHER, canonical_expression, find_expression, map_labels

if TYPE_CHECKING:
    from datasets import Dataset

MAX_FACTORS = 64  # bounds memory: a table of all images is kept for each factor
MAX_ID = 4096  # characters
MAX_LABEL = 256
_ROUNDING = 1e-12  # three decimals that sum to 1.001 may miss it by the last bits

_NUMBER = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")  # linear in the text
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}
_ROW_ID = re.compile(r"(\w+(?:\.\w+)*)/[0-9]+")


@dataclass(frozen=True)
class Predictions:
    """A predictions file, checked, in the order of the ids that it was read for.

    Attributes:
        classes: the K column names of `probabilities`, as the file spells them (without `p_`); `()` with labels only.
        answers: factor -> the N answers as the file spells them: `label`, else the arg max (ties: the first column).
        probabilities: factor -> `(N, K)` float64, each row summing to 1 within `ROW_SUM_TOLERANCE`; None if the file
            has labels only.
        meanings: every name in `classes` and `answers` -> its canonical expression, or None where an alias says that
            it is no expression.
    """

    classes: tuple[str, ...]
    answers: dict[float, list[str]]
    probabilities: dict[float, np.ndarray] | None
    meanings: dict[str, str | None] = field(default_factory=dict)


def image_ids(dataset: Dataset, split: str) -> list[str]:
    """The N ids by which a predictions file names the images of a split.

    They are the column `image_name` where there is one (FERPlus, FER2013), else `<split>/<row>` with rows from 0.

    Raises:
        FerError: an `image_name` that is not text, is empty, or stands twice.
    """
    if "image_name" not in dataset.column_names:
        return [f"{split}/{row}" for row in range(len(dataset))]
    names = list(dataset.with_format(None)["image_name"][:])
    rows: dict[str, int] = {}
    for row, name in enumerate(names):
        if not isinstance(name, str) or not name:
            problem = f"is {cut(name)}, not a name"
        elif name in rows:
            problem = f"is {cut(name)} as in row {rows[name]}"
        else:
            rows[name] = row
            continue
        raise FerError(
            f"Row {row} of split {split!r}: image_name {problem}, and images are told apart by it; "
            f"put it right, or remove the column to have the ids {split}/0, {split}/1, ..."
        )
    return names


def read_predictions(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    *,
    where: str,
    factors: Sequence[float] | None = None,
    other_splits: Mapping[str, Collection[str]] | Callable[[], Mapping[str, Collection[str]]] | None = None,
    aliases: Mapping[str, str | None] | None = None,
) -> Predictions:
    """Read and check a predictions file; it must have every id once for each factor, in any order, and no other.

    Args:
        path: the file; its suffix (`.csv`, `.parquet` or `.jsonl`) says the format. Text is UTF-8, with or without a
            byte order mark; CSV is separated by commas, one row a line.
        ids: of the N images, as from `image_ids`.
        where: what the ids are of, for people, such as "ferplus (test)".
        factors: resolution factors that the file must have, and no other; None takes those it has.
        other_splits: split -> its ids, or a function that returns this (called only when an id is unknown), so that
            an error can say which split the file is of. `<split>/<row>` is recognised without it.
        aliases: what names of the file mean, see `hf_fer.labels.map_labels`.

    Returns:
        The predictions in the order of `ids`; factors in the order of `factors`, else ascending.

    Raises:
        FerError: one sentence with the first offending row (lines of text count from 1, rows of Parquet from 0), its
            id, the number of rows of that fault, and the way out.
    """
    path = Path(path)
    wanted = None if factors is None else _check_factors(factors)
    places = {name: row for row, name in enumerate(ids)}
    if not places or len(places) != len(ids):
        raise FerError(f"The {len(ids)} ids of {where} must be at least one and differ; pass those of `image_ids`.")
    _check_aliases(aliases)
    table = open_table(path, most_rows=len(ids) * MAX_FACTORS, where=where)
    layout = _Layout.of(table.columns, path, aliases)
    if wanted is not None and layout.factor is None and wanted != [1.0]:
        raise FerError(
            f"{file_name(path)} has no column factor, so its rows are of factor 1, not {_factors(wanted)}; add the "
            "column and the rows, or ask for factor 1 alone."
        )
    reader = _Reader(layout, places, table.text, wanted, _Splits(ids, where, other_splits), aliases)
    faults: dict[str, tuple[int, str, RowFault]] = {}
    total = 0
    for place, cells in table.rows:
        total += 1
        try:
            if isinstance(cells, RowFault):
                raise cells
            reader.take(cells)
        except RowFault as fault:
            count, first, described = faults.get(fault.kind, (0, f"{place}{layout.id_of(cells)}", fault))
            faults[fault.kind] = (count + 1, first, described)
    if not total:
        raise FerError(f"{file_name(path)} has no rows; write one for each of the {len(ids)} images of {where}.")
    if faults:
        count, first, fault = next(iter(faults.values()))
        text = fault.text if isinstance(fault.text, str) else fault.text()
        raise FerError(
            f"{file_name(path)}, {first}: {text} ({count} of {total} rows {'is' if count == 1 else 'are'} like this); "
            f"{fault.way_out}."
        )
    return reader.result(path, where)


def write_predictions(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    classes: Sequence[str],
    probabilities: Mapping[float, np.ndarray],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a predictions file that `read_predictions` reads back to the same float64 bits.

    It has `label` (the arg max; ties: the first class) and the probabilities, and `factor` unless that is 1 throughout.
    The file is written under a temporary name in the same folder, then renamed.

    Args:
        path: the file; its suffix (`.csv`, `.parquet` or `.jsonl`) says the format. Missing parent folders are made.
        ids: of the N images; non-empty, each once.
        classes: the K class names.
        probabilities: factor >= 1 -> `(N, K)` floats >= 0, each row summing to 1 within `ROW_SUM_TOLERANCE`.
        overwrite: replace an existing file instead of refusing.

    Returns:
        The path written.

    Raises:
        FerError: the file exists and `overwrite` is false, an unknown suffix, ids or names that are empty, repeated or
            cannot stand in a line of text, arrays of another shape, values that are no probabilities, or the file
            cannot be written.
    """
    path = Path(path)
    refuse_predictions(path, overwrite)
    ids, classes = [*ids], [*classes]
    _check_names(ids, "ids")
    _check_names(classes, "classes")
    factors = _check_factors(list(probabilities))
    tables = [
        _check_table(probabilities[key], factor, ids, len(classes))
        for key, factor in zip(probabilities, factors, strict=True)
    ]
    write_table(path, TableToWrite(ids, classes, factors, tables), overwrite)
    return path


def write_template(path: str | os.PathLike[str], ids: Sequence[str], *, overwrite: bool = False) -> Path:
    """Write a CSV file of predictions in which only the ids stand: `id,label`, to be filled in.

    Raises:
        FerError: a suffix other than `.csv`, the file exists and `overwrite` is false, or it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise FerError(f"{file_name(path)}: a template is a CSV file; give it a name that ends in .csv.")
    _check_names([*ids], "ids")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label"])
    writer.writerows([name, ""] for name in ids)
    write_whole(path, lambda file: file.write(text.getvalue().encode()), overwrite)
    return path


def refuse_predictions(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises FerError for what `write_predictions` would refuse to write to, before there is anything to write."""
    path = Path(path)
    check_suffix(path)
    refuse_existing(path, overwrite)


@dataclass(frozen=True)
class _Layout:
    """Where the columns are among a row's cells, and what the classes mean."""

    columns: tuple[str, ...]
    id: int
    label: int | None
    factor: int | None
    probabilities: tuple[int, ...]
    classes: tuple[str, ...]
    meanings: dict[str, str | None]

    @classmethod
    def of(cls, columns: Sequence[str], path: Path, aliases: Mapping[str, str | None] | None) -> _Layout:
        at = {name: i for i, name in enumerate(columns)}
        own = tuple(i for i, name in enumerate(columns) if name.startswith("p_"))
        classes = tuple(columns[i].removeprefix("p_") for i in own)
        meanings: dict[str, str | None] = {}
        if classes:
            try:
                known = {name: meaning for name, meaning in (aliases or {}).items() if name in classes}
                mapping = map_labels(classes, (*EXPRESSIONS, OTHER), aliases=known)
            except FerError as error:
                raise FerError(f"{file_name(path)}, columns p_<class>: {error}") from None
            meanings = {
                name: None if name in mapping.no_expression else canonical
                for name, canonical in zip(classes, mapping.source, strict=True)
            }
        return cls(tuple(columns), at["id"], at.get("label"), at.get("factor"), own, classes, meanings)

    def id_of(self, cells: Sequence[object] | RowFault) -> str:
        """` (id '...')`, for errors, where the row has one."""
        found = (cells.id,) if isinstance(cells, RowFault) else cells[self.id : self.id + 1]
        value = found[0] if found else None
        return f" (id {cut(value)})" if isinstance(value, str) and value else ""


# Checking the rows


class _Splits:
    """Tells of which split an id that is not among `ids` may be."""

    def __init__(
        self,
        ids: Sequence[str],
        where: str,
        others: Mapping[str, Collection[str]] | Callable[[], Mapping[str, Collection[str]]] | None,
    ) -> None:
        self.where, self.example = where, ids[0]
        self._others = others
        self._known: dict[str, Collection[str]] | None = None
        row_id = _ROW_ID.fullmatch(ids[0])
        is_rows = row_id is not None and ids[0] == f"{row_id[1]}/0" and ids[-1] == f"{row_id[1]}/{len(ids) - 1}"
        self._own = row_id[1] if is_rows else None

    def fault(self, name: str) -> RowFault:
        split = self._split_of(name)
        if split is not None:
            return RowFault(
                "other split",
                lambda: f"these are ids of split {cut_name(split)}, not of {self.where}",
                f"predict the images of {self.where}",
            )
        return RowFault(
            "unknown id",
            f"{self.where} has no image of this id",
            f"use its own ids, such as {cut(self.example)}",
        )

    def _split_of(self, name: str) -> str | None:
        if self._known is None:
            others = self._others() if callable(self._others) else self._others or {}
            self._known = {
                split: ids if isinstance(ids, set | frozenset | Mapping) else set(ids) for split, ids in others.items()
            }
        found = next((split for split, ids in self._known.items() if name in ids), None)
        if found is not None or self._own is None:
            return found
        row_id = _ROW_ID.fullmatch(name[:MAX_ID])
        return row_id[1] if row_id and row_id[1] != self._own else None


class _Reader:
    """Takes rows one by one; keeps the answers of those that are right."""

    def __init__(
        self,
        layout: _Layout,
        places: Mapping[str, int],
        text: bool,
        wanted: list[float] | None,
        splits: _Splits,
        aliases: Mapping[str, str | None] | None,
    ) -> None:
        self._layout, self._places, self._text, self._wanted, self._splits = layout, places, text, wanted, splits
        self._aliases = dict(aliases or {})
        self._meanings = dict(layout.meanings)
        self._column = {layout.meanings[name] or (name,): i for i, name in enumerate(layout.classes)}
        self._seen: dict[float, np.ndarray] = {}
        self._answers: dict[float, list[str]] = {}
        self._probabilities: dict[float, np.ndarray] = {}

    def take(self, cells: Sequence[object]) -> None:
        """Keeps a row, or raises its first `RowFault`."""
        layout = self._layout
        if len(cells) != len(layout.columns):
            raise RowFault(
                "cells",
                f"the row has {len(cells)} cells for {len(layout.columns)} columns",
                "write one cell for each column, and quote cells that hold a comma",
            )
        place = self._place(cells[layout.id])
        factor = 1.0 if layout.factor is None else self._factor(cells[layout.factor])
        seen = self._table(factor)
        if seen[place]:
            at = "" if layout.factor is None else f" for factor {factor:g}"
            raise RowFault("twice", f"this id stands in the file before{at}", "write one row for each image and factor")
        seen[place] = True  # now: a row that is wrong below counts as there, or the same id could come without end
        label = None if layout.label is None else self._label(cells[layout.label])
        if layout.probabilities:
            row = self._row([cells[i] for i in layout.probabilities])
            if label is None:
                label = layout.classes[row.index(max(row))]
            else:
                self._check_answer(label, row)
            self._probabilities[factor][place] = row
        self._answers[factor][place] = label

    def result(self, path: Path, where: str) -> Predictions:
        """The predictions, if no image is missing."""
        factors = sorted(self._seen) if self._wanted is None else self._wanted
        for factor in factors:
            at = "" if self._layout.factor is None else f" at factor {factor:g}"
            if factor not in self._seen:
                raise FerError(
                    f"{file_name(path)} has no rows{at}, only at {_factors(sorted(self._seen))}; add those of all "
                    f"{len(self._places)} images of {where}, or do not ask for that factor."
                )
            missing = np.flatnonzero(~self._seen[factor])
            if len(missing):
                first = next(name for name, place in self._places.items() if place == missing[0])
                raise FerError(
                    f"{file_name(path)} lacks {len(missing)} of the {len(self._places)} images of {where}{at}, the "
                    f"first of them {cut(first)}; every image needs a row, whatever the answer."
                )
        stray = [name for name in self._aliases if name not in self._meanings]
        if stray:
            raise FerError(
                f"{file_name(path)} has no class or label {cut(stray[0])}, for which there is an alias (so with "
                f"{len(stray)} of {len(self._aliases)} aliases); spell aliases exactly as the file does, or leave them "
                "out."
            )
        return Predictions(
            classes=self._layout.classes,
            answers={factor: self._answers[factor] for factor in factors},
            probabilities={factor: self._probabilities[factor] for factor in factors}
            if self._layout.probabilities
            else None,
            meanings=self._meanings,
        )

    def _place(self, value: object) -> int:
        if value is None or value == "":
            raise empty_cell("id")
        if not isinstance(value, str):
            raise RowFault("id", lambda: f"id is {cut(value)}, not text", "write ids as text")
        place = self._places.get(value)
        if place is None:
            raise self._splits.fault(value)
        return place

    def _factor(self, value: object) -> float:
        factor = self._number("factor", value)
        if not 1 <= factor < math.inf:
            raise RowFault(
                "factor", lambda: f"factor is {cut(value)}, not a number of at least 1", "write 1, 2, 4 or the like"
            )
        if float(f"{factor:g}") != factor:  # records name factors so, and two of one name would be one
            raise RowFault("factor digits", lambda: f"factor is {cut(value)}, of more than six digits", "round it")
        if self._wanted is not None and factor not in self._wanted:
            raise RowFault(
                "other factor",
                f"factor {factor:g} was not asked for, only {_factors(self._wanted)}",
                "ask for all factors that the file has, or drop the rows",
            )
        return factor

    def _table(self, factor: float) -> np.ndarray:
        if factor not in self._seen:
            if len(self._seen) >= MAX_FACTORS:
                raise RowFault(
                    "factors", f"factor {factor:g} comes after {MAX_FACTORS} others", f"use at most {MAX_FACTORS}"
                )
            count = len(self._places)
            self._seen[factor] = np.zeros(count, dtype=bool)
            self._answers[factor] = [""] * count
            if self._layout.probabilities:
                self._probabilities[factor] = np.zeros((count, len(self._layout.classes)))
        return self._seen[factor]

    def _label(self, value: object) -> str:
        if value is None or (isinstance(value, str) and not value.strip()):
            raise empty_cell("label")
        if not isinstance(value, str):
            raise RowFault("label", lambda: f"label is {cut(value)}, not text", "write the name of the expression")
        if value not in self._meanings:
            meaning = self._aliases.get(value, value)
            if meaning is not None and (len(value) > MAX_LABEL or find_expression(meaning) is None):
                raise RowFault(
                    "unknown label",
                    lambda: "label " + _no_expression(meaning),
                    "say what it means with aliases= (None for no expression) or --label-map NAME=EXPRESSION",
                )
            self._meanings[value] = None if meaning is None else find_expression(meaning)
        return value

    def _row(self, values: Sequence[object]) -> list[float]:
        names = self._layout.classes
        row = [self._number(f"p_{name}", value) for name, value in zip(names, values, strict=True)]
        for name, p in zip(names, row, strict=True):
            if not 0 <= p < math.inf:
                what = "NaN" if p != p else "infinite" if math.isinf(p) else "negative"
                raise RowFault(
                    what,
                    f"p_{cut_name(name)} is {what if p != p or math.isinf(p) else f'{p:g}, negative'}",
                    "write the softmax of finite logits",
                )
        total = sum(row)
        if not abs(total - 1) <= ROW_SUM_TOLERANCE + _ROUNDING:
            raise RowFault(
                "sum",
                f"the probabilities sum to {total:.6g}, not 1",
                "write a softmax over all classes with enough digits, not logits or per cent; nothing is re-normalised",
            )
        return row

    def _check_answer(self, label: str, row: list[float]) -> None:
        column = self._column.get(self._meanings[label] or (label,))
        best = max(row)
        if column is None:
            raise RowFault(
                "label without column",
                f"label {cut(label)} has no column among p_<class>",
                "add its column, or write labels only",
            )
        if row[column] != best:
            raise RowFault(
                "arg max",
                f"label {cut(label)} has the probability {row[column]:g}, but "
                f"p_{cut_name(self._layout.classes[row.index(best)])} is {best:g}",
                "a label must be a most probable class of its row, so write either labels or probabilities",
            )

    def _number(self, column: str, value: object) -> float:
        if value is None:
            raise empty_cell(column)
        if self._text and isinstance(value, str):
            return _number_of_text(column, value)
        if isinstance(value, bool) or not isinstance(value, int | float | np.floating):  # Parquet's float16
            raise empty_cell(column) if value == "" else _no_number(column, value)
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf


def _number_of_text(column: str, text: str) -> float:
    # Not float() alone: that takes "1_000" and digits of every script.
    if _NUMBER.fullmatch(text):
        return float(text)
    if not text.strip():
        raise empty_cell(column)
    word = text.strip().lower()
    sign, word = (-1.0, word[1:]) if word[0] == "-" else (1.0, word.removeprefix("+"))
    if word not in _NOT_FINITE:
        raise _no_number(column, text)
    return sign * _NOT_FINITE[word]


def _no_expression(name: object) -> str:
    try:
        return canonical_expression(name)  # type: ignore[arg-type]
    except FerError as error:
        return str(error).rstrip(".")


def _no_number(column: str, value: object) -> RowFault:
    return RowFault(
        f"not a number {column}",
        lambda: f"{cut_name(column)} is {cut(value)}, not a number",
        "write numbers such as 0.25, with a point and no sign of per cent",
    )


# Writing


def _check_names(names: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name or len(name) > MAX_ID:
            problem = "not a text of at least one character" if not isinstance(name, str) or not name else "too long"
        elif name in seen:
            problem = "the same as one before"
        elif re.search("[\\r\\n\\0\ud800-\udfff]", name):
            problem = "not one line of UTF-8"
        else:
            seen.add(name)
            continue
        raise FerError(f"{what}[{i}] is {cut(name)}, {problem}; give each its own name.")
    if not names:
        raise FerError(f"There are no {what} to write; pass at least one.")


def _check_table(table: object, factor: float, ids: Sequence[str], classes: int) -> np.ndarray:
    try:
        values = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(ids), classes):
        raise FerError(
            f"The probabilities of factor {factor:g} have the shape {np.shape(values)}, not ({len(ids)}, {classes}); "
            "pass one row for each id and one column for each class."
        )
    sums = np.array([sum(row) for row in values.tolist()])  # added as `read_predictions` adds them
    right = (values >= 0).all(axis=1) & (np.abs(sums - 1) <= ROW_SUM_TOLERANCE + _ROUNDING)  # false for NaN
    if not right.all():
        row = int((~right).argmax())
        raise FerError(
            f"The probabilities of factor {factor:g}, row {row} (id {cut(ids[row])}) are not numbers >= 0 that sum to "
            f"1 ({int((~right).sum())} of {len(ids)} rows are like this); pass the softmax of finite logits."
        )
    return values


# Small things


def _check_aliases(aliases: Mapping[str, str | None] | None) -> None:
    if aliases is not None and not isinstance(aliases, Mapping):
        raise FerError(f"aliases must be a mapping from name to expression name or None, not {cut(aliases)}.")
    wrong = [
        name for name, meaning in (aliases or {}).items() if meaning is not None and find_expression(meaning) is None
    ]
    if wrong:
        raise FerError(
            f"The alias for {cut(wrong[0])}: {_no_expression(aliases[wrong[0]])}; None says that a name is no "
            "expression."
        )


def _check_factors(values: Sequence[float]) -> list[float]:
    factors = []
    for value in values:
        try:
            factor = float(value)
        except (TypeError, ValueError):
            factor = math.nan
        if not 1 <= factor < math.inf or factor in factors or float(f"{factor:g}") != factor:
            raise FerError(
                f"factors={cut(list(values))} must be numbers of at least 1 and of at most six digits, each once; use "
                "for example 1, 2."
            )
        factors.append(factor)
    if not 0 < len(factors) <= MAX_FACTORS:
        raise FerError(f"There are {len(factors)} factors; use 1 to {MAX_FACTORS}.")
    return factors


def _factors(factors: Iterable[float]) -> str:
    return ", ".join(f"{factor:g}" for factor in factors)
