"""How many faces are found, by their size, and whether they are answered as their bare crops are.

    python benchmarks/detection.py --root data/ferplus --output results/detection.json

Crops of FERPlus (majority rule) are scaled to 24 ... 200 px and pasted at known places of grey, slightly noisy
pictures of 1280 x 960 px. The detector looks at the pictures; the faces found are cut out by the model's template and
classified.

- recall: of the pasted crops, those with a found box whose centre lies in the crop and whose IoU with it is at least
  0.3 (a FERPlus crop is no face box: some faces fill half of it, others reach out of it);
- agreement: of those, the faces with the label that the model gives the bare 48 px crop; "at its size": that it gives
  the pasted pixels, cut out exactly where they were pasted;
- false alarms: found boxes that belong to no crop.

Constants of the detector were chosen on `--split validation`; the figures that count are those of the test split.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

SIZES = (24, 32, 40, 48, 64, 96, 128, 160, 200)
WIDTH, HEIGHT = 1280, 960
IOU = 0.3
FROM = 40  # px: the size from which the recall of all is given

Place = tuple[int, int, int, int]


def main(argv: list[str] | None = None) -> int:
    options = _parse(argv)

    from hf_fer import FerError, load_fer_dataset
    from hf_fer.inference.detection import load_detector
    from hf_fer.inference.pipeline import load_pipeline

    try:
        if options.images < 1:
            raise FerError(f"--images must be at least 1, not {options.images}")
        detector = load_detector(options.detector)
        pipeline = load_pipeline(options.model, detector=detector, device="cpu")
        images = load_fer_dataset("ferplus", root=options.root)[options.split]
        result = measure(images, pipeline, options.images, options.seed)
    except FerError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        return 2
    result = {
        "benchmark": "detection",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "data": f"ferplus {options.split}",
        "model": options.model,
        "detector": detector.name,
        "seed": options.seed,
        "machine": platform.processor() or platform.machine(),
        **result,
    }
    print(table(result))
    if options.output:
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        Path(options.output).write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(images: Any, pipeline: Any, count: int, seed: int = 0) -> dict[str, Any]:
    """Recall, agreement and accuracy by size over `count` images drawn from a split."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images))[: min(count, len(images))]
    faces = [images[int(i)]["image"].convert("RGB") for i in rows]
    names = images.features["label"].names
    truth = [names[images[int(i)]["label"]] for i in rows]
    sizes = [SIZES[k % len(SIZES)] for k in range(len(faces))]

    found: list[dict[str, Any] | None] = [None] * len(faces)
    pasted: list[Image.Image] = []
    seconds, alarms, pictures = 0.0, 0, 0
    for picture, places in montages(faces, sizes, rng):
        started = time.perf_counter()
        answers = pipeline(picture)
        seconds += time.perf_counter() - started
        pictures += 1
        matches, spare = match(answers, list(places.values()))
        alarms += spare
        for (k, place), answer in zip(places.items(), matches, strict=True):
            found[k] = answer
            pasted.append(picture.crop(place))
    bare = [answer["label"] for answer in pipeline.predict_crops(faces)]
    exact = [answer["label"] for answer in pipeline.predict_crops(pasted)]

    def figures(kept: list[int]) -> dict[str, Any]:
        hits = [(k, found[k]["label"]) for k in kept if found[k] is not None]
        return {
            "faces": len(kept),
            "recall": _share([found[k] is not None for k in kept]),
            "agreement": _share([label == bare[k] for k, label in hits]),
            "agreement_at_its_size": _share([label == exact[k] for k, label in hits]),
            "accuracy": _share([label == truth[k] for k, label in hits]),
            "accuracy_of_bare_crops": _share([bare[k] == truth[k] for k, _ in hits]),
        }

    by_size = {str(size): figures([k for k, s in enumerate(sizes) if s == size]) for size in SIZES}
    by_size = {size: row for size, row in by_size.items() if row["faces"]}
    return {
        "by_size": by_size,
        f"from_{FROM}": figures([k for k, size in enumerate(sizes) if size >= FROM]),
        "all": figures([*range(len(faces))]),
        "false_alarms": alarms,
        "pictures": pictures,
        "seconds_per_picture": round(seconds / max(pictures, 1), 3),
    }


def montages(faces: list[Image.Image], sizes: list[int], rng: np.random.Generator) -> Any:
    """Faces pasted in rows: yields pictures, each with {index of the face: its place x0, y0, x1, y1}."""
    from PIL import Image

    picture, places, x, y, row = background(WIDTH, HEIGHT, rng), {}, 0, 0, 0
    for k, (face, size) in enumerate(zip(faces, sizes, strict=True)):
        gap = max(8, int(0.4 * size))
        if x + size + 2 * gap > WIDTH:
            x, y, row = 0, y + row, 0
        if y + size + 2 * gap > HEIGHT:
            yield picture, places
            picture, places, x, y, row = background(WIDTH, HEIGHT, rng), {}, 0, 0, 0
        place = (x + gap, y + gap, x + gap + size, y + gap + size)
        picture.paste(face.resize((size, size), Image.Resampling.BICUBIC), place[:2])
        places[k] = place
        x, row = x + size + 2 * gap, max(row, size + 2 * gap)
    if places:
        yield picture, places


def background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """A grey picture of soft clouds and a little noise."""
    import numpy as np
    from PIL import Image

    clouds = Image.fromarray(rng.integers(60, 196, (height // 160 + 2, width // 160 + 2)).astype(np.uint8))
    grey = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC)) + rng.normal(0, 4, (height, width))
    return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def match(answers: list[dict[str, Any]], places: list[Place]) -> tuple[list[dict[str, Any] | None], int]:
    """For each place the answer that belongs to it, best overlap first, and how many answers belong to none."""
    pairs = []
    for i, answer in enumerate(answers):
        box = tuple(answer["box"][side] for side in ("xmin", "ymin", "xmax", "ymax"))
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        for j, place in enumerate(places):
            overlap = iou(box, place)
            if overlap >= IOU and place[0] <= x <= place[2] and place[1] <= y <= place[3]:
                pairs.append((overlap, i, j))
    matched: dict[int, int] = {}
    for _, i, j in sorted(pairs, reverse=True):
        if j not in matched and i not in matched.values():
            matched[j] = i
    found = [answers[matched[j]] if j in matched else None for j in range(len(places))]
    return found, len(answers) - len(matched)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1."""
    shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / max((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared, 1e-9)


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    keys = ("faces", "recall", "agreement", "agreement_at_its_size", "accuracy", "accuracy_of_bare_crops")
    lines = [
        "| face px | faces | recall | agreement | ... at its size | accuracy | accuracy of bare crops |",
        "| --- " + "| --: " * len(keys) + "|",
    ]
    rows = {**result["by_size"], f"from {FROM}": result[f"from_{FROM}"], "all": result["all"]}
    for name, row in rows.items():
        cells = [str(row["faces"]), *("-" if row[k] is None else f"{100 * row[k]:.1f} %" for k in keys[1:])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    lines.append(
        f"{result['false_alarms']} false alarms in {result['pictures']} pictures of {WIDTH} x {HEIGHT} px,"
        f" {result['seconds_per_picture']} s each"
    )
    return "\n".join(lines)


def _share(flags: list[bool]) -> float | None:
    return round(sum(flags) / len(flags), 4) if flags else None


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder of FERPlus")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--model", default="default", help="checkpoint folder, Hub id or 'default'")
    parser.add_argument("--detector", default="yunet", help="'yunet' or the path of its .onnx file")
    parser.add_argument("--images", type=int, default=100_000, help="how many crops to paste; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
