"""HSAC as a model: its views, its whole loss and gradients by hand, the discriminator, what it returns and saves."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from hf_fer.models import modeling_hsac
from hf_fer.models.configuration_hsac import HSACConfig
from hf_fer.models.modeling_hsac import HSACForImageClassification, MapDiscriminator
from hf_fer.models.modeling_outputs import HSACOutput

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
TINY: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]},
    "stem_pool": False,
    "image_size": 48,  # maps of 3×3
    "discriminator_channels": 8,
}
# The weights of the losses, as Tables 1 and 3 and the text of the paper say.
HSAC = {"ca": 3.0, "ldl": 0.01, "adv": 1e-5}
PAPER: dict[str, dict[str, float]] = {
    "Table 1, row 1: L_ce": {},
    "Table 1, row 2: L_ce + L_a": {"a": 3.0},
    "Table 1, row 3: L_ce + L_ca": {"ca": 3.0},
    "Table 1, row 4: L_ce + L_p": {"p": 1.0},
    "Table 1, row 5: L_ce + L_ldl": {"ldl": 0.01},
    "Table 1, row 6: L_ce + L_a + L_p": {"a": 3.0, "p": 1.0},
    "Table 1, row 7: L_ce + L_p + L_ca": {"p": 1.0, "ca": 3.0},
    "Table 1, row 8: L_ce + L_ca + L_ldl": {"ca": 3.0, "ldl": 0.01},
    "Table 1, row 9: HSAC": HSAC,
    "Table 2: EAC": {"eac": 5.0},
    "Table 2: EAC + L_a": {"eac": 5.0, "a": 3.0},
    "Table 3: C(P_L) != C(P_H)": HSAC,
    "Table 3: C(P_L) != C(T)": HSAC,
    "Table 3: both": HSAC,
}
CRITERIA = {"Table 3: C(P_L) != C(P_H)": "hr", "Table 3: C(P_L) != C(T)": "label"}
FIELDS = {
    "eac": "flip_attention_weight",
    "a": "attention_weight",
    "p": "prediction_weight",
    "ca": "combined_attention_weight",
    "ldl": "label_distribution_weight",
    "adv": "adversarial_weight",
}
# Beyond the paper: every loss at a weight that shows in the sum.
LOUD = {"eac": 0.8, "a": 0.7, "p": 0.4, "ca": 2.0, "ldl": 1.5, "adv": 0.9}
IDS = [1, 4, 0, 1, 2, 2, 3, 0]
SOFT = [[0.7, 0.3, 0, 0, 0], [0, 0, 0, 0, 1], [0.2, 0.2, 0.3, 0.2, 0.1], [0, 0, 0.1, 0.5, 0.4]] * 2


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the environment variable came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def configuration(row: str | None = None, **changes: Any) -> HSACConfig:
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: k for k, name in enumerate(NAMES)},
        **TINY,
        **HSACConfig.ablations.get(row, {}),
    }
    return HSACConfig(**{**fields, **changes})


def weights(**values: float) -> dict[str, float]:
    """Fields of the configuration for these losses and no others."""
    return {field: values.get(name, 0.0) for name, field in FIELDS.items()}


def views_of(weight: dict[str, float]) -> list[str]:
    """The views that these losses need, in the order of the batch."""
    low = bool(weight.keys() - {"eac"})
    return ["hr", *["lr"] * low, *["lr_flip"] * ("ca" in weight), *["hr_flip"] * ("eac" in weight)]


def settle(discriminator: MapDiscriminator) -> None:
    """Lets spectral norm's power iteration find the largest singular values."""
    with torch.no_grad():
        for _ in range(100):
            discriminator.train()(torch.randn(1, 5, 3, 3))


def build(row: str | None = None, seed: int = 0, **changes: Any) -> HSACForImageClassification:
    """A model whose every tensor differs from any default, in eval mode."""
    torch.manual_seed(seed)
    model = HSACForImageClassification(configuration(row, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.classifier.weight.mul_(4)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    if model.discriminator is not None:
        settle(model.discriminator)
    return model.eval()


def images_for(model: HSACForImageClassification, batch: int = 8, channels: int = 3, seed: int = 1) -> Tensor:
    """Coarse structure, which survives a lower resolution, and fine structure, which does not."""
    size, generator = model.config.image_size, torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.randn(batch, channels, 4, 4, generator=generator), (size, size), mode="bicubic")
    return coarse + 0.3 * torch.randn(batch, channels, size, size, generator=generator)


def spread_predictions(model: HSACForImageClassification) -> None:
    """Moves the bias, so that not all images are of one class: then some views are hard, and some are not."""
    with torch.no_grad():
        features = model.train().backbone(images_for(model, batch=32, seed=9))[-1].mean(dim=(0, 2, 3))
        model.classifier.bias.copy_(-model.classifier.weight @ features)


def record_calls(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(images, last feature maps, which keep their gradient) of every call from now on."""
    calls: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: list[Tensor]) -> None:
        if output[-1].requires_grad:
            output[-1].retain_grad()
        calls.append((args[0], output[-1]))

    module.register_forward_hook(hook)
    return calls


class Pixels(nn.Module):
    """A backbone whose features are the pixels."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


# The loss --------------------------------------------------------------------------------------------------


def judge(discriminator: MapDiscriminator, maps: Tensor) -> Tensor:
    """Logits (B,) in float64: convolutions whose weights are divided by their largest singular value."""
    for k, conv in enumerate(discriminator.convs):
        weight = conv.parametrizations.weight.original.double()
        # σ = uᵀWv: so it has the gradient that spectral norm has, u and v held still.
        left, _, right = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
        weight = weight / (left[:, 0] @ weight.flatten(1) @ right[0])
        maps = F.conv2d(maps, weight, conv.bias.double(), stride=2, padding=1)
        if k < 2:
            maps = torch.where(maps > 0, maps, 0.2 * maps)
    return maps.flatten(1).mean(dim=1)


def is_hard(low: int, high: int, label: int, criterion: str) -> bool:
    if criterion == "both":
        return low not in (high, label)
    return {"hr": low != high, "label": low != label, "none": False}[criterion]


def by_hand(
    model: HSACForImageClassification,
    features: Tensor,
    targets: list[list[float]],
    weight: dict[str, float],
    criterion: str,
    detach: bool,
) -> dict[str, Tensor]:
    """HSAC's parts, `loss` among them, sample by sample in float64; `features` (views·B, C, H, W)."""
    batch, classes = len(targets), len(targets[0])
    linear, bias = model.classifier.weight.double(), model.classifier.bias.double()
    views = dict(zip(views_of(weight), [view.double() for view in features.split(batch)], strict=True))

    def mirrored(maps: Tensor) -> Tensor:
        return maps[:, :, torch.arange(maps.shape[2] - 1, -1, -1)]

    def maps_of(view: str, b: int) -> Tensor:
        return torch.stack([(linear[k][:, None, None] * views[view][b]).sum(dim=0) for k in range(classes)])

    def logits_of(view: str, b: int) -> Tensor:
        return linear @ views[view][b].flatten(1).mean(dim=1) + bias

    def log_softmax(z: Tensor) -> Tensor:
        return z - z.exp().sum().log()

    samples: list[dict[str, Tensor]] = []
    for b, row in enumerate(targets):
        target = torch.tensor(row, dtype=torch.float64)
        log_high = log_softmax(logits_of("hr", b))
        parts = {"cross_entropy": -(target * log_high).sum()}
        loss = parts["cross_entropy"]
        if "eac" in weight:
            a_high, a_mirrored = maps_of("hr", b), mirrored(maps_of("hr_flip", b))
            parts["flip_attention_consistency"] = (a_high - a_mirrored).square().sum() / a_high.numel()
            loss = loss + weight["eac"] * parts["flip_attention_consistency"]
        if "lr" in views:
            log_low = log_softmax(logits_of("lr", b))
            p_low, p_high = log_low.exp().detach(), log_high.exp().detach()
            hard = is_hard(int(p_low.argmax()), int(p_high.argmax()), int(target.argmax()), criterion)
            parts["tau"] = torch.tensor(0.0 if hard else 1.0).double()
            a_high, a_low = maps_of("hr", b), maps_of("lr", b)
            places = a_high[0].numel()
            if "a" in weight:
                parts["attention_consistency"] = (a_high - a_low).abs().sum() / (classes * places)
                loss = loss + weight["a"] * parts["attention_consistency"]
            if "p" in weight:
                parts["cross_entropy_lr"] = -(target * log_low).sum()
                loss = loss + weight["p"] * parts["cross_entropy_lr"]
            if "ca" in weight:
                a_flip = mirrored(maps_of("lr_flip", b))
                to_flip, to_high = (a_low - a_flip).abs().sum(), (a_low - a_high).abs().sum()
                s_a = (to_flip / (to_flip + to_high)).detach()
                combined = (1 - s_a) * a_high + s_a * a_flip
                distance = ((combined.detach() if detach else combined) - a_low).abs().sum() / (classes * places)
                parts |= {"s_A": s_a, "combined_attention_consistency": distance}
                loss = loss + weight["ca"] * distance
            if "ldl" in weight:
                to_label, to_high = (p_low - target).abs().sum(), (p_low - p_high).abs().sum()
                s_p = to_label / (to_label + to_high)
                mixture = s_p * p_high + (1 - s_p) * target
                parts |= {"s_P": s_p, "label_distribution": -(mixture * log_low).sum()}
                loss = loss + parts["tau"] * weight["ldl"] * parts["label_distribution"]
            if "adv" in weight:
                frozen = copy.deepcopy(model.discriminator).requires_grad_(False)
                fooled = (1 - torch.sigmoid(judge(frozen, a_low[None])[0])).log()
                of_high = torch.sigmoid(judge(model.discriminator, a_high.detach()[None])[0])
                of_low = torch.sigmoid(judge(model.discriminator, a_low.detach()[None])[0])
                own = -of_high.log() - (1 - of_low).log()
                parts |= {"adversarial_generator": fooled, "adversarial_discriminator": own}
                loss = loss + parts["tau"] * weight["adv"] * fooled + own
        samples.append({**parts, "loss": loss})
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


CASES: dict[str, tuple[str | None, dict[str, float], str, bool, dict[str, Any]]] = {
    **{row: (row, weight, CRITERIA.get(row, "both"), False, {}) for row, weight in PAPER.items()},
    **{f"loud, {c}": (None, LOUD, c, False, {"difficulty_criterion": c}) for c in ("both", "hr", "label", "none")},
    "loud, detached": (None, LOUD, "both", True, {"detach_attention_target": True}),
    "HSAC, none": (None, HSAC, "none", False, {"difficulty_criterion": "none"}),
    "HSAC, detached": (None, HSAC, "both", True, {"detach_attention_target": True}),
    "adversarial alone": (None, {"adv": 0.5}, "both", False, {}),
}
for _case, (_row, _weight, _criterion, _detach, _changes) in CASES.items():
    if _row is None:
        _changes.update(weights(**_weight))


def test_the_rows_are_the_papers() -> None:
    assert HSACConfig.ablations.keys() == PAPER.keys()
    default = HSACConfig()
    assert [default.combined_attention_weight, default.label_distribution_weight, default.adversarial_weight] == [
        3,
        1e-2,
        1e-5,
    ]
    assert (default.backbone, default.image_size, default.max_downsampling) == ("resnet50", 224, 8)
    assert default.difficulty_criterion == "both" and default.detach_attention_target is False


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@pytest.mark.parametrize("case", list(CASES))
def test_the_training_loss_and_its_gradients_by_hand(case: str, soft: bool) -> None:
    row, weight, criterion, detach, changes = CASES[case]
    model = build(row, **changes).train()
    spread_predictions(model)
    calls = record_calls(model.backbone)
    labels = torch.tensor(SOFT) if soft else torch.tensor(IDS)
    torch.manual_seed(1)
    targets = SOFT if soft else [[float(k == label) for k in range(5)] for label in IDS]
    output = model(images_for(model), labels=labels)
    output.loss.backward()

    ((images, features),) = calls
    assert images.shape[0] == len(views_of(weight)) * 8
    reference = copy.deepcopy(model)
    reference.zero_grad()
    inputs = features.detach().double().requires_grad_()
    expected = by_hand(reference, inputs, targets, weight, criterion, detach)
    expected["loss"].mean().backward()

    assert output.loss.item() == pytest.approx(expected.pop("loss").mean().item(), rel=1e-5)
    assert output.losses.keys() == expected.keys()
    for name, values in expected.items():
        assert output.losses[name].item() == pytest.approx(values.mean().item(), rel=1e-4, abs=1e-6), name
        assert not output.losses[name].requires_grad
    for name, field in {"s_A": "s_a", "s_P": "s_p", "tau": "tau"}.items():
        actual = getattr(output, field)
        assert (actual is None) == (name not in expected)
        if actual is not None:
            torch.testing.assert_close(actual.double(), expected[name], rtol=0, atol=2e-5)
    if "lr" in views_of(weight) and criterion != "none":
        assert 0 < output.losses["tau"] < 1  # else it would be no test of what it gates
    assert expected.get("combined_attention_consistency", torch.ones(8)).mean() > 1e-2

    scale = inputs.grad.abs().max().item()
    torch.testing.assert_close(features.grad.double(), inputs.grad, rtol=1e-3, atol=1e-4 * scale)
    for name in ("classifier", "discriminator"):
        if getattr(model, name) is None:
            continue
        for actual, other in zip(getattr(model, name).parameters(), getattr(reference, name).parameters(), strict=True):
            scale = other.grad.abs().max().item()
            assert scale > 1e-6
            torch.testing.assert_close(actual.grad, other.grad, rtol=1e-2, atol=2e-3 * scale)


def coloured(classes: list[int], seed: int) -> Tensor:
    """Noise in whose mean one of three channels is brightest: under `see_colours`, the class."""
    images = 0.3 * torch.randn(len(classes), 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    images[torch.arange(len(classes)), classes] += 1.0
    return images


def see_colours(**changes: Any) -> HSACForImageClassification:
    """A model whose prediction is the brightest channel, with maps of 8×8."""
    model = build(image_size=8, **changes).train()
    model.backbone, model.classifier = Pixels(), nn.Linear(3, 5)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.eye(5, 3) - 0.1 * torch.arange(15).view(5, 3) / 15)
    return model


# Classes of the image, of its low-resolution view, and of the label; and whether each criterion takes it for hard.
DIFFICULTY = [
    ((0, 0, 0), {"both": False, "hr": False, "label": False, "none": False}),
    ((0, 0, 1), {"both": False, "hr": False, "label": True, "none": False}),
    ((0, 1, 1), {"both": False, "hr": True, "label": False, "none": False}),
    ((0, 1, 0), {"both": True, "hr": True, "label": True, "none": False}),
    ((0, 1, 2), {"both": True, "hr": True, "label": True, "none": False}),
    ((2, 1, 0), {"both": True, "hr": True, "label": True, "none": False}),
]


@pytest.mark.parametrize("criterion", ["both", "hr", "label", "none"])
def test_each_criterion_says_what_is_hard(criterion: str) -> None:
    high, low, labels = (list(column) for column in zip(*(case for case, _ in DIFFICULTY), strict=True))
    model = see_colours(difficulty_criterion=criterion)
    output = model(coloured(high, 0), labels=torch.tensor(labels), pixel_values_lr=coloured(low, 1))
    assert output.logits.argmax(dim=1).tolist() == high and output.logits_lr.argmax(dim=1).tolist() == low
    assert output.tau.tolist() == [float(not hard[criterion]) for _, hard in DIFFICULTY]


@pytest.mark.parametrize("hard", [True, False])
def test_difficulty_gates_two_losses_and_nothing_else(hard: bool) -> None:
    """Hard samples cost what they would without these two losses; the discriminator learns from them all the same."""
    labels = torch.tensor([2, 2, 2] if hard else [1, 1, 1])
    losses, gradients = [], []
    for without in ({}, {"ldl": 0.0}, {"adv": 0.0}, {"ldl": 0.0, "adv": 0.0}):
        torch.manual_seed(0)
        model = see_colours(**weights(**{**LOUD, **without}))
        torch.nn.init.zeros_(model.classifier.bias)
        output = model(coloured([0, 0, 0], 0), labels=labels, pixel_values_lr=coloured([1, 1, 1], 1))
        assert output.tau.tolist() == [0.0 if hard else 1.0] * 3
        output.loss.backward()
        losses.append(output.loss.item() - float(output.losses.get("adversarial_discriminator", 0.0)))
        gradients.append(model.classifier.weight.grad)
        if model.discriminator is not None:
            assert all(parameter.grad.any() for parameter in model.discriminator.parameters())
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        if hard:
            assert loss == pytest.approx(losses[0], rel=1e-5)
            torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-6)
        else:
            assert loss != pytest.approx(losses[0], rel=1e-2)
            assert (gradient - gradients[0]).abs().max() > 1e-3


@pytest.mark.parametrize("labels", [torch.tensor(IDS), torch.tensor(SOFT)], ids=["ids", "soft"])
def test_the_evaluation_loss_is_the_cross_entropy_of_one_view(labels: Tensor) -> None:
    model = build()
    calls = record_calls(model.backbone)
    images = images_for(model)
    with torch.no_grad():
        output = model(images, labels=labels, pixel_values_lr=images_for(model, seed=2))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels), rtol=1e-6, atol=0)
    assert len(calls) == 1 and torch.equal(calls[0][0], images)
    assert {name for name, value in output.items() if value is not None} == {"loss", "logits"}


# Views -----------------------------------------------------------------------------------------------------


def pillow_views(images: Tensor, sides: Tensor) -> Tensor:
    size = images.shape[-1]
    results = []
    for image, side in zip(images.numpy(), sides.tolist(), strict=True):
        small = [Image.fromarray(c).resize((side, side), Image.Resampling.BICUBIC) for c in image]
        results.append(np.stack([np.asarray(c.resize((size, size), Image.Resampling.BICUBIC)) for c in small]))
    return torch.from_numpy(np.stack(results))


def record_sides(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    drawn: list[Tensor] = []
    original = modeling_hsac.downsample_upsample

    def record(images: Tensor, sides: Tensor) -> Tensor:
        drawn.append(sides)
        return original(images, sides)

    monkeypatch.setattr(modeling_hsac, "downsample_upsample", record)
    return drawn


def test_the_three_views_go_through_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build().train()
    calls, sides = record_calls(model.backbone), record_sides(monkeypatch)
    images = images_for(model)
    output = model(images, labels=torch.tensor(IDS), output_attention_maps=True, output_hidden_states=True)
    ((seen, features),) = calls
    high, low, mirrored = seen.split(8)
    assert torch.equal(high, images)
    assert len(sides) == 1 and sides[0].unique().numel() > 3
    torch.testing.assert_close(low, pillow_views(images, sides[0]), rtol=0, atol=1e-4)
    assert torch.equal(mirrored, low.flip(-1))
    # What is returned is of the images alone, but for the logits that say so.
    logits = model.classifier(features.mean(dim=(2, 3)))
    torch.testing.assert_close(output.logits, logits[:8], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.logits_lr, logits[8:16], rtol=1e-5, atol=1e-5)
    assert torch.equal(output.hidden_states[0], features[:8])
    maps = torch.einsum("kc,bchw->bkhw", model.classifier.weight, features[:8])
    torch.testing.assert_close(output.attention_maps, maps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("row", "weight"), PAPER.items(), ids=str)
def test_each_row_runs_the_views_it_needs(row: str, weight: dict[str, float]) -> None:
    model = build(row).train()
    calls = record_calls(model.backbone)
    images = images_for(model, batch=3)
    output = model(images, labels=torch.tensor([0, 1, 4]))
    assert [call[0].shape[0] for call in calls] == [3 * len(views_of(weight))]
    assert (output.logits_lr is None) == ("lr" not in views_of(weight))
    model(images)  # without labels there is no loss, and no reason for more than one
    assert torch.equal(calls[1][0], images)


@pytest.mark.parametrize(("size", "most"), [(224, 8.0), (224, 3.5), (48, 8.0), (100, 1.25)])
def test_the_factor_is_uniform_from_one_to_the_most(size: int, most: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(max_downsampling=most)
    drawn: list[Tensor] = []
    monkeypatch.setattr(modeling_hsac, "downsample_upsample", lambda images, sides: drawn.append(sides))
    torch.manual_seed(0)
    model._low_resolution(torch.empty(200_000, 1, 1, size))
    (sides,) = drawn
    assert sides.dtype == torch.int64 and sides.max() == size and sides.min() == round(size / most)
    counts = torch.bincount(sides, minlength=size + 1).double() / len(sides)

    def share_up_to(side: int) -> float:  # P(size/f < side + ½)
        return min(max((most - size / (side + 0.5)) / (most - 1), 0.0), 1.0)

    expected = torch.tensor([share_up_to(side) for side in range(size + 1)]).double()
    expected[-1] = 1.0  # a half pixel more than the whole side is not drawn
    assert (counts.cumsum(0) - expected).abs().max() < 1.63 / math.sqrt(len(sides))  # Kolmogorov–Smirnov, 1 %


def test_every_step_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build().train()
    sides = record_sides(monkeypatch)
    for _ in range(2):
        model(images_for(model), labels=torch.tensor(IDS))
    assert not torch.equal(*sides)
    torch.manual_seed(5)
    model(images_for(model), labels=torch.tensor(IDS))
    torch.manual_seed(5)
    model(images_for(model), labels=torch.tensor(IDS))
    assert torch.equal(sides[2], sides[3])


def test_without_downsampling_both_views_are_the_image() -> None:
    model = build(max_downsampling=1).train()
    calls = record_calls(model.backbone)
    images = images_for(model)
    model(images, labels=torch.tensor(IDS))
    high, low, mirrored = calls[0][0].split(8)
    torch.testing.assert_close(low, high, rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored, images.flip(-1), rtol=0, atol=1e-5)


def test_identical_views_share_equally() -> None:
    """Symmetric images, which no factor changes, under a backbone that keeps the symmetry: 0/0 is a half."""
    model = see_colours(**weights(**LOUD))
    half = torch.randn(4, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    images = torch.cat([half, half.flip(-1)], dim=-1)
    output = model(images, labels=torch.arange(4), pixel_values_lr=images)
    output.loss.backward()
    assert output.s_a.tolist() == [0.5] * 4 and output.losses["s_A"] == 0.5
    assert output.losses["combined_attention_consistency"] == 0 and output.losses["attention_consistency"] == 0
    assert output.s_p.tolist() == [1.0] * 4  # p_L is p_H, and not the label
    assert output.tau.tolist() == [1.0] * 4
    assert torch.equal(output.logits, output.logits_lr)
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("grayscale", [False, True])
@pytest.mark.parametrize("row", ["Table 1, row 2: L_ce + L_a", "Table 1, row 9: HSAC"])
def test_given_views_are_taken(row: str, grayscale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = record_sides(monkeypatch)
    model = build(row, grayscale=grayscale).train()
    calls = record_calls(model.backbone)
    images, given = images_for(model), images_for(model, seed=2)
    model(images, labels=torch.tensor(IDS), pixel_values_lr=given)
    assert not sides
    if grayscale:
        luminance = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        images, given = ((x * luminance).sum(dim=1, keepdim=True) for x in (images, given))
    expected = torch.cat([images, given, given.flip(-1)][: 2 if "row 2" in row else 3])
    torch.testing.assert_close(calls[0][0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("channels", "channels_lr"), [(1, 3), (3, 1), (1, 1)])
def test_grey_models_take_grey_and_coloured_views(channels: int, channels_lr: int) -> None:
    model = build(grayscale=True).train()
    calls = record_calls(model.backbone)
    images, low = images_for(model, channels=1), images_for(model, channels=1, seed=2)
    model(
        images.expand(-1, channels, -1, -1),
        labels=torch.tensor(IDS),
        pixel_values_lr=low.expand(-1, channels_lr, -1, -1),
    )
    torch.testing.assert_close(calls[0][0], torch.cat([images, low, low.flip(-1)]), rtol=0, atol=1e-6)


def test_grey_models_make_their_views_from_the_luminance(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = record_sides(monkeypatch)
    model = build(grayscale=True).train()
    calls = record_calls(model.backbone)
    images = images_for(model)
    model(images, labels=torch.tensor(IDS))
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(calls[0][0][8:16], pillow_views(grey, sides[0]), rtol=0, atol=1e-4)


# Outputs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["both", "hr", "label", "none"])
def test_what_is_computed_on_the_way_is_returned(criterion: str) -> None:
    model = build(difficulty_criterion=criterion).train()
    output = model(images_for(model), labels=torch.tensor(IDS))
    for field in ("s_a", "s_p", "tau"):
        values = getattr(output, field)
        assert values.shape == (8,) and values.dtype == torch.float32 and not values.requires_grad, field
        assert values.min() >= 0 and values.max() <= 1, field
    assert {*output.tau.tolist()} <= ({0.0, 1.0} if criterion != "none" else {1.0})
    assert output.logits_lr.shape == (8, 5) and output.logits_lr.requires_grad
    assert output.s_a.unique().numel() == output.s_p.unique().numel() == 8
    for name, field in {"s_A": "s_a", "s_P": "s_p", "tau": "tau"}.items():
        assert output.losses[name].item() == pytest.approx(getattr(output, field).mean().item())


def test_evaluation_gathers_logits_alone(tmp_path: Path) -> None:
    fields = {field.name for field in dataclasses.fields(HSACOutput)}
    assert {*HSACConfig.keys_to_ignore_at_inference} == fields - {"loss", "logits"}
    model = build(output_hidden_states=True)
    images = images_for(model, batch=5)
    data = [{"pixel_values": images[k], "labels": k} for k in range(5)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], per_device_eval_batch_size=2, disable_tqdm=True
    )
    predicted = Trainer(model=model, args=arguments).predict(data)
    with torch.no_grad():
        expected = model(images, labels=torch.arange(5))
    np.testing.assert_allclose(predicted.predictions, expected.logits.numpy(), rtol=1e-5, atol=1e-5)
    assert predicted.metrics["test_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)


# The discriminator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 3, 7, 14])
def test_the_discriminator_by_hand(side: int) -> None:
    discriminator = build().discriminator
    maps = torch.randn(4, 5, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = judge(discriminator, maps.double())
        actual = discriminator.eval()(maps)
    assert actual.shape == (4,)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-4)


def test_the_discriminators_widths() -> None:
    shapes = [tuple(conv.weight.shape) for conv in MapDiscriminator(7, 64).convs]
    assert shapes == [(64, 7, 3, 3), (128, 64, 3, 3), (1, 128, 3, 3)]


def test_one_backward_moves_each_side_by_its_own_loss() -> None:
    """The discriminator's gradient does not know the weight of the generator's loss, nor labels, nor `τ`."""
    images = torch.randn(2, 8, 3, 48, 48, generator=torch.Generator().manual_seed(3))
    reference: dict[str, Tensor] = {}
    for adversarial, label, criterion in ((1e-5, 0, "both"), (50.0, 0, "both"), (0.5, 3, "label")):
        model = build(adversarial_weight=adversarial, difficulty_criterion=criterion).train()
        model(images[0], labels=torch.full((8,), label), pixel_values_lr=images[1]).loss.backward()
        for name, parameter in model.discriminator.named_parameters():
            expected = reference.setdefault(name, parameter.grad)
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)
            assert parameter.grad.any()


@pytest.mark.parametrize("training", [True, False])
def test_each_adversarial_loss_reaches_its_own_side_alone(training: bool) -> None:
    discriminator = build().discriminator.train(training)
    high, low = torch.randn(2, 4, 5, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_().unbind()
    parameters = [*discriminator.parameters()]
    own = discriminator.own_loss(high, low)
    assert own.shape == (4,) and (own > 0).all()
    gradients = torch.autograd.grad(own.sum(), [*parameters, high, low], allow_unused=True)
    assert gradients[-2:] == (None, None) and all(gradient.any() for gradient in gradients[:-2])
    generator = discriminator.generator_loss(low)
    assert generator.shape == (4,) and (generator < 0).all()
    *others, gradient = torch.autograd.grad(generator.sum(), [*parameters, low], allow_unused=True)
    assert others == [None] * len(parameters) and gradient.any()
    assert all(parameter.requires_grad for parameter in parameters)


def test_the_two_losses_pull_in_opposite_directions() -> None:
    """Its own makes the low-resolution maps look less like an image's, the generator's more."""
    discriminator = build().discriminator.eval()
    high, low = torch.randn(2, 64, 5, 6, 6, generator=torch.Generator().manual_seed(0)).unbind()
    with torch.no_grad():
        before = discriminator(high), discriminator(low)
    moved = low.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator.generator_loss(moved).sum(), moved)
    with torch.no_grad():
        assert (discriminator(low - 0.1 * gradient) > before[1]).all()
    optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.05)
    discriminator.own_loss(high, low).mean().backward()
    optimizer.step()
    with torch.no_grad():
        assert (discriminator(high) - discriminator(low)).mean() > (before[0] - before[1]).mean()


@pytest.mark.parametrize("shift", [1e3, -1e3])
def test_a_certain_discriminator_costs_no_infinity(shift: float) -> None:
    discriminator = build().discriminator
    with torch.no_grad():
        discriminator.convs[-1].bias.fill_(shift)
    maps = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own, generator = discriminator.own_loss(maps, maps), discriminator.generator_loss(maps)
    (own.sum() + generator.sum()).backward()
    assert own.tolist() == pytest.approx([1e3] * 2, rel=1e-2)
    assert generator.tolist() == pytest.approx([-1e3 if shift > 0 else 0.0] * 2, rel=1e-2)
    assert maps.grad.isfinite().all() and all(p.grad.isfinite().all() for p in discriminator.parameters())


def test_it_learns_to_tell_maps_apart() -> None:
    torch.manual_seed(0)
    discriminator = MapDiscriminator(5, 8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    for _ in range(60):
        high, low = torch.randn(16, 5, 7, 7) + 1, torch.randn(16, 5, 7, 7) - 1
        loss = discriminator.own_loss(high, low).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        discriminator.eval()
        assert (discriminator(high) > 0.3).all() and (discriminator(low) < -0.3).all()
    assert loss < 0.7 * 2 * math.log(2)


def test_spectral_norm_bounds_every_layer_while_it_trains() -> None:
    model = build(adversarial_weight=0.5).train()
    with torch.no_grad():
        for conv in model.discriminator.convs:
            conv.parametrizations.weight.original.mul_(30)
    settle(model.discriminator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(8):
        optimizer.zero_grad()
        model(images_for(model, seed=step), labels=torch.tensor(IDS)).loss.backward()
        optimizer.step()
        for conv in model.discriminator.eval().convs:
            largest = torch.linalg.svdvals(conv.weight.detach().flatten(1))[0].item()
            assert largest == pytest.approx(1.0, rel=0.02)
        model.train()
    # And it forgets a sudden change within a few steps, since it iterates in each.
    with torch.no_grad():
        for conv in model.discriminator.convs:
            conv.parametrizations.weight.original.copy_(torch.randn_like(conv.weight))
        for step in range(10):
            model(images_for(model, seed=step), labels=torch.tensor(IDS))
    for conv in model.discriminator.eval().convs:
        assert torch.linalg.svdvals(conv.weight.detach().flatten(1))[0].item() == pytest.approx(1.0, rel=0.1)


def test_there_is_none_without_adversarial_weight() -> None:
    model = build(adversarial_weight=0)
    assert model.discriminator is None
    assert not any("discriminator" in name for name in model.state_dict())
    with_one = build()
    assert {name for name in with_one.state_dict() if not name.startswith("discriminator.")} == {*model.state_dict()}


def test_it_never_runs_outside_of_training() -> None:
    model = build()
    calls: list[str] = []
    for module in model.discriminator.modules():
        module.register_forward_pre_hook(lambda module, _: calls.append(type(module).__name__))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels = torch.tensor(IDS)
    with torch.no_grad():
        model(images_for(model), labels=labels, output_attention_maps=True)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        model.train()(images_for(model), output_attention_maps=True)
        assert not calls
        model(images_for(model), labels=labels)
    assert calls


def test_it_stays_out_of_half_precision() -> None:
    model = build().train()
    seen: list[tuple[Tensor, Tensor]] = []
    model.discriminator.register_forward_hook(lambda _, args, output: seen.append((args[0], output)))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images_for(model), labels=torch.tensor(IDS))
    output.loss.backward()
    assert len(seen) == 2
    for maps, logits in seen:
        assert maps.dtype == logits.dtype == torch.float32
        torch.testing.assert_close(logits.double(), judge(model.discriminator, maps.double()), rtol=1e-3, atol=1e-4)
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    assert output.s_a.dtype == output.s_p.dtype == output.tau.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_model_of_another_precision_trains(dtype: torch.dtype) -> None:
    """As `from_pretrained` gives one where the checkpoint was saved so."""
    model = build(adversarial_weight=0.5).to(dtype).train()
    output = model(images_for(model).to(dtype), labels=torch.tensor(IDS))
    output.loss.backward()
    assert output.loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == dtype and parameter.grad.isfinite().all(), name


def test_half_precision_weights_get_gradients_that_are_numbers() -> None:
    """Of 1×1 maps most of a kernel sees padding alone: there the gradient is 0, and not whatever memory held."""
    discriminator = build().discriminator.bfloat16()
    high, low = torch.randn(2, 8, 5, 3, 3, generator=torch.Generator().manual_seed(0)).bfloat16().unbind()
    assert discriminator(high).dtype == torch.float32
    for _ in range(30):
        discriminator.zero_grad()
        junk = [torch.full((size,), math.nan) for size in (64, 256, 1024, 4096, 8192)]
        del junk
        discriminator.own_loss(high, low).mean().backward()
        assert all(p.grad.dtype == torch.bfloat16 and p.grad.isfinite().all() for p in discriminator.parameters())


# Saving and loading ----------------------------------------------------------------------------------------


def test_a_trained_discriminator_comes_back_bit_by_bit(tmp_path: Path) -> None:
    model = build(adversarial_weight=0.5).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        model(images_for(model, seed=step), labels=torch.tensor(IDS)).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    saved = {name for name in load_file(tmp_path / "model.safetensors") if name.startswith("discriminator.")}
    assert len(saved) == 3 * 4  # weight, bias, and both of spectral norm's vectors
    loaded = HSACForImageClassification.from_pretrained(tmp_path)
    expected = model.discriminator.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.discriminator.state_dict().items())
    maps = torch.randn(2, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.discriminator(maps), model.discriminator(maps))
    # And training goes on as if nothing had been.
    losses = []
    for one in (model, loaded):
        torch.manual_seed(3)
        losses.append(one.train()(images_for(one), labels=torch.tensor(IDS)).loss)
    assert torch.equal(*losses)


def test_a_checkpoint_without_a_discriminator_gets_a_fresh_one(tmp_path: Path) -> None:
    build(adversarial_weight=0.0).save_pretrained(tmp_path)
    torch.manual_seed(0)
    loaded = HSACForImageClassification.from_pretrained(tmp_path, adversarial_weight=0.5).train()
    for conv in loaded.discriminator.convs:
        assert all(tensor.isfinite().all() for tensor in conv.state_dict().values())
        assert conv.parametrizations.weight.original.std() > 1e-3
    output = loaded(images_for(loaded), labels=torch.tensor(IDS))
    output.loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in loaded.discriminator.parameters())
    for step in range(10):
        loaded(images_for(loaded, seed=step), labels=torch.tensor(IDS))
    for conv in loaded.discriminator.eval().convs:
        assert torch.linalg.svdvals(conv.weight.detach().flatten(1))[0].item() == pytest.approx(1.0, rel=0.1)


def test_a_checkpoint_with_a_discriminator_serves_without(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    loaded, report = HSACForImageClassification.from_pretrained(
        tmp_path, adversarial_weight=0.0, output_loading_info=True
    )
    assert loaded.discriminator is None and not report["missing_keys"]
    assert all(name.startswith("discriminator.") for name in report["unexpected_keys"])
    with torch.no_grad():
        assert torch.equal(loaded(images_for(model)).logits, model(images_for(model)).logits)


# Configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *((field, -0.1, "at least 0") for field in FIELDS.values()),
        ("difficulty_criterion", "lr", "one of 'both', 'hr', 'label', 'none'"),
        ("difficulty_criterion", None, "one of"),
        ("detach_attention_target", 1, "true or false"),
        ("max_downsampling", 0.99, "at least 1"),
        ("max_downsampling", 0, "positive"),
        ("discriminator_channels", 0, "an integer from 1"),
        ("discriminator_channels", 1025, "an integer from 1 to 1024"),
        ("discriminator_channels", 2.0, "an integer"),
    ],
)
def test_values_that_make_no_sense_are_refused(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^HSACConfig: {field} must be {allowed}.*, got {value!r}"):
        configuration(**{field: value})


def test_whole_numbers_are_numbers() -> None:
    config = configuration(combined_attention_weight=3, max_downsampling=1, adversarial_weight=0)
    assert HSACForImageClassification(config).discriminator is None
