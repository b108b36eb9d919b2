"""The tables as data: rows are methods and their baselines, conditions what they are compared under."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

SCALES = ("cpu", "gpu")


@dataclass(frozen=True)
class Row:
    """One method, or one of its baselines.

    Args:
        name: as the table calls it.
        method: whose configuration it is a row of.
        ablation: that row's name in the configuration's `ablations`; None: as the recipe is.
        changes: recipe keys beyond the row's.
        at_scale: more of them, by scale.
        same_as: (table, condition, row) of the runs that it shows, which are trained there; None: it has its own.
        start_of: (table, condition) whose starts it goes on from, instead of its own table's.
        shipped: the embedded model that is a run of it, whose latency the table shows.
        paper: the paper's figures in %, where it has some: by condition those of the table's metrics, or, in a
            table with but one condition, by metric the figures at ×1, ×2, ×4, ×8 (None: none given).
    """

    name: str
    method: str
    ablation: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    at_scale: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    same_as: tuple[str, str, str] | None = None
    start_of: tuple[str, str] | None = None
    shipped: str | None = None
    paper: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A comparison: every row under every condition from the same start, with the same budget and several seeds.

    Args:
        letter: its name.
        title: what it compares.
        source: the paper's table.
        paper: on what the paper's figures are.
        conditions: recipe keys by condition.
        rows: what is compared.
        start: what is trained first, once for each condition and seed, and hands its backbone to every row; None:
            rows without a `start_of` start from scratch.
        start_epochs: of the start, by scale.
        start_of: the table whose starts, under the same conditions, its rows go on from.
        check: (condition, row) of the cell that `--check` repeats.
        metrics: shown of every condition, where the table has several.
        drawn: the metric of its picture.
    """

    letter: str
    title: str
    source: str
    paper: str
    conditions: Mapping[str, Mapping[str, Any]]
    rows: tuple[Row, ...]
    start: Row | None = None
    start_epochs: Mapping[str, int] = field(default_factory=dict)
    start_of: str | None = None
    check: tuple[str, str] = ("", "")
    metrics: tuple[str, ...] = ("accuracy", "mean_class_accuracy")
    drawn: str = "accuracy"


@dataclass(frozen=True)
class Cell:
    """One training run of a table: a row under a condition with a seed, or the start of such rows.

    Args:
        table: the table's letter.
        condition: "" where the table has but one.
        row: the row's name, "start" for a start.
        seed: of the run.
        scale: "cpu" or "gpu".
        method: of the model.
        flags: recipe keys beyond the recipe's.
        start: the cell whose backbone it starts from.
    """

    table: str
    condition: str
    row: str
    seed: int
    scale: str
    method: str
    flags: Mapping[str, Any]
    start: Cell | None = None

    @property
    def config(self) -> str:
        """The recipe, below the repository's root."""
        return f"recipes/configs/{self.method}_ferplus_{self.scale}.yaml"

    @property
    def path(self) -> str:
        """Of its record and of its run, below a folder of either."""
        parts = [self.table, *([slug(self.condition)] if self.condition else []), slug(self.row)]
        return "/".join([self.scale, *parts, f"seed-{self.seed}"])

    def __str__(self) -> str:
        condition = f", {self.condition}" if self.condition else ""
        return f"{self.table}{condition}, {self.row}, seed {self.seed}"


def in_sentence(name: str) -> str:
    """A row's name where it does not begin a sentence."""
    return name[:1].lower() + name[1:]


def slug(text: str) -> str:
    """`text` as part of a path: lower case, runs of anything but letters, digits, dots and dashes as one dash."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in text.lower().replace("+", " and "))
    return "-".join(filter(None, safe.split("-")))


def cells(table: Table, scale: str, seeds: int) -> Iterator[Cell]:
    """All runs of a table, starts before their rows and seed by seed, so that an interrupted table compares."""
    for seed, (condition, keys) in itertools.product(range(seeds), table.conditions.items()):
        start = start_cell(TABLES[table.start_of] if table.start_of else table, scale, condition, seed)
        if start is not None and table.start_of is None:
            yield start
        for row in table.rows:
            if row.same_as is not None:
                continue
            flags = {**keys, **_row_flags(row), **row.at_scale.get(scale, {})}
            other = row.start_of and start_cell(TABLES[row.start_of[0]], scale, row.start_of[1], seed)
            yield Cell(table.letter, condition, row.name, seed, scale, row.method, flags, other or start)


def start_cell(table: Table, scale: str, condition: str, seed: int) -> Cell | None:
    """The run that the rows of a table go on from under this condition and with this seed."""
    if table.start is None:
        return None
    epochs = {"epochs": table.start_epochs[scale]}
    flags = {**table.conditions[condition], **_row_flags(table.start), **_START[scale], **epochs}
    return Cell(table.letter, condition, "start", seed, scale, table.start.method, flags)


def _row_flags(row: Row) -> dict[str, Any]:
    from hf_fer._auto import config_class

    return {**(config_class(row.method).ablations[row.ablation] if row.ablation else {}), **row.changes}


# From scratch the rate may be higher than from a trained backbone.
_START: dict[str, dict[str, Any]] = {"cpu": {"learning_rate": 2e-3}, "gpu": {"learning_rate": 1e-3}}

_A = Table(
    "A",
    "Class imbalance",
    "MEK (NeurIPS 2023), Table 4",
    "FERPlus, ResNet-18 of MS-Celeb-1M at 224 px",
    {f"factor {factor}": {"imbalance_factor": factor} for factor in (50, 100, 150)},
    (
        Row(
            "Cross-entropy",
            "mek",
            "Table 6: baseline",
            paper={"factor 50": (85.85, 71.20), "factor 100": (85.43, 69.39), "factor 150": (85.49, 67.39)},
        ),
        Row("Class-balanced loss", "mek", "baseline: class-balanced loss"),
        Row(
            "EAC",
            "mek",
            "baseline: EAC",
            paper={"factor 50": (88.11, 74.22), "factor 100": (87.87, 73.39), "factor 150": (87.41, 69.94)},
        ),
        Row("MEK, RAC only", "mek", "Table 6: RAC"),
        Row("MEK, RSL only", "mek", "Table 6: RSL"),
        Row(
            "MEK (RAC + RSL)",
            "mek",
            "Table 6: RAC + RSL",
            paper={"factor 50": (88.68, 76.35), "factor 100": (88.81, 76.01), "factor 150": (88.30, 74.09)},
        ),
        # The papers' weights are for pretrained networks: see docs/reproduction.md.
        Row("EAC, λ = 0.5", "mek", "baseline: EAC", {"consistency_weight": 0.5}),
        Row("MEK, λ = 0.2", "mek", "Table 6: RAC + RSL", {"consistency_weight": 0.2}),
    ),
    start=Row("start", "mek", "Table 6: baseline"),
    start_epochs={"cpu": 8, "gpu": 60},
    check=("factor 50", "Cross-entropy"),
    drawn="mean_class_accuracy",
)

_B = Table(
    "B",
    "Low resolution",
    "HSAC (WACV 2024), Table 2",
    "RAF-DB, ResNet-50 of MS-Celeb-1M at 224 px",
    {"": {}},
    (
        Row("Cross-entropy", "hsac", "Table 1, row 1: L_ce", paper={"accuracy": (None, 88.75, 87.03, 76.96)}),
        Row(
            "Cross-entropy + L_p", "hsac", "Table 1, row 4: L_ce + L_p", paper={"accuracy": (None, 88.75, 88.1, 83.83)}
        ),
        Row("EAC", "hsac", "Table 2: EAC", paper={"accuracy": (None, 90.06, 89.47, 81.94)}),
        Row("EAC + L_a", "hsac", "Table 2: EAC + L_a", paper={"accuracy": (None, 89.9, 88.55, 84.62)}),
        Row("HSAC", "hsac", "Table 1, row 9: HSAC", paper={"accuracy": (None, 90.58, 90.03, 86.25)}),
        Row("EAC, λ = 0.5", "hsac", "Table 2: EAC", {"flip_attention_weight": 0.5}),
        Row(
            "EAC + L_a, λ = 0.5 and 0.3",
            "hsac",
            "Table 2: EAC + L_a",
            {"flip_attention_weight": 0.5, "attention_weight": 0.3},
        ),
        Row("HSAC, λ_ca = 0.3", "hsac", "Table 1, row 9: HSAC", {"combined_attention_weight": 0.3}),
        Row("Multi-resolution training", "multires"),
    ),
    start=Row("start", "hsac", "Table 1, row 1: L_ce"),
    start_epochs={"cpu": 6, "gpu": 60},
    check=("", "Cross-entropy"),
)

_VANILLA = {"upsampler": "bilinear", "spatial_transformer": False, "downsizer": "bilinear"}
_CROSS_ENTROPY = {"prior_alpha": 1.0, "focal_gamma": 0.0}
_PDLS = {"focal_gamma": 0.0}

_C = Table(
    "C",
    "Resizer and loss",
    "Neural Resizer (ICASSP 2022), Tables 2 and 3",
    "FERPlus, Swin-S (row e and Table 3: Swin-B) of ImageNet at 224 px",
    {"": {}},
    (
        Row("a: Bi / Bi, F-PDLS", "neural_resizer", changes=_VANILLA, paper={"accuracy": (88.69,)}),
        Row(
            "b: Bi / LTR, F-PDLS",
            "neural_resizer",
            changes={**_VANILLA, "downsizer": "learned"},
            paper={"accuracy": (88.53,)},
        ),
        Row(
            "c: SR / Bi, F-PDLS",
            "neural_resizer",
            changes={**_VANILLA, "upsampler": "learned"},
            paper={"accuracy": (89.03,)},
        ),
        Row(
            "d: SR / LTR, F-PDLS",
            "neural_resizer",
            changes={"spatial_transformer": False},
            paper={"accuracy": (89.28,)},
        ),
        Row("e: STN + SR / LTR, F-PDLS", "neural_resizer", paper={"accuracy": (89.50,)}),
        Row("a, cross-entropy", "neural_resizer", changes={**_VANILLA, **_CROSS_ENTROPY}, paper={"accuracy": (88.72,)}),
        Row("a, PDLS", "neural_resizer", changes={**_VANILLA, **_PDLS}, paper={"accuracy": (88.69,)}),
        Row("e, cross-entropy", "neural_resizer", changes=_CROSS_ENTROPY, paper={"accuracy": (88.87,)}),
        Row("e, PDLS", "neural_resizer", changes=_PDLS, paper={"accuracy": (88.91,)}),
    ),
    start=Row("start", "neural_resizer", changes={**_VANILLA, **_CROSS_ENTROPY}),
    start_epochs={"cpu": 6, "gpu": 60},
    check=("", "a, cross-entropy"),
)

_D = Table(
    "D",
    "Reliability",
    "GReFEL (2024), Tables 2 and 7",
    "Aff-Wild2, the whole network of 43.8 M parameters, without label noise",
    {f"noise {share} %": {"label_noise": share / 100} for share in (0, 10, 20, 30)},
    (
        Row(
            "Without reliability balancing",
            "grefel",
            "Table 2: without reliability balancing",
            paper={"noise 0 %": (68.15,)},
        ),
        Row("Anchors", "grefel", "Table 2: anchors", paper={"noise 0 %": (70.36,)}),
        Row("Attentive correction (MHSA)", "grefel", "Table 2: MHSA", paper={"noise 0 %": (69.05,)}),
        Row("Both", "grefel", "Table 2: both", paper={"noise 0 %": (72.48,)}),
    ),
    start=Row("start", "grefel", "Table 2: without reliability balancing"),
    start_epochs={"cpu": 3, "gpu": 60},
    check=("noise 0 %", "Without reliability balancing"),
    metrics=("accuracy", "ece"),
)

_GREFEL = Row(
    "GReFEL",
    "grefel",
    changes={"eval_resolutions": [1, 2, 4, 8]},
    at_scale={"cpu": {"epochs": 5}},
    start_of=("D", "noise 0 %"),
    shipped="default-grefel",
)

_E = Table(
    "E",
    "All five as they would be shipped",
    "no single paper",
    "",
    {"": {}},
    (
        Row("Cross-entropy", "hsac", same_as=("B", "", "Cross-entropy")),
        Row("HSAC", "hsac", same_as=("B", "", "HSAC, λ_ca = 0.3"), shipped="default-hsac"),
        Row(
            "MEK",
            "mek",
            changes={
                "consistency_weight": 0.2,  # as in table A
                "dataset_options": {"label_rule": "majority", "classes": 8},
                "eval_resolutions": [1, 2, 4, 8],
                "select_by": "accuracy_over_resolutions",
            },
            at_scale={"cpu": {"batch_size": 64, "learning_rate": 1e-3}},  # as the rows of table B
            start_of=("B", ""),
            shipped="default-mek",
        ),
        Row(
            "Neural Resizer",
            "neural_resizer",
            same_as=("C", "", "e: STN + SR / LTR, F-PDLS"),
            shipped="default-neural_resizer",
        ),
        Row(
            "Multi-resolution training",
            "multires",
            same_as=("B", "", "Multi-resolution training"),
            shipped="default-multires",
        ),
        _GREFEL,
        # The comparison of table D with five times its budget.
        replace(
            _GREFEL,
            name="GReFEL without reliability balancing",
            ablation="Table 2: without reliability balancing",
            shipped=None,
        ),
    ),
    check=("", "MEK"),
)

_F = Table(
    "F",
    "Reliability, with five times the budget",
    _D.source,
    "",
    {condition: keys for condition, keys in _D.conditions.items() if condition != "noise 0 %"},  # that is in table E
    tuple(
        replace(row, at_scale={"cpu": {"epochs": 5}, "gpu": {"epochs": 150}}, paper={})
        for row in _D.rows
        if row.name in ("Without reliability balancing", "Both")
    ),
    start_of="D",
    check=("noise 10 %", "Without reliability balancing"),
    metrics=_D.metrics,
)

TABLES: dict[str, Table] = {table.letter: table for table in (_A, _B, _C, _D, _E, _F)}
