"""The test protocols: score a classifier on a split, under conditions that the record states.

Each protocol takes what `open_system` takes: a checkpoint folder or Hub id of any transformers image classifier, a
loaded one, an image-classification pipeline, or a file of predictions. Classes are matched by name, never by id.
"""

from __future__ import annotations

import datetime
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics.scores import bootstrap_ci95, score_predictions
from hf_fer.evaluation.latency import describe_hardware, measure_latency
from hf_fer.evaluation.matching import ClassMatch, match_classes
from hf_fer.evaluation.predictions_file import image_ids, read_predictions, refuse_predictions, write_predictions
from hf_fer.evaluation.splits import effective_options, load_split, read_labels
from hf_fer.evaluation.systems import System, as_rgb, factor_key, open_system, probabilities_by_factor
from hf_fer.evaluation.training_facts import read_training_facts

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

RECORD_VERSION = 1
MAX_NAME = 500  # characters, as in record.schema.json
LOW_RESOLUTION = (1, 2, 4, 8)  # Massoli et al. 2021, HSAC (WACV 2024)
HEADLINE = ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", "nll", "ece", "brier", "top2_accuracy")
VERSIONED = {
    "torch": "torch",
    "transformers": "transformers",
    "timm": "timm",
    "datasets": "datasets",
    "hf_fer": "hf-fer",
}


@dataclass(frozen=True)
class _Protocol:
    """What sets a protocol apart.

    Attributes:
        name: None where the resolutions decide between standard and multi_resolution.
        conditions: makes the record's from the run's facts and the data set's name; raises FerError.
        leave_out_missing: do not score images of classes that the classifier lacks.
    """

    name: str | None
    conditions: Callable[[Mapping[str, Any] | None, str], dict[str, Any]] = lambda facts, name: {}
    leave_out_missing: bool = False


def standard(system: Any, dataset: Any, **options: Any) -> dict[str, Any]:
    """The whole split, every image as it is.

    Args:
        system, dataset, options: see `evaluate_model`, of which this is the default.
    """
    resolutions = options.pop("resolutions", None)
    if resolutions not in (None, (1,), [1]) or options.pop("reference_side", None) is not None:
        raise FerError(
            "The protocol standard scores images as they are; use multi_resolution for other resolutions or a "
            "reference_side."
        )
    return evaluate_model(system, dataset, resolutions=(1,), _protocol=_Protocol("standard"), **options)


def multi_resolution(
    system: Any, dataset: Any, *, resolutions: Sequence[float] | None = None, **options: Any
) -> dict[str, Any]:
    """The whole split at several resolutions: every image scaled down by each factor and back up, bicubic.

    Args:
        system, dataset, options: see `evaluate_model`. `reference_side=224` counts the factors from the network's
            input, as HSAC (WACV 2024) does; by default they count from each image's own size.
        resolutions: the factors; default: the papers' 1, 2, 4, 8, of a file of predictions its own.
    """
    return evaluate_model(system, dataset, resolutions=resolutions, _protocol=_Protocol("multi_resolution"), **options)


def imbalance(system: Any, dataset: Any, *, imbalance_factor: float | None = None, **options: Any) -> dict[str, Any]:
    """A classifier that was trained on a split thinned out to an imbalance factor (MEK, NeurIPS 2023).

    The test split stays whole.

    Args:
        system, dataset, options: see `evaluate_model`.
        imbalance_factor: largest over smallest class of the training split, above 1; default: what the run folder
            beside the checkpoint reports.

    Raises:
        FerError: nobody says the factor, or the run folder says another; and see `evaluate_model`.
    """

    def conditions(facts: Mapping[str, Any] | None, _: str) -> dict[str, Any]:
        return _stated("imbalance_factor", imbalance_factor, facts, above=1.0)

    return evaluate_model(system, dataset, _protocol=_Protocol("imbalance", conditions), **options)


def label_noise(system: Any, dataset: Any, *, label_noise: float | None = None, **options: Any) -> dict[str, Any]:
    """A classifier a share of whose training labels was moved to another class (GReFEL, Tables 5 and 7).

    The test labels stay clean.

    Args:
        system, dataset, options: see `evaluate_model`.
        label_noise: the share, above 0 and below 1; default: what the run folder beside the checkpoint reports.

    Raises:
        FerError: nobody says the share, or the run folder says another; and see `evaluate_model`.
    """

    def conditions(facts: Mapping[str, Any] | None, _: str) -> dict[str, Any]:
        return _stated("label_noise", label_noise, facts, above=0.0, below=1.0)

    return evaluate_model(system, dataset, _protocol=_Protocol("label_noise", conditions), **options)


def cross_dataset(
    system: Any,
    dataset: Any,
    *,
    trained_on: str | Sequence[str] | None = None,
    shared_classes_only: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """A classifier on a data set that it was not trained on (HSAC, WACV 2024).

    Args:
        system, dataset, options: see `evaluate_model`, without `restrict_to_dataset_classes`.
        trained_on: the data sets it learnt from; default: what the run folder beside the checkpoint reports.
        shared_classes_only: leave out the images of classes that the classifier lacks, and take away its answers of
            classes that the data set lacks; the record states both. False: the former are errors, the latter too.

    Raises:
        FerError: nobody says what it was trained on, or it was this data set (FERPlus and FER2013 are one), or shared
            classes are wanted of a file without probabilities; and see `evaluate_model`.
    """
    given = (trained_on,) if isinstance(trained_on, str) else tuple(trained_on or ())
    if "restrict_to_dataset_classes" in options:
        raise FerError("restrict_to_dataset_classes is shared_classes_only in cross_dataset; set that.")

    def conditions(facts: Mapping[str, Any] | None, dataset_name: str) -> dict[str, Any]:
        reported = (facts or {}).get("dataset")
        if given and reported is not None and reported not in given:
            raise FerError(f"trained_on={', '.join(given)}, but report.json beside the model says {reported}.")
        names = given or ((reported,) if reported is not None else ())
        if not names:
            raise FerError(
                "Nothing says what the model was trained on; name it with trained_on= (--trained-on), such as rafdb."
            )
        own = next((name for name in names if _source_of(name) == _source_of(dataset_name)), None)
        if own is not None:
            raise FerError(
                f"The model was trained on {own}, the images of {dataset_name}; use the protocol standard for that."
            )
        return {"trained_on": sorted(set(names)), "stated_by": "report" if {*names} == {reported} else "caller"}

    return evaluate_model(
        system,
        dataset,
        restrict_to_dataset_classes=shared_classes_only,
        _protocol=_Protocol("cross_dataset", conditions, leave_out_missing=shared_classes_only),
        **options,
    )


PROTOCOLS = {
    "standard": standard,
    "multi_resolution": multi_resolution,
    "imbalance": imbalance,
    "label_noise": label_noise,
    "cross_dataset": cross_dataset,
}


def evaluate_model(
    system: str | os.PathLike[str] | torch.nn.Module | Any,
    dataset: str | Dataset | DatasetDict,
    *,
    root: str | os.PathLike[str] | None = None,
    split: str | None = None,
    resolutions: Sequence[float] | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
    model_name: str | None = None,
    dataset_name: str | None = None,
    processor: Any = None,
    reference_side: int | None = None,
    restrict_to_dataset_classes: bool = False,
    label_map: Mapping[str, str | None] | None = None,
    predictions: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    latency: bool = False,
    _protocol: _Protocol | None = None,
) -> dict[str, Any]:
    """Score a classifier on a split and return the JSON record of the result (docs/records.md).

    Classes are matched **by name** (`hf_fer.labels.map_labels`), never by id. The confusion matrix has the
    data set's classes in the data set's order, then those that only the classifier has:

    - a class of the data set that the classifier lacks can never be answered: its samples all count as errors
      (recall 0);
    - a class of the classifier that the data set lacks may still be answered, and each such answer is an error. It
      does not enter `f1_macro` as a class of its own. `restrict_to_dataset_classes=True` takes these answers
      away instead: their probability is dropped and the rest re-normalised, and the record says so.

    Args:
        system: a checkpoint folder, a Hub id, "default" (the model inside the package), a loaded image-classification
            model, a pipeline, or a file of predictions (docs/evaluation.md).
        dataset: a name for `load_fer_dataset`, or a `Dataset`/`DatasetDict` with columns `image` and `label`
            (`ClassLabel`).
        root: raw download of a named data set.
        split: split to score; default: "test", of a `Dataset` the split that it says it is.
        resolutions: factors >= 1, in any order; `(1,)` is the protocol `standard`, anything else
            `multi_resolution`. Every image is decoded once. Default: 1, of a file of predictions its own factors.
        options: options of `load_fer_dataset`, such as `{"label_rule": "majority", "classes": 7}`; kept in
            the record.
        batch_size: images in one forward pass.
        device: where to run. `None`: a loaded model stays where it is, a path goes to CUDA if there is one,
            else the CPU.
        revision: Hub revision of the model; the record holds the commit it resolved to.
        trust_remote_code: let a checkpoint that is not ours bring Python code and run it.
        progress: show a progress bar on standard error.
        model_name: name for the record; default: the path, the id or the file's name.
        dataset_name: name for the record; default: the data set's own, of a folder its last part. Where `dataset` is an
            object, `options` are what it was loaded with, and the record has no others.
        processor: image processor; default: the one saved with the model.
        reference_side: see `degrade_image`.
        restrict_to_dataset_classes: see above.
        label_map: what labels of the classifier mean that are no expression names, such as `{"LABEL_0": "anger"}`;
            None: no expression, answering it is an error.
        predictions: a file to write the answers to, as `read_predictions` reads them; scoring it gives the same record.
        overwrite: of that file.
        latency: also time calls with one image each.

    Returns:
        The record. `resolutions` maps each factor (`"1"`, `"2"`, ...) to the dict of `score_predictions` plus
        `ci95` (`bootstrap_ci95`), ascending; `metrics` repeats the headline figures of the lowest factor;
        `average_low_resolution` is the mean accuracy over the factors > 1 (`None` without any).

    Raises:
        FerError: the model, processor, data set or split cannot be loaded, the columns are not as described,
            a label is unset, no class name is shared, or one of the conditions of `predict_probabilities` or
            `read_predictions`.
    """
    protocol = _protocol or _Protocol(None)
    started = time.perf_counter()
    factors = None if resolutions is None else _check_factors(resolutions)
    options = dict(options or {})
    scored = open_system(
        system,
        processor=processor,
        revision=revision,
        device=device,
        trust_remote_code=trust_remote_code,
        name=model_name,
    )
    if scored.network is None and (latency or predictions is not None or reference_side is not None):
        raise FerError(
            "A file of predictions has no latency, nothing to export and no reference_side; leave these out."
        )
    for text in (scored.name, *(scored.classes or ())):  # what a record would refuse, before the work is done
        if not text.isprintable() or not 0 < len(text) <= MAX_NAME:
            raise FerError(f"{text[:80]!r} cannot stand in a record as a name; pass another model_name, or rename it.")
    if predictions is not None:
        refuse_predictions(predictions, overwrite)
    described = effective_options(dataset, options)
    data, name, split, other_splits = load_split(dataset, dataset_name, root, split, options)
    facts = read_training_facts(scored.folder)
    stated = protocol.conditions(facts, name)
    labels, dataset_classes = read_labels(data, name, split)

    if scored.network is None:
        answered = _read_answers(scored, data, dataset_classes, name, split, other_splits, factors, label_map)
        if answered.tables is None and (protocol.leave_out_missing or restrict_to_dataset_classes):
            raise FerError(
                f"{scored.path} holds answers alone, so nobody can tell which classes its author knows and what to "
                "fall back on; add probabilities, or count every class: shared_classes_only (or "
                "restrict_to_dataset_classes) False, --all-classes."
            )
    else:
        match = match_classes(scored.classes, dataset_classes, label_map)
        factors = factors or _check_factors(LOW_RESOLUTION if protocol.name == "multi_resolution" else (1,))
        per_factor = probabilities_by_factor(
            scored.answer,
            data["image"],
            factors=factors,
            reference_side=reference_side,
            batch_size=batch_size,
            progress=progress,
            total=len(data),
            network=scored.network,
        )
        tables = {factor: match.table(own) for factor, own in zip(factors, per_factor, strict=True)}
        # Arg max in the data set's order: a tie falls the same way whatever the model's order of classes.
        answered = _Answered(match, {f: table.argmax(axis=1) for f, table in tables.items()}, tables, match.missing)
        if predictions is not None:
            own = np.sort(match.columns)  # a class that the model lacks has no column to be 0 in
            write_predictions(
                predictions,
                image_ids(data, split),
                [match.names[k] for k in own],
                {factor: table[:, own] for factor, table in tables.items()},
                overwrite=overwrite,
            )

    factors = list(answered.answers)
    if protocol.name == "standard" and factors != [1.0]:
        raise FerError(
            f"{scored.path} has the factors {', '.join(map(factor_key, factors))}; score it by the protocol "
            "multi_resolution."
        )
    left_out = answered.missing if protocol.leave_out_missing else []
    rows = ~np.isin(labels, left_out)
    if not rows.any():
        raise FerError(f"{name} ({split}) has no image of a class that the model has; nothing is left to score.")
    results = {
        factor_key(factor): answered.score(factor, labels, rows, restrict_to_dataset_classes) for factor in factors
    }
    low = [results[factor_key(factor)]["accuracy"] for factor in factors if factor > 1]
    first = results[factor_key(factors[0])]
    network = scored.network
    return {
        "record_version": RECORD_VERSION,
        "model": scored.name,
        "revision": scored.revision,
        "source": scored.source,
        "dataset": name,
        "dataset_fingerprint": getattr(data, "_fingerprint", None),
        "split": split,
        "protocol": protocol.name
        or ("standard" if factors == [1.0] and reference_side is None else "multi_resolution"),
        "conditions": stated,
        "label_rule": described.get("label_rule"),
        "options": described,
        "reference_side": reference_side,
        "n": int(rows.sum()),
        "metrics": {key: first.get(key) for key in HEADLINE},
        "resolutions": results,
        "average_low_resolution": sum(low) / len(low) if low else None,
        "labels": {
            **answered.describe(scored.classes, dataset_classes),
            "restricted_to_dataset_classes": restrict_to_dataset_classes,
            "left_out": {dataset_classes[k]: count for k in left_out if (count := int((labels == k).sum()))},
        },
        "parameters": None if network is None else sum(parameter.numel() for parameter in network.parameters()),
        "batch_size": None if network is None else batch_size,
        "seed": None,  # nothing is drawn at random but the bootstrap, which carries its own seed
        "latency": _time_calls(scored, data) if latency else None,
        "training": facts,
        "versions": _versions(),
        "hardware": None if network is None else describe_hardware(network),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 3),
    }


@dataclass(frozen=True)
class _Answered:
    """A classifier's answers about a split, in the columns of `match`.

    Attributes:
        match: the columns.
        answers: factor -> (N,) int64.
        tables: factor -> (N, C) float64; None of a file without probabilities.
        missing: the data set's classes that it cannot answer.
        spellings: what else to say of how names were read.
    """

    match: ClassMatch
    answers: dict[float, np.ndarray]
    tables: dict[float, np.ndarray] | None
    missing: list[int]
    spellings: tuple[str, ...] = ()

    def score(self, factor: float, labels: np.ndarray, rows: np.ndarray, restricted: bool) -> dict[str, Any]:
        """Of the `rows` (N,) bool; `restricted`: answers of the data set's classes only."""
        answers, labels, extra = self.answers[factor][rows], labels[rows], self.match.extra
        table = None if self.tables is None else self.tables[factor][rows]
        if restricted and len(extra) and table is not None:
            table = table.copy()
            table[:, list(extra)] = 0.0
            mass = table.sum(axis=1, keepdims=True)
            nothing = mass[:, 0] == 0
            if nothing.any():
                raise FerError(
                    f"Image {int(np.flatnonzero(rows)[nothing.argmax()])} at factor {factor_key(factor)} has no "
                    f"probability at all for a class of the data set (so {int(nothing.sum())} of {len(nothing)} "
                    "images), and nothing is left when the others are taken away; count such answers as errors: "
                    "shared_classes_only (or restrict_to_dataset_classes) False, --all-classes."
                )
            table /= mass
            answers = np.where(answers < extra.start, answers, table.argmax(axis=1))
        figures = score_predictions(answers, labels, self.match.names, table, answer_only=extra)
        figures["ci95"] = bootstrap_ci95(np.asarray(figures["confusion_matrix"]), answer_only=extra)
        return figures

    def describe(self, classes: list[str], dataset_classes: list[str]) -> dict[str, Any]:
        """The statement for the record; `classes` as the classifier spells them."""
        names, columns = self.match.names, self.match.columns.tolist()
        return {
            "model": classes,
            "dataset": dataset_classes,
            "matched_by": "name",
            "model_to_dataset": {
                label: (names[column] if column < len(dataset_classes) else None)
                for label, column in zip(classes, columns, strict=True)
            },
            "missing_in_model": [dataset_classes[k] for k in self.missing],  # their samples are errors, or left out
            "missing_in_dataset": names[len(dataset_classes) :],  # answering one is an error
            "note": "; ".join([self.match.note, *self.spellings]),
        }


def _read_answers(
    scored: System,
    data: Any,
    dataset_classes: list[str],
    name: str,
    split: str,
    other_splits: Mapping[str, Any],
    factors: Sequence[float] | None,
    label_map: Mapping[str, str | None] | None,
) -> _Answered:
    """What a file of predictions says; sets the classes it knows in `scored`."""
    read = read_predictions(
        scored.path,
        image_ids(data, split),
        where=f"{name} ({split})",
        factors=factors,
        other_splits=lambda: {key: image_ids(value, key) for key, value in other_splits.items()},
        aliases=label_map,
    )
    # Of a file of answers alone, the classes are those that it answers; which others its author knows it cannot tell.
    columns = list(read.classes)
    strange = sorted(name for name, meaning in read.meanings.items() if meaning is None)
    meant = sorted({meaning for meaning in read.meanings.values() if meaning is not None})
    scored.classes = classes = columns or [*meant, *(name for name in strange if name not in meant)]
    aliases = dict.fromkeys(strange) if not columns else {k: v for k, v in (label_map or {}).items() if k in columns}
    match = match_classes(classes, dataset_classes, aliases or None, f"The classes of {scored.path.name}")
    # The answer of a row may be spelt otherwise than the column of its class.
    column = {(read.meanings.get(name) or name): int(match.columns[k]) for k, name in enumerate(classes)}
    answers = {
        factor: np.fromiter((column[read.meanings[name] or name] for name in own), np.int64, len(own))
        for factor, own in read.answers.items()
    }
    tables = read.probabilities and {factor: match.table(own) for factor, own in read.probabilities.items()}
    spellings = tuple(
        f"{name!r} read as {meaning or 'no expression'}"
        for name, meaning in sorted(read.meanings.items())
        if name not in columns and name != meaning and (columns or meaning)
    )
    return _Answered(match, answers, tables, match.missing if tables else [], spellings)


def _stated(
    key: str, given: float | None, facts: Mapping[str, Any] | None, *, above: float, below: float = np.inf
) -> dict[str, Any]:
    """A condition of training as the caller and the run folder state it."""
    flag = "--" + key.replace("_", "-")
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | float)):
        raise FerError(f"{key}={given!r} is no number; pass one.")
    if given is not None and not (np.isfinite(given) and above < given < below):
        raise FerError(
            f"{key}={given:g} is out of range; pass a number above {above:g}"
            + (f" and below {below:g}." if np.isfinite(below) else ".")
        )
    if facts is None:
        if given is None:
            raise FerError(f"Nothing says the {key.replace('_', ' ')} of the training; pass {key}= ({flag}).")
        return {key: float(given), "stated_by": "caller"}
    reported = facts[key]
    if not reported:
        raise FerError(
            f"{facts['report']} beside the model tells of a training without {key.replace('_', ' ')}; use the protocol "
            "standard."
        )
    if given is not None and float(given) != float(reported):
        raise FerError(f"{key}={given:g}, but {facts['report']} beside the model says {reported:g}.")
    return {key: float(reported), "stated_by": "report"}


def _source_of(dataset: str) -> str:
    """What a data set's images are, by its name: spelling aside, and FERPlus and FER2013 have the same."""
    name = "".join(char for char in dataset.casefold().replace("\\", "/").split("/")[-1] if char.isalnum())
    return "fer2013" if name in ("ferplus", "fer", "fer2013plus") else name


def _check_factors(resolutions: Sequence[float]) -> list[float]:
    try:
        factors = sorted(float(factor) for factor in resolutions)
    except (TypeError, ValueError):
        raise FerError(
            f"resolutions={resolutions!r} is no list of factors; use for example (1,) or (1, 2, 4, 8)."
        ) from None
    if not factors:
        raise FerError("resolutions is empty; pass at least one factor, for example (1,) or (1, 2, 4, 8).")
    if len({factor_key(factor) for factor in factors}) != len(factors):
        raise FerError(f"resolutions={list(resolutions)} repeats a factor; pass each one once.")
    for factor in factors:
        if not np.isfinite(factor) or factor < 1:
            raise FerError(
                f"resolutions holds {factor:g}, which is not a factor of at least 1; use for example (1, 2, 4, 8)."
            )
        if float(factor_key(factor)) != factor:
            raise FerError(f"resolutions holds {factor!r}, which has more than six digits; round it.")
    return factors


def _time_calls(scored: System, data: Any) -> dict[str, Any]:
    images = [as_rgb(image, row) for row, image in enumerate(data.select(range(min(50, len(data))))["image"])]
    return measure_latency(scored.answer, images, scored.network)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for key, distribution in VERSIONED.items():
        try:
            versions[key] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[key] = None
    return versions
