"""A classifier as one ONNX file that says in its metadata what goes in and what comes out; float32 or int8."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..checkpoints.checks import first_sentence
from ..checkpoints.loading import load_classifier, resolve_model
from ..data.images import to_rgb
from ..errors import FerError
from ..evaluation.whole_files import refuse_existing, write_whole
from .onnx_preprocessing import Preprocessing
from .onnx_runtime import FORMAT, MAX_BYTES, OnnxClassifier

if TYPE_CHECKING:
    import onnx
    import torch
    from transformers import PreTrainedModel

OPSET = 18
"""The first in which Resize has the antialiasing of torch's and Pillow's."""

TOLERANCE = 1e-4
"""Largest difference to PyTorch that a float32 file may show, in logits and in probabilities."""

RESPONSIBLE_USE = (
    "A label names the expression a face appears to show, not what its owner feels. Do not use this to judge, select "
    "or watch people: not at work, not in schools (both forbidden in the EU), not in policing, hiring, insurance or "
    "medicine."
)

_PARITY_BATCHES = (1, 2, 5)
_CALIBRATION_FACES = 256
_CALIBRATION_BATCH = 16
_FACTORS = (1, 2, 4, 8)  # resolution, as in the evaluation protocol
_MAX_CARD = 1 << 20  # bytes of a card that is read for its license
_NEEDS = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how far its answers are from PyTorch's.

    Attributes:
        path: of the file.
        precision: "float32" or "int8".
        opset: of ONNX's operators.
        size_bytes: of the file.
        labels: in the order of the logits.
        input_shape: of `pixel_values`; the batch is free ("batch").
        images_checked: faces that both have answered, at mixed sizes and resolutions, in several batch sizes.
        max_logit_difference, max_probability_difference: over these.
        same_label: share of them with the same class on top, 0..1.
        max_pixel_difference: of the file's own preprocessing to the image processor's, in steps of 8-bit grey levels.
        calibration_images: faces that int8's ranges were read from; 0 for float32.
    """

    path: str
    precision: str
    opset: int
    size_bytes: int
    labels: list[str]
    input_shape: tuple[str | int, ...]
    images_checked: int
    max_logit_difference: float
    max_probability_difference: float
    same_label: float
    max_pixel_difference: float
    calibration_images: int

    def __str__(self) -> str:
        shape = " x ".join(str(side) for side in self.input_shape)
        return (
            f"{self.path}: {self.precision}, opset {self.opset}, {self.size_bytes / 1e6:.1f} MB, {shape} in, "
            f"{len(self.labels)} classes out; on {self.images_checked} faces at most "
            f"{self.max_logit_difference:.1e} (logits) and {self.max_probability_difference:.1e} (probabilities) from "
            f"PyTorch, the same class on top for {self.same_label:.1%}"
        )


def export_onnx(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    int8: bool = False,
    calibration_images: Iterable[Image.Image] | None = None,
    opset: int = OPSET,
    overwrite: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> OnnxReport:
    """Write a classifier as an ONNX file for onnxruntime and the like; `OnnxClassifier` reads it back.

    Input `pixel_values` (N, 3, height, width) float32, N free; outputs `logits` and `probabilities` (N, K) float32. The
    metadata holds the preprocessing and the labels as JSON, the name and digest of the checkpoint, its license and a
    sentence on responsible use. Before the file gets its name, onnxruntime answers drawn faces in batches of 1, 2 and 5
    with it, and so does PyTorch; float32 may differ by 1e-4.

    int8 is static quantisation (quantise-dequantise pairs) of convolutions, what joins them, and linear layers;
    attention, norms and softmax stay in float32. Activations have 8 bits, weights 7 by output channel: with 8 the
    16-bit sums of CPUs without VNNI instructions would overflow. Ranges are the extremes over the calibration faces:
    percentiles did no better (FERPlus validation, embedded model), and need every activation of every face in memory.

    Args:
        model: a checkpoint folder, a Hub id or "default", as for `load_classifier`.
        output: the file to write; its folder is made if missing.
        int8: quantise.
        calibration_images: face crops like those that the model will meet, in every resolution; 100 to 500 do. None:
            256 drawn faces at resolutions x1 to x8. Read once, not all held.
        opset: version of ONNX's operators, at least 18.
        overwrite: an existing file.
        revision: branch, tag or commit of a Hub id.
        trust_remote_code: let the checkpoint bring Python code and run it.

    Raises:
        FerError: a model or an image processor that cannot be exported, a parity that does not hold, a file that exists
            or cannot be written, or a missing package. Nothing is written then.
    """
    path = Path(output)
    if path.is_dir():
        raise FerError(f"{path}: a folder; name the file to write, such as {path / 'model.onnx'}")
    refuse_existing(path, overwrite)
    if opset < OPSET:
        raise FerError(f"opset must be at least {OPSET}, got {opset}: earlier ones cannot resize as PyTorch does")
    if calibration_images is not None and not int8:
        raise FerError("calibration images are for int8 only; leave them out, or ask for int8")
    _check_packages()

    source, local = resolve_model(model)
    network, processor = load_classifier(model, "cpu", revision=revision, trust_remote_code=trust_remote_code)
    faces = list(itertools.islice(_drawn_faces(seed=1), sum(_PARITY_BATCHES) * len(_FACTORS)))
    try:
        preprocessing = Preprocessing.from_processor(processor)
        levels = _check_preprocessing(preprocessing, processor, faces)
    except FerError as error:
        raise FerError(f"{source}: cannot be exported, {error}") from error
    exported = _export_graph(network, preprocessing, opset, source)
    seen = 0
    if int8:
        images = _drawn_faces(seed=0) if calibration_images is None else calibration_images
        reader = _Calibration(_pixels(images, processor))
        exported = _quantize(exported, reader, source)
        seen = reader.seen
    folder = Path(source) if local else _hub_folder(source, network)
    card = Path(source) / "README.md" if local else _hub_card(source, network)
    _set_metadata(exported, _describe(network, preprocessing, folder, card, source, local, int8))
    content = exported.SerializeToString()

    with tempfile.TemporaryDirectory() as scratch:
        trial = Path(scratch) / "model.onnx"
        trial.write_bytes(content)
        logit, probability, same = _compare(network, OnnxClassifier(trial, threads=1), processor, faces)
    if not int8 and max(logit, probability) > TOLERANCE:
        raise FerError(
            f"{source}: cannot be exported, onnxruntime's answers differ from PyTorch's by {logit:.1e} (logits) and "
            f"{probability:.1e} (probabilities), and the limit is {TOLERANCE}; try another opset or onnxruntime"
        )
    write_whole(path, lambda file: file.write(content), overwrite)
    height, width = preprocessing.size or (0, 0)
    return OnnxReport(
        os.fspath(path),
        "int8" if int8 else "float32",
        opset,
        len(content),
        _labels(network),
        ("batch", 3, height, width),
        len(faces),
        logit,
        probability,
        same,
        levels,
        seen,
    )


# --- the graph ------------------------------------------------------------------------------------------------


def _export_graph(network: PreTrainedModel, preprocessing: Preprocessing, opset: int, source: str) -> onnx.ModelProto:
    """The network with its two outputs, as torch's exporter writes it, less where it came from."""
    import torch

    example = torch.zeros(2, 3, *preprocessing.size)  # 1 would be taken for fixed
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _with_probabilities(network),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["pixel_values"],
                output_names=["logits", "probabilities"],
                opset_version=opset,
                external_data=False,
                verbose=False,
            )
        model = program.model_proto
    except Exception as error:  # of dynamo, of the decompositions, of onnxscript
        cause = error.__cause__ or error
        raise FerError(
            f"{source}: torch {torch.__version__} cannot export this network to ONNX ({first_sentence(cause)})"
        ) from error
    if model.ByteSize() > MAX_BYTES:
        raise FerError(f"{source}: cannot be exported, its {model.ByteSize():,} bytes do not fit into one ONNX file")
    for batch in (model.graph.input[0], *model.graph.output):
        if not batch.type.tensor_type.shape.dim[0].dim_param:
            raise FerError(f"{source}: cannot be exported, its network works for one batch size only")
    _strip(model)
    return model


def _with_probabilities(network: PreTrainedModel) -> torch.nn.Module:
    import torch

    class WithProbabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = self.network(pixel_values=pixel_values).logits
            return logits, logits.sigmoid() if _is_multi_label(network) else logits.softmax(dim=1)

    return WithProbabilities().eval()


def _is_multi_label(network: PreTrainedModel) -> bool:
    """The rule of transformers' image-classification pipeline, as in `predict_images`."""
    config = network.config
    return getattr(config, "problem_type", None) == "multi_label_classification" or config.num_labels == 1


def _strip(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes on every node: source lines with paths of this machine, a third of a small file."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


# --- int8 -----------------------------------------------------------------------------------------------------


class _Calibration:
    """Batches of pixels as onnxruntime's calibration asks for them.

    Attributes:
        seen: images handed out so far.
    """

    def __init__(self, pixels: Iterator[np.ndarray]) -> None:
        self._pixels, self.seen = pixels, 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._pixels, None)
        if batch is None:
            return None
        self.seen += len(batch)
        return {"pixel_values": batch}


def _quantize(model: onnx.ModelProto, reader: _Calibration, source: str) -> onnx.ModelProto:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    nodes = _quantizable(model.graph)
    if not nodes:
        raise FerError(f"{source}: it has no convolution and no linear layer, and so nothing to quantise")
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "int8.onnx"
        try:
            with _quiet():
                quantize_static(
                    onnx.shape_inference.infer_shapes(model),
                    result,
                    reader,
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    calibrate_method=CalibrationMethod.MinMax,
                    nodes_to_quantize=nodes,
                )
        except FerError:  # of the calibration images
            raise
        except Exception as error:
            if not reader.seen:
                raise FerError("there are no calibration images; give some face crops, or leave them out") from error
            raise FerError(f"{source}: onnxruntime cannot quantise it ({first_sentence(error)})") from error
        quantized = onnx.load(result)
    _strip(quantized)
    return quantized


def _quantizable(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions and linear layers, and of what joins convolutions and would else break int8's flow."""
    constants = {tensor.name for tensor in graph.initializer}
    maps: set[str] = set()  # values that are made of convolutions' outputs alone
    names: list[str] = []
    for node in graph.node:  # in topological order
        inputs = [name for name in node.input if name]
        between = node.op_type in ("Relu", "Add", "AveragePool", "MaxPool", "GlobalAveragePool")
        if node.op_type == "Conv" or (between and all(name in maps for name in inputs)):
            maps.update(node.output)
            names.append(node.name)
        elif node.op_type in ("Gemm", "MatMul") and inputs[1] in constants:
            names.append(node.name)
    return names


# --- metadata -------------------------------------------------------------------------------------------------


def _describe(
    network: PreTrainedModel,
    preprocessing: Preprocessing,
    folder: Path | None,
    card: Path | None,
    source: str,
    local: bool,
    int8: bool,
) -> dict[str, str]:
    import hf_fer

    from ..checkpoints.loading import embedded_name
    from ..evaluation.systems import digest_of
    from ..models.configuration_base import FerConfig

    config = network.config
    if folder is not None and (inside := embedded_name(folder)):
        name = f"hf-fer-{inside}"
    else:
        name = Path(source).resolve().name if local else source  # not where it lies on this machine
    template = getattr(config, "face_template", None) or ("ferplus" if isinstance(config, FerConfig) else None)
    return {
        "format": FORMAT,
        "model": name,
        "model_type": str(config.model_type),
        "model_digest": digest_of(folder) or "",
        "revision": getattr(config, "_commit_hash", None) or "",
        "precision": "int8" if int8 else "float32",
        "labels": json.dumps(_labels(network), ensure_ascii=False),
        "activation": "sigmoid" if _is_multi_label(network) else "softmax",
        "preprocessing": preprocessing.to_json(),
        "face_crop": "one face, cut out of the picture as in the training images; see face_template",
        "face_template": json.dumps(template),
        "license": _license(card),
        "responsible_use": RESPONSIBLE_USE,
        "hf_fer_version": hf_fer.__version__,
    }


def _set_metadata(model: onnx.ModelProto, metadata: dict[str, str]) -> None:
    import onnx

    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version = "hf-fer", metadata["hf_fer_version"]
    model.graph.name = metadata["model"]
    model.doc_string = f"{metadata['model']}: facial expression recognition. {RESPONSIBLE_USE}"


def _labels(network: PreTrainedModel) -> list[str]:
    names = network.config.id2label
    labels = [str(names[k]) for k in range(len(names))]
    if len({*labels}) != len(labels):
        raise FerError("two labels of the model have the same name; rename one in id2label")
    return labels


def _license(card: Path | None) -> str:
    """Of the checkpoint, as its card says; "unknown" without one."""
    from huggingface_hub import metadata_load

    try:
        is_card = card is not None and card.is_file() and card.stat().st_size <= _MAX_CARD
        found = (metadata_load(card) or {}).get("license") if is_card else None
    except Exception:  # a card that is no card says nothing
        found = None
    return found if isinstance(found, str) and found.isprintable() and len(found) <= 100 else "unknown"


def _hub_folder(source: str, network: PreTrainedModel) -> Path | None:
    """Where the cache has the files of the commit that was loaded."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json", revision=getattr(network.config, "_commit_hash", None))
    return Path(found).parent if isinstance(found, str) else None


def _hub_card(source: str, network: PreTrainedModel) -> Path | None:
    """The card of the commit that was loaded, which loading a model does not fetch; None where it is not to be had."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, "README.md", revision=network.config._commit_hash))
    except Exception:  # no card, or no network
        return None


# --- parity ---------------------------------------------------------------------------------------------------


def _compare(
    network: PreTrainedModel, classifier: OnnxClassifier, processor: Any, faces: Sequence[Image.Image]
) -> tuple[float, float, float]:
    """Largest difference of logits and of probabilities, and the share of equal labels, over all the faces."""
    import torch

    logit = probability = 0.0
    same = 0
    remaining, sizes = iter(faces), itertools.cycle(_PARITY_BATCHES)
    while batch := list(itertools.islice(remaining, next(sizes))):
        pixels = processor(images=batch, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = network(pixel_values=pixels).logits
            shares = expected.sigmoid() if _is_multi_label(network) else expected.softmax(dim=1)
        logits, probabilities = classifier.run(pixels.numpy())
        logit = max(logit, float(np.abs(logits - expected.numpy()).max()))
        probability = max(probability, float(np.abs(probabilities - shares.numpy()).max()))
        same += int((logits.argmax(1) == expected.numpy().argmax(1)).sum())
    return logit, probability, same / len(faces)


def _check_preprocessing(preprocessing: Preprocessing, processor: Any, faces: Sequence[Image.Image]) -> float:
    """The largest difference to what the processor makes of some faces, in 8-bit grey levels.

    Two resizers that round at different places are one or two apart in a few pixels; another filter, or another crop,
    is tens apart.
    """
    step = np.array([preprocessing.scale / abs(std) for std in preprocessing.std])[:, None, None]
    samples = [*faces[:4], *(face.resize((61, 37)) for face in faces[4:8]), *(f.convert("L") for f in faces[8:14])]
    largest = mean = 0.0
    for face in samples:
        expected = processor(images=face.convert("RGB"), return_tensors="np")["pixel_values"][0]
        found = preprocessing([face])[0]
        if expected.shape != found.shape:
            raise FerError(f"its image processor makes {expected.shape} of a picture, its numbers say {found.shape}")
        levels = np.abs(found - expected) / step
        largest, mean = max(largest, float(levels.max())), max(mean, float(levels.mean()))
    if largest > 3.5 or mean > 0.1:
        raise FerError(
            f"its image processor ({type(processor).__name__}) does more than its numbers say: pixels differ by up to "
            f"{largest:.1f} grey levels"
        )
    return largest


# --- faces ----------------------------------------------------------------------------------------------------


def _drawn_faces(seed: int) -> Iterator[Image.Image]:
    """`_CALIBRATION_FACES` drawn faces of all expressions, sizes from 24 to 224 px and resolutions x1 to x8."""
    from ..data.drawn_faces import GEOMETRIES, draw_face
    from ..data.resolution import degrade_image

    rng = np.random.default_rng(seed)
    sides = (48, 96, 24, 224)
    rounds = itertools.product(range(_CALIBRATION_FACES // (len(sides) * len(_FACTORS))), sides, _FACTORS)
    for k, (_, side, factor) in enumerate(rounds):
        expression = [*GEOMETRIES][k % len(GEOMETRIES)]
        yield degrade_image(draw_face(expression, rng, side), factor)


def _pixels(images: Iterable[Image.Image], processor: Any) -> Iterator[np.ndarray]:
    """Batches of (B, 3, height, width) float32."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, _CALIBRATION_BATCH)):
        for image in batch:
            if not isinstance(image, Image.Image):
                raise FerError(f"a calibration image must be a PIL image, not a {type(image).__name__}; open it first")
        batch = [to_rgb(image) for image in batch]
        yield np.concatenate([processor(images=image, return_tensors="np")["pixel_values"] for image in batch])


# --- surroundings ---------------------------------------------------------------------------------------------


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise FerError(f'exporting needs {", ".join(missing)}; install with pip install "hf-fer[onnx]"')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of torch's exporter and onnxruntime's quantiser, which say nothing a user could act on."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "root")
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
