"""How far a classifier's probabilities can be relied on: temperature scaling (Guo et al., ICML 2017) by resolution.

A network's top probability is no frequency of being right, and less so the smaller the face. Dividing the logits by a
temperature, fitted on a validation split, mends most of that and changes no answer. A face of 12 px needs another one
than a face of 48 px, so there is one for each resolution factor of the test protocol.

They stand in `calibration.json` beside the checkpoint, with the digest of the model that they were fitted for:

    {"version": 1, "temperatures": {"1": 1.2, "2": 1.3}, "reference_side": 48, "dataset": "ferplus",
     "split": "validation", "label_rule": "majority", "n": 3579,
     "scores": {"1": {"nll_before": ..., "nll": ..., "ece_before": ..., "ece": ...}, ...},
     "model_digest": "sha256:...", "command": "hf-fer calibrate ..."}
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.checks import first_sentence
from ..errors import FerError

CALIBRATION = "calibration.json"
VERSION = 1
FACTORS = (1, 2, 4, 8)

_MOST_BYTES = 1 << 20
_MOST_FACTORS = 64
_MOST_REDUCED = 10_000  # factor
_LIMITS = (0.01, 100.0)  # of a temperature; a network that needs another has not learnt anything, or everything


@dataclass(frozen=True)
class Calibration:
    """Temperatures by resolution.

    Attributes:
        temperatures: resolution factor (>= 1) to temperature (> 0), the factors ascending.
        reference_side: shorter side in px of a face at factor 1.
    """

    temperatures: Mapping[float, float]
    reference_side: float

    def temperature(self, sides: Iterable[float]) -> np.ndarray:
        """(N,) shorter sides in px to (N,) float64 temperatures.

        Between two factors the logarithm of the temperature is interpolated linearly over the logarithm of the factor;
        beyond the first and the last the temperature stays theirs.
        """
        side = np.maximum(np.asarray(list(sides), dtype=np.float64), 1.0)
        known = sorted(self.temperatures.items())
        factors, temperatures = np.log([factor for factor, _ in known]), np.log([t for _, t in known])
        return np.exp(np.interp(np.log(self.reference_side / side), factors, temperatures))

    def reliability(self, logits: np.ndarray, sides: Iterable[float]) -> np.ndarray:
        """How likely the top answers are right: (N, K) logits and (N,) sides in px to (N,) float64 in [0, 1]."""
        scaled = np.asarray(logits, dtype=np.float64) / self.temperature(sides)[:, None]
        scaled -= scaled.max(axis=1, keepdims=True)
        return 1.0 / np.exp(scaled).sum(axis=1)  # the top class has e^0 in the softmax


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T > 0 that minimises the mean negative log-likelihood of softmax(logits / T).

    In 1/T this is convex, so its derivative, the mean over samples of E[logit] - logit of the label, changes sign once.

    Args:
        logits: (N, K), K >= 2, finite.
        labels: (N,) integers, 0..K-1.

    Raises:
        FerError: not as described, or no temperature in [0.01, 100] is best, as where every answer is right.
    """
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels)
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise FerError(
            f"Logits of shape {logits.shape} and labels of shape {labels.shape} do not fit; pass (N, K) and (N,)."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise FerError(f"The labels are not all integers from 0 to {logits.shape[1] - 1}; check their order.")
    if not np.isfinite(logits).all():
        raise FerError("The logits are not all finite; check the model's weights, or run it in float32.")
    logits = logits - logits.max(axis=1, keepdims=True)
    own = logits[np.arange(len(labels)), labels]

    def slope(temperature: float) -> float:
        weights = np.exp(logits / temperature)
        return float((((weights * logits).sum(axis=1) / weights.sum(axis=1)) - own).mean())

    low, high = _LIMITS
    # At 1/T = 100 the slope is positive where sharper is too sharp; at 1/T = 0.01 negative where flatter is too flat.
    if slope(low) <= 0 or slope(high) >= 0:
        raise FerError(
            f"No temperature from {low:g} to {high:g} fits these {len(labels)} answers best, as where all of them are "
            "right, or none more than by chance; use a larger validation split, or another model."
        )
    while high / low > 1 + 1e-9:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if slope(middle) < 0 else (middle, high)
    return math.sqrt(low * high)


def calibrate_model(
    model: str | os.PathLike[str] | None = "default",
    dataset: str = "ferplus",
    *,
    root: str | os.PathLike[str] | None = None,
    split: str = "validation",
    options: Mapping[str, Any] | None = None,
    factors: Sequence[float] = FACTORS,
    label_map: Mapping[str, str | None] | None = None,
    batch_size: int = 64,
    device: Any = None,
    trust_remote_code: bool = False,
    progress: bool = True,
    command: str | None = None,
) -> dict[str, Any]:
    """Fit a temperature for each resolution factor, on a split that the model neither learnt from nor is tested on.

    Args:
        model: a checkpoint folder, or "default"; its files are those that `write_calibration` writes beside.
        dataset, root, options: as of `load_fer_dataset`, whose classes must all be the model's.
        split: not "train" and not "test".
        factors: resolution factors, as of `degrade_image`, counted from the images' own size; up to 10,000.
        label_map: see `match_classes`.
        batch_size, device, trust_remote_code, progress: see `evaluate_model`.
        command: what made it, for the file.

    Returns:
        The content of `calibration.json`. `scores` has NLL and ECE (15 bins) before and after for each factor.

    Raises:
        FerError: the model is no folder, gives its own reliability (GReFEL), or answers by sigmoid; or the data does
            not fit.
    """
    from ..checkpoints.loading import load_classifier, resolve_model
    from ..evaluation.fer_metrics.scores import expected_calibration_error, negative_log_likelihood
    from ..evaluation.matching import match_classes, model_classes
    from ..evaluation.splits import effective_options, load_split, read_labels
    from ..evaluation.systems import digest_of, factor_key, probabilities_by_factor

    factors = sorted(map(float, factors))
    different = 1 <= len(factors) == len({*map(factor_key, factors)}) <= _MOST_FACTORS
    if not different or not all(1 <= factor <= _MOST_REDUCED for factor in factors):
        raise FerError(
            f"factors={factors!r} must be 1 to {_MOST_FACTORS} different numbers from 1 to {_MOST_REDUCED:,}; use for "
            "example 1, 2, 4."
        )
    folder, local = resolve_model(model)
    if not local:
        raise FerError(f"{folder}: only a checkpoint folder can be calibrated; download it with `hf download {folder}`")
    if split in ("train", "test"):
        raise FerError(f"Temperatures fitted on the split {split} would flatter the model; use its validation split.")
    network, processor = load_classifier(folder, device, trust_remote_code=trust_remote_code)
    if getattr(network.config, "problem_type", None) == "multi_label_classification" or network.config.num_labels < 2:
        raise FerError(
            f"{folder}: answers each class by itself, so no temperature applies; use a model with a softmax."
        )
    options = dict(options or {})
    data, name, split, _ = load_split(dataset, None, root, split, options)
    labels, classes = read_labels(data, name, split)
    match = match_classes(model_classes(network), classes, label_map)
    lacking = sorted({classes[k] for k in match.missing if (labels == k).any()})
    if lacking:
        raise FerError(
            f"{name} ({split}) has images of {', '.join(lacking)}, which {folder} cannot answer; filter them."
        )
    rows = {int(column): k for k, column in enumerate(match.columns)}
    labels = np.array([rows[label] for label in labels.tolist()])

    sides: list[int] = []
    per_factor = probabilities_by_factor(
        _logits_of(network, processor, folder),
        _noting_sides(data["image"], sides),
        factors=factors,
        batch_size=batch_size,
        progress=progress,
        total=len(data),
    )
    temperatures, scores = {}, {}
    for factor, logits in zip(factors, per_factor, strict=True):
        temperature = fit_temperature(logits, labels)
        before, after = _softmax(logits), _softmax(logits / temperature)
        temperatures[factor_key(factor)] = round(temperature, 6)
        scores[factor_key(factor)] = {
            "accuracy": _rounded((before.argmax(axis=1) == labels).mean()),
            "nll_before": _rounded(negative_log_likelihood(before, labels)),
            "nll": _rounded(negative_log_likelihood(after, labels)),
            "ece_before": _rounded(expected_calibration_error(before, labels)),
            "ece": _rounded(expected_calibration_error(after, labels)),
        }
    return {
        "version": VERSION,
        "temperatures": temperatures,
        "reference_side": int(np.median(sides)),
        "dataset": name,
        "split": split,
        "label_rule": effective_options(dataset, options).get("label_rule"),
        "n": len(labels),
        "scores": scores,
        "model_digest": digest_of(Path(folder)),
        "command": command,
    }


def write_calibration(
    content: Mapping[str, Any], folder: str | os.PathLike[str] | None = "default", *, overwrite: bool = False
) -> Path:
    """Writes what `calibrate_model` returned beside the checkpoint in `folder`, whole or not at all.

    Raises:
        FerError: no checkpoint folder, the file exists and may not be overwritten, or it cannot be written.
    """
    from ..checkpoints.loading import resolve_model
    from ..evaluation.whole_files import write_whole

    place, local = resolve_model(folder)
    if not local:
        raise FerError(f"{place}: no checkpoint folder here to write {CALIBRATION} to; name one.")
    path = Path(place) / CALIBRATION
    data = (json.dumps(dict(content), indent=2) + "\n").encode()
    write_whole(path, lambda file: file.write(data), overwrite)
    return path


def read_calibration(folder: str | os.PathLike[str]) -> Calibration | None:
    """The temperatures beside a checkpoint; None where there is no `calibration.json`.

    Raises:
        FerError: the file is damaged, not one of ours, or of another model than the one beside it.
    """
    folder = Path(folder)
    path = folder / CALIBRATION
    if not os.path.lexists(path):
        return None
    content = read_calibration_file(path)
    from ..evaluation.systems import digest_of

    if content["model_digest"] != digest_of(folder):
        raise _unusable(path, "it was made for another model than the one beside it")
    temperatures = {float(factor): float(value) for factor, value in content["temperatures"].items()}
    return Calibration(dict(sorted(temperatures.items())), float(content["reference_side"]))


def read_calibration_file(path: Path) -> dict[str, Any]:
    """The checked content of a `calibration.json`; whether it fits a model is not looked at.

    Raises:
        FerError: see `read_calibration`.
    """
    try:
        if not path.is_file():
            raise _unusable(path, "it is not a regular file")
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise _unusable(path, f"it has more than {_MOST_BYTES:,} bytes")
        content = json.loads(data)
    except FerError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # no JSON, no UTF-8, integers of thousands of digits
        raise _unusable(path, first_sentence(error)) from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise _unusable(path, f"it is not of version {VERSION}")
    temperatures = content.get("temperatures")
    if not isinstance(temperatures, dict) or not 1 <= len(temperatures) <= _MOST_FACTORS:
        raise _unusable(path, f"temperatures must hold 1 to {_MOST_FACTORS} factors")
    factors = [_number(factor) for factor in temperatures]
    if len(set(factors)) != len(factors) or not all(1 <= factor <= _MOST_REDUCED for factor in factors):
        raise _unusable(path, f"its factors must be different numbers from 1 to {_MOST_REDUCED:,}")
    if not all(_is_number(value) and _LIMITS[0] <= value <= _LIMITS[1] for value in temperatures.values()):
        raise _unusable(path, "its temperatures must be numbers from {:g} to {:g}".format(*_LIMITS))
    side = content.get("reference_side")
    if not _is_number(side) or not 1 <= side <= 100_000:
        raise _unusable(path, "reference_side must be a number from 1 to 100,000")
    if not isinstance(content.get("model_digest"), str):
        raise _unusable(path, "it names no model_digest")
    return content


def find_calibration(model: Any) -> Calibration | None:
    """The temperatures of a loaded transformers model, by the folder or the Hub repository it came from.

    None where it came from neither, or there is no `calibration.json`, or the Hub cannot be asked; and for what
    `transformers.pipeline` has loaded by a Hub id, where transformers does not say which commit that was (5.24):
    `load_pipeline` does.

    Raises:
        FerError: see `read_calibration`.
    """
    source = getattr(model, "name_or_path", "") or ""
    if not source:
        return None
    if Path(source).is_dir():
        return read_calibration(source)
    commit = getattr(model.config, "_commit_hash", None)
    if commit is None:
        return None
    from huggingface_hub import constants, errors, hf_hub_download

    try:
        path = hf_hub_download(source, CALIBRATION, revision=commit)
    except Exception as error:
        absent = isinstance(error, errors.EntryNotFoundError)
        unknown = isinstance(error, errors.LocalEntryNotFoundError)  # a kind of the former: the Hub cannot be reached
        if (unknown or not absent) and not constants.HF_HUB_OFFLINE:
            # The model answers all the same.
            logging.getLogger(__name__).warning(
                "%s: whether it has a %s could not be asked (%s), so no reliability is given.",
                source,
                CALIBRATION,
                first_sentence(error),
            )
        return None
    return read_calibration(Path(path).parent)


def _logits_of(network: Any, processor: Any, where: str) -> Any:
    import torch

    def answer(images: list[Any]) -> np.ndarray:
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            output = network(pixel_values=pixels.to(network.device, network.dtype))
        if getattr(output, "final_confidence", None) is not None:
            raise FerError(
                f"{where}: gives a confidence of its own, which is its reliability; it needs no calibration."
            )
        return output.logits.double().cpu().numpy()

    return answer


def _noting_sides(images: Iterable[Any], sides: list[int]) -> Iterator[Any]:
    for image in images:
        sides.append(min(image.size))
        yield image


def _softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _rounded(value: Any) -> float:
    return round(float(value), 5)


def _is_number(value: Any) -> bool:
    # Python's integers have no largest one, and isfinite would want this one as a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _number(text: str) -> float:
    try:
        return float(text) if len(text) <= 20 else math.nan
    except ValueError:
        return math.nan


def _unusable(path: Path, reason: str) -> FerError:
    from ..evaluation.whole_files import shown

    return FerError(f"{shown(path)} cannot be used ({reason}); make it again with `hf-fer calibrate`, or remove it.")
