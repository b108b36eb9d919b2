"""From pictures to faces with their expressions: `transformers.pipeline("facial-expression-recognition")`.

Faces are found by a detector, cropped as the model was trained on, and classified in batches that go across pictures.
`pipeline(...)` of transformers loads a model with transformers' own checks; `load_pipeline` with those of
`load_classifier`, which take a checkpoint from strangers for hostile until it has been looked at.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers.pipelines.base import Pipeline

from ..checkpoints.checks import first_sentence, printable
from ..data.images import to_rgb
from ..errors import FerError
from .calibration import Calibration, find_calibration
from .download import TIMEOUT, is_address, shown_address
from .found_faces import as_detector, described, find_faces, shorter_side
from .images import MAX_PIXELS, FailedImage
from .pictures import Picture, is_picture, read_picture

if TYPE_CHECKING:
    from .detection import Face, FaceDetector

__all__ = ["TASK", "FacialExpressionPipeline", "PictureFaces", "iter_faces", "load_pipeline"]

TASK = "facial-expression-recognition"
_BATCH_SIZE = 32
_MOST_KEPT = 2 * MAX_PIXELS  # pixels of decoded pictures that wait for their batch, where they are asked for


@dataclass(frozen=True)
class PictureFaces:
    """The answer for one picture.

    Attributes:
        path: as given; of what has no path or address, its place: "inputs[3]".
        size: (width, height) of the upright picture, in px.
        faces: as `FacialExpressionPipeline` answers, largest first; empty where none was found.
        image: the upright RGB picture, where it was asked for.
    """

    path: str
    size: tuple[int, int]
    faces: list[dict[str, Any]]
    image: Image.Image | None = field(default=None, repr=False, compare=False)


class FacialExpressionPipeline(Pipeline):
    """Finds the faces in pictures and names the expression that each appears to show.

        recognize = pipeline("facial-expression-recognition")        # the model inside hf-fer
        recognize("photo.jpg")                                       # a list of faces
        recognize(["photo.jpg", "https://...", image, array])        # a list of such lists
        for faces in recognize(path for path in paths): ...          # one after another, as they are asked for

    A picture is a path, an http(s) address, bytes, a PIL image of any mode, or a uint8 array (H, W), (H, W, 3) or
    (H, W, 4). Its EXIF orientation is honoured, and boxes are those of the upright picture. A face is

        {"box": {"xmin": 224, "ymin": 63, "xmax": 290, "ymax": 152},   # px
         "detection_score": 0.93,                                       # of the detector, 0..1
         "landmarks": [[x, y], ...] or None,                            # eyes, nose tip, mouth corners, in px
         "label": "happiness", "score": 0.97,                           # the most probable expression
         "probabilities": {"happiness": 0.97, ...},                     # most probable first
         "reliability": 0.91 or None}                                   # see below

    largest first; a picture without a face gives []. `reliability` is how likely the label is right, 0..1: GReFEL's own
    confidence, or else the top probability after temperature scaling for the face's resolution
    (`hf_fer.inference.calibration`). It is None for a model without a `calibration.json` beside it, which
    `hf-fer calibrate` makes, and for Hub ids of which transformers does not tell the commit: use `load_pipeline`.

    Args:
        model, image_processor, device, ...: as of every transformers pipeline.
        detector: "yunet" (see `load_detector` for where its weights come from), "none" for pictures that are crops of
            one face, the path of an .onnx file, or an object with the method of `FaceDetector`.
        min_face: leave out faces whose box is shorter on one side than this, in px.
        batch_size: faces in one forward pass; default 32.
        top_k: keep this many of `probabilities`; default: all.
        max_pixels: pictures with more are refused before they are decoded.
        timeout: seconds for an address.

    Every call takes the last six of these as well. Several threads may use one pipeline.
    """

    _load_processor = False
    _load_image_processor = True
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: Any, *args: Any, detector: Any = "yunet", **kwargs: Any) -> None:
        kwargs.setdefault("task", TASK)
        super().__init__(model, *args, **kwargs)
        if self.image_processor is None:
            raise FerError(
                f"{type(model).__name__}: no image processor was given; pass image_processor=, the one saved with it."
            )
        if not hasattr(getattr(self.model, "config", None), "id2label"):
            raise FerError(f"A {type(model).__name__} is no image classifier of transformers; pass such a model.")
        self.model.eval()
        self.detector: FaceDetector = as_detector(detector)
        self.calibration: Calibration | None = find_calibration(self.model)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **options: Any) -> Any:
        """
        Args:
            inputs: a picture, a list of pictures, or anything else that gives one picture after another.
            batch_size, options: see the class.

        Returns:
            A list of faces; of a list the list of these; else an iterator over these.

        Raises:
            FerError: a picture cannot be read, cropped or scored; in a collection the sentence begins with its place,
                as "inputs[3]". Use `iter_faces` where one bad picture shall not keep back the other answers.
        """
        if is_picture(inputs):
            (answer,) = self._faces([inputs], batch_size, options, unnamed="the picture")
            return _faces_or_raise(answer, None)
        if isinstance(inputs, list | tuple):
            answers = self._faces(inputs, batch_size, options)
            return [_faces_or_raise(answer, k) for k, answer in enumerate(answers)]
        if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
            read_picture(inputs)  # says what it is and what to pass
            raise FerError(f"A {type(inputs).__name__} is no picture; pass its pictures as a list.")
        return (_faces_or_raise(a, k) for k, a in enumerate(self._faces(inputs, batch_size, options)))

    def predict_crops(self, images: Sequence[Image.Image], *, batch_size: int | None = None) -> list[dict[str, Any]]:
        """Name the expressions of pictures that show one face each; no detector is asked.

        Args:
            images: PIL images of any mode and size. EXIF orientation is not looked at.
            batch_size: images in one forward pass.

        Returns:
            For each {"label", "score", "probabilities", "reliability"}, see the class.

        Raises:
            FerError: an element is no PIL image, or cannot be preprocessed or scored; the sentence says which.
        """
        pixels, sides = [], []
        for k, image in enumerate(images):
            if not isinstance(image, Image.Image):
                raise FerError(f"images[{k}]: a {type(image).__name__} is no PIL image; open it first.")
            pixels.append(self._pixels(to_rgb(image), f"images[{k}]"))
            sides.append(min(image.size))
        answers = self._classify(pixels, sides, self._checked_batch_size(batch_size))
        for k, answer in enumerate(answers):
            if answer is None:
                raise FerError(_not_a_number(f"images[{k}]"))
        return answers  # type: ignore[return-value]

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """The model and its image processor. No code is saved beside them: this pipeline comes with hf_fer.

        Nor is the calibration, which holds for the files it was made of: `hf-fer calibrate` makes one of the copy.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory, **kwargs)

    # --- what transformers' Pipeline wants ----------------------------------------------------------

    def _sanitize_parameters(
        self,
        detector: Any = None,
        min_face: float | None = None,
        top_k: int | None = None,
        max_pixels: int | None = None,
        timeout: float | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if min_face is not None and not min_face >= 0:
            raise FerError(f"min_face={min_face!r} is not a length in pixels; use 0 or more.")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise FerError(f"top_k={top_k!r} keeps no probability; use 1 or more, or None for all.")
        before = {"detector": detector, "min_face": min_face, "max_pixels": max_pixels, "timeout": timeout}
        after = {"top_k": top_k}
        return _given(before), {}, _given(after)

    def preprocess(self, source: Picture, path: str = "the picture", **options: Any) -> _Read:
        """One picture to its faces."""
        name, min_face = _name(path), options.get("min_face", 0)
        limits = {"max_pixels": options.get("max_pixels", MAX_PIXELS), "timeout": options.get("timeout", TIMEOUT)}
        image = read_picture(source, name, **limits)
        found = find_faces(options.get("detector", self.detector), image, name)
        return _Read(path, name, image.size, [face for face in found if shorter_side(face) >= min_face], image)

    def _forward(self, model_inputs: dict[str, torch.Tensor]) -> Any:
        return self.model(**model_inputs)

    def postprocess(self, read: _Read, *, top_k: int | None = None) -> list[dict[str, Any]]:
        """The faces of one picture as they are answered."""
        faces = []
        for face, answer in zip(read.faces, read.answers, strict=True):
            probabilities = dict(list(answer["probabilities"].items())[:top_k])
            faces.append({**described(face), **answer, "probabilities": probabilities})
        return faces

    # --- the work -------------------------------------------------------------------------------------

    def _faces(
        self,
        inputs: Iterable[Picture],
        batch_size: int | None,
        options: dict[str, Any],
        keep_images: bool = False,
        unnamed: str = "inputs[{}]",
    ) -> Iterator[PictureFaces | FailedImage]:
        """Checks its arguments at once; `iter_faces` says the rest. `unnamed`: of inputs without a path, by place."""
        before, _, after = self._sanitize_parameters(**options)
        if before.get("detector") is not None:
            before["detector"] = as_detector(before["detector"])
        batch_size = self._checked_batch_size(batch_size)
        before, after = {**self._preprocess_params, **before}, {**self._postprocess_params, **after}
        return self._stream(inputs, batch_size, before, after, keep_images, unnamed)

    def _stream(
        self,
        inputs: Iterable[Picture],
        batch_size: int,
        before: dict[str, Any],
        after: dict[str, Any],
        keep_images: bool,
        unnamed: str,
    ) -> Iterator[PictureFaces | FailedImage]:
        queue: deque[_Read | FailedImage] = deque()
        waiting: list[_Crop] = []
        for k, source in enumerate(inputs):
            path = _path(source, unnamed.format(k))
            try:
                read = self.preprocess(source, path, **before)
                queue.append(read)
            except FerError as error:
                queue.append(FailedImage(path, str(error)))
            else:
                for crop in self._crops(read):
                    waiting.append(crop)
                    if len(waiting) == batch_size:
                        self._answer(waiting)
                        waiting = []
                if not keep_images:
                    read.image = None
            kept = sum(r.size[0] * r.size[1] for r in queue if isinstance(r, _Read) and r.image is not None)
            # Pictures without a face, and failures, must not pile up behind one that waits for its batch.
            if len(queue) >= 4 * batch_size or kept > _MOST_KEPT:
                self._answer(waiting)
                waiting = []
            while queue and _is_complete(queue[0]):
                yield self._result(queue.popleft(), after)
        self._answer(waiting)
        for slot in queue:
            yield self._result(slot, after)

    def _crops(self, read: _Read) -> Iterator[_Crop]:
        """The faces of a picture one by one, as the model wants them; the first that fails ends it."""
        for face in read.faces:
            try:
                crop = self._crop(read.image, face, read.name)
                yield _Crop(self._pixels(crop, read.name), min(crop.size), read)
            except FerError as error:
                read.failure = str(error)
                return

    def _answer(self, crops: list[_Crop]) -> None:
        """Gives every picture the answers about its crops."""
        answers = self._classify([crop.pixels for crop in crops], [crop.side for crop in crops], max(len(crops), 1))
        for crop, answer in zip(crops, answers, strict=True):
            if answer is None:
                crop.read.failure = _not_a_number(crop.read.name)
            else:
                crop.read.answers.append(answer)

    def _result(self, slot: _Read | FailedImage, after: dict[str, Any]) -> PictureFaces | FailedImage:
        if isinstance(slot, FailedImage):
            return slot
        if slot.failure is not None:
            return FailedImage(slot.path, slot.failure)
        return PictureFaces(slot.path, slot.size, self.postprocess(slot, **after), slot.image)

    def _classify(self, pixels: list[torch.Tensor], sides: list[int], batch_size: int) -> list[dict[str, Any] | None]:
        """N of (1, 3, H, W), and the N crops' shorter sides in px; None for an answer that is not a number."""
        answers: list[dict[str, Any] | None] = []
        for batch, start in _batches(pixels, batch_size):
            try:
                output = self.forward({"pixel_values": batch.to(self.model.dtype)})
            except torch.cuda.OutOfMemoryError as error:
                raise FerError(
                    f"There is not enough memory on {self.device} for {len(batch)} faces at once; lower batch_size."
                ) from error
            logits = output.logits.float()
            own = getattr(output, "final_confidence", None)
            if own is not None:
                reliability = own.float().tolist()
            elif self.calibration is not None:
                part = sides[start : start + len(batch)]
                reliability = self.calibration.reliability(logits.numpy(), part).tolist()
            else:
                reliability = [None] * len(batch)
            rows = zip(self._probabilities(logits), reliability, strict=True)
            answers += [self._described_row(row, sure) for row, sure in rows]
        return answers

    def _probabilities(self, logits: torch.Tensor) -> list[list[float]]:
        """(B, K) to B rows of K, by the rule of the image-classification pipeline."""
        multi_label = getattr(self.model.config, "problem_type", None) == "multi_label_classification"
        return (logits.sigmoid() if multi_label or logits.shape[1] == 1 else logits.softmax(1)).tolist()

    def _described_row(self, row: list[float], reliability: float | None) -> dict[str, Any] | None:
        if not all(p == p for p in row):
            return None
        order = sorted(range(len(row)), key=lambda k: -row[k])
        names = self.model.config.id2label
        probabilities = {str(names[k]): row[k] for k in order}
        label = str(names[order[0]])
        return {"label": label, "score": row[order[0]], "probabilities": probabilities, "reliability": reliability}

    def _crop(self, image: Image.Image, face: Face, name: str) -> Image.Image:
        from .alignment import crop_face, face_template

        try:
            return crop_face(image, face, face_template(self.model.config))
        except FerError as error:
            raise FerError(f"{name}: {error}") from error

    def _pixels(self, crop: Image.Image, name: str) -> torch.Tensor:
        """A crop as the model wants it, (1, 3, H, W)."""
        try:
            # One at a time: a crop of an impossible shape then fails alone, and large ones are let go at once.
            return self.image_processor(images=crop, return_tensors="pt")["pixel_values"]
        except Exception as error:
            size = f"{crop.width} x {crop.height}"
            raise FerError(f"{name}: the face ({size}) cannot be preprocessed ({first_sentence(error)})") from error

    def _checked_batch_size(self, batch_size: int | None) -> int:
        size = self._batch_size if batch_size is None else batch_size
        if size is None:
            return _BATCH_SIZE
        if not isinstance(size, int) or size < 1:
            raise FerError(f"batch_size={size!r} leaves nothing to run; use 1 or more.")
        return size


def load_pipeline(
    model: str | os.PathLike[str] | None = "default",
    *,
    detector: Any = "yunet",
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int = _BATCH_SIZE,
    min_face: float = 0,
) -> FacialExpressionPipeline:
    """A `FacialExpressionPipeline` around any image classifier that `load_classifier` takes, with its checks.

    Args:
        model, device, revision, trust_remote_code: see `load_classifier`.
        detector, batch_size, min_face: see `FacialExpressionPipeline`.

    Raises:
        FerError: the model, its calibration or the detector cannot be loaded.
    """
    from ..checkpoints.loading import load_classifier

    network, processor = load_classifier(model, device, revision=revision, trust_remote_code=trust_remote_code)
    return FacialExpressionPipeline(
        model=network,
        image_processor=processor,
        device=network.device,
        detector=detector,
        batch_size=batch_size,
        min_face=min_face,
    )


def iter_faces(
    inputs: Iterable[Picture],
    pipeline: FacialExpressionPipeline,
    *,
    batch_size: int | None = None,
    progress: bool = False,
    keep_images: bool = False,
    **options: Any,
) -> Iterator[PictureFaces | FailedImage]:
    """Answer pictures one after another, in order; one that cannot be read keeps back no other answer.

    In memory are at most one decoded picture and the faces of one batch, unless `keep_images`.

    Args:
        inputs: pictures, see `FacialExpressionPipeline`; read as the answers are asked for.
        pipeline: of `load_pipeline`.
        batch_size: faces in one forward pass.
        progress: draw a tqdm bar on stderr.
        keep_images: hand the upright pictures over with their faces, to be drawn on.
        options: `detector`, `min_face`, `top_k`, `max_pixels`, `timeout`, see `FacialExpressionPipeline`.

    Yields:
        A `PictureFaces`, or a `FailedImage` for a picture that could not be read, cropped or scored.

    Raises:
        FerError: an argument is of no use, or there is not enough memory on the device for a batch.
    """
    if progress:
        from tqdm import tqdm

        inputs = tqdm(inputs, unit="image", dynamic_ncols=True)
    return pipeline._faces(inputs, batch_size, options, keep_images)


@dataclass
class _Read:
    """A picture whose faces wait for the model."""

    path: str
    name: str
    size: tuple[int, int]
    faces: list[Face]
    image: Image.Image | None
    answers: list[dict[str, Any]] = field(default_factory=list)
    failure: str | None = None


@dataclass
class _Crop:
    """A face as the model wants it: pixels (1, 3, H, W), and the shorter side in px that it had in its picture."""

    pixels: torch.Tensor
    side: int
    read: _Read


def _is_complete(slot: _Read | FailedImage) -> bool:
    return isinstance(slot, FailedImage) or slot.failure is not None or len(slot.answers) == len(slot.faces)


def _batches(pixels: list[torch.Tensor], size: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Neighbours of one shape together, at most `size`, with the place of the first."""
    start = 0
    while start < len(pixels):
        end = start + 1
        # A processor that neither fixes the size nor crops gives tensors that cannot share a batch.
        while end < len(pixels) and end - start < size and pixels[end].shape == pixels[start].shape:
            end += 1
        yield torch.cat(pixels[start:end]), start
        start = end


def _faces_or_raise(answer: PictureFaces | FailedImage, place: int | None) -> list[dict[str, Any]]:
    if isinstance(answer, FailedImage):
        known = place is None or answer.reason.startswith(f"inputs[{place}]")
        raise FerError(answer.reason if known else f"inputs[{place}]: {answer.reason}")
    return answer.faces


def _path(source: Any, otherwise: str) -> str:
    """How an input is told from the others: by its path or address as it was given, if it has one."""
    return os.fsdecode(os.fspath(source)) if isinstance(source, str | os.PathLike) else otherwise


def _name(path: str) -> str:
    """The same, as it can stand in a message."""
    return shown_address(path) if is_address(path) else printable(path)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _not_a_number(name: str) -> str:
    return f"{name}: the model's answer is not a number; its weights may be damaged"


def _register() -> None:
    from transformers import AutoModelForImageClassification
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..checkpoints.loading import embedded_model_path

    try:
        default = {"model": (embedded_model_path(), "main")}
    except FerError:  # an installation without it can still be told which model to use
        default = None
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            FacialExpressionPipeline,
            pt_model=AutoModelForImageClassification,
            default=default,
            type="image",
        )


_register()
