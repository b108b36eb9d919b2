"""Makes the example pictures of this folder and of the demo: free material only.

Drawn faces, which nobody else owns, and the portrait of the astronaut Eileen Collins by NASA, which is in the public
domain (scikit-image brings it: `skimage.data.astronaut`).

python space/make_examples.py
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hf_fer.data.drawn_faces import draw_face
from hf_fer.labels import EXPRESSIONS

SIDES = (224, 160, 112, 80, 48, 32, 24, 16)
ROOT = Path(__file__).parents[1]

CLIP_SIDE, CLIP_FPS, CLIP_SECONDS = 320, 12, 6
LEAST = 10  # px of the clip's blurriest picture


def main() -> None:
    draw_for_the_command_line(ROOT / "space" / "examples")
    folder = ROOT / "hf_fer" / "demo" / "examples"
    folder.mkdir(exist_ok=True)
    portrait = astronaut()
    portrait.save(folder / "astronaut.jpg", quality=90)
    portrait.resize((112, 112), Image.Resampling.BICUBIC).save(folder / "astronaut_small.png", optimize=True)
    contact_sheet().save(folder / "drawn_faces.png", optimize=True)
    write_clip(lose_and_regain_pixels(portrait), folder / "astronaut_pixels.mp4")


def draw_for_the_command_line(folder: Path) -> None:
    """One face for each expression, smaller and smaller."""
    folder.mkdir(exist_ok=True)
    for index, (expression, side) in enumerate(zip(EXPRESSIONS, SIDES, strict=True)):
        face = draw_face(expression, np.random.default_rng([7, index]), size=side, intensity=1.0, clean=True)
        face.save(folder / f"drawn_{expression}_{side}px.png")


def astronaut() -> Image.Image:
    """512 x 512 px."""
    from skimage.data import astronaut as array

    return Image.fromarray(array())


def contact_sheet(side: int = 160) -> Image.Image:
    """All expressions in one picture."""
    sheet = Image.new("RGB", (4 * side, 2 * side))
    for index, expression in enumerate(EXPRESSIONS):
        face = draw_face(expression, np.random.default_rng([11, index]), size=side, intensity=1.0, clean=True)
        sheet.paste(face, (index % 4 * side, index // 4 * side))
    return sheet


def lose_and_regain_pixels(portrait: Image.Image) -> Iterator[Image.Image]:
    """The face close up, with fewer and fewer pixels, and back."""
    count = CLIP_FPS * CLIP_SECONDS
    view = portrait.crop((130, 20, 330, 220))  # the face is 0.46 of its sides
    for index in range(count):
        t = 1 - abs(2 * index / (count - 1) - 1)  # 0, 1, 0
        side = round(200 * (LEAST / 200) ** min(1.0, 1.15 * t))
        small = view.resize((side, side), Image.Resampling.BICUBIC)
        yield small.resize((CLIP_SIDE, CLIP_SIDE), Image.Resampling.BICUBIC)


def write_clip(frames: Iterator[Image.Image], path: Path) -> None:
    """H.264 in MP4, which every browser plays."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=CLIP_FPS, options={"crf": "26", "threads": "1"})
        stream.width = stream.height = CLIP_SIDE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_image(frame)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


if __name__ == "__main__":
    main()
