"""Result records of models that never were: random answers, honestly scored."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_fer.evaluation.fer_metrics.scores import bootstrap_ci95, score_predictions
from hf_fer.labels import EXPRESSIONS, map_labels

CONDITIONS: dict[str, dict[str, Any]] = {
    "standard": {},
    "multi_resolution": {},
    "imbalance": {"imbalance_factor": 100, "stated_by": "caller"},
    "label_noise": {"label_noise": 0.3, "stated_by": "caller"},
    "cross_dataset": {"trained_on": ["rafdb"], "stated_by": "caller"},
}
HEADLINE = (
    "accuracy",
    "mean_class_accuracy",
    "f1_macro",
    "challenge_score",
    "nll",
    "ece",
    "brier",
    "top2_accuracy",
)


def make_record(
    model: str = "a",
    seed: int | None = 0,
    accuracy: float | Sequence[float] = 0.7,
    factors: Sequence[float] = (1,),
    protocol: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    n: int = 80,
    classes: int | Sequence[str] = 8,
    model_classes: Sequence[str] | None = None,
    latency: float | Mapping[str, Any] | None = None,
    with_probabilities: bool = True,
    confusion: Sequence[Sequence[int]] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """A record of version 1, as plain JSON values, with figures that follow from its confusion matrices.

    Args:
        model: name; other names draw other answers.
        seed: of the record and of the answers.
        accuracy: about what comes out, one number for each factor; a single one falls with the factor.
        factors: resolution factors, in order.
        protocol: by default `standard` for the factors `(1,)`, else `multi_resolution`.
        conditions: by default some that fit the protocol.
        n: images, spread evenly over the data set's classes.
        classes: the data set's classes, or how many of the vocabulary.
        model_classes: the model's; by default the data set's.
        latency: median in ms, or the whole object.
        with_probabilities: without, there are no `nll`, `ece`, `brier` and `top2_accuracy`.
        confusion: what the first factor's matrix shall be, instead of random answers (`n` follows).
        changes: other keys of the record, as they shall be in the end.
    """
    names = list(EXPRESSIONS[:classes]) if isinstance(classes, int) else list(classes)
    own = names if model_classes is None else list(model_classes)
    mapping = map_labels(own, names)
    extra = [label for label, target in zip(own, mapping.index, strict=True) if target is None]
    lacking = [name for k, name in enumerate(names) if k not in mapping.index]
    columns = np.array([k for k in range(len(names) + len(extra)) if k >= len(names) or names[k] not in lacking])
    rng = np.random.default_rng([seed or 0, zlib.crc32(model.encode())])
    fixed = None if confusion is None else _pairs(confusion)
    references = np.arange(n) % len(names) if fixed is None else fixed[0]
    resolutions = {}
    for k, factor in enumerate(factors):
        if fixed is not None and k == 0:
            answers = fixed[1]
        else:
            share = accuracy[k] if isinstance(accuracy, Sequence) else accuracy / factor**0.25
            answers = _answers(references, share, columns, rng)
        resolutions[f"{factor:g}"] = _scores(answers, references, [*names, *extra], len(names), with_probabilities, rng)
    first = next(iter(resolutions.values()))
    low = [resolutions[f"{factor:g}"]["accuracy"] for factor in factors if factor > 1]
    if protocol is None:
        protocol = "standard" if list(factors) == [1] else "multi_resolution"
    record = {
        "record_version": 1,
        "model": model,
        "revision": None,
        "source": "model",
        "dataset": "ferplus",
        "dataset_fingerprint": "0123456789abcdef",
        "split": "test",
        "protocol": protocol,
        "conditions": dict(CONDITIONS[protocol] if conditions is None else conditions),
        "label_rule": "majority",
        "options": {"label_rule": "majority", "classes": len(names)},
        "reference_side": None,
        "n": len(references),
        "metrics": {key: first.get(key) for key in HEADLINE},
        "resolutions": resolutions,
        "average_low_resolution": sum(low) / len(low) if low else None,
        "labels": {
            "model": own,
            "dataset": names,
            "matched_by": "name",
            "model_to_dataset": {
                label: None if target is None else names[target]
                for label, target in zip(own, mapping.index, strict=True)
            },
            "missing_in_model": lacking,
            "missing_in_dataset": extra,
            "note": mapping.describe(),
            "restricted_to_dataset_classes": False,
            "left_out": {},
        },
        "parameters": 1_000_000,
        "batch_size": 64,
        "seed": seed,
        "latency": _latency(latency),
        "training": None,
        "versions": {"python": "3.10.0", "torch": "2.4.0", "timm": None},
        "hardware": {"device": "cpu", "dtype": "float32", "processor": "x86_64", "threads": 1, "platform": "Linux"},
        "date": "2025-01-01T00:00:00+00:00",
        "seconds": 1.5,
    }
    return {**record, **changes}


def _pairs(confusion: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """References and answers that count into `confusion`."""
    counts = np.asarray(confusion)
    rows, cols = np.indices(counts.shape)
    return np.repeat(rows.ravel(), counts.ravel()), np.repeat(cols.ravel(), counts.ravel())


def _answers(references: np.ndarray, accuracy: float, columns: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    right = (rng.random(len(references)) < accuracy) & np.isin(references, columns)
    wrong = [rng.choice(columns[columns != true]) if (columns != true).any() else true for true in references]
    return np.where(right, references, np.array(wrong, dtype=int))


def _scores(
    answers: np.ndarray,
    references: np.ndarray,
    names: list[str],
    known: int,
    with_probabilities: bool,
    rng: np.random.Generator,
) -> dict[str, Any]:
    extra = range(known, len(names))
    if not with_probabilities:
        scores = score_predictions(answers, references, names, answer_only=extra)
    else:
        prob = 0.49 * rng.dirichlet(np.ones(len(names)), len(references))
        prob[np.arange(len(references)), answers] += 0.51  # the answer stays the arg max
        scores = score_predictions(answers, references, names, prob, answer_only=extra)
    scores["ci95"] = bootstrap_ci95(np.asarray(scores["confusion_matrix"]), answer_only=extra)
    return scores


def _latency(latency: float | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if latency is None or isinstance(latency, Mapping):
        return None if latency is None else dict(latency)
    return {
        "median_ms": latency,
        "p90_ms": 1.25 * latency,
        "calls": 50,
        "batch_size": 1,
        "device": "cpu",
        "processor": "x86_64",
        "threads": 1,
        "dtype": "float32",
    }
