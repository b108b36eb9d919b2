"""The papers' tables on real FERPlus, from one command:

    python benchmarks/reproduce.py --table A --scale cpu --data-root ferplus/ --runs runs/reproduce --jobs 2
    python benchmarks/reproduce.py --table A --scale cpu --data-root ferplus/ --check
    python benchmarks/reproduce.py --page

Every cell (a method, a condition, a seed) is one `hf-fer train` in a process of its own. What is finished is skipped
and what was interrupted resumed, so the same command goes on where the last one ended; its figures go to
benchmarks/records/, with the commit and the command. `--check` trains one published cell anew and compares; `--page`
writes docs/reproduction.md out of the records. "cpu" is a small network at 48 px for minutes on a core, "gpu" ResNet-18
at 112 px with the full budget.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from reproduction.runs import run_cells
from reproduction.tables import SCALES, TABLES, cells

from hf_fer.errors import FerError


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)
    try:
        wanted = [cell for name in options.table for cell in cells(TABLES[name], options.scale, options.seeds)]
        if options.seed is not None:
            wanted = [cell for cell in wanted if cell.seed == options.seed]
        left = run_cells(
            wanted,
            Path(options.runs),
            options.data_root,
            jobs=options.jobs,
            minutes=options.minutes,
            flags={"cpu_threads": options.threads},
        )
    except FerError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reproduce: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if left:
        print(f"{len(left)} of {len(wanted)} cells are left; the same command goes on from here")
    return 0


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
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--threads", type=count, default=1, help="of each run, on a CPU (default: %(default)s)")
    parser.add_argument("--minutes", type=minutes, help="begin no run later than this")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
