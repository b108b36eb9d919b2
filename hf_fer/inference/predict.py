"""From image files to expressions: load a checkpoint once, then answer image after image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FerError
from .images import FailedImage, open_image

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

__all__ = [
    "DEFAULT_MODEL",
    "FailedImage",
    "Prediction",
    "embedded_model_path",
    "load_classifier",
    "predict_images",
    "resolve_model",
]

DEFAULT_MODEL = "default"
"""The name of the checkpoint that comes inside the package."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        path: as given.
        label: the most probable class, by the checkpoint's own name for it.
        score: its probability, 0..1.
        probabilities: every class to its probability, most probable first.
    """

    path: str
    label: str
    score: float
    probabilities: dict[str, float]


def load_classifier(
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load an image classifier and its image processor, ready to predict.

    Args:
        model: a checkpoint folder, a Hub id, or None or "default" for the checkpoint inside the package.
            A folder is read without any network access, and wins over a Hub id of the same name.
        device: a torch device; None takes CUDA where there is one, else the CPU.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: let the checkpoint bring Python code and run it. Our own models never need it.

    Returns:
        The model (eval mode, float32, on the device) and its processor.

    Raises:
        FerError: no such folder or repository, an incomplete or damaged checkpoint, a model that is not
            an image classifier or whose classification head was never trained, or a device that is not there.
    """
    import torch

    source, local = resolve_model(model)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        where = torch.device(where)
        torch.empty(0, device=where)
    except Exception as error:  # RuntimeError, AssertionError or NotImplementedError, depending on the backend
        raise FerError(f"device {device!s} cannot be used ({_first_sentence(error)}); try --device cpu") from error

    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": local}
    if revision is not None and not local:
        hub["revision"] = revision
    config = _load_config(source, hub)
    network = _load_weights(source, config, hub)
    processor = _load_processor(source, hub)
    # Channels last: the layout convolutions are fastest in, on CPUs and GPUs alike.
    return network.to(where, memory_format=torch.channels_last).eval(), processor


def embedded_model_path() -> str:
    """Folder of the checkpoint that comes inside the package; any `from_pretrained` of transformers takes it.

    Raises:
        FerError: an installation without it.
    """
    folder = Path(__file__).resolve().parent.parent / "assets"
    if not (folder / "config.json").is_file():
        raise FerError(f"the checkpoint inside the package is missing ({folder}); reinstall hf-fer or name a model")
    return str(folder)


def resolve_model(model: str | os.PathLike[str] | None) -> tuple[str, bool]:
    """Decide what a model argument means.

    Returns:
        (folder or Hub id, whether it is a folder).

    Raises:
        FerError: neither a checkpoint folder nor something that can be a Hub id.
    """
    if model is None or os.fspath(model) == DEFAULT_MODEL:
        return embedded_model_path(), True
    name = os.fspath(model)
    if not name:
        raise FerError("'': no such folder; an empty name names no model")
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FerError(f"{name}: not a checkpoint folder, it has no config.json")
        return name, True
    if path.exists():
        raise FerError(f"{name}: a file; name the checkpoint folder that holds config.json and model.safetensors")
    if not _HUB_ID.fullmatch(name):
        raise FerError(f"{name!r}: no such folder, and not a Hub id of the form owner/name")
    return name, False


def predict_images(
    paths: Iterable[str | os.PathLike[str]],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    batch_size: int = 32,
    progress: bool = False,
) -> Iterator[Prediction | FailedImage]:
    """Answer images one after another, in order; nothing is kept once it is yielded.

    At most one decoded image and `batch_size` preprocessed ones are in memory.

    Args:
        paths: image files, each showing one face.
        model, processor: as from `load_classifier`.
        batch_size: images a forward pass.
        progress: draw a tqdm bar on stderr.

    Yields:
        A `Prediction`, or a `FailedImage` for a file that could not be read, preprocessed or scored.

    Raises:
        FerError: a batch size below 1, or not enough memory on the device for a batch.
    """
    if batch_size < 1:
        raise FerError(f"the batch size must be at least 1, not {batch_size}")
    return _predict(paths, model, processor, batch_size, progress)


def _predict(
    paths: Iterable[str | os.PathLike[str]],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    batch_size: int,
    progress: bool,
) -> Iterator[Prediction | FailedImage]:
    from tqdm import tqdm

    with tqdm(paths, unit="image", disable=not progress, dynamic_ncols=True) as bar:
        slots: list[tuple[str, torch.Tensor | FailedImage]] = []
        waiting = 0
        for path in bar:
            name = os.fspath(path)
            pixels = _read_pixels(name, processor)
            slots.append((name, pixels))
            waiting += not isinstance(pixels, FailedImage)
            # Failures count too: a folder of nothing but damaged files must not pile up either.
            if waiting == batch_size or len(slots) >= 4 * batch_size:
                yield from _answer(slots, model)
                slots, waiting = [], 0
        yield from _answer(slots, model)


def _read_pixels(name: str, processor: BaseImageProcessor) -> torch.Tensor | FailedImage:
    """One image as the model wants it, (1,3,H,W) float, or why not."""
    try:
        image = open_image(name)
    except FerError as error:
        return FailedImage(name, str(error))
    try:
        # One at a time: a picture of an impossible shape then fails alone, and only one is held decoded.
        return processor(images=image, return_tensors="pt")["pixel_values"]
    except Exception as error:
        size = f"{image.width} x {image.height}"
        return FailedImage(name, f"{name}: the image ({size}) cannot be preprocessed ({_first_sentence(error)})")


def _answer(
    slots: list[tuple[str, torch.Tensor | FailedImage]], model: PreTrainedModel
) -> Iterator[Prediction | FailedImage]:
    """Score the preprocessed images of a batch and yield its slots in order."""
    import torch

    pixels = [p for _, p in slots if not isinstance(p, FailedImage)]
    scores: Iterator[list[float]] = iter(())
    if pixels:
        # A processor that neither fixes the size nor crops gives tensors that cannot share a batch.
        alike = all(p.shape == pixels[0].shape for p in pixels)
        batches = [torch.cat(pixels)] if alike else pixels
        scores = iter([row for batch in batches for row in _probabilities(batch, model)])
    names = model.config.id2label
    for name, pixel in slots:
        if isinstance(pixel, FailedImage):
            yield pixel
            continue
        row = next(scores)
        if not all(p == p for p in row):  # NaN
            yield FailedImage(name, f"{name}: the model's answer is not a number; its weights may be damaged")
            continue
        order = sorted(range(len(row)), key=lambda k: -row[k])
        probabilities = {str(names[k]): row[k] for k in order}
        label = str(names[order[0]])
        yield Prediction(name, label, row[order[0]], probabilities)


def _probabilities(pixels: torch.Tensor, model: PreTrainedModel) -> list[list[float]]:
    """(B,3,H,W) -> B rows of K probabilities, by the rule of the image-classification pipeline."""
    import torch

    try:
        with torch.inference_mode():
            logits = model(pixel_values=pixels.to(model.device, model.dtype)).logits.float()
    except torch.cuda.OutOfMemoryError as error:
        raise FerError(
            f"not enough memory on {model.device} for {len(pixels)} images at once; lower the batch size"
        ) from error
    multi_label = getattr(model.config, "problem_type", None) == "multi_label_classification"
    return (logits.sigmoid() if multi_label or logits.shape[1] == 1 else logits.softmax(1)).tolist()


def _load_config(source: str, hub: dict[str, Any]) -> Any:
    """Read config.json and make sure that it describes an image classifier."""
    from transformers import AutoConfig, AutoModelForImageClassification

    import hf_fer  # noqa: F401  (registers our models, whichever way this module was reached)

    try:
        config = AutoConfig.from_pretrained(source, **hub)
    except Exception as error:
        text = str(error)
        if "trust_remote_code" in text:
            raise FerError(
                f"{source}: brings its own Python code; read it, then allow it with --trust-remote-code"
            ) from error
        if isinstance(error, OSError) and not hub["local_files_only"]:
            raise FerError(
                f"{source}: no such folder here, and the Hub gave no such model ({_first_sentence(error)})"
            ) from error
        raise FerError(f"{source}: its config.json cannot be used ({_first_sentence(error)})") from error
    remote = hub["trust_remote_code"] and "AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {})
    if type(config) not in AutoModelForImageClassification._model_mapping and not remote:
        raise FerError(f"{source}: a {config.model_type} model, which is not an image classifier")
    return config


def _load_weights(source: str, config: Any, hub: dict[str, Any]) -> PreTrainedModel:
    """Load the weights and refuse a checkpoint that leaves part of the model random."""
    import torch
    from transformers import AutoModelForImageClassification

    try:
        model, report = AutoModelForImageClassification.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, **hub
        )
    except Exception as error:
        raise FerError(f"{source}: its weights cannot be loaded ({_first_sentence(error)})") from error
    # A batch-norm counter is absent from old checkpoints and changes no answer.
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
    if missing:
        raise FerError(
            f"{source}: not a trained image classifier, the checkpoint lacks {len(missing)} weights"
            f" such as {missing[-1]}"
        )
    return model


def _load_processor(source: str, hub: dict[str, Any]) -> BaseImageProcessor:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(source, **hub)
    except Exception as error:
        raise FerError(
            f"{source}: its image processor cannot be loaded, preprocessor_config.json is missing or damaged"
            f" ({_first_sentence(error)})"
        ) from error


def _first_sentence(error: BaseException) -> str:
    """The beginning of a library's message, on one line of at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.split(". ")[0][:200].rstrip(".")
