"""What the tests of the demo share: a detector that needs no weights, and the demo running on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hf_fer.inference.detection import Face

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "hf_fer" / "demo" / "examples"
ASTRONAUT = EXAMPLES / "astronaut.jpg"
CLIP = EXAMPLES / "astronaut_pixels.mp4"
# Her face in the portrait, as shares of its sides.
FACE = (0.345, 0.125, 0.525, 0.35)


class AstronautDetector:
    """Finds the astronaut's face where it is in her portrait, in any picture that is not of one colour."""

    name = "astronaut"

    def detect(self, image: Image.Image) -> list[Face]:
        if np.asarray(image.convert("L").resize((32, 32))).std() < 8:
            return []
        x0, y0, x1, y1 = FACE
        width, height = image.size
        return [Face((x0 * width, y0 * height, x1 * width, y1 * height), 0.9, None)]


@contextlib.contextmanager
def running_demo(folder: Path, **options: Any) -> Iterator[Any]:
    """A demo on a free port, with the package's own models; what it writes lies below `folder`."""
    from hf_fer.demo import launch_demo

    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ.pop("HF_FER_DEMO_MODELS", None)
    options = {"detector": AstronautDetector(), **options}
    # Not Gradio's own search from 7860 upwards: another test may be at it.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    demo = launch_demo(block=False, quiet=True, host="127.0.0.1", port=port, **options)
    try:
        yield demo
    finally:
        demo.close(verbose=False)
        if before is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
