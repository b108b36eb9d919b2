"""Where the face is in FERPlus' crops: the numbers of `hf_fer.inference.alignment.TEMPLATES["ferplus"]`.

    python benchmarks/face_template.py --root data/ferplus --output results/face_template.json

YuNet looks at training images (never at those of validation or test), each scaled up to 96 px, a size it is good at,
and continued by a quarter of that beyond its edges, because many of the faces reach out of their crop. Printed are the
means of the five points and of the box in crop sides, their spread over the images, and the tilt of the eyes' line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

SIDE, MARGIN = 96, 24  # px


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of FERPlus")
    parser.add_argument("--detector", default="yunet", help="'yunet' or the path of its .onnx file")
    parser.add_argument("--images", type=int, default=5000, help="training images to look at, evenly spaced")
    parser.add_argument("--output", help="JSON file to write")
    options = parser.parse_args(argv)

    from hf_fer import FerError, load_fer_dataset
    from hf_fer.inference.detection import load_detector

    try:
        if options.images < 1:
            raise FerError(f"--images must be at least 1, not {options.images}")
        detector = load_detector(options.detector)
        images = load_fer_dataset("ferplus", root=options.root)["train"]
        result = measure(images, detector, options.images)
    except FerError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    text = json.dumps(result, indent=1)
    print(text)
    if options.output:
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        Path(options.output).write_text(text + "\n")
    return 0


def measure(images: Any, detector: Any, count: int) -> dict[str, Any]:
    """Means and spreads of points and boxes over `count` images, in crop sides."""
    import numpy as np
    from PIL import Image

    count = min(count, len(images))
    points, boxes = [], []
    for k in range(count):
        crop = images[k * len(images) // count]["image"].convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture = Image.fromarray(np.pad(np.asarray(crop), MARGIN, mode="edge")).convert("RGB")
        if faces := detector.detect(picture):
            points.append((np.array(faces[0].landmarks) - MARGIN) / SIDE)
            boxes.append((np.array(faces[0].box) - MARGIN) / SIDE)
    stacked = np.array(points)
    across = stacked[:, 1] - stacked[:, 0]
    tilt = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    return {
        "images": count,
        "faces": len(points),
        "points": stacked.mean(0).round(3).tolist(),
        "points_spread": stacked.std(0).round(3).tolist(),
        "box": np.mean(boxes, 0).round(3).tolist(),
        "box_spread": np.std(boxes, 0).round(3).tolist(),
        "tilt_spread_degrees": round(math.sqrt(float((tilt**2).mean())), 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
