"""The drawn faces: reproducible, balanced, honest about their resolution, and not readable without shape."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hf_fer.data import drawn_faces
from hf_fer.data.drawn_faces import draw_face, draw_identity, lower_resolution
from hf_fer.data.synthetic import load_synthetic
from hf_fer.errors import FerError
from hf_fer.labels import EXPRESSIONS, label_names


def pixels(split) -> np.ndarray:
    """All images of a split: uint8 (N, H, W, 3)."""
    return np.stack([np.asarray(image) for image in split["image"]])


def digest(split) -> str:
    return hashlib.sha256(pixels(split).tobytes()).hexdigest()


def sharpness(images: np.ndarray) -> np.ndarray:
    """Energy of the grey picture's spectrum above half the Nyquist frequency: float (N,)."""
    spectrum = np.abs(np.fft.fft2(images.mean(-1))) ** 2
    frequency = np.abs(np.fft.fftfreq(images.shape[1]))
    high = np.maximum(frequency[:, None], frequency[None, :]) > 0.25
    return spectrum[:, high].mean(-1)


@pytest.fixture(scope="module")
def faces():
    return load_synthetic(train=800, validation=80, test=240, seed=3)


@pytest.fixture(scope="module")
def small():
    return load_synthetic(train=24, validation=16, test=16, size=32, seed=5)


def test_columns_and_sizes(faces):
    assert list(faces) == ["train", "validation", "test"]
    assert [len(faces[s]) for s in faces] == [800, 80, 240]
    split = faces["validation"]
    assert split.column_names == ["image", "label", "group", "resolution", "votes"]
    assert tuple(split.features["label"].names) == EXPRESSIONS == label_names("synthetic")
    assert str(split.split) == "validation"
    assert pixels(split).shape == (80, 64, 64, 3) and split[0]["image"].mode == "RGB"


def test_same_arguments_same_pictures_in_another_process(small):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_synthetic import digest, load_synthetic\n"
        "print(digest(load_synthetic(train=24, validation=16, test=16, size=32, seed=5)['train']))"
    )
    folder = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest(small["train"])


def test_pictures_do_not_depend_on_the_sizes_of_the_splits(small):
    other = load_synthetic(train=40, validation=8, test=24, size=32, seed=5)
    for split, n in (("train", 24), ("validation", 8), ("test", 16)):
        first, second = (d[split].select(range(n)) for d in (small, other))
        assert digest(first) == digest(second)
        for column in ("label", "group", "resolution", "votes"):
            assert first[column][:] == second[column][:]


def test_seeds_and_splits_differ(small):
    other = load_synthetic(train=24, validation=16, test=16, size=32, seed=6)
    digests = {digest(d[s].select(range(16))) for d in (small, other) for s in d}
    assert len(digests) == 6


def test_nobody_is_in_two_splits_and_everybody_shows_everything(faces):
    groups = [set(faces[s]["group"]) for s in faces]
    assert not (groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2])
    group, label = np.array(faces["train"]["group"]), np.array(faces["train"]["label"])
    assert sorted(label[group == group[0]]) == list(range(8))


def test_labels_are_balanced(faces):
    for split, n in (("train", 100), ("validation", 10), ("test", 30)):
        assert np.bincount(faces[split]["label"]).tolist() == [n] * 8


def test_imbalance_thins_out_the_training_split_only():
    thin = load_synthetic(train=240, validation=16, test=16, size=16, imbalance_factor=10)
    assert np.bincount(thin["train"]["label"]).tolist() == [30, 21, 15, 11, 8, 5, 4, 3]
    assert np.bincount(thin["test"]["label"]).tolist() == [2] * 8
    balanced = load_synthetic(train=240, validation=1, test=1, size=16)["train"]
    key, kept_key = (list(zip(s["group"], s["label"], strict=True)) for s in (balanced, thin["train"]))
    kept = balanced.select([key.index(k) for k in kept_key])
    assert digest(kept) == digest(thin["train"])


def test_seven_classes_leave_contempt_out():
    seven = load_synthetic(train=28, validation=7, test=7, size=16, classes=7, with_votes=False)
    assert tuple(seven["train"].features["label"].names) == EXPRESSIONS[:7]
    assert np.bincount(seven["train"]["label"]).tolist() == [4] * 7
    assert "votes" not in seven["train"].column_names


@pytest.mark.parametrize("classes", [7, 8])
def test_the_majority_of_the_votes_is_the_label(faces, classes):
    split = faces["train"] if classes == 8 else load_synthetic(140, 1, 1, size=16, classes=7)["train"]
    votes = np.array(split["votes"])
    assert votes.shape == (len(split), 10) and (votes.sum(1) == 10).all()
    assert (votes[:, classes:8] == 0).all() and (votes[:, 9] == 0).all()
    # FERPlus: single votes are outliers; the winner needs more than half of what is left.
    cleaned = np.where(votes < 2, 0, votes)
    assert (cleaned.argmax(1) == np.array(split["label"])).all()
    assert (2 * cleaned.max(1) > cleaned.sum(1)).all()
    assert 0.05 < (votes.max(1) < 10).mean() < 0.99  # some doubt, not only doubt


def test_resolution_is_what_the_column_says():
    sharp = load_synthetic(train=120, validation=1, test=1, degrade=False)["train"]
    degraded = load_synthetic(train=120, validation=1, test=1)["train"]
    assert set(sharp["resolution"]) == {64} and set(degraded["resolution"]) == {64, 48, 32, 24, 16}
    resolution = np.array(degraded["resolution"])
    before, after = pixels(sharp), pixels(degraded)
    assert (before[resolution == 64] == after[resolution == 64]).all()
    ratio = sharpness(after) / sharpness(before)
    assert (ratio[resolution < 64] < 1).all()
    assert np.median(ratio[resolution <= 32]) < 0.5  # half the side: most of the fine detail is gone
    for i in np.flatnonzero(resolution < 64)[:10]:
        again = lower_resolution(Image.fromarray(before[i]), int(resolution[i]))
        assert (np.asarray(again) == after[i]).all()


def test_shape_carries_the_expression(faces):
    """Colour says nothing; a linear model on the pixels sees something, far from all of it."""
    from sklearn.linear_model import RidgeClassifier

    def score(features) -> float:
        x, y = features(pixels(faces["train"]) / 255.0), np.array(faces["train"]["label"])
        model = RidgeClassifier(alpha=300.0).fit(x, y)
        return model.score(features(pixels(faces["test"]) / 255.0), np.array(faces["test"]["label"]))

    assert score(lambda x: np.concatenate([x.mean((1, 2)), x.std((1, 2))], axis=1)) < 0.25
    grey = score(lambda x: x.mean(-1).reshape(len(x), 32, 2, 32, 2).mean((2, 4)).reshape(len(x), -1))
    assert 0.25 < grey < 0.70


def test_a_flipped_face_keeps_its_label(monkeypatch):
    """Contempt is the only one-sided expression: its smirk comes on either side equally often."""
    sides = []
    draw_mouth = drawn_faces._draw_mouth

    def spy(pen, who, geometry, x, smirk_side):
        sides.append(smirk_side)
        draw_mouth(pen, who, geometry, x, smirk_side)

    monkeypatch.setattr(drawn_faces, "_draw_mouth", spy)
    for seed in range(100):
        draw_face("contempt", np.random.default_rng(seed), 16)
    assert set(sides) == {-1, 1} and 30 < sides.count(1) < 70


def test_one_person_at_any_size_and_intensity():
    who = draw_identity(np.random.default_rng(1))
    for size in (16, 48, 100, 256):
        face = draw_face("fear", np.random.default_rng(0), size, identity=who, clean=True)
        assert face.size == (size, size) and face.mode == "RGB"
    relaxed, strong = (
        draw_face("surprise", np.random.default_rng(0), identity=who, intensity=v, clean=True) for v in (0, 1)
    )
    relaxed, strong = np.asarray(relaxed).astype(int), np.asarray(strong).astype(int)
    assert np.abs(relaxed - strong).max() > 60


@pytest.mark.parametrize(
    "options",
    [
        {"train": 0}, {"validation": 1.5}, {"test": True}, {"size": 8}, {"seed": -1}, {"seed": "0"},
        {"classes": 6}, {"imbalance_factor": 0.5}, {"imbalance_factor": float("nan")},
        {"imbalance_factor": "big"},
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(options):
    ((name, value),) = options.items()
    with pytest.raises(FerError, match=name) as error:
        load_synthetic(**options)
    assert repr(value) in str(error.value) and "\n" not in str(error.value)


def test_draw_face_names_a_wrong_option():
    rng = np.random.default_rng(0)
    with pytest.raises(FerError, match=r"'joy'.*happiness"):
        draw_face("joy", rng)
    with pytest.raises(FerError, match="intensity=2"):
        draw_face("anger", rng, intensity=2)
    with pytest.raises(FerError, match="resolution=65"):
        draw_face("anger", rng, resolution=65)
