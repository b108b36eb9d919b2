"""From records to figures: mean and spread over the seeds, and whether the papers' signs hold."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runs import RECORDS, find_record
from .tables import TABLES, Table, cells

SEEDS = 3


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of a figure over its seeds.

    Args:
        mean: of the values.
        deviation: None of one value.
        n: how many values.
    """

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Sign:
    """A paper's claim: one row is above another.

    Args:
        table: the table's letter.
        better, worse: names of rows.
        metric: by which figure.
        factor: at which resolution factor.
    """

    table: str
    better: str
    worse: str
    metric: str
    factor: str = "1"


SIGNS = (
    *(
        Sign("A", better, worse, "mean_class_accuracy")
        for better, worse in (
            ("MEK (RAC + RSL)", "Cross-entropy"),
            ("MEK (RAC + RSL)", "EAC"),
            ("MEK, λ = 0.2", "Cross-entropy"),
            ("MEK, λ = 0.2", "EAC, λ = 0.5"),
        )
    ),
    *(
        Sign("B", better, worse, "accuracy", factor)
        for better, worse in (
            ("HSAC", "Cross-entropy"),
            ("HSAC", "EAC + L_a"),
            ("HSAC, λ_ca = 0.3", "Cross-entropy"),
            ("HSAC, λ_ca = 0.3", "EAC + L_a, λ = 0.5 and 0.3"),
            ("Multi-resolution training", "Cross-entropy"),
        )
        for factor in ("4", "8")
    ),
    *(
        Sign("C", better, worse, "accuracy")
        for better, worse in (
            ("e: STN + SR / LTR, F-PDLS", "e, cross-entropy"),
            ("e: STN + SR / LTR, F-PDLS", "e, PDLS"),
            ("a: Bi / Bi, F-PDLS", "a, cross-entropy"),
            ("d: SR / LTR, F-PDLS", "a: Bi / Bi, F-PDLS"),
        )
    ),
    *(
        Sign("D", better, "Without reliability balancing", "accuracy")
        for better in ("Anchors", "Attentive correction (MHSA)", "Both")
    ),
    Sign("E", "GReFEL", "GReFEL without reliability balancing", "accuracy"),
    Sign("F", "Both", "Without reliability balancing", "accuracy"),
)


def records_of(
    table: Table, row: str, condition: str, scale: str = "cpu", seeds: int = SEEDS, folder: Path = RECORDS
) -> dict[int, dict[str, Any]]:
    """The records that there are of a row under a condition, by seed."""
    other = next(one.same_as for one in table.rows if one.name == row)
    if other is not None:
        return records_of(TABLES[other[0]], other[2], other[1], scale, seeds, folder)
    own = [cell for cell in cells(table, scale, seeds) if (cell.row, cell.condition) == (row, condition)]
    found = {cell.seed: find_record(cell, folder) for cell in own}
    return {seed: record for seed, record in found.items() if record is not None}


def figure(record: dict[str, Any], metric: str, factor: str = "1") -> float:
    """A figure of a record at a resolution factor."""
    return record["resolutions"][factor][metric]


def spread(records: dict[int, dict[str, Any]], metric: str, factor: str = "1") -> Spread | None:
    """A figure over the seeds; None without records."""
    values = [figure(record, metric, factor) for record in records.values()]
    return Spread.of(values) if values else None


def differences(
    sign: Sign, condition: str, scale: str = "cpu", seeds: int = SEEDS, folder: Path = RECORDS
) -> list[float]:
    """By how much the better row is above the worse one, seed by seed, where both have a record."""
    table = TABLES[sign.table]
    better = records_of(table, sign.better, condition, scale, seeds, folder)
    worse = records_of(table, sign.worse, condition, scale, seeds, folder)
    return [
        figure(better[seed], sign.metric, sign.factor) - figure(worse[seed], sign.metric, sign.factor)
        for seed in sorted(better.keys() & worse.keys())
    ]


def is_within(value: float, published: Spread) -> bool:
    """Whether a repeated run fits the published ones: no further from their mean than two deviations.

    Of three values none is further from their mean than 1.155 deviations, so the published ones fit. The small
    constant stands for the last bits in which machines differ where all seeds gave the same figure.
    """
    return abs(value - published.mean) <= 2 * (published.deviation or 0.0) + 1e-6


def verdict(gaps: Sequence[float]) -> str:
    """ "holds" where it does with every seed, "does not hold" where not even the mean is above 0, else "unclear".

    One seed is no evidence, and "one seed" then; "not run" without any.
    """
    if len(gaps) < 2:
        return "one seed" if gaps else "not run"
    if min(gaps) > 0:
        return "holds"
    return "does not hold" if statistics.fmean(gaps) <= 0 else "unclear"
