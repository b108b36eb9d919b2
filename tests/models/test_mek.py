"""MEK as a model: initialisation, loading, views, losses by hand, Auto classes, remote code, config."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

import hf_fer  # noqa: F401  registers the Auto classes
from hf_fer.models.attention_maps import class_activation_map
from hf_fer.models.backbones import create_backbone
from hf_fer.models.configuration_mek import MEKConfig
from hf_fer.models.modeling_mek import MEKForImageClassification
from hf_fer.training.export import build_processor, save_release

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
COUNTS = [900, 300, 90, 30, 1]
BACKBONES: dict[str, dict[str, Any]] = {
    "resnet": {
        "backbone": "resnet18",
        "backbone_kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]},
        "stem_pool": False,
        "image_size": 48,  # maps of 3×3
    },
    "swin": {
        "backbone": "swin_tiny_patch4_window7_224",
        "backbone_kwargs": {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        "image_size": 32,  # 8×8 with shifted windows, then maps of 4×4
    },
    "mobilenet": {"backbone": "mobilenetv3_small_050", "image_size": 64},  # maps of 2×2
    "convnext": {
        "backbone": "convnext_atto",
        "backbone_kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]},
        "image_size": 64,  # maps of 2×2
    },
}
METHODS: dict[str, dict[str, Any]] = {
    "mek": {},
    "mek_released_code": {"attention_weighting": "outside", "smooth_target": "others"},
    "rac": {"smoothing": 0.0},
    "rsl": {"consistency_weight": 0.0},
    "eac": {
        "consistency_weight": 5.0,
        "rebalance_attention": False,
        "smoothing": 0.0,
        "classify_transformed": False,
    },
    "cross_entropy": {"consistency_weight": 0.0, "smoothing": 0.0, "classify_transformed": False},
    "class_balanced": {
        "consistency_weight": 0.0,
        "smoothing": 0.0,
        "classify_transformed": False,
        "class_weighting": "effective_number",
    },
    "everything": {"class_weighting": "effective_number", "smoothing": 0.3, "consistency_weight": 0.7},
}
ONE_VIEW = {"cross_entropy", "class_balanced"}
BACKBONE_NAMES = pytest.mark.parametrize("backbone", list(BACKBONES))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the variable above came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def configuration(backbone: str = "resnet", **changes: Any) -> MEKConfig:
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(NAMES)),
        "label2id": {name: k for k, name in enumerate(NAMES)},
        "class_counts": COUNTS,
    }
    return MEKConfig(**{**BACKBONES[backbone], **fields, **changes})


def build(backbone: str = "resnet", seed: int = 0, **changes: Any) -> MEKForImageClassification:
    """A model whose every tensor differs from any default."""
    torch.manual_seed(seed)
    model = MEKForImageClassification(configuration(backbone, **changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(7)
    return model


def images_for(model: MEKForImageClassification, batch: int = 4, channels: int = 3, seed: int = 1) -> Tensor:
    size = model.config.image_size
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and all buffers, the unsaved ones too."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype, name
        assert torch.equal(actual[name], tensor), name


def class_weights_by_hand(counts: list[int] | None, classes: int, beta: float) -> list[float]:
    raw = [(1 - beta) / (1 - beta**n) for n in counts or [1] * classes]
    return [classes * value / sum(raw) for value in raw]


def record_calls(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(images, last feature maps) of every call from now on."""
    calls: list[tuple[Tensor, Tensor]] = []
    module.register_forward_hook(lambda _, args, output: calls.append((args[0], output[-1])))
    return calls


# Initialisation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grayscale", [False, True])
@BACKBONE_NAMES
def test_a_fresh_backbone_is_as_timm_makes_it(backbone: str, grayscale: bool) -> None:
    fields = BACKBONES[backbone]
    size = {"img_size": fields["image_size"]} if backbone == "swin" else {}
    torch.manual_seed(3)
    reference = timm.create_model(
        fields["backbone"],
        features_only=True,
        out_indices=(-1,),
        in_chans=1 if grayscale else 3,
        **size,
        **fields.get("backbone_kwargs", {}),
    )
    torch.manual_seed(3)
    model = MEKForImageClassification(configuration(backbone, grayscale=grayscale))
    assert_same_tensors(tensors(model.backbone.body), tensors(reference))


@BACKBONE_NAMES
def test_a_fresh_classifier_is_as_torch_makes_it(backbone: str) -> None:
    """Uniform in ±1/√C, weight and bias: neither N(0, 0.02) nor zeros."""
    torch.manual_seed(0)
    model = MEKForImageClassification(configuration(backbone, num_labels=64, id2label=None, class_counts=None))
    weight, bias = model.classifier.weight, model.classifier.bias
    bound = weight.shape[1] ** -0.5
    assert weight.shape[0] == 64
    for tensor in (weight, bias):
        assert tensor.abs().max() <= bound
        assert tensor.abs().max() > 0.9 * bound
        assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.25)


def test_the_stem_pool_can_be_dropped() -> None:
    with_pool = build(stem_pool=True)
    without = build(stem_pool=False)
    images = images_for(without, batch=1)
    assert with_pool(images, output_hidden_states=True).hidden_states[0].shape == (1, 32, 2, 2)
    assert without(images, output_hidden_states=True).hidden_states[0].shape == (1, 32, 3, 3)


def test_swin_maps_come_channels_first() -> None:
    """timm's Swin gives (B, H, W, C), without its final norm: the normed numbers must arrive as (B, C, H, W)."""
    model = build("swin")
    images = images_for(model, batch=2)
    with torch.no_grad():
        expected = model.backbone.norm(model.backbone.body(images)[-1])
        (actual,) = model(images, output_hidden_states=True).hidden_states
    assert expected.shape == (2, 4, 4, 16)
    torch.testing.assert_close(actual, expected.permute(0, 3, 1, 2))


# Saving and loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "changes"),
    [("resnet", {}), ("swin", {}), ("mobilenet", {}), ("resnet", {"grayscale": True, "class_counts": None})],
)
def test_a_round_trip_keeps_every_bit(backbone: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = build(backbone, **changes)
    model.save_pretrained(tmp_path)
    torch.manual_seed(99)
    loaded, report = MEKForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert not loaded.training
    assert_same_tensors(tensors(loaded), tensors(model))
    expected, actual = model.config.to_dict(), loaded.config.to_dict()
    for key in BACKBONES["resnet"].keys() | changes.keys() | {"id2label", "label2id", "class_counts"}:
        assert actual[key] == expected[key], key
    images = images_for(model, batch=2)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


@pytest.mark.parametrize(
    ("backbone", "ending", "expected"),
    [
        ("resnet", "body.conv1.weight", "random"),
        ("resnet", "body.bn1.weight", 1.0),
        ("resnet", "body.bn1.bias", 0.0),
        ("resnet", "body.bn1.running_mean", 0.0),
        ("resnet", "body.bn1.running_var", 1.0),
        ("mobilenet", "conv_stem.weight", "random"),
        ("swin", "layers_0.blocks.1.attn.relative_position_bias_table", "random"),
        ("swin", "layers_0.blocks.1.attn.relative_position_index", "as before"),
        ("swin", "layers_0.blocks.1.attn_mask", "as before"),
        ("swin", "layers_0.blocks.1.mlp.fc1.bias", "random"),
        ("swin", "layers_0.blocks.1.norm1.weight", 1.0),
        ("convnext", "stages_0.blocks.0.gamma", "random"),  # owned by a module without `reset_parameters`
    ],
)
def test_a_tensor_the_checkpoint_lacks_gets_a_sane_value(
    backbone: str, ending: str, expected: float | str, tmp_path: Path
) -> None:
    model = build(backbone)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (lacking,) = [name for name in state if name.endswith(ending)]
    del state[lacking]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})

    loaded, report = MEKForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == {lacking}
    before, after = tensors(model), tensors(loaded)
    filled = after.pop(lacking)
    was = before.pop(lacking)
    assert_same_tensors(after, before)
    assert filled.device.type == "cpu" and filled.shape == was.shape and filled.dtype == was.dtype
    if expected == "as before":
        assert torch.equal(filled, was)
    elif expected == "random":
        assert 1e-3 < filled.std() < 0.5 and filled.abs().max() < 1.5
    else:
        assert torch.equal(filled, torch.full_like(was, expected))
    with torch.no_grad():
        assert loaded(images_for(loaded)).logits.isfinite().all()


def test_swin_at_another_image_size(tmp_path: Path) -> None:
    """Its attention masks follow from the size: new ones are made, the weights stay."""
    model = build("swin")
    model.save_pretrained(tmp_path / "small")
    loaded = MEKForImageClassification.from_pretrained(tmp_path / "small", image_size=64, ignore_mismatched_sizes=True)
    fresh = MEKForImageClassification(configuration("swin", image_size=64))
    assert_same_tensors(dict(loaded.named_parameters()), dict(model.named_parameters()))
    assert_same_tensors(dict(loaded.named_buffers()), dict(fresh.named_buffers()))
    loaded.save_pretrained(tmp_path / "large")
    again, report = MEKForImageClassification.from_pretrained(tmp_path / "large", output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    assert_same_tensors(tensors(again), tensors(loaded))


def test_a_missing_classifier_is_initialised(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = MEKForImageClassification.from_pretrained(tmp_path)
    assert_same_tensors(tensors(loaded.backbone), tensors(model.backbone))
    bound = 32**-0.5
    for tensor in (loaded.classifier.weight, loaded.classifier.bias):
        assert tensor.abs().max() <= bound and tensor.std() > 0.2 * bound


@BACKBONE_NAMES
def test_other_labels_replace_the_classifier_alone(backbone: str, tmp_path: Path) -> None:
    model = build(backbone, class_counts=None)
    model.save_pretrained(tmp_path)
    loaded, report = MEKForImageClassification.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {key[0] for key in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert_same_tensors(tensors(loaded.backbone), tensors(model.backbone))
    bound = model.classifier.in_features**-0.5
    assert loaded.classifier.weight.shape == (3, model.classifier.in_features)
    assert bound / 2 < loaded.classifier.weight.abs().max() <= bound
    assert loaded.class_weights.tolist() == [1.0, 1.0, 1.0]
    assert loaded(images_for(loaded)).logits.shape == (4, 3)


def test_other_labels_come_with_their_own_counts(tmp_path: Path) -> None:
    """The checkpoint's counts belong to the labels it leaves behind."""
    build().save_pretrained(tmp_path)
    by_number = {"num_labels": 3, "class_counts": [50, 10, 5]}
    by_name = {
        "id2label": {0: "a", 1: "b", 2: "c"},
        "label2id": {"a": 0, "b": 1, "c": 2},
        "class_counts": [50, 10, 5],
    }
    for overrides in (by_number, by_name):
        loaded = MEKForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **overrides)
        expected = torch.tensor(class_weights_by_hand([50, 10, 5], 3, 0.9999))
        torch.testing.assert_close(loaded.class_weights, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("by_name", [False, True])
def test_other_labels_leave_the_checkpoints_counts_behind(by_name: bool, tmp_path: Path) -> None:
    """The usual way to fine-tune for other labels, by somebody who never heard of `class_counts`."""
    build().save_pretrained(tmp_path)
    overrides: dict[str, Any] = {"num_labels": 3}
    if by_name:
        overrides = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **overrides)
    assert loaded.config.class_counts is None
    assert loaded.class_weights.tolist() == [1.0, 1.0, 1.0]


# Class weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [COUNTS, None, [1, 1, 1, 1, 10_000_000]], ids=str)
def test_class_weights_follow_from_the_counts(counts: list[int] | None, tmp_path: Path) -> None:
    model = build(class_counts=counts, effective_number_beta=0.999)
    expected = torch.tensor(class_weights_by_hand(counts, 5, 0.999))
    assert model.class_weights.dtype == torch.float32
    torch.testing.assert_close(model.class_weights, expected, rtol=1e-6, atol=0)
    assert "class_weights" not in model.state_dict()
    model.save_pretrained(tmp_path)
    loaded = MEKForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.class_weights, model.class_weights)


def test_class_weights_follow_counts_given_at_loading(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    counts = [5, 50, 500, 50, 5]
    expected = torch.tensor(class_weights_by_hand(counts, 5, 0.9999))
    loaded = MEKForImageClassification.from_pretrained(tmp_path, class_counts=counts)
    torch.testing.assert_close(loaded.class_weights, expected, rtol=1e-6, atol=0)
    config = configuration(class_counts=counts)
    loaded = MEKForImageClassification.from_pretrained(tmp_path, config=config)
    torch.testing.assert_close(loaded.class_weights, expected, rtol=1e-6, atol=0)
    loaded = MEKForImageClassification.from_pretrained(tmp_path, class_counts=None)
    assert loaded.class_weights.tolist() == [1.0] * 5


# Views -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(METHODS))
def test_training_runs_the_backbone_once_on_all_views(method: str) -> None:
    model = build(**METHODS[method]).train()
    calls = record_calls(model.backbone)
    images = images_for(model, batch=3)
    output = model(images, labels=torch.tensor([0, 1, 4]))
    assert len(calls) == 1
    seen = calls[0][0]
    assert torch.equal(seen[:3], images)
    if method in ONE_VIEW:
        assert seen.shape[0] == 3
    else:
        assert torch.equal(seen[3:], images.flip(-1))
    assert output.logits.shape == (3, 5)
    # The mode as such is no reason for a second view: without labels there is no loss.
    output = model(images)
    assert [call[0].shape[0] for call in calls[1:]] == [3]
    assert output.loss is None and output.losses is None


@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1, 4])], ids=["bare", "labels"])
def test_evaluation_runs_the_backbone_once_on_one_view(labels: Tensor | None) -> None:
    model = build()
    calls = record_calls(model.backbone)
    images = images_for(model, batch=3)
    model(images, labels=labels, output_attention_maps=True)
    assert len(calls) == 1 and torch.equal(calls[0][0], images)


# The loss --------------------------------------------------------------------------------------------------


def losses_by_hand(model: MEKForImageClassification, features: Tensor, targets: list[list[float]]) -> dict[str, float]:
    """MEK's loss and its parts by loops; `features` (2B, C, H, W): the images', then their mirror images'."""
    config, batch = model.config, len(targets)
    classes, labels = config.num_labels, range(config.num_labels)
    weight, bias = model.classifier.weight.tolist(), model.classifier.bias.tolist()
    balance = class_weights_by_hand(config.class_counts, classes, config.effective_number_beta)
    channels, height, width = features.shape[1:]
    places = [(y, x) for y in range(height) for x in range(width)]
    maps = [
        [{(y, x): math.fsum(weight[k][c] * f[c][y][x] for c in range(channels)) for y, x in places} for k in labels]
        for f in features.tolist()
    ]
    # A map averages to its logit, up to the bias.
    logits = [[sum(view[k].values()) / len(places) + bias[k] for k in labels] for view in maps]

    def cross_entropy(z: list[float], target: list[float]) -> float:
        log_sum = math.log(math.fsum(math.exp(value) for value in z))
        return -math.fsum(t * (value - log_sum) for t, value in zip(target, z, strict=True))

    def smooth(target: list[float]) -> list[float]:
        alpha = config.smoothing
        if config.smooth_target == "all":
            return [(1 - alpha) * target[k] + alpha * balance[k] / classes for k in labels]
        spread = [
            math.fsum(target[j] * balance[k] / (sum(balance) - balance[j]) for j in labels if j != k) for k in labels
        ]
        return [(1 - alpha) * target[k] + alpha * spread[k] for k in labels]

    parts = {"cross_entropy": 0.0, "cross_entropy_transformed": 0.0, "attention_consistency": 0.0}
    for b, target in enumerate(targets):
        importance = 1.0
        if config.class_weighting == "effective_number":
            importance = math.fsum(target[k] * balance[k] for k in labels)
        parts["cross_entropy"] += importance * cross_entropy(logits[b], smooth(target)) / batch
        if len(logits) == batch:
            continue
        parts["cross_entropy_transformed"] += importance * cross_entropy(logits[batch + b], smooth(target)) / batch
        for k in labels:
            factor = balance[k] if config.rebalance_attention else 1.0
            for y, x in places:
                difference = maps[b][k][y, x] - maps[batch + b][k][y, width - 1 - x]
                square = (factor * difference) ** 2
                if config.attention_weighting == "outside":
                    square = factor * difference**2
                parts["attention_consistency"] += square / (classes * len(places) * batch)
    if not config.classify_transformed:
        del parts["cross_entropy_transformed"]
    if config.consistency_weight == 0:
        del parts["attention_consistency"]
    loss = parts["cross_entropy"] + parts.get("cross_entropy_transformed", 0.0)
    return {**parts, "loss": loss + config.consistency_weight * parts.get("attention_consistency", 0.0)}


IDS = [1, 4, 0, 1]  # classes 2 and 3 are absent
SOFT = [[0.7, 0.3, 0, 0, 0], [0, 0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2, 0.2], [0, 0, 0.1, 0.5, 0.4]]


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@pytest.mark.parametrize("counts", [COUNTS, None], ids=["imbalanced", "unknown"])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_training_loss_by_hand(method: str, counts: list[int] | None, soft: bool) -> None:
    model = build(class_counts=counts, **METHODS[method]).train()
    calls = record_calls(model.backbone)
    labels = torch.tensor(SOFT) if soft else torch.tensor(IDS)
    targets = SOFT if soft else [[float(k == label) for k in range(5)] for label in IDS]
    output = model(images_for(model), labels=labels)
    expected = losses_by_hand(model, calls[0][1], targets)
    assert output.loss.requires_grad and output.loss.ndim == 0
    assert {*output.losses, "loss"} == expected.keys()
    assert output.loss.item() == pytest.approx(expected.pop("loss"), rel=1e-5)
    for name, value in expected.items():
        assert output.losses[name].item() == pytest.approx(value, rel=1e-5, abs=1e-9), name
        assert not output.losses[name].requires_grad
    assert expected.get("attention_consistency", 1.0) > 1e-4  # else it would be no test of the maps


def test_cross_entropy_alone_has_no_zero_added_to_it() -> None:
    """Inductor drops a `0 +`, takes the loss for the detached copy in `losses`, and nothing learns."""
    model = build(**MEKConfig.ablations["Table 6: baseline"]).train()
    loss = model(torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss
    assert loss.grad_fn.name() == "MeanBackward0"


def test_the_loss_is_of_two_separate_passes_where_no_statistics_join_them() -> None:
    model = build().train()
    model.backbone.eval()
    images = images_for(model)
    with torch.no_grad():
        features = torch.cat([model.backbone(images)[-1], model.backbone(images.flip(-1))[-1]])
    output = model(images, labels=torch.tensor(IDS))
    expected = losses_by_hand(model, features, [[float(k == label) for k in range(5)] for label in IDS])
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-5)


@pytest.mark.parametrize("method", ["mek", "class_balanced"])
def test_the_evaluation_loss_is_plain_cross_entropy(method: str) -> None:
    model = build(**METHODS[method])
    images = images_for(model)
    output = model(images, labels=torch.tensor(IDS))
    expected = torch.nn.functional.cross_entropy(output.logits, torch.tensor(IDS))
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=0)
    assert output.losses is None
    soft = model(images, labels=torch.tensor(SOFT)).loss
    expected = torch.nn.functional.cross_entropy(output.logits, torch.tensor(SOFT))
    torch.testing.assert_close(soft, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", list(METHODS))
def test_one_hot_targets_cost_what_their_ids_cost(method: str, training: bool) -> None:
    model = build(**METHODS[method]).train(training)
    images, ids = images_for(model), torch.tensor(IDS)
    by_ids = model(images, labels=ids).loss
    by_rows = model(images, labels=torch.nn.functional.one_hot(ids, 5).float()).loss
    assert torch.equal(by_ids, by_rows)


@pytest.mark.parametrize("transform", ["flip", "scale", "intensity"])
@BACKBONE_NAMES
def test_every_parameter_learns(backbone: str, transform: str) -> None:
    model = build(backbone, transform=transform).train()
    model(images_for(model, batch=6), labels=torch.tensor([0, 1, 2, 3, 4, 0])).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_attention_consistency_reaches_backbone_and_classifier() -> None:
    """With the classification losses' share taken out, the maps alone still pull on both."""
    images, ids = (
        torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(2)),
        torch.tensor([0, 1, 2]),
    )
    gradients = []
    for strength in (0.0, 1.0):
        model = build(consistency_weight=strength).train()
        model(images, labels=ids).loss.backward()
        gradients.append((model.classifier.weight.grad, model.backbone.body.conv1.weight.grad))
    for without, with_maps in zip(*gradients, strict=True):
        assert (without - with_maps).abs().max() > 1e-4 * without.abs().max()


# Outputs ---------------------------------------------------------------------------------------------------


@BACKBONE_NAMES
def test_attention_maps_average_to_the_logits_without_bias(backbone: str) -> None:
    model = build(backbone)
    side = {"resnet": 3, "swin": 4, "mobilenet": 2, "convnext": 2}[backbone]
    with torch.no_grad():
        output = model(images_for(model), output_attention_maps=True)
    assert output.attention_maps.shape == (4, 5, side, side)
    expected = output.logits - model.classifier.bias
    torch.testing.assert_close(output.attention_maps.mean(dim=(2, 3)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_maps_and_features_of_the_images_on_request(training: bool) -> None:
    model = build().train(training)
    calls = record_calls(model.backbone)
    images, ids = images_for(model), torch.tensor(IDS)
    output = model(images, labels=ids, output_attention_maps=True, output_hidden_states=True)
    assert len(output.hidden_states) == 1
    assert torch.equal(output.hidden_states[0], calls[0][1][:4])
    expected = class_activation_map(calls[0][1][:4], model.classifier.weight)
    torch.testing.assert_close(output.attention_maps, expected, rtol=1e-5, atol=1e-6)
    output = model(images, labels=ids)
    assert output.attention_maps is None and output.hidden_states is None


def test_evaluation_is_deterministic_and_training_drops_out() -> None:
    model = build(dropout=0.5)
    images = images_for(model)
    with torch.no_grad():
        logits = model(images).logits
        assert torch.equal(model(images).logits, logits)
        alone = torch.cat([model(image[None]).logits for image in images])
        torch.testing.assert_close(alone, logits, rtol=1e-5, atol=1e-6)
        model.train()
        model.backbone.eval()
        assert not torch.equal(model(images).logits, model(images).logits)


def test_return_dict_false_gives_the_same_as_a_tuple() -> None:
    model = build()
    images, ids = images_for(model), torch.tensor(IDS)
    with torch.no_grad():
        output = model(images, labels=ids)
        assert torch.equal(model(images, return_dict=False)[0], output.logits)
        assert len(model(images, return_dict=False)) == 1
        loss, logits = model(images, labels=ids, return_dict=False)
        assert torch.equal(loss, output.loss) and torch.equal(logits, output.logits)
        model.train()
        loss, logits, losses, maps = model(images, labels=ids, output_attention_maps=True, return_dict=False)
    assert loss.ndim == 0 and logits.shape == (4, 5) and maps.shape == (4, 5, 3, 3)
    assert losses.keys() == {"cross_entropy", "cross_entropy_transformed", "attention_consistency"}
    model.config.return_dict = False
    assert isinstance(model(images), tuple)


def test_the_configs_output_hidden_states_is_honoured(tmp_path: Path) -> None:
    """As in every model of transformers."""
    build().save_pretrained(tmp_path)
    model = MEKForImageClassification.from_pretrained(tmp_path, output_hidden_states=True)
    assert model(images_for(model)).hidden_states is not None
    assert model(images_for(model), output_hidden_states=False).hidden_states is None


# The second view -------------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """A backbone whose features are the pixels: it commutes with every spatial transform."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def zoom_by_loops(image: list[list[float]], factor: float) -> list[list[float]]:
    """Bilinear zoom about the centre, pixels as squares, the border repeated."""
    height, width = len(image), len(image[0])

    def source(place: int, size: int) -> float:
        centre = size / 2
        return min(max((place + 0.5 - centre) / factor + centre - 0.5, 0.0), size - 1.0)

    def at(y: float, x: float) -> float:
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        dy, dx = y - top, x - left
        above = (1 - dx) * image[top][left] + dx * image[top][right]
        below = (1 - dx) * image[bottom][left] + dx * image[bottom][right]
        return (1 - dy) * above + dy * below

    return [[at(source(y, height), source(x, width)) for x in range(width)] for y in range(height)]


def smooth_images(size: int = 64, channels: int = 3, waves: float = 0.5) -> Tensor:
    """`waves` over the image, at another angle in every channel."""
    place = 2 * waves * torch.linspace(0, 1, size)
    angles = [0.7 * place[:, None] + (0.4 + 0.2 * c) * place[None, :] for c in range(channels)]
    return torch.sin(math.pi * torch.stack(angles) + 0.5)[None].repeat(2, 1, 1, 1)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.25, 2.0])
def test_scale_zooms_about_the_centre(factor: float) -> None:
    model = build(transform="scale", transform_strength=factor)
    images = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[zoom_by_loops(channel, factor) for channel in images[0].tolist()]])
    torch.testing.assert_close(model._transform(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("transform", "strength", "tolerance"),
    [("flip", 0.8, 0.0), ("scale", 0.8, 0.05), ("scale", 0.6, 0.05)],
)
def test_realigning_undoes_the_transform(transform: str, strength: float, tolerance: float) -> None:
    model = build(transform=transform, transform_strength=strength)
    maps = smooth_images()
    moved = model._transform(maps)
    assert (moved - maps).abs().mean() > 0.03
    back = model._realign(moved)
    assert (back - maps).abs().max() <= tolerance
    inside = slice(4, -4)
    assert (back - maps)[..., inside, inside].abs().max() <= min(tolerance, 2e-3)


def test_intensity_scales_the_images_and_leaves_the_maps_in_place() -> None:
    model = build(transform="intensity", transform_strength=0.6)
    maps = smooth_images()
    torch.testing.assert_close(model._transform(maps), 0.6 * maps)
    assert torch.equal(model._realign(maps), maps)


@pytest.mark.parametrize("transform", ["flip", "scale", "intensity"])
def test_transforms_commute_with_the_mixing_of_channels(transform: str) -> None:
    model = build(transform=transform)
    features, weight = smooth_images(16), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        class_activation_map(model._transform(features), weight),
        model._transform(class_activation_map(features, weight)),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize(("transform", "share"), [("flip", 1e-9), ("scale", 0.02)])
def test_a_backbone_that_commutes_with_the_transform_is_consistent(transform: str, share: float) -> None:
    model = build(transform=transform).train()
    model.backbone, model.classifier = Pixels(), nn.Linear(3, 5)
    nn.init.normal_(model.classifier.weight)
    images = smooth_images()
    actual = model(images, labels=torch.tensor([0, 1])).losses["attention_consistency"].item()
    maps = class_activation_map(images, model.classifier.weight)
    moved = class_activation_map(model._transform(images), model.classifier.weight)
    weights = model.class_weights[:, None, None]
    not_realigned = (weights * (maps - moved)).square().mean().item()
    assert not_realigned > 1e-3
    assert actual <= share * not_realigned


def test_intensity_is_compared_place_by_place() -> None:
    """A linear backbone's maps fade as the images do: (1 − 0.6)² of their square is the difference."""
    model = build(transform="intensity", transform_strength=0.6).train()
    model.backbone, model.classifier = Pixels(), nn.Linear(3, 5)
    images = smooth_images()
    actual = model(images, labels=torch.tensor([0, 1])).losses["attention_consistency"].item()
    weighted = model.class_weights[:, None, None] * class_activation_map(images, model.classifier.weight)
    assert actual == pytest.approx(0.16 * weighted.square().mean().item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transform", ["flip", "scale", "intensity"])
def test_half_precision_views_keep_their_place(transform: str, dtype: torch.dtype) -> None:
    """A sampling grid in half precision would miss by a good part of a pixel."""
    model = build(transform=transform)
    images = smooth_images(128, waves=4).to(dtype)
    actual = model._transform(images)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.float(), model._transform(images.float()), rtol=0, atol=0.004)


# Grey images and precision ---------------------------------------------------------------------------------


def test_a_grey_model_sees_the_luminance() -> None:
    model = build(grayscale=True)
    calls = record_calls(model.backbone)
    colour = images_for(model, batch=2)
    grey = images_for(model, batch=2, channels=1, seed=4)
    with torch.no_grad():
        model(colour)
        by_one, by_three = model(grey).logits, model(grey.expand(-1, 3, -1, -1)).logits
    red, green, blue = colour[:, :1], colour[:, 1:2], colour[:, 2:]
    torch.testing.assert_close(calls[0][0], 0.299 * red + 0.587 * green + 0.114 * blue)
    torch.testing.assert_close(by_three, by_one, rtol=1e-5, atol=1e-6)


def test_a_grey_model_trains_on_both_views() -> None:
    model = build(grayscale=True).train()
    calls = record_calls(model.backbone)
    grey = images_for(model, channels=1)
    model(grey, labels=torch.tensor(IDS)).loss.backward()
    assert torch.equal(calls[0][0], torch.cat([grey, grey.flip(-1)]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", ["resnet", "swin"])
def test_half_precision_loading(backbone: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = build(backbone)
    model.save_pretrained(tmp_path)
    loaded = MEKForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    # The weights enter a float32 loss: rounded ones would no longer sum to K.
    assert torch.equal(loaded.class_weights, model.class_weights)
    images = images_for(model)
    with torch.no_grad():
        logits = loaded(images.to(dtype)).logits
        expected = model(images).logits
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.05 * expected.abs().max().item() + 0.01)


def test_half_precision_checkpoints_load_as_they_are(tmp_path: Path) -> None:
    model = build().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = MEKForImageClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.backbone.body.conv1.weight, model.backbone.body.conv1.weight)
    back = MEKForImageClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(back.backbone.body.conv1.weight, model.backbone.body.conv1.weight.float())


@pytest.mark.parametrize("transform", ["flip", "scale", "intensity"])
def test_training_under_autocast(transform: str) -> None:
    model = build(transform=transform).train()
    images, ids = images_for(model), torch.tensor(IDS)
    expected = model(images, labels=ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, labels=ids)
    assert output.logits.dtype == torch.bfloat16  # else autocast was off
    assert output.loss.dtype == torch.float32
    for name, value in expected.losses.items():
        assert output.losses[name].dtype == torch.float32
        assert output.losses[name].item() == pytest.approx(value.item(), rel=0.15), name
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Auto classes and remote code ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MEKForImageClassification]:
    """A folder as it goes to the Hub, with the code beside the weights."""
    folder = tmp_path_factory.mktemp("releases") / "mek"
    folder.mkdir()
    model = build()
    registered = MEKConfig._auto_class, MEKForImageClassification._auto_class
    try:
        save_release(model, build_processor(model.config.image_size), folder)
    finally:
        MEKConfig._auto_class, MEKForImageClassification._auto_class = registered
    return folder, model.eval()


def test_auto_classes_need_no_remote_code(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is MEKConfig
    assert type(AutoConfig.for_model("mek")) is MEKConfig
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is MEKForImageClassification
    assert_same_tensors(tensors(loaded), tensors(model))
    assert type(AutoModelForImageClassification.from_config(loaded.config)) is MEKForImageClassification


def test_a_release_loads_with_our_own_code_where_there_is_some(
    release: tuple[Path, MEKForImageClassification],
) -> None:
    folder, model = release
    assert json.loads((folder / "config.json").read_text())["auto_map"] == {
        "AutoConfig": "configuration_mek.MEKConfig",
        "AutoModelForImageClassification": "modeling_mek.MEKForImageClassification",
    }
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    assert type(loaded) is MEKForImageClassification
    assert_same_tensors(tensors(loaded), tensors(model))


REMOTE = """
import json, sys
sys.modules["hf_fer"] = None
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

folder, inputs, photo = sys.argv[1:]
inputs = load_file(inputs)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    logits = model(inputs["pixel_values"]).logits
    losses = model.train()(**inputs).losses
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
try:
    import hf_fer.models
    hidden = False
except ImportError:
    hidden = True
print(json.dumps({
    "hidden": hidden,
    "modules": [type(model).__module__, type(classify.model).__module__, type(model.config).__module__],
    "logits": logits.tolist(),
    "losses": {name: value.item() for name, value in losses.items()},
    "scores": classify(photo, top_k=5),
}))
"""


def test_a_release_works_without_this_package(release: tuple[Path, MEKForImageClassification], tmp_path: Path) -> None:
    folder, model = release
    inputs = {"pixel_values": images_for(model), "labels": torch.tensor(IDS)}
    save_file(inputs, tmp_path / "inputs.safetensors")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8))
    photo.save(tmp_path / "photo.png")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_MODULES_CACHE")}
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            REMOTE,
            str(folder),
            str(tmp_path / "inputs.safetensors"),
            str(tmp_path / "photo.png"),
        ],
        env={**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    there = json.loads(run.stdout.splitlines()[-1])
    assert there["hidden"]
    assert all(module.startswith("transformers_modules.") for module in there["modules"]), there["modules"]

    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        logits = model(inputs["pixel_values"]).logits
        scores = model(**processor(photo, return_tensors="pt")).logits.softmax(1)[0]
        losses = build().train()(**inputs).losses
    torch.testing.assert_close(torch.tensor(there["logits"]), logits, rtol=0, atol=1e-6)
    assert there["losses"] == pytest.approx({name: value.item() for name, value in losses.items()}, rel=1e-5)
    assert {s["label"]: s["score"] for s in there["scores"]} == pytest.approx(
        dict(zip(NAMES, scores.tolist(), strict=True)), abs=1e-6
    )


# Configuration ---------------------------------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")
POINTS = [[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.3, 0.7], [0.7, 0.7]]
MISTAKES: dict[str, list[Any]] = {
    "backbone": [None, "", 18],
    "backbone_kwargs": ["layers", [1, 1]],
    "stem_pool": [None, 1, "yes"],
    "image_size": [None, 0, 7, 4096, 48.0, "48", True, [48, 48]],
    "face_template": [
        "",
        "ffhq",
        5,
        True,
        [[0.5, 0.5]] * 5,
        [[0.1, 0.2]],
        [[0.1, 0.2, 0.3]] * 5,
        [[0, 1.5], *POINTS[1:]],
    ],
    "grayscale": [None, 1],
    "dropout": [None, -0.1, 1, 1.5, "0.1", NAN, True],
    "class_counts": [[1, 2], [1, 2, 3, 4], [1, 2, 0], [1, 2, -3], [1, 2, 3.0], [1, 2, True], [], "123", 3],
    "effective_number_beta": [None, -0.1, 1, 1.0, "0.9", NAN],
    "consistency_weight": [None, -1, "2", NAN, INFINITY, True],
    "rebalance_attention": [None, 0],
    "attention_weighting": [None, "both", "Inside", ["inside"], True],
    "smoothing": [None, -0.1, 1.1, "0.1", NAN],
    "smooth_target": [None, "target", ""],
    "classify_transformed": [None, 1],
    "class_weighting": [None, "balanced", True],
    "transform": [None, "rotate", ""],
    "transform_strength": [None, 0, -0.8, "1", NAN, INFINITY],
}


@pytest.mark.parametrize(
    ("field", "value"), [(f, v) for f, values in MISTAKES.items() for v in values], ids=lambda v: repr(v)
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"MEKConfig: {field} must be .*, got "):
        MEKConfig(**{"num_labels": 3, field: value})


@pytest.mark.parametrize("field", ["transform", "attention_weighting", "image_size", "class_counts"])
def test_a_wrong_field_is_named_at_loading_too(field: str, tmp_path: Path) -> None:
    """transformers sets overrides after construction."""
    build().save_pretrained(tmp_path)
    value = [1, 2] if field == "class_counts" else "wrong"
    with pytest.raises(ValueError, match=rf"MEKConfig: {field} must be .*, got "):
        MEKForImageClassification.from_pretrained(tmp_path, **{field: value})


def test_one_label_is_no_classification() -> None:
    with pytest.raises(ValueError, match="MEKConfig: num_labels must be at least 2, got 1"):
        MEKConfig(num_labels=1)


def test_every_field_is_validated() -> None:
    assert MISTAKES.keys() == MEKConfig.method_fields()


def test_the_edges_are_allowed() -> None:
    MEKConfig(
        num_labels=3,
        image_size=8,
        dropout=0,
        class_counts=[1, 1, 10_000_000],
        effective_number_beta=0,
        consistency_weight=0,
        smoothing=1,
        transform="scale",
        transform_strength=1,
    )


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = configuration("swin", transform="scale", dropout=0.25, grayscale=True)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "mek"
    loaded = MEKConfig.from_pretrained(tmp_path)
    for field in MISTAKES:
        assert getattr(loaded, field) == getattr(config, field), field
    assert loaded.id2label == config.id2label and loaded.num_labels == 5


def test_the_defaults_are_the_papers() -> None:
    config = MEKConfig()
    assert (config.backbone, config.image_size) == ("resnet18", 224)
    assert (config.consistency_weight, config.smoothing, config.effective_number_beta) == (2.0, 0.1, 0.9999)
    assert (config.attention_weighting, config.smooth_target, config.transform) == ("inside", "all", "flip")
    assert config.rebalance_attention and config.classify_transformed and config.class_weighting == "none"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "resnet_of_nobody"}, "'resnet_of_nobody' is not a timm model"),
        ({"backbone": "qwertyuiop"}, "'qwertyuiop' is not a timm model"),
        ({"backbone": "resnet18.nobodys_weights"}, "resnet18.nobodys_weights"),
        ({"backbone_kwargs": {"colour": 3}}, "colour"),
        (
            {"backbone": "swin_tiny_patch4_window7_224", "stem_pool": False, "backbone_kwargs": None},
            "stem_pool",
        ),
    ],
)
def test_an_impossible_backbone_is_explained(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MEKForImageClassification(MEKConfig(**{**BACKBONES["resnet"], **changes}))


def test_create_backbone_reports_its_channels() -> None:
    backbone: Callable[[Tensor], list[Tensor]] = create_backbone("mobilenetv3_small_050", in_chans=1).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(2, 1, 32, 32))
    assert len(maps) == 1 and maps[0].shape == (2, backbone.num_features, 1, 1)
