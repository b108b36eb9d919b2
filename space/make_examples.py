"""Draws the example faces of this folder: free material, because nobody owns a drawing we made.

python space/make_examples.py
"""

from pathlib import Path

import numpy as np

from hf_fer.data.drawn_faces import draw_face
from hf_fer.labels import EXPRESSIONS

SIDES = (224, 160, 112, 80, 48, 32, 24, 16)


def main() -> None:
    folder = Path(__file__).parent / "examples"
    folder.mkdir(exist_ok=True)
    for index, (expression, side) in enumerate(zip(EXPRESSIONS, SIDES, strict=True)):
        face = draw_face(expression, np.random.default_rng([7, index]), size=side, intensity=1.0, clean=True)
        face.save(folder / f"drawn_{expression}_{side}px.png")


if __name__ == "__main__":
    main()
