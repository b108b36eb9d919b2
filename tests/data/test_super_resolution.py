"""Super-resolution as a data step, with a tiny random Swin2SR: what comes out is what the model says, and no more."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Swin2SRConfig,
    Swin2SRForImageSuperResolution,
    Swin2SRImageProcessor,
    Swin2SRModel,
)

from hf_fer import cli
from hf_fer.data import load_fer_dataset
from hf_fer.data.super_resolution import load_super_resolution, super_resolve
from hf_fer.errors import FerError

datasets = pytest.importorskip("datasets")

TINY = {"embed_dim": 8, "depths": [1], "num_heads": [2], "window_size": 4, "image_size": 16}


@pytest.fixture(scope="module", autouse=True)
def offline_and_cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def write_model(folder: Path, processor: bool = True, seed: int = 0, **config: Any) -> Path:
    """A random Swin2SR whose pictures have contrast: a trained one starts from the enlarged input, this one from 0."""
    torch.manual_seed(seed)
    model = Swin2SRForImageSuperResolution(Swin2SRConfig(**{**TINY, "upsampler": "pixelshuffledirect", **config}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("upsample.") and parameter.ndim == 4:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    if processor:
        Swin2SRImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "double")


def faces(*images: Image.Image | bytes) -> Any:
    """A dataset with these images, their row as `group`."""
    stored = []
    for image in images:
        buffer = io.BytesIO()
        if not isinstance(image, bytes):
            image.save(buffer, "PNG", **({"exif": image.info["exif"]} if "exif" in image.info else {}))
        stored.append({"bytes": image if isinstance(image, bytes) else buffer.getvalue(), "path": "a/b.jpg"})
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["neutral", "happiness"]),
            "group": datasets.Value("int32"),
        }
    )
    rows = range(len(images))
    return datasets.Dataset.from_dict(
        {"image": stored, "label": [i % 2 for i in rows], "group": [*rows]}, features=features
    )


def noise(seed: int, width: int = 12, height: int = 12, grey: bool = False) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8))


def by_hand(folder: Path, image: Image.Image) -> np.ndarray:
    """One image through the model as transformers' documentation does it: (H, W, 3) float in 0..255, not rounded."""
    model = Swin2SRForImageSuperResolution.from_pretrained(folder).eval()
    inputs = Swin2SRImageProcessor.from_pretrained(folder)(image.convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs).reconstruction[0].clamp(0, 1).permute(1, 2, 0).numpy() * 255
    scale = model.config.upscale
    return output[: image.height * scale, : image.width * scale]


def test_it_is_what_the_model_says(double: Path) -> None:
    """Sizes mixed within a batch, rows in their order, nothing of the padding, whatever the batch size."""
    sizes = [(12, 12), (16, 9), (12, 12), (9, 16), (7, 7), (16, 9), (12, 12)]
    images = [noise(i, *size) for i, size in enumerate(sizes)]
    dataset = faces(*images)
    large = super_resolve(dataset, double, batch_size=4)
    single = super_resolve(dataset, double, batch_size=1)
    assert large.features == dataset.features
    assert large["label"][:] == dataset["label"][:] and large["group"][:] == dataset["group"][:]
    for image, result, alone in zip(images, large, single, strict=True):
        array = np.asarray(result["image"])
        assert result["image"].format == "PNG" and result["image"].mode == "RGB"
        assert result["image"].size == (2 * image.width, 2 * image.height)
        expected = by_hand(double, image)
        assert expected.std() > 10  # a picture, not a plain
        assert np.abs(array - expected).max() < 0.51  # rounded, no more
        assert np.abs(array.astype(int) - np.asarray(alone["image"])).max() <= 1
    stored = large.cast_column("image", datasets.Image(decode=False))["image"][0]
    assert stored["path"] == "b.png" and stored["bytes"].startswith(b"\x89PNG")


def test_grey_comes_back_grey(double: Path) -> None:
    grey = noise(0, grey=True)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    images = [grey, grey.convert("RGB"), noise(1), grey.convert("LA"), sixteen]
    results = [row["image"] for row in super_resolve(faces(*images), double)]
    assert [image.mode for image in results] == ["L", "L", "RGB", "L", "L"]
    expected = by_hand(double, grey).mean(axis=2)
    for i in (0, 1, 3, 4):
        assert np.abs(np.asarray(results[i]) - expected).max() < 0.51
    assert np.abs(np.asarray(results[2]) - by_hand(double, noise(1))).max() < 0.51


def test_the_right_way_up(double: Path) -> None:
    image = noise(3, 8, 14)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.info["exif"] = exif.tobytes()
    dataset = faces(image)
    upright = dataset[0]["image"]
    assert upright.size == (14, 8)
    (row,) = super_resolve(dataset, double)
    assert row["image"].size == (28, 16)
    assert np.abs(np.asarray(row["image"]) - by_hand(double, upright)).max() < 0.51


@pytest.mark.parametrize(("upscale", "scale", "passes"), [(2, 2, 1), (2, 4, 2), (2, 3, 2), (2, 8, 3), (4, 2, 1)])
def test_scale(upscale: int, scale: int, passes: int, double: Path, tmp_path: Path) -> None:
    folder = double if upscale == 2 else write_model(tmp_path / "m", upscale=upscale)
    image = noise(5, 6, 4)
    (row,) = super_resolve(faces(image), folder, scale=scale)
    expected = image
    for _ in range(passes):
        expected = Image.fromarray(by_hand(folder, expected).round().astype(np.uint8))
    if expected.size != (6 * scale, 4 * scale):
        expected = expected.resize((6 * scale, 4 * scale), Image.Resampling.BICUBIC)
    assert row["image"].size == expected.size == (6 * scale, 4 * scale)
    difference = np.abs(np.asarray(row["image"]).astype(int) - np.asarray(expected))
    assert np.median(difference) <= 1 and (difference > 8).mean() < 0.02  # roundings meet further passes


def test_every_split_and_other_columns(double: Path) -> None:
    splits = load_fer_dataset("synthetic", train=9, validation=3, test=2, size=16)
    larger = super_resolve(splits, double)
    assert isinstance(larger, datasets.DatasetDict) and list(larger) == list(splits)
    for split, part in larger.items():
        assert part.features == splits[split].features
        for column in ("label", "votes", "group", "resolution"):
            assert part[column][:] == splits[split][column][:]
        assert {row["image"].size for row in part} == {(32, 32)}


def test_cached_by_weights_and_scale(double: Path, tmp_path: Path) -> None:
    faces(noise(0), noise(1)).save_to_disk(str(tmp_path / "faces"))
    dataset = datasets.Dataset.load_from_disk(str(tmp_path / "faces"))
    first = super_resolve(dataset, double)
    copied = Swin2SRForImageSuperResolution.from_pretrained(double)
    copied.save_pretrained(tmp_path / "copy")
    Swin2SRImageProcessor.from_pretrained(double).save_pretrained(tmp_path / "copy")
    assert super_resolve(dataset, tmp_path / "copy", batch_size=1).cache_files == first.cache_files
    other = write_model(tmp_path / "other", seed=1)
    files = {str(super_resolve(dataset, folder, scale=n).cache_files) for folder in (double, other) for n in (None, 3)}
    assert len(files) == 4
    assert super_resolve(dataset.select([1]), double).cache_files != first.cache_files
    assert (np.asarray(super_resolve(dataset.select([1]), double)[0]["image"]) == np.asarray(first[1]["image"])).all()


def test_errors(double: Path, tmp_path: Path) -> None:
    def fails(match: str, images: Any = None, model: Any = double, **options: Any) -> None:
        with pytest.raises(FerError, match=match) as raised:
            super_resolve(faces(noise(0)) if images is None else images, model, **options)
        assert "\n" not in str(raised.value)

    fails("batch_size=0", batch_size=0)
    fails("scale=1 must", scale=1)
    fails("scale=2.0 must", scale=2.0)
    fails("device 'gpu'", device="gpu")
    fails("cannot be loaded", model=tmp_path / "nothing")
    fails("cannot be loaded", model="nobody/nothing")
    fails(r"row 1: .*cannot be decoded.*data check", faces(noise(0), b"\x89PNG no"))
    fails(r"rows 0 to 1: the model cannot enlarge 2 images of 12x12, 2x2", faces(noise(0), noise(0, 2, 2)))
    fails("no images in a column 'image', only label, group", faces(noise(0)).remove_columns("image"))
    fails("without streaming", datasets.IterableDatasetDict({"train": faces(noise(0)).to_iterable_dataset()}))
    fails("preprocessor_config.json", model=write_model(tmp_path / "bare", processor=False))
    fails("for 1 channels", model=write_model(tmp_path / "grey", num_channels=1))
    same = write_model(tmp_path / "same", upscale=1, upsampler="")
    fails("does not enlarge", model=same, scale=2)
    assert super_resolve(faces(noise(0)), same)[0]["image"].size == (12, 12)

    ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(
        tmp_path / "resnet"
    )
    fails("is a resnet model, not a Swin2SR", model=tmp_path / "resnet")
    trunk = tmp_path / "trunk"  # transformers would make up the missing layers
    Swin2SRModel(Swin2SRConfig(**TINY)).save_pretrained(trunk)
    Swin2SRImageProcessor().save_pretrained(trunk)
    fails(r"lacks \d+ weights", model=trunk)


def test_a_loaded_model_serves_several_times(double: Path) -> None:
    network = load_super_resolution(double, device="cpu")
    assert network.upscale == 2 and not network.model.training
    assert super_resolve(faces(noise(0)), network)[0]["image"].size == (24, 24)


# --- the command --------------------------------------------------------------------------------------


def test_command(double: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "larger"
    options = [f"--option={split}=8" for split in ("train", "validation", "test")]
    assert cli.main(["data", "prepare", "synthetic", "--out", str(source), "--option", "size=16", *options]) == 0
    command = ["super-resolve", str(source), "--model", str(double), "--scale", "3", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "hf_fer.cli", "data", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "written: " in done.stdout and "24/24" in done.stderr
    assert "Warning" not in done.stderr and "Loading weights" not in done.stderr
    small, large = load_fer_dataset(str(source)), load_fer_dataset(str(out))
    expected = super_resolve(small, double, scale=3)
    for split, part in small.items():
        assert large[split].features == part.features
        assert large[split]["label"][:] == part["label"][:] and large[split]["votes"][:] == part["votes"][:]
        for row, want in zip(large[split], expected[split], strict=True):
            assert row["image"].size == (48, 48)
            assert np.abs(np.asarray(row["image"]).astype(int) - np.asarray(want["image"])).max() <= 2
    card = (out / "README.md").read_text()
    assert "`hf-fer data super-resolve source --model double --out OUT`" in card
    assert "3 times larger in each direction" in card and "a guess of that model" in card
    assert str(tmp_path) not in card


def test_command_mistakes(double: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [f"--option={split}=2" for split in ("train", "validation", "test")]

    def sentence(*arguments: str) -> str:
        assert cli.main(["data", "super-resolve", "synthetic", *few, *arguments]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    out = ("--out", str(tmp_path / "out"))
    assert "--model" in sentence(*out)
    assert "--out" in sentence("--model", str(double))
    assert "--scale" in sentence("--model", str(double), *out, "--scale", "two")
    assert "scale=1 must" in sentence("--model", str(double), *out, "--scale", "1")
    assert "cannot be loaded" in sentence("--model", str(tmp_path / "none"), *out)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "not empty" in sentence("--model", str(double), *out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
