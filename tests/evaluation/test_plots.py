"""The plots are written, show what they were given, and leave no global matplotlib state."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_fer.errors import FerError
from hf_fer.evaluation import plot_confusion_matrix, plot_curves, plot_resolution_curve
from hf_fer.evaluation.plots import plot_diagnostics, plot_training_scalars, plot_tsne

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


@pytest.mark.parametrize("epochs", [1, 40])
@pytest.mark.parametrize("names", [["cross_entropy"], ["s_A", "s_P", "tau", "label_distribution", "adversarial"]])
def test_training_scalars(tmp_path, epochs, names):
    history = [
        {"epoch": e, "train_loss": 1.0, "val_loss": 2.0, **{f"train_{name}": k + 1 / e for k, name in enumerate(names)}}
        for e in range(1, epochs + 1)
    ]
    assert is_picture(plot_training_scalars(history, tmp_path / "scalars.png"))
    text = svg_text(plot_training_scalars(history, tmp_path / "scalars.svg"))
    for name in names:
        assert {"s_A": "$s_A$", "s_P": "$s_P$", "tau": r"$\tau$"}.get(name, name.replace("_", " ")) in text
    assert f"last {1 / epochs:#.3g}".rstrip(".") in text
    assert "train" not in text and "val" not in text


def test_training_scalars_pass_over_gaps(tmp_path):
    history = [{"train_tau": 0.5}, {"train_tau": None}, {"train_tau": 0.75, "train_late": float("nan")}, {}]
    text = svg_text(plot_training_scalars(history, tmp_path / "scalars.svg"))
    assert "last 0.750" in text and text.count("epoch") == 1


def test_training_scalars_without_anything_to_draw(tmp_path):
    with pytest.raises(FerError, match="history is empty"):
        plot_training_scalars([], tmp_path / "s.png")
    with pytest.raises(FerError, match="keys are epoch, train_loss"):
        plot_training_scalars([{"train_loss": 1.0, "epoch": 1}], tmp_path / "s.png")


def summary_of(figures, counts):
    return {
        "n": sum(counts.values()),
        "n_per_class": counts,
        "factor": 4.0,
        "figures": {
            name: {
                "meaning": f"what {name} says",
                "mean": mean,
                "per_class": {
                    label: mean * (1 + 0.1 * k) if n else None for k, (label, n) in enumerate(counts.items())
                },
            }
            for name, mean in figures.items()
        },
    }


@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_diagnostics(tmp_path, count):
    classes = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]
    counts = {label: 1000 * (k < 7) for k, label in enumerate(classes)}
    figures = dict(
        [("tau", 0.5), ("s_A", 0.25), ("map_consistency", 0.001), ("d", 0.0), ("e", 20.0), ("f", -1.0)][:count]
    )
    summary = summary_of(figures, counts)
    with np.errstate(all="raise"):
        assert is_picture(plot_diagnostics(summary, tmp_path / "d.png", "Title"))
    text = svg_text(plot_diagnostics(summary, tmp_path / "d.svg", "Title"))
    pieces = [
        "Title",
        "neutral (n = 1,000)",
        "contempt (n = 0)",
        "no images",
        r"$\tau$",
        "mean 0.500",
        "0.550",
        "what tau",
    ]
    pieces += ["map consistency", "0.00110"] if count > 2 else []
    for piece in pieces:
        assert piece in text, piece


def test_diagnostics_without_figures(tmp_path):
    for summary in ({}, summary_of({}, {"a": 3})):
        with pytest.raises(FerError, match="no figures to plot"):
            plot_diagnostics(summary, tmp_path / "d.png")


@pytest.mark.parametrize("classes", [1, 8, 19])
def test_tsne(tmp_path, classes):
    rng = np.random.default_rng(0)
    labels = np.arange(300) % classes
    names = [f"class {k}" for k in range(classes)]
    scores = {"davies_bouldin": 1.234, "calinski_harabasz": 56.78, "n": 4321}
    options = {"title": "Title", "scores": scores, "marked": labels == 0}
    points = rng.normal(size=(300, 2))
    assert is_picture(plot_tsne(points, labels, names, tmp_path / "t.png", **options))
    text = svg_text(plot_tsne(points, labels, [*names, "absent"], tmp_path / "t.svg", **options))
    for piece in (
        "Title",
        "t-SNE of 300 embeddings; scores of all 4,321:",
        "Davies-Bouldin 1.23 (lower is better), Calinski-Harabasz 56.8 (higher is better)",
        f"class {classes - 1} (",
        f"hard samples ({(labels == 0).sum()})",
    ):
        assert piece in text, piece
    assert "absent" not in text


def test_tsne_without_scores(tmp_path):
    points, labels = np.zeros((2, 2)), np.array([1, 0])
    assert "Davies" not in svg_text(plot_tsne(points, labels, ["a", "b"], tmp_path / "t.svg"))
    scores = {"davies_bouldin": None, "calinski_harabasz": None, "n": 2, "reason": "there is none"}
    text = svg_text(plot_tsne(points, labels, ["a", "b"], tmp_path / "t.svg", scores=scores))
    assert "no cluster scores, since there is none" in text


def test_tsne_refuses_what_does_not_fit(tmp_path):
    points = np.zeros((3, 2))
    for wrong, labels in ((np.zeros((0, 2)), []), (np.zeros((3, 3)), [0, 0, 0]), (points, [0, 0])):
        with pytest.raises(FerError, match="needs points"):
            plot_tsne(wrong, labels, ["a"], tmp_path / "t.png")
    for labels in ([0, 0, 1], [-1, 0, 0]):
        with pytest.raises(FerError, match="there are 1 class names"):
            plot_tsne(points, labels, ["a"], tmp_path / "t.png")
    with pytest.raises(FerError, match="one truth value a point"):
        plot_tsne(points, [0, 0, 0], ["a"], tmp_path / "t.png", marked=[True])


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
