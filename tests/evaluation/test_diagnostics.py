"""The figures of the methods against slow references, and what is collected from a split."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from hf_fer._auto import METHODS, config_class, model_class
from hf_fer.errors import FerError
from hf_fer.evaluation.diagnostics import collect_diagnostics, summarize
from hf_fer.models import downsample_upsample
from hf_fer.training.export import build_processor

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
FIGURES = {
    "mek": {"map_consistency"},
    "hsac": {"s_A", "s_P", "tau"},
    "grefel": {f"{name}_confidence" for name in ("primary", "anchor", "attentive", "corrected", "final")},
    "neural_resizer": set(),
    "multires": set(),
}
each_method = pytest.mark.parametrize("method", METHODS)


def build(method: str, **changes) -> torch.nn.Module:
    """A tiny model, away from its initialisation: class weights differ, and no figure is at a bound."""
    torch.manual_seed(0)
    config = config_class(method)
    fields = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}, **config.tiny}
    if "class_counts" in config.method_fields():
        fields["class_counts"] = [500, 300, 100, 30, 7]
    model = model_class(method)(config(**{**fields, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def images_for(model: torch.nn.Module, batch: int = 4) -> Tensor:
    size = model.config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def maps_and_logits(model: torch.nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """float64, of a forward pass for these images alone."""
    with torch.no_grad():
        output = model(images, output_attention_maps=True)
    return output.attention_maps.double(), output.logits.double()


# diagnose


@each_method
def test_each_method_has_its_figures_and_each_sample_stands_alone(method):
    model = build(method)
    images, labels = images_for(model), torch.tensor([0, 3, 4, 1])
    figures = model.diagnose(images, labels)
    assert figures.keys() == FIGURES[method] == set(model.diagnostics)
    assert all(model.diagnostics.values())
    for name, values in figures.items():
        assert values.shape == (4,) and values.dtype == torch.float32 and not values.requires_grad, name
        alone = torch.cat([model.diagnose(images[k : k + 1], labels[k : k + 1])[name] for k in range(4)])
        torch.testing.assert_close(alone, values, rtol=1e-3, atol=1e-5, msg=name)


@each_method
def test_diagnosing_is_an_eval_pass_and_leaves_no_trace(method):
    model = build(method)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model.diagnose(images_for(model), torch.arange(4))
    passes = []
    model.backbone.register_forward_hook(lambda module, *_: passes.append(module.training))
    found = model.train().diagnose(images_for(model), torch.arange(4))
    assert model.training and passes == ([False] if FIGURES[method] else [])
    for name, values in found.items():
        assert torch.equal(values, expected[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@each_method
def test_figures_of_a_half_precision_model_are_float32(method):
    model = build(method)
    expected = model.diagnose(images_for(model), torch.arange(4))
    found = model.to(torch.bfloat16).diagnose(images_for(model).to(torch.bfloat16), torch.arange(4))
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.dtype == torch.float32, name
        if name != "tau":  # which jumps
            torch.testing.assert_close(values, expected[name], rtol=0.3, atol=0.15, msg=name)


@pytest.mark.parametrize(
    ("method", "row"), [(method, row) for method in METHODS for row in config_class(method).ablations], ids=str
)
def test_each_row_of_the_papers_can_be_diagnosed(method, row):
    model = build(method, **{**config_class(method).ablations[row], **config_class(method).tiny})
    images = images_for(model, 2)
    figures = model.diagnose(images, torch.arange(2))
    assert figures.keys() <= FIGURES[method]
    assert all(values.shape == (2,) and values.isfinite().all() for values in figures.values())


@each_method
@pytest.mark.parametrize("factor", [0.5, 0, -1, float("nan")])
def test_a_factor_below_one_is_refused(method, factor):
    model = build(method)
    with pytest.raises(ValueError, match="factor must be at least 1"):
        model.diagnose(images_for(model), factor=factor)


@pytest.mark.parametrize("rebalance", [True, False])
def test_mek_map_consistency_by_loops(rebalance):
    model = build("mek", rebalance_attention=rebalance)  # which is the loss's concern alone
    images = images_for(model)
    got = model.diagnose(images)["map_consistency"]
    maps, flipped = maps_and_logits(model, images)[0], maps_and_logits(model, images.flip(-1))[0]
    _, classes, height, width = maps.shape
    for b in range(len(images)):
        total = 0.0
        for k in range(classes):
            for y in range(height):
                for x in range(width):
                    total += (maps[b, k, y, x] - flipped[b, k, y, width - 1 - x]).item() ** 2
        assert got[b].item() == pytest.approx(total / (classes * height * width), rel=1e-4)


def test_mek_figure_is_zero_where_maps_mirror_with_the_image():
    model = build("mek")
    images = images_for(model)
    assert model.diagnose(images)["map_consistency"].min() > 1e-4  # a network like any other can tell
    model.backbone = Symmetric(model.backbone)
    symmetric = (images + images.flip(-1)) / 2
    assert model.diagnose(torch.cat([images, symmetric]))["map_consistency"].max() < 1e-9


class Symmetric(torch.nn.Module):
    """Averages a backbone with its mirrored self."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> list[Tensor]:
        both = zip(self.backbone(images), self.backbone(images.flip(-1)), strict=True)
        return [(one + other.flip(-1)) / 2 for one, other in both]


@pytest.mark.parametrize("transform", ["scale", "intensity"])
def test_mek_with_another_second_view(transform):
    model = build("mek", transform=transform)
    values = model.diagnose(images_for(model))["map_consistency"]
    assert (values > 0).all() and values.isfinite().all()
    same = build("mek", transform=transform, transform_strength=1.0)
    assert same.diagnose(images_for(same))["map_consistency"].max() < 1e-9


@pytest.mark.parametrize("factor", [1.0, 4.0, 1e6])
@pytest.mark.parametrize("criterion", ["both", "hr", "label"])
def test_hsac_figures_by_loops(factor, criterion):
    model = build("hsac", difficulty_criterion=criterion)
    with torch.no_grad():
        model.classifier.weight.mul_(30)  # so that the views are of several classes
    images, labels = images_for(model, 12), torch.arange(12) % 5
    side = max(1, round(64 / factor))
    low = downsample_upsample(images, torch.full((12,), side))
    got = model.diagnose(images, labels, factor)
    maps, logits = maps_and_logits(model, images)
    maps_lr, logits_lr = maps_and_logits(model, low)
    mirrored = maps_and_logits(model, low.flip(-1))[0].flip(-1)
    p, p_lr = logits.softmax(1).tolist(), logits_lr.softmax(1).tolist()
    for b, label in enumerate(labels.tolist()):
        to_hr, to_flip = (maps_lr[b] - maps[b]).abs().sum().item(), (maps_lr[b] - mirrored[b]).abs().sum().item()
        assert got["s_A"][b].item() == pytest.approx(to_flip / (to_flip + to_hr), rel=1e-3, abs=1e-4)
        to_hr = sum(abs(p_lr[b][k] - p[b][k]) for k in range(5))
        to_label = sum(abs(p_lr[b][k] - (k == label)) for k in range(5))
        assert got["s_P"][b].item() == pytest.approx(to_label / (to_label + to_hr), rel=1e-3, abs=1e-3)
        answer, answer_lr = p[b].index(max(p[b])), p_lr[b].index(max(p_lr[b]))
        wrong = {"hr": answer_lr != answer, "label": answer_lr != label}
        assert got["tau"][b].item() == 1 - (wrong["hr"] and wrong["label"] if criterion == "both" else wrong[criterion])
    if factor == 1:  # the low-resolution view is the image: nothing pulls it elsewhere
        assert got["s_A"].min() > 0.99 and got["s_P"].min() > 0.99
        assert criterion == "label" or got["tau"].min() == 1
    if factor == 1e6:
        assert 0 < got["tau"].mean() < 1


def test_hsac_without_labels_or_criterion_or_losses():
    model = build("hsac")
    images = images_for(model)
    unlabelled = model.diagnose(images)
    assert unlabelled.keys() == {"s_A"}
    labels = torch.arange(4)
    full = model.diagnose(images, labels)
    assert torch.equal(unlabelled["s_A"], full["s_A"])
    soft = model.diagnose(images, torch.nn.functional.one_hot(labels, 5).float())
    assert all(torch.equal(soft[name], full[name]) for name in full)
    assert build("hsac", difficulty_criterion="none").diagnose(images, labels)["tau"].tolist() == [1] * 4
    weights = ("combined_attention_weight", "label_distribution_weight", "adversarial_weight")
    baseline = build("hsac", **dict.fromkeys(weights, 0.0))
    assert baseline.diagnose(images, labels).keys() == FIGURES["hsac"]


def test_hsac_figures_are_those_of_training():
    model = build("hsac")
    images, labels = images_for(model), torch.arange(4)
    low = downsample_upsample(images, torch.full((4,), 16))
    for module in model.modules():  # training mode for the model itself alone: no batch statistics
        module.training = module is model
    with torch.no_grad():
        output = model(images, labels=labels, pixel_values_lr=low)
    figures = model.diagnose(images, labels, 4)
    torch.testing.assert_close(figures["s_A"], output.s_a)
    torch.testing.assert_close(figures["s_P"], output.s_p)
    torch.testing.assert_close(figures["tau"], output.tau)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["primary", "anchor", "attentive", "corrected", "final"]),
        ({"attentive_correction": False}, ["primary", "anchor", "corrected", "final"]),
        ({"attentive_correction": False, "num_anchors": 0}, ["primary", "final"]),
    ],
)
def test_grefel_confidences_are_of_its_distributions(changes, names):
    model = build("grefel", **changes)
    images = images_for(model)
    figures = model.diagnose(images)
    assert figures.keys() == {f"{name}_confidence" for name in names}
    with torch.no_grad():
        output = model(images)
    for name in names:
        for value, p in zip(figures[f"{name}_confidence"], output[f"{name}_distribution"].double(), strict=True):
            entropy = -sum(q * math.log(q) for q in p.tolist() if q > 0)
            assert value.item() == pytest.approx(1 - entropy / math.log(5), abs=1e-5)


# collect_diagnostics


def blots(seed: int, side: int = 24, mode: str = "RGB") -> Image.Image:
    shape = (3, 3, 3) if mode == "RGB" else (3, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def split_of(labels: list[int | None], names: list[str] = NAMES):
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    images = [blots(k, side=20 + k, mode="L" if k % 3 == 0 else "RGB") for k in range(len(labels))]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": images, "label": labels}, features=features)


def collect(model: torch.nn.Module, data, **options) -> dict:
    processor = options.pop("processor", None) or build_processor(model.config.image_size)
    return collect_diagnostics(model, processor, data, progress=False, **options)


@each_method
def test_what_is_collected_is_what_each_image_gives_alone(method):
    model = build(method).train()
    data = split_of([0, 3, 3, 1, 4, 0, 1])
    collected = collect(model, data, batch_size=3, factor=2)
    assert model.training  # restored
    assert not model.classifier._forward_pre_hooks
    assert collected["figures"].keys() == collected["meanings"].keys() == FIGURES[method]
    assert collected["classes"] == NAMES and collected["factor"] == 2.0
    assert collected["labels"].tolist() == [0, 3, 3, 1, 4, 0, 1]
    embeddings = collected["embeddings"]
    assert embeddings.dtype == np.float32 and embeddings.shape == (7, embeddings.shape[1])
    model.eval()
    processor = build_processor(model.config.image_size)
    for row, (image, label) in enumerate(zip(data["image"], data["label"], strict=True)):
        pixels = processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
        for name, values in model.diagnose(pixels, torch.tensor([label]), 2).items():
            assert values.item() == pytest.approx(collected["figures"][name][row], rel=1e-3, abs=1e-4), name
        with torch.no_grad():  # and an embedding is what the classifier makes the logits of
            logits = model(pixels).logits[0]
            from_embedding = model.classifier(torch.from_numpy(embeddings[row : row + 1]))[0]
        if method != "grefel":  # whose answer is corrected by more than the head
            torch.testing.assert_close(from_embedding, logits, rtol=1e-3, atol=1e-4)
        else:
            with torch.no_grad():
                torch.testing.assert_close(
                    torch.from_numpy(embeddings[row]), model(pixels).embeddings[0], rtol=1e-3, atol=1e-4
                )


@each_method
def test_a_split_goes_through_the_backbone_once(method):
    model = build(method)
    batches = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    collect(model, split_of([0, 1, 2, 3, 4]), batch_size=4)
    views = {"mek": 2, "hsac": 3}.get(method, 1)
    assert batches == [4 * views, views]


def test_labels_are_matched_by_name():
    model = build("hsac")
    collected = collect(model, split_of([0, 1, 2, 3, 4, 1]))
    names = ["anger", "sad", "happy", "surprise", "neutral"]
    other = collect(model, split_of([4, 2, 3, 1, 0, 2], names))
    assert other["classes"] == names
    for name in ("s_P", "tau"):
        assert np.array_equal(other["figures"][name], collected["figures"][name])
    with pytest.raises(FerError, match="no class contempt"):
        collect(model, split_of([0, 5], [*NAMES, "contempt"]))
    collect(model, split_of([0, 1], [*NAMES, "contempt"]))  # without an image of it, nothing is missing


def test_any_classifier_has_embeddings():
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    )
    collected = collect(model, split_of([0, 1, 2]), processor=build_processor(32))
    assert collected["figures"] == {} and collected["embeddings"].shape == (3, 16)
    assert summarize(collected)["figures"] == {}


def test_collecting_errors_are_one_sentence():
    model, data = build("mek"), split_of([0, 1, 2])
    with pytest.raises(FerError, match="no images"):
        collect(model, data.select([]))
    with pytest.raises(FerError, match="batch_size=0"):
        collect(model, data, batch_size=0)
    for factor in (0.5, float("nan"), float("inf")):
        with pytest.raises(FerError, match="not a factor of at least 1"):
            collect(model, data, factor=factor)
    with pytest.raises(FerError, match="no column 'label'"):
        collect(model, data.remove_columns("label"))
    with pytest.raises(FerError, match=r"Row 1 of fer \(val\) has the label None"):
        collect(model, split_of([0, None]), dataset_name="fer", split="val")
    with pytest.raises(FerError, match="no module `classifier`"):
        collect_diagnostics(torch.nn.Linear(2, 2), None, data)


@pytest.mark.parametrize("method", ["mek", "hsac", "multires"])
def test_what_is_not_finite_is_never_averaged(method):
    model = build(method).train()
    with torch.no_grad():
        next(model.backbone.parameters())[0].fill_(float("nan"))
    with pytest.raises(FerError, match="of image 0 is not finite"):
        collect(model, split_of([0, 1]))
    assert model.training and not model.classifier._forward_pre_hooks


# summarize


def test_summary_is_means_by_class():
    figures = {"tau": np.array([1.0, 0.0, 1.0, 1.0]), "s_A": np.array([0.1, 0.2, 0.3, 0.6])}
    collected = {
        "figures": figures,
        "meanings": {"tau": "one", "s_A": "two"},
        "labels": np.array([2, 0, 0, 2]),
        "classes": ["a", "b", "c"],
        "factor": 4.0,
    }
    summary = summarize(collected)
    assert summary["n"] == 4 and summary["n_per_class"] == {"a": 2, "b": 0, "c": 2} and summary["factor"] == 4.0
    assert summary["figures"]["tau"] == {
        "meaning": "one",
        "mean": 0.75,
        "per_class": {"a": 0.5, "b": None, "c": 1.0},
    }
    assert summary["figures"]["s_A"]["mean"] == pytest.approx(0.3)
    assert summary["figures"]["s_A"]["per_class"]["a"] == pytest.approx(0.25)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
