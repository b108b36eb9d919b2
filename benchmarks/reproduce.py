"""The papers' tables on real FERPlus, from one command:

    python benchmarks/reproduce.py --table A --scale cpu --data-root ferplus/ --runs runs/reproduce --jobs 2
    python benchmarks/reproduce.py --table A --scale cpu --data-root ferplus/ --check
    python benchmarks/reproduce.py --page

Every cell (a method, a condition, a seed) is one `hf-fer train` in a process of its own. What is finished is skipped
and what was interrupted resumed, so the same command goes on where the last one ended; its figures go to
benchmarks/records/, with the commit and the command. `--check` trains one published cell anew and compares; `--page`
writes docs/reproduction.md out of the records. "cpu" are small networks at 48 px, GReFEL's at 64, for minutes on a
core; "gpu" are ResNet-18 and Swin-T at 112 px and GReFEL's own network at 224, with the full budget.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from pathlib import Path

from reproduction.page import write_page
from reproduction.runs import run_cells, train_cell
from reproduction.summary import figure, is_within, records_of, spread
from reproduction.tables import SCALES, TABLES, Table, cells

from hf_fer.errors import FerError
from hf_fer.training.sweep import terminable


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    flags = {"cpu_threads": options.threads}
    try:
        if options.page:
            print(f"written: {write_page()}")
            return 0
        if options.check:
            with terminable():
                agreed = [check(TABLES[name], options.scale, options.data_root, flags) for name in options.table]
            return 0 if all(agreed) else 1
        if options.seed is not None and not 0 <= options.seed < options.seeds:
            raise FerError(
                f"There is no seed {options.seed} among 0 ... {options.seeds - 1}; choose one, or set --seeds."
            )
        wanted = [cell for name in options.table for cell in cells(TABLES[name], options.scale, options.seeds)]
        if options.seed is not None:
            wanted = [cell for cell in wanted if cell.seed == options.seed]
        tables = [TABLES[name] for name in options.table]
        if options.row:
            _check_names("row", options.row, [row.name for table in tables for row in table.rows])
            wanted = [cell for cell in wanted if cell.row in options.row]
        if options.condition:
            _check_names("condition", options.condition, [c for table in tables for c in table.conditions if c])
            wanted = [cell for cell in wanted if cell.condition in options.condition]
        with terminable():
            left = run_cells(
                wanted,
                Path(options.runs),
                options.data_root,
                jobs=options.jobs,
                minutes=options.minutes,
                flags=flags,
            )
    except FerError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        begins = "the check begins anew next time" if options.check else "the same command goes on from here"
        print(f"reproduce: interrupted; {begins}", file=sys.stderr)
        return 130
    if left:
        print(f"{len(left)} of {len(wanted)} cells are left; the same command goes on from here")
    return 0


def check(table: Table, scale: str, data_root: Path | None, flags: dict[str, int]) -> bool:
    """Trains one published cell of a table anew, its start included, and prints how it compares.

    Raises:
        FerError: the cell has less than two records yet, or a run failed.
    """
    condition, row = table.check
    published = records_of(table, row, condition, scale)
    if len(published) < 2:  # one value has no spread
        raise FerError(
            f"Table {table.letter} has {len(published) or 'no'} record of {row} at the scale {scale}, and a spread "
            "needs two; run the table with more seeds first."
        )
    cell = next(c for c in cells(table, scale, 1) if (c.condition, c.row) == table.check)
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        if cell.start is not None:
            train_cell(cell.start, Path(folder), data_root, flags)
        report = train_cell(cell, Path(folder), data_root, flags).report or {}
    fits = True
    print(f"{cell}:")
    for metric in ("accuracy", "mean_class_accuracy"):
        before, now = spread(published, metric), figure(report["selected"], metric)
        assert before is not None and before.deviation is not None
        fits &= is_within(now, before)
        around = f"{100 * before.mean:.2f} ± {100 * before.deviation:.2f} over {before.n} seeds"
        verdict = "within" if is_within(now, before) else "outside"
        print(f"  {metric}: {100 * now:.2f}, published {around}: {verdict} two deviations")
    return fits


def _check_names(kind: str, names: list[str], known: list[str]) -> None:
    if unknown := next((name for name in names if name not in known), None):
        raise FerError(f"No such {kind} as {unknown!r}; there are {'; '.join(known) or 'none'}.")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    def minutes(text: str) -> float:
        value = float(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    def count(text: str) -> int:
        if int(text) < 1:
            raise ValueError
        return int(text)

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=[*TABLES], default=[], help="which tables")
    parser.add_argument("--scale", choices=SCALES, default="cpu", help="how large the networks are")
    parser.add_argument("--data-root", type=Path, help="FERPlus, as for `hf-fer train --data_root`")
    parser.add_argument("--runs", default="runs/reproduce", help="where the runs lie (default: %(default)s)")
    parser.add_argument("--seeds", type=count, default=3, help="seeds 0 ... N - 1 (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="only this one of them")
    parser.add_argument("--row", nargs="+", metavar="ROW", help="only these rows, and the starts that they need")
    parser.add_argument("--condition", nargs="+", metavar="NAME", help="only under these conditions")
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--threads", type=count, default=1, help="of each run, on a CPU (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="train one published cell of each table anew and compare")
    parser.add_argument("--page", action="store_true", help="write docs/reproduction.md out of the records")
    parser.add_argument("--minutes", type=minutes, help="begin no run later than this")
    options = parser.parse_args(argv)
    if not options.page and not options.table:
        parser.error("say which tables with --table, or write the page with --page")
    if options.check and (options.row or options.condition):
        parser.error("--check repeats the cell that its table names; leave --row and --condition out")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
