"""The plots are written, show what they were given, and leave no global matplotlib state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_fer.errors import FerError
from hf_fer.evaluation import plot_confusion_matrix, plot_curves, plot_resolution_curve

RESOLUTIONS = {
    "8": {
        "accuracy": 0.6,
        "mean_class_accuracy": 0.5,
        "ci95": {"accuracy": [0.58, 0.62], "mean_class_accuracy": [0.4, 0.6]},
    },
    "1": {
        "accuracy": 0.9,
        "mean_class_accuracy": 0.8,
        "ci95": {"accuracy": [0.88, 0.92], "mean_class_accuracy": [0.7, 0.9]},
    },
}


def is_picture(path):
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 200
    assert pixels.std() > 5
    return True


def svg_text(path):
    """The text of an SVG: matplotlib leaves each string as a comment beside its glyphs."""
    return path.read_text(encoding="utf-8")


def test_confusion_matrix_shows_counts_percent_support(tmp_path):
    assert is_picture(plot_confusion_matrix([[3, 1], [0, 2]], ["anger", "fear"], tmp_path / "a" / "cm.png", "t"))
    text = svg_text(plot_confusion_matrix(np.array([[3, 1], [0, 2]]), ["anger", "fear"], tmp_path / "cm.svg", "Title"))
    for piece in (
        "75.0 %",
        "25.0 %",
        "100.0 %",
        "(n = 4)",
        "anger",
        "Title",
        "accuracy 83.33 %, mean class accuracy 87.50 %",
    ):
        assert f"<!-- {piece}" in text or piece in text, piece


def test_confusion_matrix_with_an_absent_class(tmp_path):
    with np.errstate(all="raise"):
        plot_confusion_matrix([[0, 0], [1, 1]], ["a", "b"], tmp_path / "cm.png")
        plot_confusion_matrix([[0]], ["a"], tmp_path / "empty.png")


@pytest.mark.parametrize("matrix", [[[1, 2]], [[1, 2, 3]] * 3, [[1, -1], [0, 1]]])
def test_confusion_matrix_refuses_a_wrong_shape(tmp_path, matrix):
    with pytest.raises(FerError, match="confusion matrix of 2 classes"):
        plot_confusion_matrix(matrix, ["a", "b"], tmp_path / "cm.png")


@pytest.mark.parametrize("epochs", [1, 3, 40])
def test_curves(tmp_path, epochs):
    history = [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "eval_loss": 2 / e,
            "val_accuracy": 1 - 1 / (e + 1),
            "learning_rate": 0.1**e,
        }
        for e in range(1, epochs + 1)
    ]
    history[-1].pop("train_loss")
    assert is_picture(plot_curves(history, tmp_path / "curves.png"))
    text = svg_text(plot_curves(history, tmp_path / "curves.svg"))
    assert f"epoch {epochs})" in text
    assert "learning rate" in text


def test_curves_without_anything_to_draw(tmp_path):
    with pytest.raises(FerError, match="history is empty"):
        plot_curves([], tmp_path / "c.png")
    with pytest.raises(FerError, match="keys are foo"):
        plot_curves([{"foo": 1}], tmp_path / "c.png")


def test_resolution_curve(tmp_path):
    record = {"model": "m", "dataset": "d", "n": 1234, "resolutions": RESOLUTIONS}
    assert is_picture(plot_resolution_curve(record, tmp_path / "r.png"))
    text = svg_text(plot_resolution_curve(record, tmp_path / "r.svg", side=48))
    for piece in ("48 px", "6 px", "90.0", "50.0", "m on d (n = 1,234)"):
        assert piece in text, piece
    plot_resolution_curve({"resolutions": {"1": {"accuracy": 0.5, "mean_class_accuracy": 0.5}}}, tmp_path / "one.png")
    with pytest.raises(FerError, match="no resolutions"):
        plot_resolution_curve({}, tmp_path / "r.png")


def test_unknown_suffix_is_one_sentence(tmp_path):
    with pytest.raises(FerError, match=r"cannot be written to .*\.xyz"):
        plot_confusion_matrix([[1]], ["a"], tmp_path / "cm.xyz")


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys; from hf_fer.evaluation import plot_confusion_matrix as p; "
        f"p([[1]], ['a'], {str(tmp_path / 'x.png')!r}); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
