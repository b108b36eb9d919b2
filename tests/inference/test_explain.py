"""Maps: exact, or as an independent loop computes them; the model left as it was; the picture legible."""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_fer._auto import config_class, model_class
from hf_fer.checkpoints.loading import load_classifier
from hf_fer.errors import FerError
from hf_fer.inference.explain import (
    Explanation,
    ResolutionExplanation,
    _captured,
    _moved_back,
    explain_resolutions,
    expression_maps,
    seen_image,
)
from hf_fer.inference.explain_plot import (
    _blend,
    choose_classes,
    class_heats,
    normalized_maps,
    overlay,
    plot_explanation,
)
from hf_fer.inference.rollout import AttentionRecorder, attention_rollout, gradient_rollout
from hf_fer.training.export import build_processor

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
SHARED = Path(os.environ.get("HF_FER_SHARED", Path(__file__).parents[2].parent / "shared"))  # beside the repository
VALIDATION = SHARED / "data" / "ferplus" / "validation-00000-of-00001.parquet"
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: k for k, name in enumerate(NAMES)}}
VIT = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
RESIZER_BACKBONES = {
    "swin": {},
    "vit": {"backbone": "vit_tiny_patch16_224", "backbone_kwargs": VIT},
    "vit_average": {
        "backbone": "vit_tiny_patch16_224",
        "backbone_kwargs": {**VIT, "class_token": False, "global_pool": "avg", "fc_norm": False, "final_norm": False},
    },
    "deit_distilled": {"backbone": "deit_tiny_distilled_patch16_224", "backbone_kwargs": VIT},
    "convit": {
        "backbone": "convit_tiny",
        "backbone_kwargs": {**VIT, "embed_dim": 4, "local_up_to_layer": 2},
    },
    "xcit": {
        "backbone": "xcit_nano_12_p16_224",
        "backbone_kwargs": {"embed_dim": 32, "depth": 2, "num_heads": 2, "cls_attn_layers": 1},
        "backbone_image_size": 64,
    },
}


def build(method: str, **changes: Any) -> nn.Module:
    """A tiny model whose every tensor differs from any default."""
    torch.manual_seed(0)
    config = config_class(method)
    model = model_class(method)(config(**{**LABELS, **config.tiny, **changes})).eval()
    return disturb(model)


def disturb(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def resizer(kind: str, **changes: Any) -> nn.Module:
    return build("neural_resizer", **{**RESIZER_BACKBONES[kind], **changes})


def stock(kind: str) -> nn.Module:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    patches = {"image_size": 32, "patch_size": 8}
    if kind == "vit":
        model = ViTForImageClassification(ViTConfig(**small, **patches, **LABELS))
    elif kind == "deit":
        model = DeiTForImageClassification(DeiTConfig(**small, **patches, **LABELS))
    elif kind == "deit_teacher":
        model = DeiTForImageClassificationWithTeacher(DeiTConfig(**small, **patches, **LABELS))
    elif kind == "swin":
        model = SwinForImageClassification(
            SwinConfig(
                image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, **LABELS
            )
        )
    else:
        model = ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **LABELS)
        )
    return disturb(model.eval())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mek": lambda: build("mek"),
    "hsac": lambda: build("hsac"),
    "multires": lambda: build("multires"),
    "grefel": lambda: build("grefel"),
    **{f"resizer {kind}": lambda kind=kind: resizer(kind) for kind in RESIZER_BACKBONES},
    **{f"stock {kind}": lambda kind=kind: stock(kind) for kind in ("vit", "deit", "swin", "resnet")},
}
METHOD = {
    "mek": "cam",
    "hsac": "cam",
    "multires": "cam",
    "grefel": "gradient_rollout",
    "resizer swin": "cam",
    "resizer vit": "gradient_rollout",
    "resizer vit_average": "cam",
    "resizer deit_distilled": "gradient_rollout",
    "resizer convit": "gradient_rollout",
    "resizer xcit": "gradcam",
    "stock vit": "gradient_rollout",
    "stock deit": "gradient_rollout",
    "stock swin": "gradcam",
    "stock resnet": "gradcam",
}
each_model = pytest.mark.parametrize("name", MODELS)


def pixels_of(model: nn.Module, count: int = 2) -> Tensor:
    side = getattr(model.config, "image_size", 64)
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def drawn_face(size: int = 90) -> Image.Image:
    image = Image.new("RGB", (size, size), "#446688")
    draw = ImageDraw.Draw(image)
    draw.ellipse([size * 0.15, size * 0.05, size * 0.85, size * 0.95], fill="#e0b090")
    for x in (0.37, 0.63):
        draw.ellipse([size * (x - 0.05), size * 0.35, size * (x + 0.05), size * 0.45], fill="#222222")
    draw.arc([size * 0.3, size * 0.45, size * 0.7, size * 0.8], 20, 160, fill="#802020", width=max(1, size // 24))
    return image


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, Any]:
    return load_classifier(device="cpu")


@pytest.fixture(scope="module")
def explained(embedded: tuple[Any, Any]) -> ResolutionExplanation:
    return explain_resolutions(*embedded, drawn_face())


# --- every kind of network --------------------------------------------------------------------------------------------


@each_model
def test_every_network_gets_the_map_that_fits_it_and_keeps_its_answer(name: str) -> None:
    model = MODELS[name]()
    pixels = pixels_of(model)
    with torch.no_grad():
        logits = model(pixels).logits
    found = expression_maps(model, pixels)
    assert found.method == METHOD[name]
    assert found.labels == tuple(NAMES) and found.classes == (0, 1, 2, 3, 4)
    assert found.maps.dtype == torch.float32 and found.maps.shape[:2] == (2, 5)
    assert found.maps.shape[2] == found.maps.shape[3] >= 2
    assert not found.maps.requires_grad and not found.probabilities.requires_grad
    torch.testing.assert_close(found.probabilities, logits.softmax(1), rtol=1e-4, atol=1e-6)
    # Of another class another map, of another face another map.
    assert not torch.allclose(found.maps[:, 0], found.maps[:, 1], rtol=1e-3)
    assert not torch.allclose(found.maps[0], found.maps[1], rtol=1e-3)


@each_model
def test_a_face_has_its_own_map_whoever_stands_beside_it_and_whichever_classes_are_asked_for(name: str) -> None:
    model = MODELS[name]()
    pixels = pixels_of(model, 3)
    together = expression_maps(model, pixels).maps
    alone = expression_maps(model, pixels[1:2], classes=[4, 2])
    assert alone.classes == (4, 2)
    torch.testing.assert_close(
        alone.maps, together[1:2, [4, 2]], rtol=1e-3, atol=1e-6 * float(together.abs().max() + 1)
    )


@each_model
def test_the_model_is_left_as_it_was_found(name: str) -> None:
    model = MODELS[name]()
    pixels = pixels_of(model)
    expected = model(pixels).logits.detach()
    next(model.children()).train()  # an odd state, to be kept
    next(model.parameters()).requires_grad_(False)
    before = snapshot(model)
    with torch.no_grad():
        first = expression_maps(model, pixels)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        second = expression_maps(model, pixels.clone())
        assert torch.is_inference_mode_enabled()
    after = snapshot(model)
    if METHOD[name] == "gradcam" and name == "stock swin":  # transformers' own hooks, see the docstring
        before.pop("hooks"), after.pop("hooks")
    assert before == after
    assert pixels.grad is None and not pixels.requires_grad
    torch.testing.assert_close(first.maps, second.maps)
    torch.testing.assert_close(model.eval()(pixels).logits.detach(), expected, rtol=0, atol=0)


def snapshot(model: nn.Module) -> dict[str, Any]:
    modules = dict(model.named_modules())
    return {
        "mode": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for name, m in modules.items()
        },
        "fused": {name: getattr(module, "fused_attn", None) for name, module in modules.items()},
        "forward": {name: "forward" in vars(module) for name, module in modules.items()},
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [parameter.grad is None for parameter in model.parameters()],
        "values": {name: hash(value.detach().numpy().tobytes()) for name, value in model.state_dict().items()},
    }


def test_a_model_without_trainable_parameters_is_explained_alike() -> None:
    model = resizer("vit")
    pixels = pixels_of(model)
    expected = expression_maps(model, pixels).maps
    torch.testing.assert_close(expression_maps(model.requires_grad_(False), pixels).maps, expected)


def test_threads_explain_and_predict_with_one_model() -> None:
    model = resizer("vit").train()
    calm = resizer("vit")
    pixels = pixels_of(model)
    expected, logits = expression_maps(calm, pixels).maps, calm(pixels).logits.detach()
    results: list[bool] = []

    def explain() -> None:
        results.append(torch.allclose(expression_maps(model, pixels).maps, expected, rtol=1e-3, atol=1e-7))

    def predict() -> None:
        with torch.no_grad():
            results.append(all(torch.allclose(calm(pixels).logits, logits, atol=1e-5) for _ in range(5)))

    threads = [threading.Thread(target=job) for job in (explain, predict) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8
    assert model.training and all(module.training for module in model.modules())


# --- class activation maps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, method in METHOD.items() if method == "cam"])
def test_class_activation_maps_add_up_to_the_logits(name: str) -> None:
    model = MODELS[name]()
    pixels = pixels_of(model)
    if model.config.model_type == "neural_resizer":  # where its spatial transformer moves the face, sums are not kept
        model.spatial_transformer = nn.Identity()
    maps = expression_maps(model, pixels).maps
    rebuilt = [[sum(plane.flatten().tolist()) / plane.numel() for plane in face] for face in maps]
    bias = model.classifier.bias.detach()
    torch.testing.assert_close(torch.tensor(rebuilt) + bias, model(pixels).logits.detach(), rtol=1e-4, atol=1e-4)


def drop_by_erasing(model: Any, pixels: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """How far the answers' logits fall, above the others' mean, without the most and the least of their evidence."""
    found = expression_maps(model, pixels)
    answer = found.probabilities.argmax(dim=1)
    order = found.maps[torch.arange(len(pixels)), answer].flatten(1).argsort(dim=1)
    side, cell = found.maps.shape[-1], pixels.shape[-1] // found.maps.shape[-1]

    def height(images: Tensor) -> Tensor:
        logits = model(images).logits.detach()
        return logits.gather(1, answer[:, None])[:, 0] - logits.mean(dim=1)

    def without(cells: Tensor) -> Tensor:
        mask = torch.zeros(len(pixels), side * side).scatter(1, cells, 1).view(-1, 1, side, side)
        mask = mask.repeat_interleave(cell, dim=2).repeat_interleave(cell, dim=3)
        return height(torch.where(mask > 0, pixels.mean(dim=(2, 3), keepdim=True), pixels))

    return height(pixels) - without(order[:, -places:]), height(pixels) - without(order[:, :places])


def test_erasing_where_the_evidence_lies_costs_most_on_a_photograph(embedded: tuple[Any, Any]) -> None:
    model, processor = embedded
    data = pytest.importorskip("skimage.data", reason="the astronaut's photograph comes with scikit-image")
    face = Image.fromarray(data.astronaut()).crop((165, 55, 285, 175))
    most, least = drop_by_erasing(model, processor(images=face, return_tensors="pt")["pixel_values"], 12)
    assert most > 0.5 and least < 0.5


@pytest.mark.skipif(not VALIDATION.is_file(), reason="needs FERPlus' Parquet in shared/data/ferplus, see above")
def test_erasing_where_the_evidence_lies_costs_most_on_ferplus(embedded: tuple[Any, Any]) -> None:
    from pyarrow.parquet import ParquetFile

    model, processor = embedded
    # Straight from the file: the data set as such, with its votes and checks, is other tests' business.
    rows = next(ParquetFile(VALIDATION).iter_batches(60, columns=["image"]))["image"].to_pylist()
    images = [Image.open(io.BytesIO(row["bytes"])).convert("RGB") for row in rows]
    most, least = drop_by_erasing(model, processor(images=images, return_tensors="pt")["pixel_values"], 12)
    assert float((most > least).float().mean()) > 0.85
    assert float(most.mean()) > 4 * float(least.mean())


# --- rollout against plain loops --------------------------------------------------------------------------------------


def roll_by_loops(attentions: list[Any], readout: list[float], gradients: list[Any] | None = None) -> list[float]:
    """The whole matrix product of Abnar and Zuidema, or Chefer et al., for one face, in Python's float64."""
    size = len(readout)
    total = [[float(i == j) for j in range(size)] for i in range(size)]
    for block, heads in enumerate(attentions):
        late = size - len(heads[0])
        matrix = [[float(i == j) for j in range(size)] for i in range(size)]
        for i in range(size - late):
            for j in range(size - late):
                values = [head[i][j] for head in heads]
                if gradients is not None:
                    slopes = [head[i][j] for head in gradients[block]]
                    values = [max(0.0, a * g) for a, g in zip(values, slopes, strict=True)]
                mean = sum(values) / len(values)
                same = matrix[i + late][j + late]
                matrix[i + late][j + late] = same + mean if gradients is not None else 0.5 * same + 0.5 * mean
        total = [[sum(matrix[i][k] * total[k][j] for k in range(size)) for j in range(size)] for i in range(size)]
    return [sum(readout[i] * total[i][j] for i in range(size)) for j in range(size)]


@pytest.mark.parametrize("late", [0, 1])
def test_rollouts_are_those_of_a_plain_loop(late: int) -> None:
    generator = torch.Generator().manual_seed(3)
    sizes = [6 - late, 6 - late, 6]
    attentions = [torch.randn(2, 3, n, n, generator=generator).softmax(-1).double() for n in sizes]
    gradients = [torch.randn(2, 3, n, n, generator=generator).double() for n in sizes]
    readout = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    plain = attention_rollout(attentions, readout)
    weighted = gradient_rollout(attentions, gradients, readout)
    for b in range(2):
        one, slopes = [a[b].tolist() for a in attentions], [g[b].tolist() for g in gradients]
        assert plain[b].tolist() == pytest.approx(roll_by_loops(one, readout.tolist()), rel=1e-12)
        assert weighted[b].tolist() == pytest.approx(roll_by_loops(one, readout.tolist(), slopes), rel=1e-12)
    assert plain.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])


def written_out_attention(model: nn.Module, pixels: Tensor, k: int) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and gradients by another way: fused attention off, kept by hooks on the dropouts, `backward`."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handles = []
    for name, module in model.named_modules():
        if name.endswith("attn_drop") and (".blocks." in name):
            handles.append(module.register_forward_hook(keep))
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    model(pixels.clone().requires_grad_()).logits[:, k].sum().backward()
    for handle in handles:
        handle.remove()
    return [a.detach().double() for a in kept], [a.grad.double() for a in kept]


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        ("resizer vit", lambda n: [1.0] + [0.0] * (n - 1)),
        ("resizer deit_distilled", lambda n: [0.5, 0.5] + [0.0] * (n - 2)),
        ("resizer convit", lambda n: [1.0] + [0.0] * (n - 1)),
        ("grefel", lambda n: [1.0] + [0.0] * (n - 1)),
    ],
)
def test_maps_of_class_tokens_are_the_rollout_of_what_the_blocks_attend_to(
    name: str, readout: Callable[[int], list[float]]
) -> None:
    model = MODELS[name]()
    if hasattr(model, "spatial_transformer"):
        model.spatial_transformer = nn.Identity()
    pixels = pixels_of(model)
    k = 3
    weighted = expression_maps(model, pixels, classes=[k])
    plain = expression_maps(model, pixels, classes=[k, 0], method="rollout")
    assert (weighted.method, plain.method) == ("gradient_rollout", "rollout")
    assert torch.equal(plain.maps[:, 0], plain.maps[:, 1])  # it knows no classes
    weights, gradients = written_out_attention(model, pixels, k)
    rows = readout(weights[-1].shape[-1])
    for b in range(2):
        one, slopes = [a[b].tolist() for a in weights], [g[b].tolist() for g in gradients]
        for found, expected in (
            (weighted, roll_by_loops(one, rows, slopes)),
            (plain, roll_by_loops(one, rows)),
        ):
            patches = expected[sum(r > 0 for r in rows) :]
            if name == "grefel":  # three levels of tokens
                third = len(patches) // 3
                patches = [sum(patches[i + level * third] for level in range(3)) for i in range(third)]
            assert found.maps[b, 0].flatten().tolist() == pytest.approx(patches, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(("kind", "heads"), [("vit", 1), ("deit_teacher", 2)])
def test_stock_transformers_give_one_rollout_however_their_attention_is_computed(kind: str, heads: int) -> None:
    model = stock(kind)
    pixels = pixels_of(model)
    fused = expression_maps(model, pixels)
    model.set_attn_implementation("eager")
    written = expression_maps(model, pixels)
    torch.testing.assert_close(fused.maps, written.maps, rtol=1e-4, atol=1e-8)
    with torch.no_grad():
        attentions = [a.double() for a in model(pixels, output_attentions=True).attentions]
    plain = expression_maps(model, pixels, method="rollout").maps
    readout = [1 / heads] * heads + [0.0] * 16
    for b in range(2):
        expected = roll_by_loops([a[b].tolist() for a in attentions], readout)[heads:]
        assert plain[b, 0].flatten().tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("mask", [None, "flags", "numbers"])
def test_spelt_out_attention_answers_as_the_fused_kernel_does(mask: str | None) -> None:
    generator = torch.Generator().manual_seed(4)
    query, key, value = torch.randn(3, 2, 3, 5, 8, generator=generator)
    mask_tensor = None
    if mask is not None:
        mask_tensor = torch.rand(5, 5, generator=generator) > 0.3
        mask_tensor.fill_diagonal_(True)
        mask_tensor = mask_tensor if mask == "flags" else torch.randn(5, 5, generator=generator)
    attend = nn.functional.scaled_dot_product_attention
    for scale in (None, 0.3):
        expected = attend(query, key, value, attn_mask=mask_tensor, scale=scale)
        with AttentionRecorder() as recorder:
            found = attend(query, key, value, attn_mask=mask_tensor, scale=scale)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(recorder.weights[0] @ value, expected)
    with AttentionRecorder() as recorder:  # not self-attention of a whole sequence: left to the kernel
        attend(query[:, :, :1], key, value)
        attend(query, key, value, is_causal=True)
    assert recorder.weights == []


# --- Grad-CAM ---------------------------------------------------------------------------------------------------------


def test_grad_cam_of_a_pooled_network_is_its_positive_class_activation_map() -> None:
    model = stock("resnet")
    pixels = pixels_of(model)
    maps = expression_maps(model, pixels).maps
    with torch.no_grad():
        features = model(pixels, output_hidden_states=True).hidden_states[-1]
    weight = model.classifier[1].weight.detach()
    cam = torch.einsum("kc,bchw->bkhw", weight, features).clamp_min(0) / features[0, 0].numel()
    torch.testing.assert_close(maps, cam, rtol=1e-4, atol=1e-6)


def test_grad_cam_of_class_attention_reads_the_last_patches_that_anybody_reads() -> None:
    model = resizer("xcit", spatial_transformer=False)
    pixels = pixels_of(model, 1)
    kept: list[Tensor] = []
    model.backbone.body.blocks[-1].register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = model(pixels).logits
    (gradient,) = torch.autograd.grad(logits[0, 2], kept[0])
    expected = (gradient.mean(1, keepdim=True) * kept[0]).sum(2).clamp_min(0).view(4, 4).detach()
    torch.testing.assert_close(expression_maps(model, pixels).maps[0, 2], expected, rtol=1e-3, atol=1e-7)


def test_what_another_thread_computes_meanwhile_is_not_taken_for_this_ones() -> None:
    module = nn.Linear(2, 2)
    with _captured(module) as outputs:
        other = threading.Thread(target=module, args=(torch.ones(1, 2),))
        other.start()
        other.join()
        assert outputs == []
        own = module(torch.zeros(1, 2))
    assert len(outputs) == 1 and outputs[0] is own
    module(torch.zeros(1, 2))
    assert len(outputs) == 1


def test_a_network_without_feature_maps_is_refused_in_a_sentence() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 5)
            self.config = ViTConfig(model_type="blind", **LABELS)
            self.device, self.dtype = torch.device("cpu"), torch.float32

        def forward(self, pixel_values: Tensor, **_: Any) -> dict[str, Any]:
            from transformers.modeling_outputs import ImageClassifierOutput

            return ImageClassifierOutput(logits=self.linear(pixel_values.flatten(1)))

    with pytest.raises(FerError, match="a Blind shows no feature maps"):
        expression_maps(Blind(), torch.randn(1, 3, 2, 2))


# --- where a spatial transformer moved the face -----------------------------------------------------------------------


def test_a_map_goes_back_to_where_the_face_was_before_it_was_moved() -> None:
    model = resizer("vit")
    model.spatial_transformer.localization[-1].weight.data.zero_()
    # What stands at x = 0.4 and y = 0.3 (right of the middle and below it) comes to the middle, y is stretched by 0.7.
    change = torch.tensor([0.0, 0.0, 0.4, 0.0, -0.3, 0.3])
    model.spatial_transformer.localization[-1].bias.data = 0.5 * torch.atanh(change / 0.5)
    pixels = pixels_of(model, 1)
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 1, 3:5] = 1  # x about 0, y about -0.62
    back = _moved_back(maps, model, pixels)[0, 0]
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, back.shape[0]), torch.linspace(-1, 1, back.shape[1]), indexing="ij")
    assert float((back * xs).sum() / back.sum()) == pytest.approx(0.4, abs=0.06)
    assert float((back * ys).sum() / back.sum()) == pytest.approx(-0.62 * 0.7 + 0.3, abs=0.06)
    model.spatial_transformer.localization[-1].bias.data.zero_()
    assert torch.equal(_moved_back(maps, model, pixels), maps)  # not moved: not resampled
    model.spatial_transformer.localization[-1].bias.data = 1e4 * torch.tensor([-1.0, 1.0, 0.0, 1.0, -1.0, 0.0])
    assert not _moved_back(maps, model, pixels).any()  # flattened to a line: no way back


# --- GReFEL's distributions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"primary", "anchor", "attentive", "corrected", "final"}),
        ({"num_anchors": 0}, {"primary", "attentive", "corrected", "final"}),
        ({"num_anchors": 0, "attentive_correction": False}, {"primary", "final"}),
    ],
)
def test_grefel_tells_its_distributions_apart(changes: dict[str, Any], names: set[str]) -> None:
    model = build("grefel", **changes)
    pixels = pixels_of(model)
    found = expression_maps(model, pixels)
    with torch.no_grad():
        output = model(pixels)
    assert set(found.extra) == names | {f"{name}_confidence" for name in names}
    for name in names:
        torch.testing.assert_close(found.extra[name], output[f"{name}_distribution"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            found.extra[f"{name}_confidence"], output[f"{name}_confidence"], rtol=1e-3, atol=1e-5
        )
    torch.testing.assert_close(found.extra["final"], found.probabilities, rtol=1e-4, atol=1e-6)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_explained_is_refused_in_a_sentence() -> None:
    model = build("mek")
    pixels = pixels_of(model)
    with pytest.raises(FerError, match="'lime' is no method of explanation; choose of cam"):
        expression_maps(model, pixels, method="lime")
    with pytest.raises(FerError, match="has no 'rollout' maps; choose 'cam'"):
        expression_maps(model, pixels, method="rollout")
    for classes, words in (
        ([0, 5], "no class 5"),
        ([-1], "no class -1"),
        (["anger"], "'anger' is no class id"),
        ([], "name 1 to 100"),
        ([0] * 101, "name 1 to 100"),
    ):
        with pytest.raises(FerError, match=words):
            expression_maps(model, pixels, classes=classes)
    with pytest.raises(FerError, match=r"cannot explain pixel_values of shape \(2, 3, 5\)"):
        expression_maps(model, torch.zeros(2, 3, 5))
    with pytest.raises(FerError, match=r"cannot explain pixel_values of shape \(1, 3, 32, 32\)"):
        expression_maps(build("grefel"), torch.zeros(1, 3, 32, 32))
    with pytest.raises(FerError, match="not a number"):
        expression_maps(model, pixels * math.nan)
    with torch.no_grad():
        model.classifier.weight[0, 0] = math.inf
    with pytest.raises(FerError, match="not a number"):
        expression_maps(model, pixels)
    assert not model.training  # a refusal leaves it as it was, too


# --- one face at several resolutions ----------------------------------------------------------------------------------


def test_resolutions_are_the_protocols_and_counted_from_the_networks_input(embedded: tuple[Any, Any]) -> None:
    from hf_fer.data.resolution import degrade_image

    model, processor = embedded
    face = drawn_face(200)
    found = explain_resolutions(model, processor, face, factors=(1, 2, 2.5, 8))
    assert found.factors == (1.0, 2.0, 2.5, 8.0)
    assert (found.reference_side, found.source_side) == (48, 200)
    for factor, image, probabilities in zip(found.factors, found.images, found.explanation.probabilities, strict=True):
        degraded = degrade_image(face, factor, reference_side=48)
        assert image.size == (48, 48) and image.mode == "RGB"
        # It is trained on luminance: what it sees is grey.
        difference = np.abs(np.asarray(image, dtype=int)[..., 0] - np.asarray(degraded.convert("L"), dtype=int))
        assert difference.max() <= 1
        pixels = processor(images=degraded, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(probabilities, model(pixels).logits.softmax(1)[0].detach(), rtol=1e-4, atol=1e-5)


def test_faces_of_any_mode_and_shape_are_explained(embedded: tuple[Any, Any]) -> None:
    for image in (
        drawn_face(9),
        drawn_face().convert("L"),
        drawn_face().convert("RGBA"),
        drawn_face().resize((31, 120)),
    ):
        found = explain_resolutions(*embedded, image, factors=[1])
        assert found.explanation.maps.shape[0] == 1 and found.source_side == min(image.size)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ([], "0 resolution factors"),
        ([1] * 17, "17 resolution"),
        ([0.5], "0.5"),
        ([math.nan], "nan"),
        ([math.inf], "inf"),
    ],
)
def test_factors_that_are_none_are_refused(embedded: tuple[Any, Any], factors: list[float], words: str) -> None:
    with pytest.raises(FerError, match=words):
        explain_resolutions(*embedded, drawn_face(), factors=factors)


def test_what_the_network_sees_is_shown_without_what_the_processor_cut_off() -> None:
    processor = build_processor(64, resize_size=72, image_mean=(0.6, 0.5, 0.4), image_std=(0.2, 0.3, 1 / 255))
    face = drawn_face(144)
    pixels = processor(images=face, return_tensors="pt")["pixel_values"][0]
    seen = np.asarray(seen_image(pixels, processor), dtype=int)
    expected = np.asarray(face.resize((72, 72), Image.Resampling.BICUBIC).crop((4, 4, 68, 68)), dtype=int)
    assert np.abs(seen - expected).mean() < 1.5
    grey = np.asarray(seen_image(pixels, processor, grayscale=True))
    assert (grey == grey[..., :1]).all()


# --- the picture ------------------------------------------------------------------------------------------------------


def texts_of(figure: Any) -> list[str]:
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_the_picture_says_what_it_shows(explained: ResolutionExplanation, tmp_path: Path) -> None:
    path = tmp_path / "new" / "face.png"
    figure = plot_explanation(explained, path, top=3)
    with Image.open(path) as image:
        assert image.width > 900 and image.height > 1000
        assert len(image.convert("RGB").getcolors(1 << 24)) > 1000
    texts = texts_of(figure)
    assert "default: where the evidence lies" in texts
    for factor, side in ((1, 48), (2, 24), (4, 12), (8, 6)):
        assert f"×{factor}  ·  {side} px" in texts  # noqa: RUF001
    note = next(text for text in texts if text.startswith("Maps:"))
    assert "class activation maps" in note and "scaled by its own largest value" in " ".join(note.split())
    assert "not what anybody feels" in note
    for row in explained.explanation.probabilities:
        percent = round(100 * float(row.max()))
        answer = explained.explanation.labels[int(row.argmax())]
        assert f"{answer} {percent} %" in texts or (percent == 100 and f"{answer} >99 %" in texts)
    assert "<1 %" in texts and "0 %" not in texts and "100 %" not in texts  # no certainty is drawn


def test_nothing_in_the_picture_overlaps_or_leaves_it(explained: ResolutionExplanation) -> None:
    from matplotlib.text import Text

    for figure in (plot_explanation(explained), plot_explanation(only_first(explained), top=8)):
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        boxes = [
            (text.get_text(), text.get_window_extent(renderer))
            for text in figure.findobj(Text)
            if text.get_text().strip() and text.get_visible()
        ]
        width, height = figure.canvas.get_width_height()
        for i, (name, box) in enumerate(boxes):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, name
            for other, beside in boxes[i + 1 :]:
                overlap = min(box.x1, beside.x1) - max(box.x0, beside.x0) > 1
                assert not (overlap and min(box.y1, beside.y1) - max(box.y0, beside.y0) > 1), (name, other)


def only_first(explained: ResolutionExplanation) -> ResolutionExplanation:
    whole = explained.explanation
    one = Explanation(whole.maps[:1], whole.method, whole.probabilities[:1], whole.labels, whole.classes)
    return ResolutionExplanation((1.0,), explained.images[:1], one, 48, 24, "one")


def test_a_face_that_was_enlarged_is_called_so(explained: ResolutionExplanation) -> None:
    texts = texts_of(plot_explanation(only_first(explained)))
    assert "×1  ·  24 px, enlarged" in texts  # noqa: RUF001


def test_grefels_bars_show_the_distribution_before_and_after_its_correction() -> None:
    model = build("grefel")
    found = explain_resolutions(model, build_processor(64), drawn_face(), factors=(1, 4))
    figure = plot_explanation(found, top=2)
    texts = texts_of(figure)
    assert {"primary", "corrected", "final"} <= set(texts)
    drawn = [bar.get_width() for axes in figure.axes for bar in axes.patches]
    for name in ("primary", "corrected", "final"):
        for value in found.explanation.extra[name].flatten().tolist():
            assert any(abs(value - width) < 1e-6 for width in drawn)
    confidence = found.explanation.extra["primary_confidence"][0]
    assert any(f"primary {confidence:.2f}" in text for text in texts)


HOSTILE = ["$\\frac{1}{", "\x1b[31mred", "<b>" * 500, "happy_$x$", "\u202eabc"]


def test_names_from_outside_are_drawn_as_they_are_or_cut(explained: ResolutionExplanation, tmp_path: Path) -> None:
    whole = explained.explanation
    maps, probabilities = whole.maps[:, :5], whole.probabilities[:, :5]
    hostile = Explanation(maps, "cam", probabilities, tuple(HOSTILE), (0, 1, 2, 3, 4))
    shown = ResolutionExplanation(explained.factors, explained.images, hostile, 48, 90, "$\\bad{" * 90)
    figure = plot_explanation(shown, tmp_path / "hostile.png", top=1)
    assert (tmp_path / "hostile.png").stat().st_size > 10_000
    assert all(len(text) < 300 and "\x1b" not in text and "\u202e" not in text for text in texts_of(figure))


def test_many_classes_leave_a_picture_of_the_probable_ones(explained: ResolutionExplanation) -> None:
    whole = explained.explanation
    many = torch.full((4, 200), 0.001)
    many[:, 150] = 0.8
    names = tuple(f"class {k}" for k in range(200))
    wide = Explanation(whole.maps[:, :2], "gradcam", many, names, (150, 7))
    figure = plot_explanation(ResolutionExplanation(explained.factors, explained.images, wide, 48, 90, "m"), top=5)
    assert "class 150" in texts_of(figure) and figure.get_size_inches()[1] < 14


def test_a_plot_that_cannot_be_made_is_refused(explained: ResolutionExplanation, tmp_path: Path) -> None:
    with pytest.raises(FerError, match="top=0"):
        plot_explanation(explained, top=0)
    (tmp_path / "face.png").write_text("somebody else's")
    for name in ("face.exe", "face", "face.", "face.png/face.png"):
        with pytest.raises(FerError, match="cannot be written"):
            plot_explanation(only_first(explained), tmp_path / name, top=1)
    assert [path.name for path in tmp_path.iterdir()] == ["face.png"]  # matplotlib would add the suffix by itself
    assert (tmp_path / "face.png").read_text() == "somebody else's"


def test_rows_are_the_classes_that_any_resolution_finds_probable() -> None:
    probabilities = np.array([[0.7, 0.2, 0.05, 0.05], [0.1, 0.1, 0.2, 0.6]])
    assert choose_classes(probabilities, (0, 1, 2, 3), 2) == [0, 3]
    assert choose_classes(probabilities, (2, 1), 5) == [1, 2]


def test_a_class_is_scaled_by_its_own_largest_value_at_any_resolution() -> None:
    maps = np.array([[[-4.0, 2.0]], [[1.0, 0.0]]])
    assert normalized_maps(maps).tolist() == [[[0.0, 1.0]], [[0.5, 0.0]]]
    assert normalized_maps(np.array([[[3.0, 2.0]], [[2.5, 2.0]]]), from_zero=False).tolist() == [
        [[1.0, 0.0]],
        [[0.5, 0.0]],
    ]
    assert normalized_maps(np.full((2, 1, 2), -1.0)).tolist() == [[[0.0, 0.0]], [[0.0, 0.0]]]


def test_a_rollout_is_scaled_from_its_smallest_value_and_a_class_activation_map_from_none() -> None:
    maps = torch.tensor([[[[3.0, 2.0]]], [[[2.5, 2.0]]]])
    for method, expected in (
        ("gradient_rollout", [[[1.0, 0.0]], [[0.5, 0.0]]]),
        ("cam", [[[1.0, 2 / 3]], [[2.5 / 3, 2 / 3]]]),
    ):
        explanation = Explanation(maps, method, torch.ones(2, 5) / 5, tuple(NAMES), (3,))
        assert class_heats(explanation, 3) == pytest.approx(np.array(expected))


def test_an_overlay_keeps_the_face_where_there_is_no_evidence_and_puts_the_heat_in_its_place() -> None:
    face = drawn_face(48)
    clean = np.asarray(overlay(face, np.zeros((6, 6))))
    assert clean.shape == (240, 240, 3)
    assert np.array_equal(clean[..., 0], np.asarray(face.convert("L").resize((240, 240), Image.Resampling.NEAREST)))
    heat = np.zeros((6, 6))
    heat[0, 5] = 1  # top right
    hot = np.asarray(overlay(face, heat), dtype=int)
    changed = np.abs(hot - clean).sum(axis=2) > 40
    ys, xs = np.nonzero(changed)
    assert changed[20, 220] and ys.max() < 90 and xs.min() > 150


def test_colours_can_be_told_apart_by_the_colour_blind() -> None:
    """By Machado et al.'s (2009) matrices of protanopia, deuteranopia and tritanopia, on linear RGB."""
    color = pytest.importorskip("skimage.color", reason="the distance of colours comes from scikit-image")
    from matplotlib import colormaps

    ramp = _blend(np.full((6, 1), 0.6), np.linspace(0, 1, 6), colormaps["inferno"])
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    for matrix in (
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = color.rgb2lab(seen[None])[0]
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(6, 1)]
        assert distances.min() > 5  # about twice what an eye just notices
