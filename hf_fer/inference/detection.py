"""Finding faces in a picture: one small protocol, OpenCV's YuNet, and "none" for pictures that are a face already.

A detector is anything with a `name` and `detect(image) -> list[Face]`; the pipeline, the video reader and the demo take
one from `load_detector`, or yours.

YuNet (Wu, Peng and Yu 2023, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20) is run
by OpenCV's `FaceDetectorYN`. Its weights (230 kB, MIT) are not part of this package: they come from the Hub repository
`opencv/face_detection_yunet`, or from a file.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from ..checkpoints.checks import first_sentence
from ..errors import FerError
from .messages import brief

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

__all__ = ["Face", "FaceDetector", "WholeImage", "YuNetDetector", "load_detector"]

Box = tuple[float, float, float, float]
Point = tuple[float, float]

DETECTOR_VARIABLE = "HF_FER_DETECTOR"
"""Environment variable with the path of YuNet's weights."""

HUB_REPOSITORY = "opencv/face_detection_yunet"
HUB_FILES = ("face_detection_yunet_2026may.onnx", "face_detection_yunet_2023mar.onnx")
"""Names of YuNet's weights on the Hub, newest first: full precision (the quantised ones find fewer faces)."""

MIN_SCORE = 0.5
"""Faces the detector is less sure of are left out. Chosen with the constants below."""

_KNOWN = frozenset(("ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",))  # SHA-256 of 2026may
_MAX_FILE = 16 * 2**20  # bytes; YuNet has 0.23 million
_PROBE_SECONDS = 60
_PROBE_MEMORY = 4 * 2**30  # bytes of address space
_LOG_ERRORS = 2  # OpenCV's LOG_LEVEL_ERROR, which OpenCV 4 does not name in Python

# YuNet is surest of faces of some 40 to 300 px. A picture is looked at in up to two sizes, one in which small faces are
# large enough and a small one for faces that fill the picture; whatever could be a face is then looked at once more, by
# itself and at one size, which settles whether it is one and where its eyes are. All constants are chosen on montages
# of FERPlus' validation faces (benchmarks/detection.py) and on photographs without faces. The mean of both looks'
# scores finds more small faces than the first look's alone, and takes fewer other things for faces; their maximum, a
# larger zoom or a lower bound for candidates mainly add faces that are none.
_LONG_SIDE = 1920  # px at most of the large size: bounds time and memory for any picture
_MAX_ZOOM = 1.5
_SMALLEST = 36  # px that the smallest face to be found has in the large size
_COARSE_SHARE = 0.25  # of the picture's long side, ...
_COARSE_SIDE = 320  # ... but at most so many px: the small size
_CANDIDATE = 0.05  # score from which something is looked at again
_MAX_CANDIDATES = 300  # of the highest scores: bounds the time for any picture
_WINDOW, _WINDOW_SHARE = 192, 1.4  # px of that second look, and its side in sides of the box
_LEAN = math.radians(8)  # from which a face is looked at once more, turned upright, ...
_TURNS = 4  # ... and again while more lean shows, ...
_SURE = 0.7  # ... if it is still seen with this score
_INSIDE = 0.7  # share of the smaller box inside the other from which both are one face: an eye is no face
_OVERLAP = 0.3  # IoU from which two boxes are one face, as in FaceDetectorYN's default


@dataclass(frozen=True)
class Face:
    """A face in a picture.

    Attributes:
        box: x0, y0, x1, y1 in px of the picture, clipped to it; x1 > x0 and y1 > y0.
        score: how sure the detector is, 0..1.
        landmarks: (x, y) of both eyes, the tip of the nose and both corners of the mouth, in px; of the pairs, the
            one further left in an upright face first. None where the detector does not know.
    """

    box: Box
    score: float
    landmarks: tuple[Point, ...] | None = None

    @property
    def area(self) -> float:
        """Of the box in px²."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    @property
    def side(self) -> float:
        """The shorter side of the box in px."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


@runtime_checkable
class FaceDetector(Protocol):
    """What finds faces."""

    name: str

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces of an upright RGB picture, largest box first."""
        ...


class WholeImage:
    """No detection: the whole picture is one face, without landmarks."""

    name = "none"

    def detect(self, image: Image.Image) -> list[Face]:
        """One face with the box of the picture and score 1."""
        return [Face((0.0, 0.0, float(image.width), float(image.height)), 1.0)]


class YuNetDetector:
    """OpenCV's YuNet. May be shared by threads (they take turns) and pickled.

    Args:
        weights: YuNet's .onnx file, or its content.
        min_score: faces below are left out, in (0, 1].
        min_face: px; faces whose box has a shorter side below are left out.

    Raises:
        FerError: OpenCV is missing, or the file is no YuNet.
    """

    name = "yunet"

    def __init__(
        self, weights: str | os.PathLike[str] | bytes, *, min_score: float = MIN_SCORE, min_face: float = 0
    ) -> None:
        self.min_score, self.min_face = _check_limits(min_score, min_face)
        _import_cv2()
        self._content = weights if isinstance(weights, bytes) else _read_file(Path(weights))
        shown = "the content given" if isinstance(weights, bytes) else _printable(weights)
        _check_content(self._content, shown)
        self._shown = shown
        self._lock = threading.Lock()
        self._network: Any = None
        with self._lock:
            self._build()

    def detect(self, image: Image.Image) -> list[Face]:
        """All faces of a picture, largest box first.

        Args:
            image: upright, of any mode (it is converted to RGB), any size and aspect ratio.

        Returns:
            Faces with landmarks and with boxes inside the picture; [] if there are none.
        """
        import numpy as np

        width, height = image.size
        if width < 1 or height < 1:
            return []
        image = image if image.mode == "RGB" else image.convert("RGB")
        rows: list[np.ndarray] = []
        for size in _sizes(width, height, self.min_face):
            scaled = image if size == image.size else _resize(image, size)
            found = self._run(np.asarray(scaled)[:, :, ::-1])
            # Not one factor: the sides of a thin picture are rounded differently.
            rows.append(found * np.array([width / size[0], height / size[1]] * 7 + [1.0]))
        candidates = _suppress(np.concatenate(rows), _MAX_CANDIDATES)
        looked = np.array([self._look_again(image, row) for row in candidates]).reshape(-1, 15)
        sure = _suppress(looked[looked[:, 14] >= self.min_score], _MAX_CANDIDATES)
        faces = [_face(self._turn(image, row), width, height) for row in sure]
        kept = [face for face in faces if face is not None and face.side >= self.min_face]
        return sorted(kept, key=lambda face: -face.area)

    def _look_again(self, image: Image.Image, row: np.ndarray) -> np.ndarray:
        """A candidate as seen by itself, at a size that YuNet is good at, with the mean of both scores."""
        import numpy as np

        side = max(float(row[2]), float(row[3]), 1.0) * _WINDOW_SHARE
        x, y = float(row[0] + row[2] / 2) - side / 2, float(row[1] + row[3] / 2) - side / 2
        zoom = _WINDOW / side
        found = self._run(np.asarray(_window(image, x, y, side, _WINDOW))[:, :, ::-1]) / np.array([zoom] * 14 + [1.0])
        found += np.array([x, y, 0.0, 0.0] + [x, y] * 5 + [0.0])
        found = found[_overlap(row, found) >= _OVERLAP]
        if not len(found):
            return np.append(row[:14], row[14] / 2)
        best = found[np.argmax(found[:, 14])]
        return np.append(best[:14], (best[14] + row[14]) / 2)

    def _turn(self, image: Image.Image, row: np.ndarray) -> np.ndarray:
        """A leaning face with the landmarks that are seen when it is turned upright.

        YuNet was trained on upright heads: of a lean of 30 degrees its landmarks show 14. Turned by these, more shows.
        """
        import numpy as np
        from PIL import Image

        side = max(float(row[2]), float(row[3]), 1.0) * _WINDOW_SHARE
        centre = row[:2] + row[2:4] / 2
        zoom, wide = _WINDOW / side, round(_WINDOW * math.sqrt(2))
        x, y = (float(v) - wide / zoom / 2 for v in centre)
        points, lean = row[4:14].reshape(5, 2), 0.0
        upright: Image.Image | None = None
        for _ in range(_TURNS):
            more = _lean(points)
            if abs(more) < (_LEAN if lean == 0 else _LEAN / 2) or abs(lean + more) > math.pi / 2:
                break
            upright = upright or _window(image, x, y, wide / zoom, wide)
            turned = upright.rotate(math.degrees(lean + more), Image.Resampling.BILINEAR)
            edge = (wide - _WINDOW) // 2
            window = turned.crop((edge, edge, edge + _WINDOW, edge + _WINDOW))
            found = self._run(np.asarray(window)[:, :, ::-1])
            middle = np.array([_WINDOW * 0.15, _WINDOW * 0.15, _WINDOW * 0.7, _WINDOW * 0.7])
            found = found[(found[:, 14] >= _SURE) & (_overlap(middle, found) >= _OVERLAP)]
            if not len(found):
                break
            lean += more
            points = found[np.argmax(found[:, 14]), 4:14].reshape(5, 2)
        if lean == 0:
            return row
        cos, sin = math.cos(lean), math.sin(lean)
        # From the middle of the turned window back into the picture.
        points = (points - _WINDOW / 2) / zoom @ np.array([[cos, sin], [-sin, cos]]) + centre
        return np.concatenate([row[:4], points.ravel(), row[14:]])

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) BGR uint8 -> (N, 15) float64: x, y, width, height, five points, score."""
        import cv2
        import numpy as np

        try:
            with self._lock:
                self._build()
                self._network.setInputSize((pixels.shape[1], pixels.shape[0]))
                found = self._network.detect(np.ascontiguousarray(pixels))[1]
        except cv2.error as error:
            raise FerError(f"the face detector failed on a picture ({brief(error)})") from error
        return np.zeros((0, 15)) if found is None else found.astype(np.float64)

    def _build(self) -> None:
        """Make OpenCV's object if there is none yet; called with the lock held."""
        if self._network is None:
            try:
                self._network = _create(self._content)
            except Exception as error:  # cv2.error, or whatever its bindings raise
                raise _no_yunet(self._shown, brief(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_network": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def load_detector(
    name: str | os.PathLike[str] = "yunet", *, min_score: float = MIN_SCORE, min_face: float = 0
) -> FaceDetector:
    """A detector by name.

    Args:
        name: "none": the whole picture is a face. "yunet": the file that `HF_FER_DETECTOR` names, else the newest of
            `HUB_FILES`, from the Hub's cache or from the Hub. Anything else: the path of YuNet's .onnx file.
        min_score: faces the detector is less sure of are left out, in (0, 1]; "none" is always sure.
        min_face: px; faces whose box has a shorter side below are left out; "none" takes any.

    Raises:
        FerError: a name that is none of these, no weights, no OpenCV, or a file that is no YuNet.
    """
    _check_limits(min_score, min_face)
    if not isinstance(name, (str, os.PathLike)):
        raise FerError(f"a detector is named 'yunet', 'none' or by a path, not by a {type(name).__name__}")
    path = os.fspath(name)
    if path == "none":
        return WholeImage()
    if path == "yunet":
        _import_cv2()  # first: who lacks it should not download
        weights: Path | bytes = Path(given) if (given := os.environ.get(DETECTOR_VARIABLE)) else _from_hub()
    elif path.lower().endswith(".onnx") or Path(path).is_file():
        weights = Path(path)
    else:
        raise FerError(f"{_printable(path)}: no such detector; use 'yunet', 'none' or the path of YuNet's .onnx file")
    return YuNetDetector(weights, min_score=min_score, min_face=min_face)


# --- sizes and boxes ----------------------------------------------------------------------------


def _sizes(width: int, height: int, min_face: float) -> list[tuple[int, int]]:
    """The sizes in which to look at a picture, the large one first."""
    long = max(width, height)
    # Who wants large faces only is spared the pixels.
    fine = min(_LONG_SIDE / long, _MAX_ZOOM, _SMALLEST / max(min_face, 1.0))
    coarse = min(_COARSE_SHARE, _COARSE_SIDE / long)
    scales = [max(fine, coarse), *([coarse] if coarse < 0.7 * fine else [])]
    return [(max(1, round(width * s)), max(1, round(height * s))) for s in scales]


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    # Pillow's bilinear filter covers all pixels when it makes a picture smaller; the gap only makes that faster.
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def _window(image: Image.Image, x: float, y: float, side: float, pixels: int) -> Image.Image:
    """A square of a picture, scaled to so many pixels; black where it reaches out of the picture."""
    from PIL import Image

    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + side, image.width), min(y + side, image.height)
    window = Image.new("RGB", (pixels, pixels))
    if right - left >= 1 and bottom - top >= 1:
        zoom = pixels / side
        size = (max(1, round((right - left) * zoom)), max(1, round((bottom - top) * zoom)))
        part = image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom), reducing_gap=3.0)
        window.paste(part, (round((left - x) * zoom), round((top - y) * zoom)))
    return window


def _lean(points: np.ndarray) -> float:
    """Radians by which a face leans clockwise, of its five points: the mean of its axes, weighted by their length."""
    across = points[1] - points[0]
    down = (points[3] + points[4] - points[0] - points[1]) / 2
    return math.atan2(float(across[1] - down[0]), float(across[0] + down[1]))


def _suppress(rows: np.ndarray, most: int) -> np.ndarray:
    """(N, 15) rows -> those left when each drops the less certain ones that overlap it, at most so many."""
    import numpy as np

    rows = rows[np.isfinite(rows).all(1) & (rows[:, 2:4] > 0).all(1)]
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    kept = []
    while len(rows) and len(kept) < most:
        kept.append(rows[0])
        rows = rows[1:][~_same(rows[0], rows[1:])]
    return np.array(kept).reshape(-1, 15)


def _same(a: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,) whether the boxes x, y, width, height of `rows` are of the face that has box `a`."""
    import numpy as np

    smaller = np.minimum(a[2] * a[3], rows[:, 2] * rows[:, 3])
    return (_shared(a, rows) >= _INSIDE * smaller) | (_overlap(a, rows) >= _OVERLAP)


def _overlap(a: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,) IoU of the boxes of `rows` with `a`."""
    import numpy as np

    shared = _shared(a, rows)
    return shared / np.maximum(a[2] * a[3] + rows[:, 2] * rows[:, 3] - shared, 1e-9)


def _shared(a: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,) px² that the boxes of `rows` share with `a`."""
    import numpy as np

    width = np.minimum(a[0] + a[2], rows[:, 0] + rows[:, 2]) - np.maximum(a[0], rows[:, 0])
    height = np.minimum(a[1] + a[3], rows[:, 1] + rows[:, 3]) - np.maximum(a[1], rows[:, 1])
    return width.clip(0) * height.clip(0)


def _face(row: np.ndarray, width: int, height: int) -> Face | None:
    """A row as a face; None if nothing of its box lies in the picture."""
    x, y, w, h = (float(v) for v in row[:4])
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
    if box[2] - box[0] <= 0 or box[3] - box[1] <= 0:
        return None
    points = tuple((float(row[i]), float(row[i + 1])) for i in range(4, 14, 2))
    return Face(box, min(max(float(row[14]), 0.0), 1.0), points)


# --- weights ------------------------------------------------------------------------------------


def _create(content: bytes) -> Any:
    """OpenCV's detector of the bytes of an ONNX file."""
    import cv2
    import numpy as np

    # OpenCV 5 warns on stderr, at every construction, that "targets are not supported" (we ask for none).
    logging = getattr(cv2.utils, "logging", cv2)  # OpenCV 4 has the function at its top
    level = logging.setLogLevel(_LOG_ERRORS)
    try:
        model, nothing = np.frombuffer(content, np.uint8), np.zeros(0, np.uint8)
        return cv2.FaceDetectorYN.create("onnx", model, nothing, (320, 320), _CANDIDATE, _OVERLAP)
    finally:
        logging.setLogLevel(level)


def _read_file(path: Path) -> bytes:
    shown = _printable(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise FerError(f"{shown}: not a regular file, so not YuNet's weights")
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except FileNotFoundError as error:
        raise FerError(f"{shown}: no such file; {_WAYS_OUT}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise FerError(f"{shown}: cannot be read ({brief(error)})") from error
    if len(content) > _MAX_FILE:
        raise FerError(f"{shown}: over {_MAX_FILE // 2**20} MB, so not YuNet's weights, which are 0.2 MB")
    return content


def _check_content(content: bytes, shown: str) -> None:
    """Refuse what is not YuNet, without letting it near this process: OpenCV is not written for hostile files."""
    if content[:40].startswith(b"version https://git-lfs"):
        raise _no_yunet(shown, "it is a Git LFS pointer; run `git lfs pull`")
    if not content:
        raise _no_yunet(shown, "it is empty")
    if hashlib.sha256(content).hexdigest() in _KNOWN or not sys.executable:
        return
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE], input=content, capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _no_yunet(shown, f"OpenCV has not loaded it after {_PROBE_SECONDS} s") from error
    except OSError as error:
        raise FerError(f"{shown}: cannot be checked, no process can be started ({brief(error)})") from error
    if probe.returncode == 0:
        return
    lines = probe.stderr.decode(errors="replace").strip().splitlines()
    reason = lines[-1] if probe.returncode == 1 and lines else f"OpenCV crashed on it, status {probe.returncode}"
    raise _no_yunet(shown, brief(ValueError(reason)))


# In a process of its own, with bounded memory: what a file makes OpenCV do, it does there.
_PROBE = f"""
import os, sys
sys.path = [path for path in sys.path if path]  # not the current folder, whose cv2.py may be anybody's
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # each thread takes address space
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({_PROBE_MEMORY}, {_PROBE_MEMORY}))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass
import cv2
import numpy as np
cv2.setNumThreads(1)
content = np.frombuffer(sys.stdin.buffer.read(), np.uint8)
network = cv2.FaceDetectorYN.create("onnx", content, np.zeros(0, np.uint8), (320, 320), 0.6)
for side in (320, 96):
    network.setInputSize((side, side))
    found = network.detect(np.full((side, side, 3), 127, np.uint8))[1]
    assert found is None or found.shape[1:] == (15,), "its answers are not faces"
"""

_WAYS_OUT = (
    f"set {DETECTOR_VARIABLE} to a copy of face_detection_yunet_2026may.onnx from"
    f" https://huggingface.co/{HUB_REPOSITORY}, or go without detection (--no-detect) on pictures that are a face"
)


def _from_hub() -> Path:
    """YuNet's weights from the Hub's cache, else from the Hub."""
    from huggingface_hub import errors, hf_hub_download

    reason = "not in its cache"
    for cached in (True, False):
        for file in HUB_FILES:
            try:
                return Path(hf_hub_download(HUB_REPOSITORY, file, local_files_only=cached))
            except errors.LocalEntryNotFoundError as error:  # also where the Hub cannot be reached
                if not cached:
                    reason = first_sentence(error)
                    break  # the client has tried for long, and would again for the other file
            except errors.EntryNotFoundError:
                reason = f"it has no {file}"
            except Exception as error:  # of the Hub or of the network
                reason = first_sentence(error)
    # From None: addresses that the Hub has signed stand in the errors behind this one.
    raise FerError(f"no face detector: the Hub gave none ({reason}); {_WAYS_OUT}") from None


def _no_yunet(shown: str, reason: str) -> FerError:
    return FerError(f"{shown}: not YuNet's weights ({reason}); {_WAYS_OUT}")


def _import_cv2() -> None:
    try:
        import cv2
    except ImportError as error:
        raise FerError(
            'finding faces takes OpenCV: pip install "hf-fer[detect]", or go without detection (--no-detect) on'
            " pictures that are a face"
        ) from error
    if not hasattr(cv2, "FaceDetectorYN"):
        raise FerError(f'OpenCV {cv2.__version__} has no FaceDetectorYN: pip install --upgrade "hf-fer[detect]"')


def _check_limits(min_score: float, min_face: float) -> tuple[float, float]:
    if not 0 < min_score <= 1:
        raise FerError(f"the least score of a face must be in (0, 1], not {min_score}")
    if not (min_face >= 0 and math.isfinite(min_face)):
        raise FerError(f"the least side of a face must be at least 0 px, not {min_face}")
    return float(min_score), float(min_face)


def _printable(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    name = name if len(name) <= 300 else f"{name[:300]}..."
    return name if name and name.isprintable() else repr(name)
