"""Runs an exported classifier with onnxruntime, and with nothing but the file: no torch, no transformers."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import FerError
from .messages import brief
from .onnx_preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnx

FORMAT = "hf-fer-onnx/1"
"""What the metadata field `format` of an exported file says."""

MAX_BYTES = 2**31 - 1
"""Of a file: what protocol buffers, of which ONNX files are made, can hold."""

_MAX_METADATA = 8 << 20
_MAX_LABELS, _MAX_LABEL_CHARACTERS = 100_000, 500
_INSTALL = 'install it with pip install "hf-fer[onnx]"'


class OnnxClassifier:
    """An exported classifier, ready to answer.

    What strangers made is checked before a graph is built of it: the file must be one of `export_onnx`, with labels and
    preprocessing that make sense, hold all of its weights (no other file is read), and use ONNX's own operators alone,
    without loops or branches. A graph can still ask for more memory than there is: limit the process where files come
    from anywhere.

    Attributes:
        labels: class names in the order of the logits.
        preprocessing: from a picture to the network's input.
        metadata: everything that the file says about itself, text by name.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        """
        Args:
            path: a file that `export_onnx` wrote.
            threads: CPU threads for one pass; None: onnxruntime's default, all cores.
            providers: onnxruntime's execution providers, the first that is there wins.

        Raises:
            FerError: no such file, one that is not of this form, or onnxruntime is missing or cannot load it.
        """
        self._where = _printable(path)
        if threads is not None and threads < 1:
            raise FerError(f"threads must be at least 1, got {threads}")
        content, model = _read(path, self._where)
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.labels, self.preprocessing = _check_metadata(self.metadata, self._where)
        _check_graph(model, self._where)
        del model
        self._session = _open_session(content, threads, providers, self._where)
        self._check_signature()

    def predict(self, images: Sequence[Image.Image], batch_size: int = 32) -> list[dict[str, float]]:
        """Name what faces show.

        Args:
            images: PIL images of any mode and size, one face each.
            batch_size: images in one pass.

        Returns:
            For each image, every class to its probability, most probable first.

        Raises:
            FerError: something that is no picture, or answers that are no probabilities.
        """
        rows = self.probabilities(images, batch_size)
        orders = np.argsort(-rows, axis=1, kind="stable")
        return [
            {self.labels[k]: float(row[k]) for k in order.tolist()} for row, order in zip(rows, orders, strict=True)
        ]

    def probabilities(self, images: Sequence[Image.Image], batch_size: int = 32) -> np.ndarray:
        """As `predict`, but (N, K) float32 in the order of `labels`."""
        if isinstance(images, Image.Image):
            raise FerError("give a list of pictures, not one picture")
        if batch_size < 1:
            raise FerError(f"the batch size must be at least 1, not {batch_size}")
        parts = [
            self.run(self.preprocessing(images[start : start + batch_size]))[1]
            for start in range(0, len(images), batch_size)
        ]
        return np.concatenate(parts) if parts else np.empty((0, len(self.labels)), np.float32)

    def run(self, pixel_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One pass: (N, 3, height, width) float32, as `preprocessing` makes them, to logits and probabilities (N, K).

        Raises:
            FerError: onnxruntime failed, or the answers have another shape or are no numbers.
        """
        try:
            logits, probabilities = self._session.run(["logits", "probabilities"], {"pixel_values": pixel_values})
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise FerError(f"{self._where}: onnxruntime could not run it ({brief(error)})") from error
        expected = (len(pixel_values), len(self.labels))
        for name, values in (("logits", logits), ("probabilities", probabilities)):
            if values.shape != expected or values.dtype != np.float32:
                raise FerError(f"{self._where}: its {name} are {values.dtype} {values.shape}, not float32 {expected}")
            if not np.isfinite(values).all():
                raise FerError(f"{self._where}: its {name} are not finite; its weights may be damaged")
        return logits, probabilities

    def _check_signature(self) -> None:
        inputs = {i.name: (i.type, i.shape) for i in self._session.get_inputs()}
        outputs = {o.name: o.type for o in self._session.get_outputs()}
        kind, shape = inputs.get("pixel_values", ("", []))
        image = [3, *(self.preprocessing.size or ())]
        if set(inputs) != {"pixel_values"} or kind != "tensor(float)" or list(shape[1:]) != image:
            raise FerError(f"{self._where}: it takes no pixel_values of {image}, as its metadata says; export it again")
        if any(outputs.get(name) != "tensor(float)" for name in ("logits", "probabilities")):
            raise FerError(f"{self._where}: it gives no logits and probabilities; export it again")


def _read(path: str | os.PathLike[str], where: str) -> tuple[bytes, onnx.ModelProto]:
    """A file's content, once as bytes and once parsed; other files that it may name are not opened."""
    try:
        import onnx
    except ImportError as error:
        raise FerError(f"the package onnx is missing; {_INSTALL}") from error
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise FerError(f"{where}: not a file; name the .onnx file that hf-fer export wrote")
        if not 0 < status.st_size <= MAX_BYTES:
            raise FerError(f"{where}: it has {status.st_size:,} bytes, and an ONNX file has from 1 to {MAX_BYTES:,}")
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, FerError):
            raise
        raise FerError(f"{where}: cannot be read ({getattr(error, 'strerror', None) or brief(error)})") from error
    try:
        return content, onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's DecodeError, of whichever implementation
        raise FerError(f"{where}: not an ONNX file, or a damaged one ({brief(error)})") from error


def _check_metadata(metadata: Mapping[str, str], where: str) -> tuple[list[str], Preprocessing]:
    """What the file says of labels and preprocessing."""
    if metadata.get("format") != FORMAT:
        raise FerError(
            f"{where}: not exported by hf-fer export, its metadata does not say format {FORMAT}; export the model again"
        )
    if sum(len(key) + len(value) for key, value in metadata.items()) > _MAX_METADATA:
        raise FerError(f"{where}: its metadata is over {_MAX_METADATA >> 20} MiB")
    try:
        labels = json.loads(metadata.get("labels", ""))
    except (ValueError, RecursionError) as error:
        raise FerError(f"{where}: its labels are no JSON ({brief(error)})") from error
    if not isinstance(labels, list) or not 1 <= len(labels) <= _MAX_LABELS:
        raise FerError(f"{where}: its labels are not a list of 1 to {_MAX_LABELS} names")
    for label in labels:
        if not isinstance(label, str) or not label.isprintable() or len(label) > _MAX_LABEL_CHARACTERS:
            raise FerError(
                f"{where}: a label must be a printable text of at most {_MAX_LABEL_CHARACTERS} characters,"
                f" got {str(label)[:40]!r}"
            )
    if len({*labels}) != len(labels):
        raise FerError(f"{where}: two of its labels are the same")
    try:
        return labels, Preprocessing.from_json(metadata.get("preprocessing", ""))
    except FerError as error:
        raise FerError(f"{where}: its preprocessing cannot be used ({brief(error)})") from error


def _check_graph(model: onnx.ModelProto, where: str) -> None:
    """Refuse what no export of ours has: other files, code outside ONNX's own operators, loops, branches."""
    from onnx import TensorProto

    graph = model.graph
    if model.functions or model.training_info:
        raise FerError(f"{where}: it defines functions, which no export of hf-fer does; export the model again")
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise FerError(f"{where}: its weights are in another file, which is not read; export it as one file")
    if graph.sparse_initializer:
        raise FerError(f"{where}: it has sparse weights, which no export of hf-fer has; export the model again")
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise FerError(f"{where}: it uses operators of {node.domain[:60]!r}, which are not run")
        for attribute in node.attribute:
            if attribute.graphs or attribute.HasField("g"):
                raise FerError(f"{where}: it holds loops or branches ({node.op_type[:40]!r}), which are not run")
            # Its values, too, may be in another file, which onnxruntime would read.
            if attribute.sparse_tensors or attribute.HasField("sparse_tensor"):
                raise FerError(f"{where}: it has a sparse constant, which no export of hf-fer has; export it again")
            tensors = [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            if any(t.data_location == TensorProto.EXTERNAL or t.external_data for t in tensors):
                raise FerError(f"{where}: a constant is in another file, which is not read; export it as one file")


def _open_session(content: bytes, threads: int | None, providers: Sequence[str], where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise FerError(f"the package onnxruntime is missing; {_INSTALL}") from error
    there = onnxruntime.get_available_providers()
    wanted = [name for name in providers if name in there]
    if not wanted:
        raise FerError(f"this onnxruntime has none of {', '.join(providers)}; it has {', '.join(there)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal: what goes wrong is raised, and said once
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        # Without fallback: it tells of its second try on standard output.
        return onnxruntime.InferenceSession(content, options, providers=wanted, enable_fallback=0)
    except Exception as error:
        raise FerError(f"{where}: onnxruntime cannot load it ({brief(error)})") from error


def _printable(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if name and name.isprintable() and len(name) <= 300 else repr(name[:300])
