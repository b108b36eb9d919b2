"""The test protocols: run a classifier over a data set at one or several resolutions and record what came
out.

Nothing random happens at test time: the checkpoint's own image processor, no augmentation, evaluation mode.
"""

from __future__ import annotations

import datetime
import inspect
import itertools
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from hf_fer.data.images import to_rgb
from hf_fer.data.resolution import degrade_image
from hf_fer.errors import FerError
from hf_fer.evaluation.fer_metrics.scores import bootstrap_ci95, score_predictions

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HEADLINE = ("accuracy", "mean_class_accuracy", "f1_macro", "challenge_score", "nll", "ece")
VERSIONED = {
    "torch": "torch",
    "transformers": "transformers",
    "timm": "timm",
    "datasets": "datasets",
    "hf_fer": "hf-fer",
}


def predict_probabilities(
    model: torch.nn.Module,
    processor: Any,
    images: Iterable[Image.Image],
    *,
    factor: float = 1.0,
    reference_side: int | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Class probabilities of a transformers image classifier for a list or a `datasets` column of PIL images.

    Args:
        model: a module whose output has `logits (B, K)` and whose input is `pixel_values`; its train/eval
            mode is restored afterwards.
        processor: the stock image processor of the checkpoint.
        images: PIL images of any mode and size; read once, in batches, so that a lazily decoded column stays
            lazy.
        factor: resolution factor >= 1, see `degrade_image`.
        reference_side: see `degrade_image`.
        batch_size: images in one forward pass.
        device: where to run; the model is moved there. `None`: where the model is.
        progress: show a progress bar on standard error.

    Returns:
        `(N, K)` float64, softmax over the model's own class order; rows sum to 1.

    Raises:
        FerError: no images, an element that is not a PIL image, a batch size or factor below 1, or logits
            that are not finite.
    """
    return _probabilities_by_factor(
        model,
        processor,
        images,
        factors=(factor,),
        reference_side=reference_side,
        batch_size=batch_size,
        device=device,
        progress=progress,
    )[0]


def evaluate_model(
    model_or_path: str | os.PathLike[str] | torch.nn.Module,
    dataset: str | Dataset | DatasetDict,
    *,
    root: str | os.PathLike[str] | None = None,
    split: str = "test",
    resolutions: Sequence[float] = (1,),
    options: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    revision: str | None = None,
    progress: bool = True,
    model_name: str | None = None,
    dataset_name: str | None = None,
    processor: Any = None,
    reference_side: int | None = None,
    restrict_to_dataset_classes: bool = False,
) -> dict[str, Any]:
    """Score a model on a split and return the JSON record of the result.

    Classes are matched **by name** (`hf_fer.labels.map_labels`), never by id. The confusion matrix has the
    data set's classes in the data set's order, then those that only the model has:

    - a class of the data set that the model lacks can never be answered: its samples all count as errors
      (recall 0);
    - a class of the model that the data set lacks may still be answered, and each such answer is an error. It
      does not enter `f1_macro` as a class of its own. `restrict_to_dataset_classes=True` takes these answers
      away instead: their probability is dropped and the rest re-normalised, and the record says so.

    Args:
        model_or_path: a folder, a Hub id, or a loaded image-classification model.
        dataset: a name for `load_fer_dataset`, or a `Dataset`/`DatasetDict` with columns `image` and `label`
            (`ClassLabel`).
        root: raw download of a named data set.
        split: split to score.
        resolutions: factors >= 1; `(1,)` is the protocol `standard`, anything else `multi_resolution`. Every
            image is decoded once.
        options: options of `load_fer_dataset`, such as `{"label_rule": "majority", "classes": 7}`; kept in
            the record.
        batch_size: images in one forward pass.
        device: where to run. `None`: a loaded model stays where it is, a path goes to CUDA if there is one,
            else the CPU.
        revision: Hub revision of the model; the record holds the commit it resolved to.
        progress: show a progress bar on standard error.
        model_name: name for the record; default: the path or id.
        dataset_name: name for the record where `dataset` is an object, as `load_fer_dataset` gave it for that name
            and these `options`.
        processor: image processor; default: the one saved with the model.
        reference_side: see `degrade_image`.
        restrict_to_dataset_classes: see above.

    Returns:
        The record. `resolutions` maps each factor (`"1"`, `"2"`, ...) to the dict of `score_predictions` plus
        `ci95` (`bootstrap_ci95`); `metrics` repeats the headline figures of the first factor;
        `average_low_resolution` is the mean accuracy over the factors > 1 (`None` without any).

    Raises:
        FerError: the model, processor, data set or split cannot be loaded, the columns are not as described,
            a label is unset, no class name is shared, or one of the conditions of `predict_probabilities`.
    """
    started = time.perf_counter()
    factors = _check_factors(resolutions)
    options = dict(options or {})
    model, processor, path = _load_model(model_or_path, processor, revision)
    if device is None and path is not None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    described = _effective_options(dataset if isinstance(dataset, str) else dataset_name, options)
    data, name = _load_split(dataset, dataset_name, root, split, options)
    labels, dataset_classes = _read_labels(data, name, split)
    columns, names, mapping = _match_classes(_model_classes(model), dataset_classes)

    per_factor = _probabilities_by_factor(
        model,
        processor,
        data["image"],
        factors=factors,
        reference_side=reference_side,
        batch_size=batch_size,
        device=device,
        progress=progress,
        total=len(data),
    )
    extra = range(len(dataset_classes), len(names))
    results: dict[str, dict[str, Any]] = {}
    for factor, own in zip(factors, per_factor, strict=True):
        probabilities = np.zeros((len(own), len(names)))
        np.add.at(probabilities.T, columns, own.T)  # two labels of one meaning add up
        if restrict_to_dataset_classes and len(extra):
            probabilities[:, list(extra)] = 0.0
            probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        # Arg max in the data set's order: a tie falls the same way whatever the model's order of classes.
        answers = probabilities.argmax(axis=1)
        metrics = score_predictions(answers, labels, names, probabilities, answer_only=extra)
        metrics["ci95"] = bootstrap_ci95(np.asarray(metrics["confusion_matrix"]))
        results[_factor_key(factor)] = metrics

    low = [results[_factor_key(factor)]["accuracy"] for factor in factors if factor > 1]
    first = results[_factor_key(factors[0])]
    config = getattr(model, "config", None)
    return {
        "model": model_name or path or getattr(config, "_name_or_path", "") or type(model).__name__,
        "revision": getattr(config, "_commit_hash", None) or revision,
        "dataset": name,
        "dataset_fingerprint": getattr(data, "_fingerprint", None),
        "split": split,
        "protocol": "standard" if factors == [1.0] and reference_side is None else "multi_resolution",
        "label_rule": described.get("label_rule"),
        "options": described,
        "reference_side": reference_side,
        "n": len(labels),
        "metrics": {key: first[key] for key in HEADLINE},
        "resolutions": results,
        "average_low_resolution": sum(low) / len(low) if low else None,
        "labels": {**mapping, "restricted_to_dataset_classes": restrict_to_dataset_classes},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "batch_size": batch_size,
        "seed": None,  # nothing is drawn at random but the bootstrap, which carries its own seed
        "versions": _versions(),
        "hardware": _hardware(model),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - started, 3),
    }


# Running the model


def _probabilities_by_factor(
    model: torch.nn.Module,
    processor: Any,
    images: Iterable[Image.Image],
    *,
    factors: Sequence[float],
    reference_side: int | None,
    batch_size: int,
    device: str | torch.device | None,
    progress: bool,
    total: int | None = None,
) -> list[np.ndarray]:
    """`(N, K)` float64 for each factor. Each image is decoded once, whatever the number of factors."""
    from tqdm.auto import tqdm

    if batch_size < 1:
        raise FerError(f"batch_size={batch_size} leaves nothing to run; use 1 or more.")
    if device is not None:
        model.to(device)
    parameter = next(model.parameters())
    if total is None and hasattr(images, "__len__"):
        total = len(images)
    chunks: list[list[np.ndarray]] = [[] for _ in factors]
    was_training = model.training
    model.eval()
    bar = tqdm(total=total, unit="image", desc="evaluate", disable=not progress)
    seen = 0
    try:
        for batch in _batches(images, batch_size):
            faces = [_as_rgb(image, seen + i) for i, image in enumerate(batch)]
            for chunk, factor in zip(chunks, factors, strict=True):
                views = [degrade_image(face, factor, reference_side=reference_side) for face in faces]
                pixels = processor(images=views, return_tensors="pt")["pixel_values"]
                # Around the forward pass alone: what is made in inference mode, a moved model's buffers say,
                # could not be trained on afterwards.
                with torch.inference_mode():
                    logits = model(pixel_values=pixels.to(parameter.device, parameter.dtype)).logits.double()
                chunk.append(logits.softmax(dim=-1).cpu().numpy())
                finite = np.isfinite(chunk[-1]).all(axis=1)
                if not finite.all():
                    row = seen + int((~finite).argmax())
                    raise FerError(
                        f"The model's logits for image {row} (factor {_factor_key(factor)}) are not finite; "
                        f"check its weights, or "
                        "run it in float32."
                    )
            seen += len(faces)
            bar.update(len(faces))
    finally:
        bar.close()
        model.train(was_training)
    if not seen:
        raise FerError("There are no images to evaluate; check the split and its filters.")
    return [np.concatenate(chunk) for chunk in chunks]


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _as_rgb(image: Any, row: int) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise FerError(
            f"Image {row} is a {type(image).__name__}, not a PIL image; cast the column with "
            f"`cast_column('image', Image())`."
        )
    return to_rgb(image)


def _check_factors(resolutions: Sequence[float]) -> list[float]:
    factors = [float(factor) for factor in resolutions]
    if not factors:
        raise FerError("resolutions is empty; pass at least one factor, for example (1,) or (1, 2, 4, 8).")
    if len(set(factors)) != len(factors):
        raise FerError(f"resolutions={list(resolutions)} repeats a factor; pass each one once.")
    for factor in factors:
        if not np.isfinite(factor) or factor < 1:
            raise FerError(
                f"resolutions holds {factor:g}, which is not a factor of at least 1; use for example (1, 2, 4, 8)."
            )
    return factors


def _factor_key(factor: float) -> str:
    return f"{factor:g}"


# Loading


def _load_model(
    source: str | os.PathLike[str] | torch.nn.Module, processor: Any, revision: str | None
) -> tuple[torch.nn.Module, Any, str | None]:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    if isinstance(source, torch.nn.Module):
        model, path = source, None
        where = getattr(getattr(model, "config", None), "_name_or_path", "")
        if processor is None and not where:
            raise FerError(
                f"The {type(model).__name__} was not loaded from a checkpoint, so it has no image processor; "
                f"pass processor=."
            )
    else:
        path = where = os.fspath(source)
        try:
            # In float32 whatever the checkpoint is stored in: half precision is slow and inexact on a CPU.
            model = AutoModelForImageClassification.from_pretrained(
                path, revision=revision or "main", dtype=torch.float32
            )
        except (OSError, ValueError, KeyError) as error:
            raise FerError(
                f"No image-classification model could be loaded from {path!r} ({_one_line(error)}); pass a "
                f"saved folder or a Hub id."
            ) from error
    if processor is None:
        try:
            processor = AutoImageProcessor.from_pretrained(where, revision=revision or "main")
        except (OSError, ValueError, KeyError) as error:
            raise FerError(
                f"No image processor could be loaded from {where!r} ({_one_line(error)}); save one beside "
                f"the model, or pass processor=."
            ) from error
    return model, processor, path


def _load_split(
    dataset: Any, dataset_name: str | None, root: Any, split: str, options: Mapping[str, Any]
) -> tuple[Any, str]:
    if isinstance(dataset, str | os.PathLike):
        from hf_fer.data import load_fer_dataset

        name = dataset_name or os.fspath(dataset)
        dataset = load_fer_dataset(os.fspath(dataset), root=root, **options)
    else:
        info = getattr(dataset, "info", None)
        name = dataset_name or getattr(info, "dataset_name", None) or "custom"
    if isinstance(dataset, Mapping):  # DatasetDict
        if split not in dataset:
            raise FerError(f"{name} has no split {split!r}; it has {', '.join(dataset)}.")
        dataset = dataset[split]
    return dataset, name


def _read_labels(data: Any, name: str, split: str) -> tuple[np.ndarray, list[str]]:
    features = data.features
    for column in ("image", "label"):
        if column not in features:
            raise FerError(
                f"{name} ({split}) has no column {column!r}, it has {', '.join(features)}; rename the "
                f"columns to image and label."
            )
    classes = getattr(features["label"], "names", None)
    if not classes:
        raise FerError(
            f"The label column of {name} ({split}) has no class names; cast it with `cast_column('label', "
            f"ClassLabel(names=[...]))`."
        )
    values = list(data["label"])
    for row, value in enumerate(values):
        if value is None or not 0 <= value < len(classes):
            raise FerError(
                f"Row {row} of {name} ({split}) has the label {value}, outside 0..{len(classes) - 1}; filter "
                f"unlabelled rows out first."
            )
    return np.asarray(values, dtype=np.int64), list(classes)


def _model_classes(model: torch.nn.Module) -> list[str]:
    id2label = {int(k): str(v) for k, v in model.config.id2label.items()}
    return [id2label[k] for k in sorted(id2label)]


def _match_classes(
    model_classes: list[str], dataset_classes: list[str]
) -> tuple[np.ndarray, list[str], dict[str, Any]]:
    """Column of each model class in the scored table, the table's class names, and the statement for the
    record."""
    from hf_fer.labels import map_labels

    try:
        mapping = map_labels(model_classes, dataset_classes)
    except FerError as error:
        raise FerError(f"The model's id2label and the data set's classes cannot be matched: {error}") from error
    names = list(dataset_classes)
    columns = np.empty(len(model_classes), dtype=np.int64)
    only_model = []
    for k, (label, target) in enumerate(zip(model_classes, mapping.index, strict=True)):
        if target is None or target < 0:
            columns[k] = len(names)
            names.append(label)
            only_model.append(label)
        else:
            columns[k] = target
    lacking = [label for k, label in enumerate(dataset_classes) if k not in set(columns.tolist())]
    if len(lacking) == len(dataset_classes):
        raise FerError(
            f"The model's classes ({', '.join(model_classes)}) share no name with the data set's "
            f"({', '.join(dataset_classes)}); set id2label in the model's config.json."
        )
    return (
        columns,
        names,
        {
            "model": model_classes,
            "dataset": dataset_classes,
            "matched_by": "name",
            "model_to_dataset": {
                label: (dataset_classes[c] if c < len(dataset_classes) else None)
                for label, c in zip(model_classes, columns.tolist(), strict=True)
            },
            "missing_in_model": lacking,  # their samples are errors
            "missing_in_dataset": only_model,  # answering one is an error
            "note": mapping.describe(),
        },
    )


def _effective_options(dataset: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options over the loader's defaults: a record names the voting rule even where nobody did."""
    from hf_fer.data import DATASETS

    merged = dict(options)
    if dataset in DATASETS:
        module = import_module(f"hf_fer.data.{dataset}")
        parameters = inspect.signature(getattr(module, f"load_{dataset}")).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "root"}
        merged = {**defaults, **merged}
    # Where the cache lies or which token opened the door says nothing about the result.
    return {key: value for key, value in merged.items() if key not in ("cache_dir", "token")}


# What the run was made with


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for key, distribution in VERSIONED.items():
        try:
            versions[key] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            versions[key] = None
    return versions


def _hardware(model: torch.nn.Module) -> dict[str, Any]:
    parameter = next(model.parameters())
    device = parameter.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
