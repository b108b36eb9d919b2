"""The models of a demo: loaded when somebody asks for them, a bounded number at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.loading import embedded_models
from ..errors import FerError

if TYPE_CHECKING:
    from PIL import Image

    from ..inference.detection import Face, FaceDetector
    from ..inference.pipeline import FacialExpressionPipeline


class ModelPool:
    """Pipelines by name, for many threads.

    Visitors see Hub ids as they are, and of a folder its name alone.

    Args:
        models: checkpoint folders, Hub ids, or the names of `embedded_models`.
        detector: "auto" (YuNet, or the whole picture where there is none), or what `load_detector` takes.
        keep: models in memory at once.
        load: makes a pipeline of a name and a detector; the pipeline's own loader unless a test brings another.

    Attributes:
        names: what visitors call the models.

    Raises:
        FerError: no models, two of one name, or a detector other than "auto" that cannot be had.
    """

    def __init__(
        self,
        models: Sequence[str],
        detector: str | FaceDetector = "auto",
        keep: int = 2,
        load: Callable[[str, FaceDetector], Any] | None = None,
    ) -> None:
        if not models:
            raise FerError("The demo has no models; name at least one, such as default.")
        self._sources = {_public_name(source): source for source in models}
        self.names = list(self._sources)
        if len(self.names) < len(models):
            raise FerError(f"Two models of the demo would have one name ({', '.join(models)}); rename a folder.")
        self.detector, self.notice = _find_detector(detector)
        self.keep, self._load = max(1, keep), load or _load_pipeline
        self._loaded: OrderedDict[str, FacialExpressionPipeline] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(what to show, name) of each model."""
        inside = embedded_models()
        return [
            (f"hf-fer {name} (inside the package)" if source in inside else name, name)  # a folder may be called so
            for name, source in self._sources.items()
        ]

    def check(self) -> None:
        """Loads every model once, the first one last, so that it is there when the first visitor comes.

        Raises:
            FerError: one that cannot be loaded; better now than before a visitor.
        """
        for name in reversed(self.names):
            self.pipeline(name)

    def pipeline(self, name: str) -> FacialExpressionPipeline:
        """The pipeline of a model.

        Raises:
            FerError: no model of this demo, or one that cannot be loaded.
        """
        if name not in self.names:  # an API client can send anything
            raise FerError(f"There is no model {str(name)[:80]!r} here; choose one of {', '.join(self.names)}")
        with self._lock:  # others wait: two loading at once would take the memory of two more
            pipeline = self._loaded.get(name)
            if pipeline is None:
                while len(self._loaded) >= self.keep:
                    self._loaded.popitem(last=False)
                pipeline = self._loaded[name] = self._loaded_as(name)
            self._loaded.move_to_end(name)
            return pipeline

    def _loaded_as(self, name: str) -> FacialExpressionPipeline:
        source = self._sources[name]
        try:
            return self._load(source, self.detector)
        except FerError as error:
            raise FerError(str(error).replace(source, name)) from error

    def detect(self, image: Image.Image) -> list[Face]:
        """Where the faces of a picture are, largest first."""
        return self.detector.detect(image)

    def crop(self, name: str, image: Image.Image, face: Face) -> Image.Image:
        """A face as the model was trained to see it. Raises as `pipeline` does."""
        from ..inference.alignment import crop_face, face_template

        return crop_face(image, face, face_template(self.pipeline(name).model.config))

    def image_size(self, name: str) -> int:
        """Side in px of what the model looks at. Raises as `pipeline` does."""
        pipeline = self.pipeline(name)
        size = getattr(pipeline.model.config, "image_size", None) or pipeline.image_processor.size
        if isinstance(size, int):
            return size
        if isinstance(size, Sequence):
            return min(size)
        return min(side for key in ("height", "width", "shortest_edge") if (side := size.get(key)))


def _public_name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _load_pipeline(name: str, detector: FaceDetector) -> FacialExpressionPipeline:
    from ..inference.pipeline import load_pipeline

    return load_pipeline(name, detector=detector)


def _find_detector(detector: str | FaceDetector) -> tuple[FaceDetector, str | None]:
    """The detector, and what to tell visitors where it is not the one they would expect."""
    from ..inference.detection import load_detector

    if not isinstance(detector, str):
        return detector, None
    if detector != "auto":
        return load_detector(detector), None
    try:
        return load_detector("yunet"), None
    except FerError:
        return load_detector("none"), (
            "There is no face detector on this machine, so the whole picture is taken for one face: give a picture "
            "that is cropped to the face."
        )
