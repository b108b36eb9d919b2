"""Multi-resolution training as a model: the balanced loss by hand, the double random extraction, class weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

import hf_fer  # noqa: F401  registers the Auto classes
from hf_fer.models import modeling_multires
from hf_fer.models.configuration_multires import MultiResConfig
from hf_fer.models.modeling_multires import MultiResForImageClassification

# Tables 1 and 2 of the paper.
NAMES = ["neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise"]
COUNTS = [585896, 23484, 12497, 11120, 149920, 100548, 38564]
TABLE_2 = [0.365, 0.975, 0.986, 0.988, 0.837, 0.891, 0.958]
TINY: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]},
    "stem_pool": False,
    "image_size": 48,  # maps of 3×3
}
IDS = [1, 4, 0, 1, 6, 0]
SOFT = torch.eye(7)[IDS] * 0.7 + torch.eye(7)[[0, 0, 2, 5, 6, 3]] * 0.3


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the environment variable came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def configuration(**changes: Any) -> MultiResConfig:
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: k for k, name in enumerate(NAMES)},
        "class_counts": COUNTS,
        **TINY,
    }
    return MultiResConfig(**{**fields, **changes})


def build(seed: int = 0, **changes: Any) -> MultiResForImageClassification:
    torch.manual_seed(seed)
    model = MultiResForImageClassification(configuration(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def images_for(model: MultiResForImageClassification, batch: int = 6, channels: int = 3, seed: int = 1) -> Tensor:
    size = model.config.image_size
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def record_calls(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(images, last feature maps) of every call from now on."""
    calls: list[tuple[Tensor, Tensor]] = []
    module.register_forward_hook(lambda _, args, output: calls.append((args[0], output[-1])))
    return calls


def weights_by_hand(counts: list[int] | None) -> list[float]:
    return [1.0] * 7 if counts is None else [1 - n / sum(counts) for n in counts]


# The loss --------------------------------------------------------------------------------------------------


def test_class_weights_are_the_papers() -> None:
    model = build()
    assert [round(weight, 3) for weight in model.class_weights.tolist()] == TABLE_2
    expected = torch.tensor(weights_by_hand(COUNTS))
    torch.testing.assert_close(model.class_weights, expected, rtol=1e-6, atol=0)
    assert model.class_weights.dtype == torch.float32


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, COUNTS),
        ({"class_weighting": "none"}, None),
        ({"class_counts": None}, None),
        ({"class_counts": [1, 1, 1, 1, 1, 1, 1]}, [1] * 7),
        ({"resolution_probability": 0.0}, COUNTS),
        ({"resolution_probability": 1.0, "resolution_mode": "uniform"}, COUNTS),
    ],
    ids=["balanced", "none", "unknown", "equal", "one resolution", "uniform"],
)
def test_the_training_loss_by_hand(changes: dict[str, Any], counts: list[int] | None, soft: bool) -> None:
    model = build(**changes).train()
    calls = record_calls(model.backbone)
    labels = SOFT if soft else torch.tensor(IDS)
    targets = SOFT.tolist() if soft else torch.eye(7)[IDS].tolist()
    output = model(images_for(model), labels=labels)
    output.loss.backward()

    ((_, features),) = calls
    weight, bias = model.classifier.weight.tolist(), model.classifier.bias.tolist()
    balance = weights_by_hand(counts)
    plain = balanced = 0.0
    for pooled, target in zip(features.mean(dim=(2, 3)).tolist(), targets, strict=True):
        logits = [math.fsum(w * f for w, f in zip(row, pooled, strict=True)) + bias[k] for k, row in enumerate(weight)]
        log_sum = math.log(math.fsum(math.exp(z) for z in logits))
        entropy = -math.fsum(t * (z - log_sum) for t, z in zip(target, logits, strict=True))
        plain += entropy / 6
        # The mean over the batch: not divided by the sum of the weights, as torch's own weighted loss is.
        balanced += entropy * math.fsum(t * w for t, w in zip(target, balance, strict=True)) / 6
    assert output.losses.keys() == {"cross_entropy", "balanced_cross_entropy"}
    assert output.losses["cross_entropy"].item() == pytest.approx(plain, rel=1e-5)
    assert output.losses["balanced_cross_entropy"].item() == pytest.approx(balanced, rel=1e-5)
    assert output.loss.item() == pytest.approx(balanced, rel=1e-5)
    assert output.loss.ndim == 0 and not any(value.requires_grad for value in output.losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_each_sample_weighs_as_its_class() -> None:
    """A rare class' gradient outweighs the commonest one's by the ratio of their weights."""
    model = build(resolution_probability=0.0).train()
    model.backbone.eval()
    image = images_for(model, batch=1)
    gradients = []
    for weighting in ("inverse_frequency", "none"):
        model.config.class_weighting = weighting
        model.fill_buffers()
        norms = []
        for label in (0, 3):
            model.zero_grad()
            model(image, labels=torch.tensor([label])).loss.backward()
            norms.append(model.classifier.weight.grad.norm().item())
        gradients.append(norms)
    ratios = [weighted / plain for weighted, plain in zip(*gradients, strict=True)]
    assert ratios == pytest.approx([weights_by_hand(COUNTS)[k] for k in (0, 3)], rel=1e-4)


@pytest.mark.parametrize("labels", [torch.tensor(IDS), SOFT], ids=["ids", "soft"])
def test_the_evaluation_loss_is_plain_cross_entropy(labels: Tensor) -> None:
    model = build()
    with torch.no_grad():
        output = model(images_for(model), labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels), rtol=1e-6, atol=0)
    assert output.losses is None


# Class weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "counts"),
    [({}, COUNTS), ({"class_counts": None}, None), ({"class_weighting": "none"}, None)],
    ids=["counts", "unknown", "none"],
)
def test_class_weights_survive_loading(changes: dict[str, Any], counts: list[int] | None, tmp_path: Path) -> None:
    model = build(**changes)
    assert "class_weights" not in model.state_dict()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is MultiResForImageClassification
    torch.testing.assert_close(loaded.class_weights, torch.tensor(weights_by_hand(counts)), rtol=1e-6, atol=0)
    assert torch.equal(loaded.class_weights, model.class_weights)


def test_class_weights_follow_what_is_given_at_loading(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    counts = [5, 50, 500, 50, 5, 1, 9]
    loaded = MultiResForImageClassification.from_pretrained(tmp_path, class_counts=counts)
    torch.testing.assert_close(loaded.class_weights, torch.tensor(weights_by_hand(counts)), rtol=1e-6, atol=0)
    for change in ({"class_counts": None}, {"class_weighting": "none"}):
        loaded = MultiResForImageClassification.from_pretrained(tmp_path, **change)
        assert loaded.class_weights.tolist() == [1.0] * 7


def test_other_labels_leave_the_checkpoints_counts_behind(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    loaded = MultiResForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert loaded.config.class_counts is None and loaded.class_weights.tolist() == [1.0] * 3


def test_class_weights_are_as_exact_in_half_precision(tmp_path: Path) -> None:
    """A training loss in float32, whatever the network's own precision."""
    model = build()
    model.save_pretrained(tmp_path)
    loaded = MultiResForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16).train()
    assert loaded.class_weights.dtype == torch.float32 and torch.equal(loaded.class_weights, model.class_weights)
    output = loaded(images_for(loaded).bfloat16(), labels=torch.tensor(IDS))
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in loaded.parameters())


# Double random extraction ----------------------------------------------------------------------------------


def draw(size: int, number: int = 100_000, seed: int = 0, **changes: Any) -> Tensor:
    """Sides drawn for so many images of this size."""
    model = build(**changes)
    torch.manual_seed(seed)
    sides = model._sides(torch.empty(number, 1, 1, size))
    assert sides.shape == (number,) and sides.dtype == torch.int64
    return sides


def frequencies(sides: Tensor) -> dict[int, float]:
    values, counts = sides.unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / len(sides)).tolist(), strict=True))


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        (256, [8, 16, 32, 64, 128]),
        (224, [7, 14, 28, 56, 112]),
        (112, [4, 7, 14, 28, 56]),  # 3.5 rounds to 4
        (64, [2, 4, 8, 16, 32]),
        (48, [2, 3, 6, 12, 24]),  # 1.5 rounds to 2
        (16, [1, 1, 2, 4, 8]),  # never nothing
        (8, [1, 1, 1, 2, 4]),
    ],
)
@pytest.mark.parametrize("probability", [1.0, 0.5, 0.2])
def test_powers_of_two_are_equally_frequent(size: int, sides: list[int], probability: float) -> None:
    """2^⌊U(3, 8)⌋ of a face of 256 px: a fifth each; the rest are left at their own size."""
    expected = dict.fromkeys(sides, 0.0)
    for side in sides:
        expected[side] += probability / 5
    if probability < 1:
        expected[size] = 1 - probability
    actual = frequencies(draw(size, resolution_probability=probability))
    assert actual.keys() == expected.keys()
    for side, share in expected.items():
        assert actual[side] == pytest.approx(share, abs=4.5 * math.sqrt(share * (1 - share) / 100_000) + 1e-9), side


def test_the_defaults_degrade_half() -> None:
    actual = frequencies(draw(256))
    assert actual.keys() == {8, 16, 32, 64, 128, 256}
    assert actual[256] == pytest.approx(0.5, abs=0.008)


@pytest.mark.parametrize(("least", "most"), [(10, 12), (8, 256), (20, 20), (1, 3)])
def test_uniform_sides_are_equally_frequent(least: int, most: int) -> None:
    sides = draw(256, resolution_mode="uniform", resolution_probability=1.0, min_side=least, max_side=most)
    actual, number = frequencies(sides), most - least + 1
    assert actual.keys() == {*range(least, most + 1)}
    error = math.sqrt(1 / number * (1 - 1 / number) / 100_000)
    assert all(share == pytest.approx(1 / number, abs=5 * error + 1e-9) for share in actual.values())


def test_uniform_sides_scale_with_the_image() -> None:
    fields = {"resolution_mode": "uniform", "resolution_probability": 1.0, "min_side": 64, "max_side": 67}
    assert frequencies(draw(128, **fields)).keys() == {32, 33, 34}  # of 32, 32.5, 33, 33.5
    assert frequencies(draw(256, **fields)).keys() == {64, 65, 66, 67}
    assert frequencies(draw(512, **fields)).keys() == {128, 130, 132, 134}


@pytest.mark.parametrize(
    ("fields", "sides"),
    [
        ({"min_side": 16, "max_side": 128}, {16, 32, 64}),
        ({"min_side": 64, "max_side": 64}, {64}),
        ({"reference_side": 128}, {16, 32, 64, 128, 256}),  # of 8 to 128, twice as many px
        ({"reference_side": 512}, {4, 8, 16, 32, 64}),
        ({"reference_side": 256, "max_side": 1024}, {8, 16, 32, 64, 128, 256}),  # 256 and 512: not enlarged
    ],
    ids=str,
)
def test_range_and_reference_of_the_draw(fields: dict[str, int], sides: set[int]) -> None:
    assert frequencies(draw(256, resolution_probability=1.0, **fields)).keys() == sides


def test_the_two_draws_are_independent() -> None:
    """Whether to degrade says nothing about the side, nor one image about the next."""
    degraded = draw(256) < 256
    sides = draw(256)[degraded].float().log2()
    assert sides.mean().item() == pytest.approx(5.0, abs=0.03) and sides.std().item() == pytest.approx(2**0.5, rel=0.02)
    neighbours = torch.corrcoef(torch.stack([degraded[:-1].float(), degraded[1:].float()]))[0, 1]
    assert abs(neighbours) < 0.015
    assert abs(torch.corrcoef(torch.stack([sides[:-1], sides[1:]]))[0, 1]) < 0.02


def test_each_step_draws_anew_and_seeds_repeat() -> None:
    assert not torch.equal(draw(256, number=100, seed=0), draw(256, number=100, seed=1))
    assert torch.equal(draw(256, number=100, seed=1), draw(256, number=100, seed=1))


def with_pillow(image: Tensor, side: int) -> Tensor:
    size = image.shape[-1]
    small = [Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC) for c in image.numpy()]
    return torch.from_numpy(np.stack([np.asarray(c.resize((size, size), Image.Resampling.BICUBIC)) for c in small]))


@pytest.mark.parametrize("mode", ["power_of_two", "uniform"])
@pytest.mark.parametrize("labels", [None, torch.arange(24) % 7], ids=["bare", "labels"])
def test_the_network_sees_the_drawn_sides(labels: Tensor | None, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    original = modeling_multires.downsample_upsample
    monkeypatch.setattr(
        modeling_multires,
        "downsample_upsample",
        lambda images, sides: (drawn.append(sides), original(images, sides))[1],
    )
    model = build(resolution_mode=mode, stem_pool=True).train()
    calls = record_calls(model.backbone)
    images = images_for(model, batch=24)
    output = model(images, labels=labels, output_hidden_states=True, output_attention_maps=True)
    ((seen, features),), (sides,) = calls, drawn
    expected = torch.stack([with_pillow(image, side) for image, side in zip(images, sides.tolist(), strict=True)])
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-4)
    whole = sides == 48
    assert 3 < whole.sum() < 21
    torch.testing.assert_close(seen[whole], images[whole], rtol=0, atol=1e-5)
    assert all((seen[k] - images[k]).abs().max() > 0.1 for k in range(24) if sides[k] < 40)
    assert torch.equal(output.hidden_states[0], features)
    assert output.attention_maps.shape[:2] == (24, 7)


def test_images_as_small_as_the_side_are_left_alone() -> None:
    model = build(resolution_probability=1.0, min_side=256, max_side=256).train()
    calls = record_calls(model.backbone)
    images = images_for(model)
    model(images)
    torch.testing.assert_close(calls[0][0], images, rtol=0, atol=1e-5)


def test_one_resolution_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(modeling_multires, "downsample_upsample")
    model = build(resolution_probability=0.0).train()
    calls = record_calls(model.backbone)
    images = images_for(model)
    model(images, labels=torch.tensor(IDS))
    assert torch.equal(calls[0][0], images)


def test_evaluation_sees_the_images_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(modeling_multires, "downsample_upsample")
    model = build(resolution_probability=1.0)
    calls = record_calls(model.backbone)
    images = images_for(model)
    model(images)
    model(images, labels=torch.tensor(IDS))
    assert all(torch.equal(seen, images) for seen, _ in calls) and len(calls) == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_are_degraded_too(channels: int) -> None:
    model = build(grayscale=True, resolution_probability=1.0, min_side=8, max_side=8).train()  # 2 px of 48
    calls = record_calls(model.backbone)
    grey = images_for(model, channels=1)
    model(grey.expand(-1, channels, -1, -1))
    expected = torch.stack([with_pillow(image, 2) for image in grey])
    torch.testing.assert_close(calls[0][0], expected, rtol=0, atol=1e-4)


# Configuration ---------------------------------------------------------------------------------------------


def test_the_defaults_are_the_papers() -> None:
    config = MultiResConfig()
    assert (config.backbone, config.image_size) == ("legacy_seresnet50", 224)
    assert (config.min_side, config.max_side, config.reference_side) == (8, 256, 256)
    assert (config.resolution_mode, config.resolution_probability) == ("power_of_two", 0.5)
    assert config.class_weighting == "inverse_frequency"
    rows = {name: configuration(**changes) for name, changes in MultiResConfig.ablations.items()}
    assert rows["released code"].resolution_probability == 1.0
    assert rows["uniform sides"].resolution_mode == "uniform"
    assert rows["baseline: one resolution"].resolution_probability == 0.0
    assert rows["baseline: plain cross-entropy"].class_weighting == "none"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_side": 0}, "min_side must be an integer from 1 to 4096, got 0"),
        ({"min_side": 4097, "max_side": 5000}, "min_side must be an integer from 1 to 4096"),
        ({"min_side": 8.0}, "min_side must be an integer"),
        ({"min_side": True}, "min_side must be an integer"),
        ({"max_side": 7}, "max_side must be an integer from 8 to 4096, got 7"),
        ({"min_side": 64, "max_side": 32}, "max_side must be an integer from 64 to 4096, got 32"),
        ({"max_side": 4097}, "max_side must be an integer from 8 to 4096"),
        ({"reference_side": 0}, "reference_side must be an integer from 1 to 4096, got 0"),
        ({"reference_side": "256"}, "reference_side must be an integer"),
        ({"resolution_probability": 1.01}, r"resolution_probability must be a number in \[0, 1\]"),
        ({"resolution_probability": -0.01}, r"resolution_probability must be a number in \[0, 1\]"),
        ({"resolution_mode": "log"}, "resolution_mode must be one of 'power_of_two', 'uniform', got 'log'"),
        ({"class_weighting": "effective_number"}, "class_weighting must be one of 'inverse_frequency', 'none'"),
        ({"class_counts": [1, 2, 3, 4, 5, 6, 0]}, "class_counts must be 7 integers of at least 1"),
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^MultiResConfig: {message}"):
        configuration(**fields)


@pytest.mark.parametrize("fields", [{"min_side": 1, "max_side": 1}, {"max_side": 4096}, {"resolution_probability": 1}])
def test_the_ends_of_the_ranges_are_allowed(fields: dict[str, Any]) -> None:
    model = build(**fields).train()
    assert model(images_for(model), labels=torch.tensor(IDS)).loss.isfinite()
