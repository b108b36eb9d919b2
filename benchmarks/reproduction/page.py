"""docs/reproduction.md: the tables, the papers' figures beside ours, and what became of the papers' claims."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_fer.errors import FerError
from hf_fer.evaluation import read_record
from hf_fer.evaluation.markdown import code, escape, fenced, table

from .pictures import plot_gains
from .runs import RECORDS, ROOT
from .summary import SEEDS, SIGNS, Sign, Spread, differences, records_of, spread, verdict
from .tables import TABLES, Row, Table, in_sentence

PAGE = ROOT / "docs" / "reproduction.md"
READINGS = Path(__file__).parent / "readings"
SHIPPED = ROOT / "leaderboard" / "records"  # of the embedded models
_NAMES = {"accuracy": "accuracy", "mean_class_accuracy": "mean class", "ece": "ECE"}
_TIMES = "\u00d7"


def write_page(path: Path = PAGE, folder: Path = RECORDS) -> Path:
    """Writes the page and its pictures out of the records; raises what `find_record` raises."""
    for one in TABLES.values():
        found = _found(one, "cpu", folder)
        if any(found.values()):
            plot_gains(one, found, _drawn(one, found), path.with_name(_picture(one)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(folder), encoding="utf-8")
    return path


def render(folder: Path = RECORDS) -> str:
    """The page's Markdown."""
    blocks = [(READINGS / "introduction.md").read_text(encoding="utf-8").strip()]
    for one in TABLES.values():
        blocks += _section(one, folder)
    return "\n\n".join(blocks) + "\n"


def _section(one: Table, folder: Path) -> Iterator[str]:
    yield f"## {one.letter}. {one.title}"
    if one.paper:
        yield f"After {one.source}; its figures, in italics, are on {one.paper}."
    if any(_found(one, "cpu", folder).values()):
        letters = sorted({one.letter, *(row.same_as[0] for row in one.rows if row.same_as)})
        yield from _results(one, "cpu", folder, ["--table", *letters, "--scale", "cpu"])
    else:
        yield "Not run yet."
    # At the GPU scale the rows and conditions that have been run, and no others.
    larger = [key for key, records in _found(one, "gpu", folder).items() if records]
    if larger:
        rows = tuple(row for row in one.rows if any(name == row.name for name, _ in larger))
        conditions = {c: keys for c, keys in one.conditions.items() if any(c == other for _, other in larger)}
        words = ["--table", one.letter, "--scale", "gpu", "--row", *(row.name for row in rows)]
        if any(conditions):
            words += ["--condition", *conditions]
        yield f"### {one.letter} at the GPU scale"
        yield from _results(replace(one, rows=rows, conditions=conditions), "gpu", folder, words)


def _results(one: Table, scale: str, folder: Path, words: list[str]) -> Iterator[str]:
    """What came out at a scale, and by which command: `words` are its options."""
    found = _found(one, scale, folder)
    made = [record for records in found.values() for record in records.values()]
    yield _settings(one, made, scale)
    yield _figures(one, found)
    if scale == "cpu":  # the embedded models' scale, and the pictures'
        if any(row.shipped for row in one.rows):
            yield from _costs(one, found)
        yield f"![What each row of table {one.letter} gains on {in_sentence(one.rows[0].name)}]({_picture(one)})"
    if all("balancing" in record["reproduction"] for record in made):  # table E shows other methods beside GReFEL
        yield "ECE of the head alone, and after balancing, of the same models:"
        yield _balancing(one, found)
    names = {row.name for row in one.rows}
    signs = [sign for sign in SIGNS if sign.table == one.letter and {sign.better, sign.worse} <= names]
    if signs:
        text = "The papers' claims, and what came out: differences in points, seed by seed from the same start."
        if any("λ" in sign.better for sign in signs):
            text += " Rows with a λ in their name ask the same of weights for networks that were not pretrained."
        yield text
        yield _signs(one, signs, scale, folder)
    reading = READINGS / (f"{one.letter}.md" if scale == "cpu" else f"{one.letter}-{scale}.md")
    if reading.is_file():
        yield reading.read_text(encoding="utf-8").strip()
    yield fenced(shlex.join(["python", "benchmarks/reproduce.py", *words, "--data-root", "DIR"]), "")


def _found(one: Table, scale: str, folder: Path) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """The records of a table by (row, condition) and seed."""
    return {
        (row.name, condition): records_of(one, row.name, condition, scale, folder=folder)
        for row in one.rows
        for condition in one.conditions
    }


def _picture(one: Table) -> str:
    return f"reproduction-{one.letter.lower()}.png"


def _drawn(one: Table, found: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> list[tuple[str, str, str]]:
    """The columns of the picture: all conditions, or all factors."""
    made = [record for records in found.values() for record in records.values()]
    return [column for column in _columns(one, made) if column[1] == one.drawn]


def _settings(one: Table, made: list[dict[str, Any]], scale: str) -> str:
    """What a reader must know of a table's runs, as the records tell it: of all of them, as rows may differ."""
    first = made[0]
    recipe, options = first["reproduction"]["recipe"], first["options"]
    parameters = sorted({record["parameters"] for record in made})
    size = " to ".join(f"{count / 1e6:.2f} M" for count in dict.fromkeys((parameters[0], parameters[-1])))
    commits = Counter(record["reproduction"]["commit"][:7] for record in made)
    images = {
        condition: next((r["reproduction"]["data"]["train_images"] for r in made if _is(r, condition)), None)
        for condition in one.conditions
    }
    trained = ", ".join(f"{n:,}{f' ({name})' if name else ''}" for name, n in images.items() if n is not None)
    chosen = dict.fromkeys(record["reproduction"]["selected_by"] for record in made)
    machines = dict.fromkeys(_machine(record) for record in made)
    epochs = _all(made, "epochs")
    facts = [
        f"FERPlus, {options['classes']} classes, rule {options['label_rule']}: {trained} training images, "
        f"{first['n']:,} test images.",
        f"Networks of {size} parameters at {_all(made, 'image_size')} px.",
        f"{epochs} epoch{'' if epochs == '1' else 's'} of {_all(made, 'batch_size')} images a step, "
        f"{_starts(made, scale)}",
        f"The epoch is chosen by {' or '.join(chosen)}.",
        f"Machine: {' or '.join(machines)}, {recipe['mixed_precision']}. Commit {', '.join(code(c) for c in commits)}.",
    ]
    return " ".join(facts)


def _all(made: list[dict[str, Any]], key: str) -> str:
    """The values of a recipe key among the records."""
    return " or ".join(map(str, sorted({record["reproduction"]["recipe"][key] for record in made})))


def _machine(record: dict[str, Any]) -> str:
    hardware = record["hardware"]
    if hardware["device"] != "cpu":
        return escape(hardware["device"])
    return f"{escape(hardware['processor'])}, {record['reproduction']['recipe']['cpu_threads']} thread"


def _starts(made: list[dict[str, Any]], scale: str) -> str:
    """What the rows go on from."""
    paths = {record["reproduction"]["start"] for record in made} - {None}
    letters = sorted({path.split("/")[1] for path in paths})
    epochs = {letter: TABLES[letter].start_epochs[scale] for letter in letters}
    rest = (
        "epochs of cross-entropy on the same training images, whose backbone every row goes on from; all else, such as "
        "the classifier, begins anew."
    )
    if not letters:
        return "from scratch."
    if len(letters) == 1:
        return f"all from the same start: {epochs[letters[0]]} {rest}"
    each = ", ".join(f"{count} ({letter})" for letter, count in epochs.items())
    return f"from the starts of several tables: {each} {rest}"


def _is(record: dict[str, Any], condition: str) -> bool:
    return record["reproduction"]["condition"] == condition


def _columns(one: Table, made: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(condition, metric, factor) of each column."""
    factors = list(made[0]["resolutions"])
    if any(one.conditions):
        return [(c, metric, "1") for c in one.conditions for metric in one.metrics]
    return [("", "accuracy", factor) for factor in factors] + [("", "mean_class_accuracy", factors[0])]


def _figures(one: Table, found: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> str:
    made = [record for records in found.values() for record in records.values()]
    columns = _columns(one, made)
    heads = [
        f"{c}, {_NAMES[m]}" if c else f"{_TIMES}{f}" if m == "accuracy" else f"{_TIMES}{f}, {_NAMES[m]}"
        for c, m, f in columns
    ]
    lines = []
    for row in one.rows:
        lines.append([escape(row.name), *(_cell(spread(found[row.name, c], m, f)) for c, m, f in columns)])
        if row.paper:
            lines.append(["&nbsp;&nbsp;the paper", *(_paper(one, row, column) for column in columns)])
    return table(["", *heads], lines)


def _costs(one: Table, found: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> Iterator[str]:
    """Parameters of the runs, latency of the embedded models."""
    lines, machines = [], set()
    for row in one.rows:
        sizes = {record["parameters"] for condition in one.conditions for record in found[row.name, condition].values()}
        model, latency = "-", "-"
        if row.shipped is not None:
            path = SHIPPED / f"{row.shipped}.json"
            time = read_record(path)["latency"]
            if time is None:
                command = f"hf-fer evaluate {row.shipped} --data ferplus --root DIR --resolutions 1,2,4,8 --latency"
                raise FerError(f"{path} has no latency; make it anew with `{command} --output {path}`.")
            model, latency = f"`{row.shipped}`", f"{time['median_ms']:.2f}"
            machines.add(f"{escape(time['processor'])}, {time['threads']} thread, {time['dtype']}")
        lines.append([escape(row.name), " to ".join(f"{size:,}" for size in sorted(sizes)) or "-", model, latency])
    yield (
        "What they cost, by the [leaderboard](../leaderboard/README.md)'s records of the embedded models that are runs "
        f"of the rows: median time for one image on {' or '.join(sorted(machines))}."
    )
    yield table(["", "parameters", "embedded model", "latency, ms"], lines)


def _balancing(one: Table, found: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> str:
    lines = []
    for row in one.rows:
        line = [escape(row.name)]
        for condition in one.conditions:
            made = [record["reproduction"]["balancing"] for record in found[row.name, condition].values()]
            both = [[one[when]["ece"] for one in made] for when in ("before", "after")]
            line.append(" to ".join(_cell(Spread.of(values) if values else None) for values in both))
        lines.append(line)
    return table(["", *one.conditions], lines)


def _cell(value: Spread | None) -> str:
    if value is None:
        return "-"
    deviation = "" if value.deviation is None else f" ± {100 * value.deviation:.2f}"
    return f"{100 * value.mean:.2f}{deviation}" + (f" (n = {value.n})" if value.n != SEEDS else "")


def _paper(one: Table, row: Row, column: tuple[str, str, str]) -> str:
    condition, metric, factor = column
    figures = row.paper.get(condition if condition else metric)
    if figures is None:
        return ""
    index = one.metrics.index(metric) if condition else ("1", "2", "4", "8").index(factor)
    value = figures[index] if index < len(figures) else None
    return "" if value is None else f"*{value:.2f}*"


def _signs(one: Table, signs: list[Sign], scale: str, folder: Path) -> str:
    lines = []
    for sign in signs:
        for condition in one.conditions:
            gaps = differences(sign, condition, scale, folder=folder)
            where = condition or f"{_TIMES}{sign.factor}"
            each = ", ".join(f"{100 * gap:+.2f}" for gap in gaps)
            value = _cell(Spread.of(gaps)) if gaps else "-"
            claim = f"{escape(sign.better)} above {escape(sign.worse)}, {_NAMES[sign.metric]}"
            lines.append([claim, where, value, each, verdict(gaps)])
    return table(["claim", "at", "difference", "by seed", ""], lines, left=2)
