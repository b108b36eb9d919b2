"""What can be scored: a transformers classifier, a pipeline, or a file of predictions; all answer in one form.

Nothing random happens at test time: the checkpoint's own image processor, no augmentation, evaluation mode.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_fer.checkpoints.checks import first_sentence
from hf_fer.checkpoints.loading import load_classifier, resolve_model
from hf_fer.data.images import to_rgb
from hf_fer.data.resolution import degrade_image
from hf_fer.digests import sha256
from hf_fer.errors import FerError
from hf_fer.evaluation.matching import model_classes

PREDICTION_SUFFIXES = (".csv", ".parquet", ".jsonl")


@dataclass
class System:
    """Something that names expressions.

    Attributes:
        source: "model", "pipeline" or "predictions".
        name: for the record.
        classes: its class names as it spells them; None for a file that holds answers only.
        revision: commit on the Hub, or what tells one version of the weights from another; None if unknown.
        folder: the checkpoint's folder, where there is one on this machine.
        answer: for a model or pipeline: images in, `(B, K)` float64 probabilities out.
        network: the module behind it, if there is one.
        path: the file of predictions.
    """

    source: str
    name: str
    classes: list[str] | None
    revision: str | None = None
    folder: Path | None = None
    answer: Callable[[list[Image.Image]], np.ndarray] | None = None
    network: torch.nn.Module | None = None
    path: Path | None = None


def open_system(
    system: str | os.PathLike[str] | torch.nn.Module | Any,
    *,
    processor: Any = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    name: str | None = None,
) -> System:
    """Anything that `evaluate_model` takes, as a `System`.

    Args:
        system: a checkpoint folder, a Hub id or "default" (see `load_classifier`), a file of predictions (`.csv`,
            `.parquet`, `.jsonl`), a loaded transformers classifier, or an image-classification pipeline.
        processor: image processor of a model; default: the one saved with it.
        revision: of a Hub id.
        device: where a model runs. None: a loaded model stays where it is, a path goes to CUDA if there is one.
        trust_remote_code: let a checkpoint that is not ours bring Python code and run it.
        name: for the record; default: the path, the id or the class name.

    Raises:
        FerError: it cannot be loaded, is none of these, or an argument does not apply to it.
    """
    if isinstance(system, str | os.PathLike) and Path(system).suffix.lower() in PREDICTION_SUFFIXES:
        _refuse("a file of predictions", processor=processor, revision=revision, device=device)
        path = Path(system)
        return System("predictions", name or path.stem, None, digest_of(path), path=path)
    folder = None  # of a loaded model nobody knows whether it is still what its folder holds
    if not isinstance(system, str | os.PathLike | torch.nn.Module):
        if not callable(system) or not isinstance(getattr(system, "model", None), torch.nn.Module):
            raise FerError(
                f"A {type(system).__name__} cannot be scored; pass a checkpoint folder, a Hub id, a loaded model, an "
                "image-classification pipeline, or a file of predictions."
            )
        _refuse("a pipeline, which brings its own", processor=processor, revision=revision, device=device)
        source, path, network, answer = "pipeline", None, system.model, _pipeline_answers(system)
    else:
        source, path = "model", None
        if isinstance(system, torch.nn.Module):
            network, processor = system, processor or _saved_processor(system)
            if device is not None:
                network.to(device)
        else:
            path, local = resolve_model(system)
            folder = Path(path) if local else None
            network, processor = load_classifier(
                system, device, revision=revision, trust_remote_code=trust_remote_code, processor=processor
            )
        answer = _model_answers(network, processor)
    config = getattr(network, "config", None)
    known_as = os.fspath(system) if path is not None else getattr(config, "_name_or_path", "")
    return System(
        source,
        name or known_as or type(network).__name__,
        model_classes(network),
        getattr(config, "_commit_hash", None) or revision or digest_of(folder),
        folder,
        answer,
        network,
    )


def digest_of(path: Path | None) -> str | None:
    """`sha256:` and 16 digits that tell two checkpoints, or two files of predictions, of one name apart.

    Args:
        path: a file; or a checkpoint's folder, of which what decides the answers counts: configuration, image processor
            and weights. None, or neither: None.
    """
    if path is None or not path.exists():
        return None
    if path.is_file():
        return f"sha256:{sha256(path)[:16]}"
    files = [path / name for name in ("config.json", "preprocessor_config.json")]
    files += sorted(path.glob("*.safetensors"))
    found = [(file.name, sha256(file)) for file in files if file.is_file()]
    return f"sha256:{hashlib.sha256(repr(found).encode()).hexdigest()[:16]}" if found else None


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
    if device is not None:
        model.to(device)
    return probabilities_by_factor(
        _model_answers(model, processor),
        images,
        factors=(factor,),
        reference_side=reference_side,
        batch_size=batch_size,
        progress=progress,
        network=model,
    )[0]


def probabilities_by_factor(
    answer: Callable[[list[Image.Image]], np.ndarray],
    images: Iterable[Image.Image],
    *,
    factors: Sequence[float],
    reference_side: int | None = None,
    batch_size: int = 64,
    progress: bool = True,
    total: int | None = None,
    network: torch.nn.Module | None = None,
) -> list[np.ndarray]:
    """`(N, K)` float64 for each factor. Each image is decoded once, whatever the number of factors.

    Args:
        answer: RGB images in, `(B, K)` probabilities out.
        images: PIL images; read once, in batches.
        factors, reference_side: see `degrade_image`.
        batch_size: images in one call of `answer`.
        progress: show a progress bar on standard error.
        total: number of images for it.
        network: put into evaluation mode meanwhile.

    Raises:
        FerError: see `predict_probabilities`.
    """
    from tqdm.auto import tqdm

    if batch_size < 1:
        raise FerError(f"batch_size={batch_size} leaves nothing to run; use 1 or more.")
    if total is None and hasattr(images, "__len__"):
        total = len(images)
    chunks: list[list[np.ndarray]] = [[] for _ in factors]
    was_training = network is not None and network.training
    if network is not None:
        network.eval()
    bar = tqdm(total=total, unit="image", desc="evaluate", disable=not progress)
    seen = 0
    try:
        for batch in batches(images, batch_size):
            faces = [as_rgb(image, seen + i) for i, image in enumerate(batch)]
            for chunk, factor in zip(chunks, factors, strict=True):
                views = [degrade_image(face, factor, reference_side=reference_side) for face in faces]
                chunk.append(answer(views))
                finite = np.isfinite(chunk[-1]).all(axis=1)
                if not finite.all():
                    raise FerError(
                        f"The model's logits for image {seen + int((~finite).argmax())} (factor {factor_key(factor)}) "
                        "are not finite; check its weights, or run it in float32."
                    )
            seen += len(faces)
            bar.update(len(faces))
    finally:
        bar.close()
        if network is not None:
            network.train(was_training)
    if not seen:
        raise FerError("There are no images to evaluate; check the split and its filters.")
    return [np.concatenate(chunk) for chunk in chunks]


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def as_rgb(image: Any, row: int) -> Image.Image:
    """An image of a data set as RGB.

    Raises:
        FerError: it is no PIL image.
    """
    if not isinstance(image, Image.Image):
        raise FerError(
            f"Image {row} is a {type(image).__name__}, not a PIL image; cast the column with "
            f"`cast_column('image', Image())`."
        )
    return to_rgb(image)


def factor_key(factor: float) -> str:
    """How a record names a factor."""
    return f"{factor:g}"


def _model_answers(model: torch.nn.Module, processor: Any) -> Callable[[list[Image.Image]], np.ndarray]:
    parameter = next(model.parameters())

    def answer_by_model(images: list[Image.Image]) -> np.ndarray:
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        # Around the forward pass alone: what is made in inference mode, a moved model's buffers say,
        # could not be trained on afterwards.
        with torch.inference_mode():
            logits = model(pixel_values=pixels.to(parameter.device, parameter.dtype)).logits.double()
        return logits.softmax(dim=-1).cpu().numpy()

    return answer_by_model


def _pipeline_answers(pipe: Any) -> Callable[[list[Image.Image]], np.ndarray]:
    classes = model_classes(pipe.model)
    column = {label: k for k, label in enumerate(classes)}

    def answer_by_pipeline(images: list[Image.Image]) -> np.ndarray:
        # Softmax whatever the checkpoint's problem_type: one face shows one of the expressions.
        answers = pipe(images, top_k=len(classes), function_to_apply="softmax", batch_size=len(images))
        table = np.full((len(images), len(classes)), np.nan)
        try:
            for row, answer in zip(table, answers, strict=True):
                for entry in answer:
                    row[column[entry["label"]]] = entry["score"]
        except (KeyError, TypeError, ValueError) as error:
            raise FerError(
                f"The {type(pipe).__name__} does not answer as an image-classification pipeline does, with a list of "
                f"label and score for each image ({type(error).__name__}: {error}); pass such a one, or the model."
            ) from error
        return table

    return answer_by_pipeline


def _saved_processor(network: torch.nn.Module) -> Any:
    """The image processor of the checkpoint that a model was loaded from."""
    from transformers import AutoImageProcessor

    where = getattr(getattr(network, "config", None), "_name_or_path", "")
    if not where:
        raise FerError(
            f"The {type(network).__name__} was not loaded from a checkpoint, so it has no image processor; pass "
            "processor=."
        )
    try:
        return AutoImageProcessor.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        raise FerError(
            f"No image processor could be loaded from {where!r} ({first_sentence(error)}); save one beside the model, "
            "or pass processor=."
        ) from error


def _refuse(what: str, **arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise FerError(f"{', '.join(given)} cannot be set for {what}; leave it out.")
