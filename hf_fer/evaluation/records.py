"""Result records: one JSON file for each evaluation, written whole or not at all, and never believed unchecked.

`record.schema.json` beside this file describes every field; `docs/records.md` is made from it. What follows from a
record's confusion matrices is computed anew whenever a record is written or read, so a figure that was typed in is
refused.
"""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics.scores import challenge_score
from hf_fer.evaluation.whole_files import shown, write_whole

MAX_BYTES = 8 << 20
TOLERANCE = 1e-9  # of figures computed anew: far above float64 rounding, far below what anybody would report
PROBABILISTIC = ("nll", "ece", "brier", "top2_accuracy")
HEADLINE = ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", *PROBABILISTIC)

# Where a record is wrong: the keys and indices from its top down to there. And what is wrong.
Problem = tuple[tuple[str | int, ...], str]


def write_record(record: Mapping[str, Any], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Check a result record and write it as JSON: to a temporary file in the same folder, then renamed.

    Args:
        record: a record as returned by `evaluate_model`; numpy scalars and arrays become numbers and lists.
        path: target file; missing parent folders are made.
        overwrite: replace an existing file instead of refusing.

    Returns:
        The path written.

    Raises:
        FerError: the file exists and `overwrite` is false, it cannot be written, or one of the conditions of
            `check_record`.
    """
    path = Path(path)
    where = shown(path)
    text = _to_json(record, where)
    _check(_from_json(text, where), where)
    write_whole(path, lambda file: file.write(text.encode()), overwrite)
    return path


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a result record and check it as `check_record` does. The file may come from anybody.

    Raises:
        FerError: the file cannot be read, is larger than 8 MiB, is not strict JSON in UTF-8 (NaN, infinite numbers,
            a key twice in one object and very deep nesting are refused too), or one of the conditions of
            `check_record`.
    """
    path = Path(path)
    where = shown(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        what = getattr(error, "strerror", None) or error
        raise FerError(
            f"The record {where} cannot be read ({what}); pass a file written by `hf-fer evaluate`."
        ) from error
    _check_size(len(data), where)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FerError(
            f"{where} is not UTF-8 text (byte {error.start}); pass a file written by `hf-fer evaluate`."
        ) from None
    record = _from_json(text, where)
    _check(record, where)
    return record


def check_record(record: Mapping[str, Any], where: str) -> None:
    """Check a result record against its schema and against itself.

    Whatever follows from the confusion matrices is computed anew and must agree to 1e-9: `n`, the accuracies, F1
    scores and challenge score, the figures of each class, `average_low_resolution` and `metrics`. The labels, the
    protocol with its conditions, the factors and the date must be consistent too.

    Args:
        record: a record as returned by `evaluate_model` or `read_record`.
        where: what to call it in the error, such as its path.

    Raises:
        FerError: it is not JSON or larger than 8 MiB, a field is missing or is not as `record.schema.json` says, or
            two fields contradict each other. The sentence names the first such field.
    """
    where = shown(where)
    _check(_from_json(_to_json(record, where), where), where)


def fields_table(schema: Mapping[str, Any] | None = None) -> str:
    """The fields of a record as a Markdown table: name, type, unit or range, meaning; for `docs/records.md`.

    Args:
        schema: the JSON Schema; default: `record.schema.json`.
    """
    schema = _load_schema() if schema is None else schema
    rows = ["| Field | Type | Unit, range | Meaning |", "| --- | --- | --- | --- |"]
    for name, field in _fields(schema, "", schema["$defs"]):
        cells = (f"`{name}`", _type_of(field), _range_of(field), field["description"])
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


# Schema, then consistency


def _check(record: dict[str, Any], where: str) -> None:
    problem = _schema_problem(record) or next(_contradictions(record), None)
    if problem:
        path, what = problem
        raise FerError(
            f"The record {where} is refused: {_json_path(path)}: {what}; write records with `hf-fer evaluate` or "
            "write_record, and do not edit them."
        )


def _schema_problem(record: dict[str, Any]) -> Problem | None:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    def items(validator: Any, schema: Any, instance: Any, parent: Any) -> Iterator[Any]:
        # The counts of a matrix one by one through the validator would make seconds of a large hostile file.
        if schema.get("type") == "integer" and isinstance(instance, list):
            low, high = schema["minimum"], schema["maximum"]
            if all(type(value) is int and low <= value <= high for value in instance):
                return
        yield from Draft202012Validator.VALIDATORS["items"](validator, schema, instance, parent)

    # JSON Schema takes 3.0 for an integer; Python code that reads the record would not.
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    validator = extend(Draft202012Validator, validators={"items": items}, type_checker=types)(_load_schema())
    # The first error, not the best of all: there may be a million of them.
    error = next(validator.iter_errors(record), None)
    return None if error is None else (tuple(error.absolute_path), _describe(error))


def _describe(error: Any) -> str:
    if error.validator == "pattern":
        return f"{_short(error.instance)} is not {error.schema['description']}"
    if len(error.message) <= 200:
        return _one_line(error.message)
    return f"{_short(error.instance)} does not fit {error.validator} {_short(error.validator_value)}"


def _contradictions(record: dict[str, Any]) -> Iterator[Problem]:
    """What a record that fits the schema says against itself."""
    # A file of answers alone does not tell which classes its author knows.
    answers_alone = record["source"] == "predictions" and record["metrics"]["nll"] is None
    yield from _label_problems(record["labels"], answers_alone)
    yield from _factor_problems(record["resolutions"])
    labels = record["labels"]
    names = [*labels["dataset"], *labels["missing_in_dataset"]]
    for key, scores in record["resolutions"].items():
        for path, what in _score_problems(scores, names, labels):
            yield ("resolutions", key, *path), what
        # A model answers its most probable class; who hands in answers may have chosen another of a tie.
        if record["source"] != "predictions" and scores.get("top2_accuracy", 1) < scores["accuracy"] - TOLERANCE:
            yield ("resolutions", key, "top2_accuracy"), "it is below the accuracy, which counts the first of the two"
        if scores["n"] != record["n"]:
            yield ("n",), f"{record['n']} is not the {scores['n']} images of the confusion matrix at factor {key}"
    first_key, first = next(iter(record["resolutions"].items()))
    for key, scores in record["resolutions"].items():
        for name in names:
            if scores["per_class"][name]["support"] != first["per_class"][name]["support"]:
                path = ("resolutions", key, "per_class", name, "support")
                yield path, f"the same images are scored at each factor, and factor {first_key} has another number"
    for name in HEADLINE:
        if not _equal(record["metrics"][name], first.get(name)):
            yield ("metrics", name), f"{record['metrics'][name]} is not the {first.get(name)} of factor {first_key}"
    low = [scores["accuracy"] for key, scores in record["resolutions"].items() if float(key) > 1]
    average = sum(low) / len(low) if low else None
    if not _equal(record["average_low_resolution"], average):
        what = f"{record['average_low_resolution']} is not {average}, the mean accuracy over the factors above 1"
        yield ("average_low_resolution",), what
    yield from _protocol_problems(record)
    if record["latency"] and record["latency"]["p90_ms"] < record["latency"]["median_ms"]:
        yield ("latency", "p90_ms"), "the 90th percentile lies below the median"
    try:
        date = datetime.datetime.fromisoformat(record["date"].replace("Z", "+00:00"))  # Python 3.10 knows no Z
    except ValueError:
        date = None
    if date is None or date.tzinfo is None:
        yield ("date",), f"{_short(record['date'])} is no date and time with its zone"


def _label_problems(labels: dict[str, Any], answers_alone: bool) -> Iterator[Problem]:
    own, dataset, targets = labels["model"], labels["dataset"], labels["model_to_dataset"]
    if set(targets) != set(own):
        yield ("labels", "model_to_dataset"), "its keys are not the classes in labels.model"
        return
    mapped = [target for target in targets.values() if target is not None]
    for name, target in targets.items():
        if target is not None and target not in dataset:
            yield ("labels", "model_to_dataset", name), f"{_short(target)} is not one of labels.dataset"
        if target is not None and mapped.count(target) > 1:
            yield ("labels", "model_to_dataset", name), f"{_short(target)} is the target of another class too"
    if not mapped:
        yield ("labels", "model_to_dataset"), "no class is shared, so nothing can have been scored"
    lacking = [name for name in dataset if name not in mapped]
    if labels["missing_in_model"] != lacking and not (answers_alone and labels["missing_in_model"] == []):
        yield ("labels", "missing_in_model"), "these are not the classes that labels.model_to_dataset leaves out"
    names = list(dataset)  # then, as in the scored table, the model's other classes
    for name in own:
        if targets[name] is None:
            names.append(f"{name} (the model's)" if name in names else name)
    if labels["missing_in_dataset"] != names[len(dataset) :]:
        yield ("labels", "missing_in_dataset"), "these are not the classes that labels.model_to_dataset maps to null"
    for name in labels["left_out"]:
        if name not in labels["missing_in_model"]:
            yield ("labels", "left_out", name), "only classes in labels.missing_in_model can be left out"


def _factor_problems(resolutions: dict[str, Any]) -> Iterator[Problem]:
    for key in resolutions:
        try:
            factor = float(key)
        except ValueError:
            factor = math.nan
        if not (math.isfinite(factor) and factor >= 1):
            yield ("resolutions", key), "the key is not a resolution factor of at least 1"
        elif f"{factor:g}" != key:
            yield ("resolutions", key), f'the factor is to be written "{factor:g}"'


def _score_problems(scores: dict[str, Any], names: list[str], labels: dict[str, Any]) -> Iterator[Problem]:
    """At one factor. `names`: the matrix's classes, the data set's first."""
    rows = scores["confusion_matrix"]
    if len(rows) != len(names) or any(len(row) != len(names) for row in rows):
        what = f"the matrix is not {len(names)} x {len(names)}, for labels.dataset and labels.missing_in_dataset"
        yield ("confusion_matrix",), what
        return
    matrix = np.array(rows, dtype=np.int64)
    known = len(labels["dataset"])
    if matrix.sum() == 0:
        yield ("confusion_matrix",), "there is no image in the matrix"
        return
    if matrix[known:].any():
        yield ("confusion_matrix",), "a class that the data set lacks has images"
    if labels["restricted_to_dataset_classes"] and matrix[:, known:].any():
        yield ("confusion_matrix",), "a class that labels.restricted_to_dataset_classes rules out was answered"
    if matrix[:, [k for k in range(known) if names[k] in labels["missing_in_model"]]].any():
        yield ("confusion_matrix",), "a class in labels.missing_in_model was answered"
    if any(matrix[names.index(name)].any() for name in labels["left_out"]):
        yield ("confusion_matrix",), "a class in labels.left_out has images"
    if list(scores["per_class"]) != names:
        yield ("per_class",), "its classes are not labels.dataset and then labels.missing_in_dataset, in their order"
        return
    yield from _differences(_figures(matrix, names, known), scores, ())
    for name in ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score"):
        low, high = scores["ci95"].get(name, (0, 0))
        if low > high:
            yield ("ci95", name), f"the interval's low end {low} lies above its high end {high}"
    # Of the accuracy the bootstrap's median is the figure itself; other figures of small classes may lie outside.
    low, high = scores["ci95"]["accuracy"]
    if not low - 1 / scores["n"] <= scores["accuracy"] <= high + 1 / scores["n"]:
        yield ("ci95", "accuracy"), f"the interval [{low}, {high}] does not hold the accuracy {scores['accuracy']}"
    if "top2_accuracy" in scores:
        hits = scores["top2_accuracy"] * scores["n"]
        if abs(hits - round(hits)) > 1e-6:
            yield ("top2_accuracy",), f"{scores['top2_accuracy']} is no share of {scores['n']} images"
        if len(names) <= 2 and scores["top2_accuracy"] != 1:
            yield ("top2_accuracy",), f"{scores['top2_accuracy']} is not 1, though there are {len(names)} classes"


def _figures(matrix: np.ndarray, names: Sequence[str], known: int) -> dict[str, Any]:
    """What `score_predictions` makes of the answers behind a confusion matrix, without the probabilities.

    Args:
        matrix: (K, K) int64, rows are the truth, sum > 0.
        names: the K classes.
        known: how many of them, from the first, images can have; the others count as `answer_only`.
    """
    hits = np.diagonal(matrix).astype(np.float64)
    support, answered = matrix.sum(axis=1), matrix.sum(axis=0)
    precision = np.divide(hits, answered, out=np.zeros_like(hits), where=answered > 0)
    recall = np.divide(hits, support, out=np.zeros_like(hits), where=support > 0)
    f1 = np.divide(2 * hits, support + answered, out=np.zeros_like(hits), where=support + answered > 0)
    present = support > 0
    averaged = present | ((answered > 0) & (np.arange(len(names)) < known))
    accuracy, f1_macro = float(hits.sum() / matrix.sum()), float(f1[averaged].mean())
    return {
        "n": int(matrix.sum()),
        "accuracy": accuracy,
        "mean_class_accuracy": float(recall[present].mean()),
        "f1_macro": f1_macro,
        "challenge_score": challenge_score(accuracy, f1_macro),
        "classes_absent": [name for name, there in zip(names, present, strict=True) if not there],
        "per_class": {
            name: {
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
                "support": int(support[k]),
            }
            for k, name in enumerate(names)
        },
    }


def _differences(expected: Any, found: Any, path: tuple[str | int, ...]) -> Iterator[Problem]:
    if isinstance(expected, dict):
        for key, value in expected.items():
            yield from _differences(value, found[key], (*path, key))
    elif not _equal(found, expected):
        yield path, f"{_short(found)} is not the {_short(expected)} that follows from the confusion matrix"


def _protocol_problems(record: dict[str, Any]) -> Iterator[Problem]:
    protocol, conditions, training = record["protocol"], record["conditions"], record["training"]
    plain = list(record["resolutions"]) == ["1"] and record["reference_side"] is None
    if protocol == "standard" and not plain:
        yield ("protocol",), "standard is factor 1 alone without a reference_side; more is multi_resolution"
    if record["dataset"] in conditions.get("trained_on", ()):
        what = f"cross_dataset scores on another data set than the training's, and {_short(record['dataset'])} is one"
        yield ("conditions", "trained_on"), what
    if conditions.get("stated_by") != "report":
        return
    if training is None:
        yield ("conditions", "stated_by"), "there is no report, for training is null"
    elif protocol == "cross_dataset":
        if training["dataset"] not in conditions["trained_on"]:
            yield ("conditions", "trained_on"), "training.dataset, which the report states, is not in it"
    elif not _equal(conditions[key := _CONDITION[protocol]], training[key]):
        yield ("conditions", key), f"{conditions[key]} is not the {training[key]} that the report states"


_CONDITION = {"imbalance": "imbalance_factor", "label_noise": "label_noise"}


def _equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(found - expected) <= TOLERANCE
    return found == expected


# JSON, strictly


def _to_json(record: Mapping[str, Any], where: str) -> str:
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        size = len(text.encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise FerError(
            f"The record {where} cannot be written as JSON ({_one_line(error)}); remove or convert that value."
        ) from error
    _check_size(size, where)
    return text


def _from_json(text: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_number, parse_float=_finite_number
        )
        json.dumps(record, ensure_ascii=False).encode("utf-8")  # half a surrogate pair could not be written again
    except RecursionError:
        raise FerError(f"{where} nests too deeply; pass a file written by `hf-fer evaluate`.") from None
    except UnicodeEncodeError:
        raise FerError(
            f"{where} holds half a surrogate pair, which is no text; pass a file written by `hf-fer evaluate`."
        ) from None
    except ValueError as error:
        raise FerError(f"{where} is not JSON ({_one_line(error)}); pass a file written by `hf-fer evaluate`.") from None
    if not isinstance(record, dict):
        raise FerError(
            f"{where} holds a JSON {type(record).__name__}, not an object; pass a file written by `hf-fer evaluate`."
        )
    return record


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {_short(twice)} stands twice in one object")
    return result


def _refuse_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {_short(text)} is too large")
    return number


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _check_size(size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise FerError(
            f"{where} is larger than {MAX_BYTES >> 20} MiB, which no record is; pass one that `hf-fer evaluate` wrote."
        )


def _load_schema() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))


# The table of fields


def _fields(schema: Mapping[str, Any], prefix: str, shared: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and resolved schema of every described field, parents first; `*` stands for any key."""
    children = dict(schema.get("properties", {}))
    if "description" in (anything := schema.get("additionalProperties") or {}):
        children["*"] = anything
    for key, child in children.items():
        name = f"{prefix}{key}"
        yield name, {**_resolved(child, shared), "optional": prefix != "" and key not in schema.get("required", [key])}
        yield from _fields(child, f"{name}.", shared)


def _resolved(field: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    target = shared[field["$ref"].rpartition("/")[2]] if "$ref" in field else {}
    merged = {**target, **field}
    for key in ("items", "additionalProperties"):
        if isinstance(merged.get(key), Mapping):
            merged[key] = _resolved(merged[key], shared)
    return merged


def _type_of(field: Mapping[str, Any]) -> str:
    if "const" in field:
        text = f"`{json.dumps(field['const'])}`"
    elif "enum" in field:
        text = ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    else:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        text = " or ".join(kinds)
        if "array" in kinds:
            text += f" of {_type_of(field['items'])}"
        elif isinstance(values := field.get("additionalProperties"), Mapping):
            text += f" of {_type_of(values)}"
    return f"{text}, optional" if field.get("optional") else text


def _range_of(field: Mapping[str, Any]) -> str:
    while isinstance(field.get("items"), Mapping):
        field = {**field["items"], **{key: field[key] for key in ("unit",) if key in field}}
    bounds = [("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")]
    parts = [field["unit"]] if "unit" in field else []
    # Bounds of a million and more only keep hostile files small.
    parts += [f"{sign} {field[key]}" for key, sign in bounds if abs(field.get(key, 1e6)) < 1e6]
    return ", ".join(parts)


# Text


def _json_path(path: Sequence[str | int]) -> str:
    """As JSONPath writes it, hostile keys cut and in quotes."""
    steps = [
        f".{step}" if isinstance(step, str) and step.isidentifier() and len(step) <= 60 else f"[{_short(step)}]"
        for step in path
    ]
    return "".join(["$", *steps])


def _short(value: Any) -> str:
    text = repr(value[:64] if isinstance(value, str | list) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def _one_line(text: object) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())[:200]
