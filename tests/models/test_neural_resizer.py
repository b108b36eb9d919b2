"""Neural Resizer as a model: its front end against oracles, F-PDLS by hand, every row, loading, export, config."""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageClassification

import hf_fer  # noqa: F401  registers the Auto classes
from hf_fer.models.configuration_neural_resizer import NeuralResizerConfig
from hf_fer.models.losses import prior_label_distribution
from hf_fer.models.modeling_neural_resizer import NeuralResizerForImageClassification
from hf_fer.models.resizer import (
    Interpolation,
    LearnedResizer,
    SpatialTransformer,
    SuperResolution,
    affine_sample,
    interpolate,
)

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
PRIOR = [
    [0.6, 0.1, 0.1, 0.1, 0.1],
    [0.0, 1.0, 0.0, 0.0, 0.0],
    [0.05, 0.15, 0.7, 0.06, 0.04],
    [0.2, 0.0, 0.0, 0.8, 0.0],
    [0.1, 0.2, 0.3, 0.1, 0.3],
]
BACKBONES: dict[str, dict[str, Any]] = {
    "swin": {},  # the tiny configuration's
    "vit": {
        "backbone": "vit_small_patch16_224",
        "backbone_kwargs": {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8},
    },
    "deit": {
        "backbone": "deit_small_patch16_224",
        "backbone_kwargs": {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8},
    },
    "convit": {  # one block of gated positional self-attention, one of the plain one
        "backbone": "convit_small",
        "backbone_kwargs": {"embed_dim": 4, "depth": 2, "num_heads": 4, "patch_size": 8, "local_up_to_layer": 1},
    },
    "xcit": {
        "backbone": "xcit_small_12_p16_224",
        "backbone_kwargs": {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8},
    },
}
ROWS = NeuralResizerConfig.ablations
TABLE_2 = [row for row in ROWS if row.startswith("Table 2")]
SETTING = {row.split(":")[0].removeprefix("Table 2 "): row for row in TABLE_2}  # "a" … "e"
BACKBONE_NAMES = pytest.mark.parametrize("backbone", list(BACKBONES))
IDS = [1, 4, 0, 1, 2, 3]
SOFT = [
    [0.7, 0.3, 0, 0, 0],
    [0, 0, 0, 0, 1],
    [0.2] * 5,
    [0, 0, 0.1, 0.5, 0.4],
    [0, 1, 0, 0, 0],
    [0.5, 0, 0, 0.5, 0],
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def configuration(row: str | None = None, backbone: str = "swin", **changes: Any) -> NeuralResizerConfig:
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: k for k, name in enumerate(NAMES)},
        "label_prior": PRIOR,
    }
    overrides = ROWS[row] if row else {}
    return NeuralResizerConfig(**{**fields, **overrides, **NeuralResizerConfig.tiny, **BACKBONES[backbone], **changes})


def fresh(row: str | None = None, backbone: str = "swin", **changes: Any) -> NeuralResizerForImageClassification:
    torch.manual_seed(0)
    return NeuralResizerForImageClassification(configuration(row, backbone, **changes)).eval()


def perturb(module: nn.Module, strength: float = 0.05) -> None:
    """Gives every tensor values that differ from any default."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(strength * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(7)


def build(row: str | None = None, backbone: str = "swin", **changes: Any) -> NeuralResizerForImageClassification:
    model = fresh(row, backbone, **changes)
    perturb(model)
    return model


def images_for(model: NeuralResizerForImageClassification, batch: int = 6, seed: int = 1) -> Tensor:
    size = model.config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, the unsaved ones too."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def plain_interpolation(images: Tensor, row: str | None = None) -> Tensor:
    """What the tiny front end of a row is made to start as."""
    mode = "bilinear" if row in (SETTING["a"], SETTING["b"]) else "bicubic"
    for size, how in ((64, mode), (32, "bilinear")):
        images = F.interpolate(images, size=(size, size), mode=how, align_corners=False, antialias=True)
    return images


# The rows of the poster's tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("row", list(ROWS))
def test_every_row_trains(row: str) -> None:
    model = fresh(row).train()
    images, labels = images_for(model), torch.tensor(IDS)
    output = model(images, labels=labels)
    output.loss.backward()
    assert output.logits.shape == (6, 5) and output.loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name

    perturb(model)
    model.zero_grad()
    model(images, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_rows_of_table_2() -> None:
    """(STN, up-sampling, down-sizing, backbone)"""
    nothing, stn, sr, ltr = nn.Identity, SpatialTransformer, SuperResolution, LearnedResizer
    small, base = "swin_small_patch4_window7_224", "swin_base_patch4_window7_224"
    expected = {
        "a": (nothing, Interpolation, Interpolation, small),
        "b": (nothing, Interpolation, ltr, small),
        "c": (nothing, sr, Interpolation, small),
        "d": (nothing, sr, ltr, small),
        "e": (stn, sr, ltr, base),
    }
    for setting, row in SETTING.items():
        model = fresh(row)
        parts = type(model.spatial_transformer), type(model.upsampler), type(model.downsizer)
        assert (*parts, NeuralResizerConfig(**ROWS[row]).backbone) == expected[setting], row
    assert SETTING.keys() == expected.keys()


def test_the_other_tables() -> None:
    config = {row: NeuralResizerConfig(**changes) for row, changes in ROWS.items()}
    backbones = {config[row].backbone for row in ROWS if row.startswith("Table 1")}
    assert len(ROWS) == 10 + 5 + 6 and len(backbones) == 5
    assert all(timm.is_model(c.backbone) for c in config.values())
    for row, c in config.items():
        vanilla = "vanilla" in row or row == SETTING["a"]
        learned = (c.upsampler, c.downsizer) == ("learned", "learned")
        assert vanilla == (not learned) or row in (SETTING["b"], SETTING["c"]), row
        straightened = row == SETTING["e"] or (row.startswith("Table 3") and row.endswith("proposed"))
        assert c.spatial_transformer == straightened, row
        loss = (1.0, 0.0) if "CE" in row else (0.8, 0.0) if ": PDLS" in row else (0.8, 2.0)
        assert (c.prior_alpha, c.focal_gamma) == loss, row
    # What stands twice in the poster, with the same accuracy, is the same thing.
    for one, other in (
        ("Table 1: Swin-S, F-PDLS + proposed", SETTING["d"]),
        ("Table 3: F-PDLS, proposed", SETTING["e"]),
    ):
        assert config[one].to_dict() == config[other].to_dict()


def test_the_defaults_are_row_e() -> None:
    config = NeuralResizerConfig()
    assert config.to_dict() == NeuralResizerConfig(**ROWS[SETTING["e"]]).to_dict()
    assert (config.image_size, config.upsampled_size, config.backbone_image_size) == (48, 384, 224)
    assert (config.resizer_channels, config.resizer_blocks) == (16, 1)
    assert (config.prior_alpha, config.focal_gamma, config.label_prior) == (0.8, 2.0, None)


@pytest.mark.parametrize(
    ("setting", "parameters", "multiply_adds"),
    [
        ("d", (0.4080, 0.0, 0.0120, 48.84), (0.938, 0.0, 0.849, 8.74)),
        ("e", (0.4080, 0.0809, 0.0120, 86.74), (0.938, 0.003, 0.849, 15.43)),
    ],
)
def test_what_the_front_end_costs(
    setting: str, parameters: tuple[float, ...], multiply_adds: tuple[float, ...]
) -> None:
    """At full size, in millions and billions an image: an eighth of Swin-B's, a fifth of Swin-S'."""
    with torch.device("meta"):
        model = NeuralResizerForImageClassification(NeuralResizerConfig(**ROWS[SETTING[setting]])).eval()
        images = torch.empty(1, 3, 48, 48)
    parts = ["upsampler", "spatial_transformer", "downsizer", "backbone"]
    counted = [sum(p.numel() for p in getattr(model, part).parameters()) / 1e6 for part in parts]
    assert counted == pytest.approx(parameters, rel=5e-3)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    by_module = counter.get_flop_counts()
    counted = [sum(by_module.get(f"{type(model).__name__}.{part}", {}).values()) / 2e9 for part in parts]
    assert counted == pytest.approx(multiply_adds, abs=5e-3)


@BACKBONE_NAMES
def test_every_backbone_trains(backbone: str) -> None:
    model = fresh(backbone=backbone).train()
    images, labels = images_for(model), torch.tensor(IDS)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = model(images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    assert all(p.grad.any() for p in model.parameters())


@BACKBONE_NAMES
def test_a_fresh_backbone_is_as_timm_makes_it(backbone: str) -> None:
    config = configuration(backbone=backbone, spatial_transformer=False, upsampler="bilinear", downsizer="bilinear")
    torch.manual_seed(3)
    reference = timm.create_model(config.backbone, num_classes=0, img_size=32, **config.backbone_kwargs)
    torch.manual_seed(3)
    model = NeuralResizerForImageClassification(config)
    assert_same_tensors(dict(model.backbone.body.named_parameters()), dict(reference.named_parameters()))
    images = noise(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.eval().backbone(images), reference.eval()(images))


# Interpolation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [9, 17, 20, 33, 64])
@pytest.mark.parametrize(
    ("mode", "pillow"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
def test_interpolation_is_pillows(mode: str, pillow: Image.Resampling, size: int) -> None:
    images = noise(1, 2, 20, 20)
    expected = [np.asarray(Image.fromarray(channel.numpy(), "F").resize((size, size), pillow)) for channel in images[0]]
    torch.testing.assert_close(interpolate(images, size, mode)[0], torch.tensor(np.stack(expected)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_in_other_precisions(mode: str, dtype: torch.dtype) -> None:
    images = noise(1, 3, 20, 20).to(dtype)
    actual, wide = interpolate(images, 33, mode), interpolate(images.double(), 33, mode)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), wide, rtol=torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("row", TABLE_2)
def test_the_front_end_starts_as_interpolation(row: str) -> None:
    model = fresh(row)
    images = images_for(model)
    with torch.no_grad():
        assert (model.resize(images) - plain_interpolation(images, row)).abs().max() < 1e-4
        # In training mode too, where the batch norms see other statistics.
        assert (model.train().resize(images) - plain_interpolation(images, row)).abs().max() < 1e-4
        perturb(model)
        changed = (model.eval().resize(images) - plain_interpolation(images, row)).abs().max()
    assert changed < 1e-6 if row == SETTING["a"] else changed > 1e-2


def test_a_bicubic_upsampler() -> None:
    model = fresh(SETTING["a"], upsampler="bicubic")
    images = images_for(model)
    torch.testing.assert_close(model.resize(images), plain_interpolation(images), rtol=0, atol=1e-6)


def test_images_super_resolved_offline_are_taken_as_they_are() -> None:
    model = build(SETTING["c"], image_size=64)
    assert not any(name.startswith("upsampler") for name in tensors(model))
    images = images_for(model)
    expected = F.interpolate(images, size=(32, 32), mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(model.resize(images), expected, rtol=0, atol=1e-6)
    assert model(images).logits.shape == (6, 5)


def test_nothing_to_resize_at_all() -> None:
    model = build(SETTING["a"], image_size=32, upsampled_size=32)
    images = images_for(model)
    assert torch.equal(model.resize(images), images)
    # Learned, it refines without changing the size.
    model = build(SETTING["d"], image_size=32, upsampled_size=32)
    assert model.resize(images).shape == images.shape and not torch.equal(model.resize(images), images)


# Super-resolution ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_size", "size", "factor"),
    [(8, 64, 8), (24, 64, 3), (20, 50, 3), (17, 64, 4), (16, 17, 2), (10, 21, 3), (48, 384, 8), (12, 12, 1)],
)
def test_the_up_sampler_gives_the_exact_size(image_size: int, size: int, factor: int) -> None:
    module = SuperResolution(image_size, size, 4, 1)
    assert module.factor == factor
    sides: list[int] = []
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d):
            convolution.register_forward_hook(lambda _, args, __: sides.append(args[0].shape[-1]))
    images = noise(2, 3, image_size, image_size)
    with torch.no_grad():
        assert module(images).shape == (2, 3, size, size)
    assert sides == [image_size] * 4  # nothing is computed at the large size
    assert torch.equal(module(images), interpolate(images, size, "bicubic"))


def test_the_up_sampler_by_its_layers() -> None:
    """EDSR: stem, residual blocks and the skip around them, sub-pixel convolution, on top of bicubic."""
    module = SuperResolution(10, 20, 6, 2)
    perturb(module)
    state = dict(module.named_parameters())
    images = noise(2, 3, 10, 10)

    def convolve(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    start = features = convolve(images, "stem")
    for block in (0, 1):
        features = features + convolve(convolve(features, f"body.{block}.0").relu(), f"body.{block}.2")
    phases = convolve(start + features, "head")
    residual = torch.stack(
        [
            torch.stack(
                [
                    torch.stack([phases[:, 4 * c + 2 * (y % 2) + x % 2, y // 2, x // 2] for x in range(20)], dim=-1)
                    for y in range(20)
                ],
                dim=-2,
            )
            for c in range(3)
        ],
        dim=1,
    )
    torch.testing.assert_close(module(images), interpolate(images, 20, "bicubic") + residual, rtol=1e-5, atol=1e-5)


def test_the_residual_of_an_odd_factor_stays_in_place() -> None:
    """A residual that repeats the image's pixels must, brought to size, still lie over the image."""
    module = SuperResolution(8, 20, 3, 0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        for c in range(3):
            module.stem.weight[c, c, 1, 1] = 0.5  # the skip around no blocks doubles it
            module.head.weight[9 * c : 9 * c + 9, c, 1, 1] = 1
        ramp = torch.arange(8.0).expand(1, 3, 8, 8)
        both = module(ramp)
    drawn = both - interpolate(ramp, 20, "bicubic")
    # To be compared where bicubic has no border to overshoot at; a nearest neighbour is off by up to half a step.
    assert (drawn - interpolate(ramp, 20, "bicubic"))[..., 4:-4].abs().max() < 0.5
    assert (drawn - interpolate(ramp, 20, "bicubic"))[..., 4:-4].mean().abs() < 0.02


# Spatial transformer ---------------------------------------------------------------------------------------


def set_theta(module: SpatialTransformer, theta: list[list[float]]) -> None:
    last = module.localization[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(0.5 * torch.atanh((torch.tensor(theta) - torch.eye(2, 3)).flatten() / 0.5))


def sample_by_loops(image: list[list[float]], theta: list[list[float]]) -> list[list[float]]:
    """Bilinear, in pixels as squares, the border repeated."""
    height, width = len(image), len(image[0])

    def at(y: float, x: float) -> float:
        y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        dy, dx = y - top, x - left
        above = (1 - dx) * image[top][left] + dx * image[top][right]
        below = (1 - dx) * image[bottom][left] + dx * image[bottom][right]
        return (1 - dy) * above + dy * below

    rows = []
    for i in range(height):
        rows.append([])
        for j in range(width):
            place = ((2 * j + 1) / width - 1, (2 * i + 1) / height - 1, 1.0)
            x, y = (sum(t * p for t, p in zip(row, place, strict=True)) for row in theta)
            rows[-1].append(at(((y + 1) * height - 1) / 2, ((x + 1) * width - 1) / 2))
    return rows


THETAS = {
    "identity": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
    "turned": [[math.cos(0.4), -math.sin(0.4), 0.0], [math.sin(0.4), math.cos(0.4), 0.0]],
    "zoomed": [[0.6, 0.0, 0.1], [0.0, 0.6, -0.2]],
    "everything": [[0.8, 0.3, 0.25], [-0.1, 1.2, -0.4]],
}


@pytest.mark.parametrize("theta", list(THETAS))
def test_affine_sampling_by_loops(theta: str) -> None:
    images = noise(1, 2, 7, 10)
    expected = torch.tensor([[sample_by_loops(channel, THETAS[theta]) for channel in images[0].tolist()]])
    torch.testing.assert_close(affine_sample(images, torch.tensor([THETAS[theta]])), expected, rtol=0, atol=2e-5)


def test_a_spatial_transformer_starts_as_the_identity() -> None:
    module, images = SpatialTransformer(), noise(2, 3, 96, 96)
    assert torch.equal(module.theta(images), torch.eye(2, 3).expand(2, 2, 3))
    torch.testing.assert_close(module(images), images, rtol=0, atol=1e-4)


def test_a_shift_of_whole_pixels() -> None:
    """To the right and down in the source is to the left and up in the result; the border repeats."""
    module, images = SpatialTransformer(), noise(2, 3, 64, 64)
    set_theta(module, [[1, 0, 2 * 3 / 64], [0, 1, 2 * 5 / 64]])
    moved = module(images)
    torch.testing.assert_close(moved[..., :-5, :-3], images[..., 5:, 3:], rtol=0, atol=1e-4)
    torch.testing.assert_close(moved[..., :-5, -3:], images[..., 5:, -1:].expand(-1, -1, -1, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("quarters", "theta"), [(1, [[0, -1, 0], [1, 0, 0]]), (2, [[-1, 0, 0], [0, -1, 0]])])
def test_turning(quarters: int, theta: list[list[float]]) -> None:
    images = noise(2, 3, 64, 64)
    turned = affine_sample(images, torch.tensor([theta, theta], dtype=torch.float32))
    torch.testing.assert_close(turned, torch.rot90(images, quarters, (2, 3)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_however_far_it_is_driven_the_face_stays_in_sight(size: float) -> None:
    module, images = SpatialTransformer(), noise(1, 3, 64, 64)
    for signs in itertools.product((-1.0, 1.0), repeat=6):
        module.localization[-1].bias.data = size * torch.tensor(signs)
        theta = module.theta(images)[0].detach()
        assert theta[:, 2].abs().max() <= 0.5  # where the middle of the result comes from
        assert torch.linalg.det(theta[:, :2]) >= 0 and theta.diagonal().min() >= 0.5  # neither mirrored nor far off


def test_hidden_units_driven_down_still_tell_images_apart() -> None:
    """Below 0 all together, a ReLU alone would be silent for ever and every image get the same map."""
    module, images = SpatialTransformer(), noise(2, 3, 64, 64)
    perturb(module)
    linear = next(layer for layer in module.localization if isinstance(layer, torch.nn.Linear))
    linear.bias.data -= 50
    theta = module.theta(images)
    assert (theta[0] - theta[1]).abs().max() > 1e-4
    theta.sum().backward()
    assert linear.weight.grad.abs().max() > 0


def test_every_image_gets_its_own_map() -> None:
    module = SpatialTransformer()
    perturb(module)
    images = noise(3, 3, 80, 80)
    theta = module.theta(images)
    assert (theta[0] - theta[1]).abs().max() > 1e-3
    torch.testing.assert_close(module(images)[1:2], module(images[1:2]), rtol=0, atol=1e-4)
    torch.testing.assert_close(module(images), affine_sample(images, theta))


def test_the_map_is_read_off_the_whole_image() -> None:
    """Also at sizes other than the one the localisation network looks at."""
    module = SpatialTransformer()
    perturb(module)
    place = torch.linspace(-1, 1, 160)
    large = torch.sin(2 * place[:, None] + place)[None, None].expand(1, 3, 160, 160)
    small = interpolate(large, 64, "bilinear")
    assert torch.equal(module.theta(large), module.theta(small))
    other = module.theta(large.flip(-1))
    assert (other - module.theta(large)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_place(dtype: torch.dtype) -> None:
    """A grid in half precision would miss by half a pixel and more."""
    place = torch.linspace(0, 24, 384)
    images = torch.sin(place[:, None] + place)[None, None].to(dtype)
    theta = torch.tensor([THETAS["turned"]])
    expected = affine_sample(images.float(), theta)
    actual = affine_sample(images, theta)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(affine_sample(images.float(), theta), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_small_moves(dtype: torch.dtype) -> None:
    """1 + 0.001 is 1 in bfloat16; the difference from the identity is not rounded away."""
    module = SpatialTransformer()
    set_theta(module, [[1.001, 0, 0], [0, 0.999, 0]])
    theta = module.to(dtype).theta(noise(1, 3, 64, 64).to(dtype))
    assert theta.dtype == torch.float32
    change = torch.tensor([[1e-3, 0, 0], [0, -1e-3, 0]])
    torch.testing.assert_close(theta[0] - torch.eye(2, 3), change, rtol=0.01, atol=0)


def test_gradients_of_the_front_end_are_right() -> None:
    torch.manual_seed(0)
    images = noise(1, 2, 5, 6, dtype=torch.float64).requires_grad_()
    theta = (torch.tensor([THETAS["everything"]], dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(affine_sample, (images, theta))
    images = noise(1, 3, 4, 4, dtype=torch.float64).requires_grad_()
    up = SuperResolution(4, 7, 2, 1).double()
    down = LearnedResizer(3, 2, 1).double().eval()
    for module in (up, down):
        perturb(module, 0.3)
        assert torch.autograd.gradcheck(module, (images,))


# Learned down-sizing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_learned_resizer_by_its_layers(blocks: int, training: bool) -> None:
    """Talebi & Milanfar's Figure 3, layer by layer."""
    module = LearnedResizer(11, 4, blocks)
    perturb(module)
    state = {name: tensor.clone() for name, tensor in tensors(module).items()}
    images = noise(3, 3, 18, 18)

    def convolve(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def normalise(x: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if training:
            mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), unbiased=False)
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        scale = weight / (variance + 1e-5).sqrt()
        return scale[:, None, None] * (x - mean[:, None, None]) + bias[:, None, None]

    def leaky(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    x = leaky(convolve(images, "stem.0"))
    x = normalise(leaky(convolve(x, "stem.2")), "stem.4")
    skip = x = F.interpolate(x, size=(11, 11), mode="bilinear", align_corners=False)
    for r in range(blocks):
        y = leaky(normalise(convolve(x, f"body.{r}.0"), f"body.{r}.1"))
        x = x + normalise(convolve(y, f"body.{r}.3"), f"body.{r}.4")
    x = skip + normalise(convolve(x, f"body.{blocks}"), f"body.{blocks + 1}")
    expected = interpolate(images, 11, "bilinear") + convolve(x, "head")
    torch.testing.assert_close(module.train(training)(images), expected, rtol=1e-4, atol=1e-4)


def test_the_learned_resizer_has_the_papers_widths() -> None:
    module = LearnedResizer(224, 16, 1)
    shapes = [tuple(m.weight.shape) for m in module.modules() if isinstance(m, nn.Conv2d)]
    square = (16, 16, 3, 3)
    assert shapes == [(16, 3, 7, 7), (16, 16, 1, 1), square, square, square, (3, 16, 7, 7)]


# The loss --------------------------------------------------------------------------------------------------


def focal_pdls_by_hand(
    logits: list[float], target: list[float], prior: list[list[float]] | None, alpha: float, gamma: float
) -> float:
    log_sum = math.log(math.fsum(math.exp(z) for z in logits))
    total = 0.0
    for c, z in enumerate(logits):
        weight = target[c]
        if prior is not None:
            mixed = math.fsum(target[y] * prior[y][c] for y in range(len(logits)))
            weight = alpha * target[c] + (1 - alpha) * mixed
        log_p = z - log_sum
        total -= (1 - math.exp(log_p)) ** gamma * weight * log_p
    return total


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@pytest.mark.parametrize("known", [True, False], ids=["prior", "none"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.8, 2.0), (0.8, 0.0), (1.0, 2.0), (1.0, 0.0), (0.0, 0.5)])
def test_the_training_loss_by_hand(alpha: float, gamma: float, known: bool, soft: bool) -> None:
    prior = PRIOR if known else None
    model = build(label_prior=prior, prior_alpha=alpha, focal_gamma=gamma).train()
    labels = torch.tensor(SOFT if soft else IDS)
    targets = SOFT if soft else [[float(k == label) for k in range(5)] for label in IDS]
    output = model(images_for(model), labels=labels)
    rows = zip(output.logits.tolist(), targets, strict=True)
    expected = [focal_pdls_by_hand(logits, target, prior, alpha, gamma) for logits, target in rows]
    assert output.loss.item() == pytest.approx(sum(expected) / 6, rel=1e-5)
    assert output.loss.requires_grad and output.loss.ndim == 0
    assert output.losses.keys() == {"focal_pdls"} and not output.losses["focal_pdls"].requires_grad
    assert torch.equal(output.losses["focal_pdls"], output.loss.detach())


def test_special_cases_of_the_loss() -> None:
    """γ = 0 and α = 1: cross-entropy. Without a prior α counts as 1."""
    labels = torch.tensor(IDS)

    def loss(**changes: Any) -> tuple[Tensor, Tensor]:
        model = build(**changes).train()
        torch.manual_seed(5)  # of the drop path
        output = model(images_for(model), labels=labels)
        return output.loss, output.logits

    plain, logits = loss(prior_alpha=1.0, focal_gamma=0.0)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels))
    focal, logits = loss(label_prior=None)
    log_p = F.log_softmax(logits, dim=1).gather(1, labels[:, None])
    torch.testing.assert_close(focal, (-((1 - log_p.exp()) ** 2) * log_p).mean())
    torch.testing.assert_close(loss(prior_alpha=1.0)[0], focal)
    identity = torch.eye(5).tolist()
    torch.testing.assert_close(loss(label_prior=identity)[0], focal)
    assert (loss(prior_alpha=0.2)[0] - focal).abs() > 1e-3


@pytest.mark.parametrize("row", ["Table 3: F-PDLS, proposed", "Table 3: CE, vanilla"])
def test_the_evaluation_loss_is_plain_cross_entropy(row: str) -> None:
    model = build(row)
    images = images_for(model)
    for labels in (torch.tensor(IDS), torch.tensor(SOFT)):
        output = model(images, labels=labels)
        torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels), rtol=1e-6, atol=0)
        assert output.losses is None
    assert model(images).loss is None
    assert model.train()(images).loss is None


def test_a_prior_of_votes_is_a_valid_field() -> None:
    votes = torch.randint(0, 11, (60, 5), generator=torch.Generator().manual_seed(0)) + 1
    prior = prior_label_distribution(votes, votes.argmax(dim=1))
    model = fresh(label_prior=prior.tolist())
    assert model.label_prior.dtype == torch.float32
    assert torch.equal(model.label_prior, prior.float())


def test_the_prior_is_float32_whatever_the_default() -> None:
    """Rounded rows would not sum to 1."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = fresh()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(model.label_prior, torch.tensor(PRIOR))


# Outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_backbone_sees_once_what_resize_gives(training: bool) -> None:
    model = build().train(training)
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = images_for(model)
    output = model(images, labels=torch.tensor(IDS), output_hidden_states=True, output_attention_maps=True)
    assert len(seen) == 1 and seen[0].shape == (6, 3, 32, 32)
    assert len(output.hidden_states) == 1 and torch.equal(output.hidden_states[0], seen[0])
    assert torch.equal(model.resize(images), seen[0])
    assert output.attention_maps is None
    assert model(images).hidden_states is None
    model.config.output_hidden_states = True
    assert model(images).hidden_states is not None


def test_the_order_of_the_front_end() -> None:
    model = build()
    stages = [model.upsampler, model.spatial_transformer, model.downsizer, model.backbone]
    seen: list[tuple[nn.Module, int]] = []
    for stage in stages:
        stage.register_forward_pre_hook(lambda module, args: seen.append((module, args[0].shape[-1])))
    model(images_for(model))
    assert seen == list(zip(stages, (24, 64, 64, 32), strict=True))


def test_evaluation_is_deterministic_and_training_drops_out() -> None:
    model = build(dropout=0.5)
    images = images_for(model)
    with torch.no_grad():
        logits = model(images).logits
        assert torch.equal(model(images).logits, logits)
        alone = torch.cat([model(image[None]).logits for image in images])
        torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-5)
        model.dropout.train()
        assert not torch.equal(model(images).logits, model(images).logits)


def test_return_dict_false_gives_the_same_as_a_tuple() -> None:
    model = build()
    images, ids = images_for(model), torch.tensor(IDS)
    with torch.no_grad():
        output = model(images, labels=ids, output_hidden_states=True)
        loss, logits, (resized,) = model(images, labels=ids, output_hidden_states=True, return_dict=False)
        assert len(model(images, return_dict=False)) == 1
    assert torch.equal(loss, output.loss) and torch.equal(logits, output.logits)
    assert torch.equal(resized, output.hidden_states[0])


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 24, 24), (3, 24, 24), (2, 3, 24, 25), (2, 24, 24, 3)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    model = fresh()
    with pytest.raises(ValueError, match=r"pixel_values must be \(B, 3, 24, 24\).*got \(") as error:
        model(torch.zeros(shape))
    assert str(shape) in str(error.value)


def test_gradients_reach_the_pixels() -> None:
    model = build().train()
    images = images_for(model).requires_grad_()
    model(images, labels=torch.tensor(IDS)).loss.backward()
    assert images.grad.isfinite().all() and (images.grad != 0).float().mean() > 0.9


# Saving and loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "backbone"), [(row, "swin") for row in TABLE_2] + [(None, backbone) for backbone in BACKBONES]
)
def test_a_round_trip_keeps_every_bit(row: str | None, backbone: str, tmp_path: Path) -> None:
    model = build(row, backbone)
    images = images_for(model)
    with torch.no_grad():
        expected = model(images).logits  # before saving: what a first forward makes must not get in the way
    model.save_pretrained(tmp_path)
    assert not any("label_prior" in key for key in load_file(tmp_path / "model.safetensors"))
    torch.manual_seed(99)
    loaded, report = NeuralResizerForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert not loaded.training
    for field in NeuralResizerConfig.method_fields() | {"id2label", "label2id"}:
        assert getattr(loaded.config, field) == getattr(model.config, field), field
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, expected)
    assert_same_tensors(tensors(loaded), tensors(model))  # only now has ConViT made its places of the patches
    loaded.train()(images, labels=torch.tensor(IDS)).loss.backward()


@pytest.mark.parametrize(
    ("lacking", "expected"),
    [
        ("upsampler.head.weight", 0.0),
        ("upsampler.head.bias", 0.0),
        ("spatial_transformer.localization.10.weight", 0.0),
        ("spatial_transformer.localization.10.bias", 0.0),
        ("spatial_transformer.localization.0.weight", None),
        ("downsizer.head.weight", 0.0),
        ("downsizer.stem.4.weight", 1.0),
        ("downsizer.stem.4.running_var", 1.0),
        ("downsizer.body.1.weight", None),
    ],
)
def test_a_tensor_the_checkpoint_lacks_gets_its_own_start(lacking: str, expected: float | None, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state[lacking]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = NeuralResizerForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {lacking}
    before, after = tensors(model), tensors(loaded)
    was, filled = before.pop(lacking), after.pop(lacking)
    assert_same_tensors(after, before)
    assert filled.device.type == "cpu" and filled.shape == was.shape
    if expected is None:  # torch's default: uniform in ±1/√fan_in
        bound = was[0].numel() ** -0.5
        assert 0.8 * bound < filled.abs().max() <= bound
    else:
        assert torch.equal(filled, torch.full_like(was, expected))


@BACKBONE_NAMES
def test_a_new_front_end_on_a_checkpoint_without_one(backbone: str, tmp_path: Path) -> None:
    """A vanilla model's weights, loaded into the whole method: it starts from plain interpolation."""
    vanilla = build(SETTING["a"], backbone)
    vanilla.save_pretrained(tmp_path)
    whole, report = NeuralResizerForImageClassification.from_pretrained(
        tmp_path, config=configuration(backbone=backbone), output_loading_info=True
    )
    parts = {key.split(".")[0] for key in report["missing_keys"]}
    assert parts == {"upsampler", "spatial_transformer", "downsizer"}
    assert_same_tensors(whole.backbone.state_dict(), vanilla.backbone.state_dict())
    images = images_for(whole)
    with torch.no_grad():
        assert (whole.resize(images) - plain_interpolation(images)).abs().max() < 1e-4
    # What is random there is as in a new model.
    for name, tensor in tensors(fresh(backbone=backbone)).items():
        if name.split(".")[0] in parts:
            spread = [t.double().std(correction=0) for t in (tensors(whole)[name], tensor)]
            torch.testing.assert_close(*spread, rtol=0.7, atol=1e-6)


def test_convit_at_another_size(tmp_path: Path) -> None:
    """Its places of the patches are of the new size; what does not fit is but the position embedding."""
    model = build(backbone="convit")
    model(images_for(model))
    model.save_pretrained(tmp_path)
    loaded, report = NeuralResizerForImageClassification.from_pretrained(
        tmp_path, backbone_image_size=48, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert [key[0] for key in report["mismatched_keys"]] == ["backbone.body.pos_embed"]
    expected = fresh(backbone="convit", backbone_image_size=48)
    expected.load_state_dict(loaded.state_dict())
    images = images_for(model)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, expected(images).logits)


@pytest.mark.parametrize("by_name", [False, True])
def test_other_labels_leave_the_checkpoints_prior_behind(by_name: bool, tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    overrides: dict[str, Any] = {"num_labels": 3}
    if by_name:
        overrides = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **overrides)
    assert loaded.config.label_prior is None and loaded.label_prior is None
    loaded.train()(images_for(loaded, 3), labels=torch.tensor([0, 1, 2])).loss.backward()


def test_a_prior_given_at_loading(tmp_path: Path) -> None:
    build(label_prior=None).save_pretrained(tmp_path)
    loaded = NeuralResizerForImageClassification.from_pretrained(tmp_path, label_prior=PRIOR)
    assert torch.equal(loaded.label_prior, torch.tensor(PRIOR))
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "again")
    assert torch.equal(again.label_prior, torch.tensor(PRIOR))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BACKBONE_NAMES
def test_half_precision_loading(backbone: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(backbone=backbone)
    model.save_pretrained(tmp_path)
    loaded = NeuralResizerForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.label_prior, model.label_prior)  # float32: rounded rows would not sum to 1
    images = images_for(model)
    with torch.no_grad():
        logits, resized = loaded(images.to(dtype)).logits, loaded.resize(images.to(dtype))
        expected = model(images).logits
    assert logits.dtype == resized.dtype == dtype
    torch.testing.assert_close(resized.float(), model.resize(images), rtol=0, atol=0.2)
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.1 * expected.abs().max().item() + 0.02)


@pytest.mark.parametrize("row", [SETTING["d"], SETTING["e"]])
def test_training_under_autocast(row: str) -> None:
    model = build(row, backbone_kwargs={**NeuralResizerConfig.tiny["backbone_kwargs"], "drop_path_rate": 0.0}).train()
    images, ids = images_for(model), torch.tensor(IDS)
    expected = model(images, labels=ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels=ids)
    assert output.logits.dtype == torch.bfloat16  # else autocast was off
    assert output.loss.dtype == output.losses["focal_pdls"].dtype == torch.float32
    assert output.loss.item() == pytest.approx(expected.loss.item(), rel=0.15)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Export and compilation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["swin", "vit", "convit", "xcit"])  # DeiT is ViT's code
def test_export(backbone: str) -> None:
    """A new model, before its first forward, for batches of any size."""
    model = build(backbone=backbone)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (images_for(model, 2),), dynamic_shapes={"pixel_values": {0: batch}})
    exported = program.module()
    for seed, size in enumerate((3, 5)):
        images = images_for(model, size, seed)
        with torch.no_grad():
            torch.testing.assert_close(exported(images).logits, model(images).logits, rtol=1e-5, atol=1e-5)


def test_compile() -> None:
    model = build(backbone_kwargs={**NeuralResizerConfig.tiny["backbone_kwargs"], "drop_path_rate": 0.0}).train()
    images, ids = images_for(model), torch.tensor(IDS)
    expected = model(images, labels=ids)
    compiled = torch.compile(model, backend="eager", fullgraph=True)(images, labels=ids)
    torch.testing.assert_close(compiled.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled.loss, expected.loss, rtol=1e-5, atol=1e-5)
    compiled.loss.backward()


def test_channels_last_gives_the_same() -> None:
    model = build()
    images = images_for(model)
    with torch.no_grad():
        expected = model(images).logits
        model.to(memory_format=torch.channels_last)
        actual = model(images.contiguous(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


# Auto classes and remote code ------------------------------------------------------------------------------


def test_auto_classes_need_no_remote_code(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is NeuralResizerConfig
    assert type(AutoConfig.for_model("neural_resizer")) is NeuralResizerConfig
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is NeuralResizerForImageClassification
    assert_same_tensors(tensors(loaded), tensors(model))
    assert type(AutoModelForImageClassification.from_config(loaded.config)) is NeuralResizerForImageClassification


REMOTE = """
import json, sys
sys.modules["hf_fer"] = None
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

folder, inputs = sys.argv[1:]
inputs = load_file(inputs)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    output = model(inputs["pixel_values"], output_hidden_states=True)
    new = AutoModelForImageClassification.from_config(model.config, trust_remote_code=True)
print(json.dumps({
    "module": type(model).__module__,
    "logits": output.logits.tolist(),
    "resized": output.hidden_states[0].tolist(),
    "prior": model.label_prior.tolist(),
    "new": [new.label_prior.tolist(), new.eval()(inputs["pixel_values"]).logits.isfinite().all().item()],
}))
"""


def test_a_release_works_without_this_package(tmp_path: Path) -> None:
    model = build(backbone="convit")
    registered = NeuralResizerConfig._auto_class, NeuralResizerForImageClassification._auto_class
    try:
        NeuralResizerConfig.register_for_auto_class()
        NeuralResizerForImageClassification.register_for_auto_class("AutoModelForImageClassification")
        model.save_pretrained(tmp_path / "release")
    finally:
        NeuralResizerConfig._auto_class, NeuralResizerForImageClassification._auto_class = registered
    images = images_for(model)
    save_file({"pixel_values": images}, tmp_path / "inputs.safetensors")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    run = subprocess.run(
        [sys.executable, "-c", REMOTE, str(tmp_path / "release"), str(tmp_path / "inputs.safetensors")],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    there = json.loads(run.stdout.splitlines()[-1])
    assert there["module"].startswith("transformers_modules.")
    with torch.no_grad():
        output = model(images, output_hidden_states=True)
    torch.testing.assert_close(torch.tensor(there["logits"]), output.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(there["resized"]), output.hidden_states[0], rtol=0, atol=1e-6)
    assert torch.equal(torch.tensor(there["prior"]), model.label_prior)
    assert torch.equal(torch.tensor(there["new"][0]), model.label_prior) and there["new"][1]


# Configuration ---------------------------------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")
THIRD = [1 / 3, 1 / 3, 1 / 3]
MISTAKES: dict[str, list[Any]] = {
    "image_size": [None, 0, 7, 4096, 48.0, "48", True, [48, 48]],
    "face_template": ["ffhq", 5, [[0.5, 0.5]] * 5],
    "upsampler": [None, "", "nearest", "SR", True, ["learned"]],
    "upsampled_size": [None, 0, 47, 223, 4096, 384.0, "384", True],
    "upsampler_channels": [None, 0, -1, 16.0, "16", True, 513],
    "upsampler_blocks": [None, -1, 1.0, "1", True, 65],
    "spatial_transformer": [None, 0, "yes"],
    "downsizer": [None, "bicubic", "LTR", False],
    "resizer_channels": [None, 0, -16, 16.0, "16", True],
    "resizer_blocks": [None, -1, 1.0, "1", True],
    "backbone": [None, "", 18, "hf-hub:owner/name", "../x", "a" * 201],
    "backbone_kwargs": [
        "depth",
        [1, 1],
        {"checkpoint_path": "x.pth"},
        {"depth": 257},
        {"depths": [2, 2, 10**9]},
        {"embed_dim": 16_385},
        {"mlp_ratio": INFINITY},
        {"drop_rate": NAN},
        {"dims": [8] * 101},
        {"dims": [[[[[8]]]]]},
        {"norm_layer": "a" * 201},
    ],
    "backbone_image_size": [None, 0, 4096, 224.0, "224", True],
    "dropout": [None, -0.1, 1, 1.5, "0.1", NAN, True],
    "label_prior": [
        [],
        {},
        "123",
        3,
        [THIRD, THIRD],
        [THIRD] * 4,
        [[0.5, 0.5]] * 3,
        [THIRD, THIRD, 3],
        [THIRD, THIRD, "abc"],
        [THIRD, THIRD, [0.3, 0.3, 0.3]],
        [THIRD, THIRD, [1.2, -0.1, -0.1]],
        [THIRD, THIRD, [1.0, 0.0, NAN]],
        [THIRD, THIRD, [True, False, False]],
    ],
    "prior_alpha": [None, -0.1, 1.1, "0.8", NAN, True],
    "focal_gamma": [None, -1, "2", NAN, INFINITY, True],
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in MISTAKES.items() for v in values], ids=lambda v: repr(v)
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"NeuralResizerConfig: {field} must be .*, got "):
        NeuralResizerConfig(**{"num_labels": 3, field: value})


def test_every_field_is_validated() -> None:
    assert MISTAKES.keys() == NeuralResizerConfig.method_fields()


@pytest.mark.parametrize("field", ["upsampler", "upsampled_size", "label_prior"])
def test_a_wrong_field_is_named_at_loading_too(field: str, tmp_path: Path) -> None:
    fresh().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"NeuralResizerConfig: {field} must be .*, got "):
        NeuralResizerForImageClassification.from_pretrained(tmp_path, **{field: "wrong"})


def test_up_sampling_does_not_shrink() -> None:
    with pytest.raises(ValueError, match=r"upsampled_size must be at least .* 256 and 224, got 255"):
        NeuralResizerConfig(image_size=256, upsampled_size=255)


def test_the_edges_are_allowed() -> None:
    NeuralResizerConfig(
        num_labels=3,
        image_size=224,
        upsampled_size=224,
        upsampler_blocks=0,
        resizer_blocks=0,
        prior_alpha=0,
        focal_gamma=0,
        dropout=0,
        label_prior=[(1, 0, 0), [0.5, 0.25, 0.25], THIRD],
    )
    model = fresh(upsampler_blocks=0, resizer_blocks=0, upsampler_channels=1, resizer_channels=1)
    assert len(model.upsampler.body) == 0 and len(model.downsizer.body) == 2
    assert model.upsampler.stem.out_channels == model.downsizer.stem[0].out_channels == 1
    assert model(images_for(model)).logits.isfinite().all()


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = configuration(SETTING["b"], dropout=0.25, prior_alpha=0.7)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "neural_resizer"
    loaded = NeuralResizerConfig.from_pretrained(tmp_path)
    for field in MISTAKES:
        assert getattr(loaded, field) == getattr(config, field), field
    assert loaded.id2label == config.id2label and loaded.label_prior == PRIOR


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "swin_nobodys"}, "'swin_nobodys' is not a timm model"),
        ({"backbone_kwargs": {"colour": 3}}, "colour"),
    ],
)
def test_an_impossible_backbone_is_explained(changes: dict[str, Any], words: str) -> None:
    config = configuration()
    for field, value in changes.items():
        setattr(config, field, value)
    with pytest.raises(ValueError, match=words):
        NeuralResizerForImageClassification(config)
