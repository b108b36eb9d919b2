"""GReFEL as a model: published sizes, every step against plain recomputations, landmarks, loading, config."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_fer.models.configuration_grefel import GReFELConfig
from hf_fer.models.ir50 import IR50, IRUnit
from hf_fer.models.landmark_fusion import FusionTransformer, WindowCrossAttention
from hf_fer.models.losses import anchor_loss
from hf_fer.models.mobilefacenet import MobileFaceNet
from hf_fer.models.modeling_grefel import Anchors, AttentiveCorrection, GReFELForImageClassification
from hf_fer.models.modeling_outputs import GReFELOutput

Numbers = list[float]
Matrix = list[list[float]]

# No two sizes that could stand in for each other are equal.
SMALL: dict[str, Any] = {
    "num_labels": 5,
    "image_size": 64,
    "dims": [8, 12, 16],
    "image_depths": [2, 1, 2],
    "num_heads": [2, 3, 4],
    "embed_dim": 24,
    "vit_depth": 2,
    "vit_heads": 4,
    "head_width": 10,
    "num_anchors": 3,
    "attentive_width": 6,
}
BALANCING = ("without reliability balancing", "anchors", "MHSA", "both")
each_setup = pytest.mark.parametrize("setup", BALANCING)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another test file has imported huggingface_hub already, the environment variable came too late."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def table_2(setup: str) -> dict[str, Any]:
    return GReFELConfig.ablations[f"Table 2: {setup}"]


def randomize(module: nn.Module, scale: float = 0.1, seed: int = 0) -> Any:
    """Every tensor away from any default, so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return module


def build(seed: int = 0, **changes: Any) -> GReFELForImageClassification:
    torch.manual_seed(seed)
    return randomize(GReFELForImageClassification(GReFELConfig(**{**SMALL, **changes})).eval(), 0.05, seed)


def decided(seed: int = 0, **changes: Any) -> GReFELForImageClassification:
    """A model in float64 whose distributions are neither uniform nor one-hot, and all of them different."""
    model = build(seed, **changes).double()
    with torch.no_grad():
        model.classifier[-1].weight.mul_(8)
        if model.attentive is not None:
            model.attentive.classifier.weight.mul_(12)
        if model.anchors is not None:
            model.anchors.weight.mul_(1.5)
    return model


def images_for(model: GReFELForImageClassification, batch: int = 4, seed: int = 1) -> Tensor:
    size = model.config.image_size
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return images.to(model.dtype)


def with_frozen_statistics(model: GReFELForImageClassification) -> GReFELForImageClassification:
    """In training mode, but normalising with running statistics and dropping nothing out."""
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.eval()
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters and of all buffers."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().clone() for name, tensor in named}


def assert_same_tensors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype and torch.equal(actual[name], tensor), name


def parameters_of(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


# Published sizes -------------------------------------------------------------------------------------------


def on_paper(setup: str = "both") -> GReFELForImageClassification:
    with torch.device("meta"):
        return GReFELForImageClassification(GReFELConfig(num_labels=8, **table_2(setup))).eval()


def counted_macs(call: Callable[[], Any]) -> dict[str, int]:
    """Multiply-adds of everything that runs in `call`, by kind."""
    # Of the attention kernels, the plain one is counted by every version of torch.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        call()
    counts = counter.get_flop_counts()["Global"]
    return {str(operator): flops // 2 for operator, flops in counts.items()}


def conv_macs(side: int, inputs: int, outputs: int, kernel: int) -> int:
    """`side` is that of the result."""
    return side * side * inputs * outputs * kernel * kernel


def ir50_macs(config: GReFELConfig) -> int:
    side = config.image_size // 2
    total = conv_macs(side, 3, config.dims[0], 3)
    inputs = config.dims[0]
    for channels, depth in zip(config.dims, config.image_depths, strict=True):
        for unit in range(depth):
            total += conv_macs(side, inputs, channels, 3)  # before the stride
            side //= 2 if unit == 0 else 1
            total += conv_macs(side, channels, channels, 3)
            total += conv_macs(side, inputs, channels, 1) if inputs != channels else 0
            inputs = channels
    return total


def mobilefacenet_macs(config: GReFELConfig) -> int:
    low, middle, _ = config.dims
    side = config.image_size // 4
    total = conv_macs(side, 3, low, 3) + conv_macs(side, 1, low, 3)  # the second is depthwise
    blocks = [(low, low, 2, 2), *[(low, low, 2, 1)] * 4, (low, middle, 4, 2), *[(middle, middle, 2, 1)] * 6]
    blocks += [(middle, middle, 4, 2), *[(middle, middle, 2, 1)] * 2]
    for inputs, outputs, factor, stride in blocks:
        wide = inputs * factor
        total += conv_macs(side, inputs, wide, 1)
        side //= stride
        total += conv_macs(side, 1, wide, 3) + conv_macs(side, wide, outputs, 1)
    return total + conv_macs(side, middle, 2 * config.dims[2], 1)


def attention_macs(tokens: int, width: int) -> int:
    """Scores and weighted sum of all heads together, without the projections."""
    return 2 * tokens * tokens * width


def macs_by_hand(config: GReFELConfig) -> dict[str, int]:
    """Convolutions, matrix products with weights, and products between tokens."""
    sides, width = config.level_sides, config.embed_dim
    (one, two, three), last = config.dims, sides[2]
    convolutions = ir50_macs(config) + mobilefacenet_macs(config) + conv_macs(last, 2 * three, three, 3)
    convolutions += sum(conv_macs(side, dim, dim, 3) for side, dim in zip(sides, config.dims, strict=True))
    convolutions += conv_macs(sides[1], one, width, 3) + conv_macs(last, width, width, 3)
    convolutions += conv_macs(last, two, width, 3) + conv_macs(last, three, width, 1)

    linear, products = 0, 0
    for side, dim, window in zip(sides, config.dims, config.window_sizes or sides, strict=True):
        tokens, windows = side**2, (side // window) ** 2
        linear += window**2 * dim * dim  # queries, of one window
        linear += tokens * dim * (2 + 1 + 4 + 4) * dim
        products += windows * attention_macs(window**2, dim)
    tokens = 3 * last**2 + 1
    linear += config.vit_depth * tokens * width * (3 + 1 + 4 + 4) * width + 2 * width * width
    products += config.vit_depth * attention_macs(tokens, width)
    linear += width * config.head_width + config.head_width**2 + config.head_width * config.num_labels
    if config.attentive_correction:
        piece = config.attentive_width
        pieces = width // piece
        linear += pieces * (piece * 3 * width + width * piece) + width * config.num_labels
        products += attention_macs(pieces, width)
    return {"convolutions": convolutions, "linear": linear, "products": products}


@pytest.mark.parametrize(
    ("setup", "parameters", "macs"),
    [
        ("without reliability balancing", 43.6e6, 8.32e9),
        ("anchors", 43.74e6, 8.36e9),
        ("MHSA", 43.8e6, 8.43e9),
        ("both", 43.84e6, 8.51e9),
    ],
)
def test_table_2s_sizes(setup: str, parameters: float, macs: float) -> None:
    model = on_paper(setup)
    assert parameters_of(model) == pytest.approx(parameters, rel=0.02)
    counted = counted_macs(lambda: model(torch.empty(1, 3, 224, 224, device="meta")))
    assert sum(counted.values()) == pytest.approx(macs, rel=0.05)
    by_hand = macs_by_hand(model.config)
    assert counted.pop("aten.convolution") == by_hand["convolutions"]
    assert counted.pop("aten.bmm") == by_hand["products"]
    assert sum(counted.values()) == by_hand["linear"]


@pytest.mark.parametrize("windows", [None, [4, 2, 1]])
def test_smaller_sizes_are_counted_alike(windows: list[int] | None) -> None:
    model = build(window_sizes=windows)
    counted = counted_macs(lambda: model(images_for(model, batch=1)))
    assert sum(counted.values()) == sum(macs_by_hand(model.config).values())


def test_what_reliability_balancing_costs() -> None:
    """Table 2's own differences: 8·10 anchors of width 768, and 0.2 M for the attention."""
    none, anchors, attention, both = (parameters_of(on_paper(setup)) for setup in BALANCING)
    assert anchors - none == both - attention == 8 * 10 * 768
    assert attention - none == both - anchors == pytest.approx(0.2e6, rel=0.05)
    for count in (1, 4, 6, 8, 10, 20):
        with torch.device("meta"):
            row = GReFELConfig.ablations[f"Table 6: M = {count}"]
            model = GReFELForImageClassification(GReFELConfig(num_labels=8, **row))
        assert parameters_of(model) == attention + 8 * count * 768


def test_the_sizes_of_the_parts() -> None:
    model = on_paper()
    fusion, crossings = model.fusion, model.cross_attentions
    embeddings = (fusion.embed1, fusion.embed2, fusion.embed3)
    tokens = fusion.cls_token.numel() + fusion.pos_embed.numel()
    joining = parameters_of(fusion) - parameters_of(*embeddings)
    attention = parameters_of(*crossings) - parameters_of(*(part for c in crossings for part in (c.mlp, c.mlp_norm)))
    queries = sum(dim * (dim + 1) for dim in (64, 128, 256))  # GReFEL's Eq. 1; POSTER++ has none
    norms = sum(2 * dim for dim in (64, 128, 256))
    million = {
        "three stages of IR-50": (parameters_of(model.backbone), 17.61),
        "MobileFaceNet": (parameters_of(model.landmarks), 0.91),
        "convolution to 256": (parameters_of(model.landmark_conv), 1.18),
        "convolutions of the levels": (parameters_of(model.image_convs), 0.78),
        "cross-attention": (attention - queries - norms, 0.27),
        "its MLPs": (parameters_of(*(crossing.mlp for crossing in crossings)), 0.69),
        "embeddings": (parameters_of(*embeddings), 6.83),
        "transformer and gate": (joining, 15.48),
    }
    for part, (actual, published) in million.items():
        assert actual / 1e6 == pytest.approx(published, abs=0.0101), part
    assert tokens == (1 + 147 + 1) * 768
    heads = (model.classifier, model.anchors, model.attentive)
    counted = sum(actual for actual, _ in million.values()) + queries + norms
    norms_of_mlps = parameters_of(*(crossing.mlp_norm for crossing in crossings))
    assert parameters_of(model) == counted + norms_of_mlps + parameters_of(*heads)


def test_the_levels_at_full_size() -> None:
    model = on_paper()
    seen: dict[str, list[tuple[int, ...]]] = {}
    for name in ("backbone", "landmarks", "fusion.blocks", "cross_attentions.0", *("cross_attentions.1",) * 2):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.update({name: [tuple(tensor.shape) for tensor in given]})
        )
    with torch.no_grad():
        output = model(torch.empty(2, 3, 224, 224, device="meta"), output_hidden_states=True)
    assert seen["backbone"] == seen["landmarks"] == [(2, 3, 112, 112)]
    assert seen["cross_attentions.0"] == [(2, 64, 28, 28)] * 2
    assert seen["cross_attentions.1"] == [(2, 128, 14, 14)] * 2
    assert seen["fusion.blocks"] == [(2, 148, 768)]
    maps = [tuple(level.shape) for level in output.hidden_states]
    assert maps == [(2, 64, 28, 28), (2, 128, 14, 14), (2, 256, 7, 7)]
    assert output.embeddings.shape == (2, 768) and output.logits.shape == (2, 8)
    images = torch.empty(1, 3, 112, 112, device="meta")
    with torch.no_grad():
        assert [tuple(m.shape[1:]) for m in model.backbone(images)] == [(64, 56, 56), (128, 28, 28), (256, 14, 14)]
        assert [tuple(m.shape[1:]) for m in model.landmarks(images)] == [(64, 28, 28), (128, 14, 14), (512, 7, 7)]


@pytest.mark.parametrize("size", [32, 96, 128])
def test_other_image_sizes(size: int) -> None:
    model = build(image_size=size)
    with torch.no_grad():
        output = model(images_for(model, batch=2), output_hidden_states=True)
    assert [level.shape[-1] for level in output.hidden_states] == [size // 8, size // 16, size // 32]
    assert output.logits.isfinite().all()


# Plain numbers ---------------------------------------------------------------------------------------------


def numbers(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.tolist() for name, tensor in module.state_dict().items()}


def linear(x: Numbers, weight: Matrix, bias: Numbers) -> Numbers:
    return [math.fsum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]


def softmax(z: Numbers) -> Numbers:
    powers = [math.exp(value - max(z)) for value in z]
    return [power / math.fsum(powers) for power in powers]


def layer_norm(x: Numbers, weight: Numbers, bias: Numbers, eps: float) -> Numbers:
    mean = math.fsum(x) / len(x)
    variance = math.fsum((v - mean) ** 2 for v in x) / len(x)
    return [(v - mean) / math.sqrt(variance + eps) * w + b for v, w, b in zip(x, weight, bias, strict=True)]


def gelu(v: float) -> float:
    return v * (1 + math.erf(v / math.sqrt(2))) / 2


def added(x: Numbers, y: Numbers) -> Numbers:
    return [a + b for a, b in zip(x, y, strict=True)]


def attend(query: Numbers, keys: Matrix, values: Matrix, heads: int, bias: Matrix | None = None) -> Numbers:
    """One token's answer of all heads side by side; `bias` is one row a key, one column a head."""
    width = len(query) // heads
    result: Numbers = []
    for head in range(heads):
        part = range(head * width, (head + 1) * width)
        scores = [math.fsum(query[c] * key[c] for c in part) / math.sqrt(width) for key in keys]
        if bias is not None:
            scores = [score + row[head] for score, row in zip(scores, bias, strict=True)]
        shares = softmax(scores)
        result += [math.fsum(s * value[c] for s, value in zip(shares, values, strict=True)) for c in part]
    return result


# The trunk, by loops ---------------------------------------------------------------------------------------


def cross_attention_by_loops(module: WindowCrossAttention, image: Tensor, landmarks: Tensor) -> Tensor:
    """Of one sample, (C, H, W) and (C, H', W'), token by token and head by head (GReFEL Eqs. 1–5)."""
    s, window, heads = numbers(module), module.window, module.heads
    channels, height, width = image.shape
    x = {(i, j): image[:, i, j].tolist() for i in range(height) for j in range(width)}
    x = {place: layer_norm(token, s["norm.weight"], s["norm.bias"], 1e-5) for place, token in x.items()}
    inside = [(i, j) for i in range(window) for j in range(window)]
    rows, columns = landmarks.shape[1] // window, landmarks.shape[2] // window
    queries = {}
    for i, j in inside:
        cell = landmarks[:, i * rows : (i + 1) * rows, j * columns : (j + 1) * columns].flatten(1).tolist()
        mean = [math.fsum(channel) / len(channel) for channel in cell]
        queries[i, j] = linear(mean, s["query.weight"], s["query.bias"])

    result = torch.empty(channels, height, width, dtype=torch.float64)
    for top, left in itertools.product(range(0, height, window), range(0, width, window)):
        keys_values = [linear(x[top + i, left + j], s["key_value.weight"], s["key_value.bias"]) for i, j in inside]
        keys, values = [kv[:channels] for kv in keys_values], [kv[channels:] for kv in keys_values]
        for i, j in inside:
            bias = [
                s["position_bias"][(i - k + window - 1) * (2 * window - 1) + (j - m + window - 1)] for k, m in inside
            ]
            attended = attend(queries[i, j], keys, values, heads, bias)
            token = added(x[top + i, left + j], linear(attended, s["project.weight"], s["project.bias"]))
            hidden = layer_norm(token, s["mlp_norm.weight"], s["mlp_norm.bias"], 1e-5)
            hidden = [gelu(v) for v in linear(hidden, s["mlp.0.weight"], s["mlp.0.bias"])]
            token = added(token, linear(hidden, s["mlp.2.weight"], s["mlp.2.bias"]))
            result[:, top + i, left + j] = torch.tensor(token, dtype=torch.float64)
    return result


@pytest.mark.parametrize(
    ("dim", "heads", "window", "image", "landmarks"),
    [
        (6, 2, 3, (3, 3), (3, 3)),  # one window, as in the paper
        (6, 3, 2, (4, 4), (4, 4)),  # 2×2 windows that share their queries
        (4, 1, 3, (3, 6), (9, 6)),  # height and width cannot be taken for each other
        (4, 4, 2, (6, 2), (2, 4)),
        (4, 2, 1, (2, 2), (2, 2)),
    ],
)
def test_cross_attention_matches_the_loops(
    dim: int, heads: int, window: int, image: tuple[int, int], landmarks: tuple[int, int]
) -> None:
    module = randomize(WindowCrossAttention(dim, heads, window).double(), 0.5)
    torch.manual_seed(3)
    maps = torch.randn(2, dim, *image, dtype=torch.float64), torch.randn(2, dim, *landmarks, dtype=torch.float64)
    with torch.no_grad():
        actual = module(*maps)
    for k in range(2):
        expected = cross_attention_by_loops(module, maps[0][k], maps[1][k])
        torch.testing.assert_close(actual[k], expected, rtol=0, atol=1e-12)


def test_windows_do_not_see_each_other_but_share_their_landmarks() -> None:
    module = randomize(WindowCrossAttention(4, 2, 2).double(), 0.5)
    torch.manual_seed(3)
    image, landmarks = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)
    image.requires_grad_()
    landmarks.requires_grad_()
    out = module(image, landmarks)
    for i, j in itertools.product((0, 1), (0, 1)):
        window = slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2)
        seen = torch.autograd.grad(out[..., window[0], window[1]].square().sum(), (image, landmarks), retain_graph=True)
        reached = seen[0].abs().sum(dim=1)[0] > 0
        expected = torch.zeros(4, 4, dtype=torch.bool)
        expected[window] = True
        assert torch.equal(reached, expected)
        assert (seen[1] != 0).all()


def test_relative_positions_alone_decide_the_bias() -> None:
    """Without content, a token's attention to another depends on where the other lies from it."""
    window = 3
    module = randomize(WindowCrossAttention(4, 2, window).double(), 1.0)
    bias = module._bias()
    places = list(itertools.product(range(window), range(window)))
    assert bias.shape == (1, 2, window**2, window**2)
    known: dict[tuple[int, int], Tensor] = {}
    for (q, (i, j)), (k, (m, n)) in itertools.product(enumerate(places), enumerate(places)):
        value = bias[0, :, q, k]
        assert torch.equal(known.setdefault((i - m, j - n), value), value)
    assert len(known) == (2 * window - 1) ** 2 == len({tuple(value.tolist()) for value in known.values()})


def fusion_by_loops(module: FusionTransformer, heads: int, levels: Sequence[Tensor]) -> Tensor:
    """Of one sample, three maps (C_i, H_i, W_i) (GReFEL Eqs. 6–8 and POSTER++'s gate)."""
    s = numbers(module)
    weights = module.state_dict()

    def convolved(x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding)

    maps = (
        convolved(convolved(levels[0], "embed1.0", 2, 1), "embed1.1", 2, 1),
        convolved(levels[1], "embed2", 2, 1),
        convolved(levels[2], "embed3", 1, 0),
    )
    x: Matrix = [s["cls_token"][0][0]]
    x += [m[:, i, j].tolist() for m in maps for i in range(m.shape[1]) for j in range(m.shape[2])]
    x = [added(token, place) for token, place in zip(x, s["pos_embed"][0], strict=True)]
    for b in range(len(module.blocks)):
        p = {name.removeprefix(f"blocks.{b}."): value for name, value in s.items() if name.startswith(f"blocks.{b}.")}
        width, eps = len(x[0]), 1e-6
        normed = [layer_norm(token, p["norm1.weight"], p["norm1.bias"], eps) for token in x]
        qkv = [linear(token, p["attn.qkv.weight"], p["attn.qkv.bias"]) for token in normed]
        keys, values = [t[width : 2 * width] for t in qkv], [t[2 * width :] for t in qkv]
        attended = [attend(t[:width], keys, values, heads) for t in qkv]
        attended = [linear(t, p["attn.proj.weight"], p["attn.proj.bias"]) for t in attended]
        x = [added(token, t) for token, t in zip(x, attended, strict=True)]
        normed = [layer_norm(token, p["norm2.weight"], p["norm2.bias"], eps) for token in x]
        hidden = [[gelu(v) for v in linear(t, p["mlp.fc1.weight"], p["mlp.fc1.bias"])] for t in normed]
        x = [added(t, linear(h, p["mlp.fc2.weight"], p["mlp.fc2.bias"])) for t, h in zip(x, hidden, strict=True)]
    e = layer_norm(x[0], s["norm.weight"], s["norm.bias"], 1e-6)
    hidden = [max(v, 0.0) for v in linear(e, s["gate.0.weight"], s["gate.0.bias"])]
    gate = [1 / (1 + math.exp(-v)) for v in linear(hidden, s["gate.2.weight"], s["gate.2.bias"])]
    return torch.tensor([v * g for v, g in zip(e, gate, strict=True)], dtype=torch.float64)


@pytest.mark.parametrize("side", [1, 2])
def test_fusion_matches_the_loops(side: int) -> None:
    module = randomize(FusionTransformer((3, 4, 5), side, 12, 2, 3).double(), 0.3).eval()
    torch.manual_seed(3)
    levels = [torch.randn(2, 3 + i, (4 >> i) * side, (4 >> i) * side, dtype=torch.float64) for i in range(3)]
    with torch.no_grad():
        actual = module(levels)
    assert actual.shape == (2, 12)
    for k in range(2):
        expected = fusion_by_loops(module, 3, [level[k] for level in levels])
        torch.testing.assert_close(actual[k], expected, rtol=0, atol=1e-12)


# The trunk's convolutions, by torch's functions --------------------------------------------------------------


def batch_norm(x: Tensor, state: dict[str, Tensor], name: str, training: bool) -> Tensor:
    """Normalised over batch and places, or with running statistics."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    if training:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
    mean, variance, weight, bias = (
        v[:, None, None] for v in (mean, variance, state[f"{name}.weight"], state[f"{name}.bias"])
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, weight[:, None, None] * x)


def ir_unit_by_functions(x: Tensor, state: dict[str, Tensor], name: str, stride: int, training: bool) -> Tensor:
    y = batch_norm(x, state, f"{name}res_layer.0", training)
    y = F.conv2d(y, state[f"{name}res_layer.1.weight"], padding=1)
    y = prelu(y, state[f"{name}res_layer.2.weight"])
    y = F.conv2d(y, state[f"{name}res_layer.3.weight"], stride=stride, padding=1)
    y = batch_norm(y, state, f"{name}res_layer.4", training)
    if f"{name}shortcut_layer.0.weight" not in state:
        return y + x[:, :, ::stride, ::stride]
    x = F.conv2d(x, state[f"{name}shortcut_layer.0.weight"], stride=stride)
    return y + batch_norm(x, state, f"{name}shortcut_layer.1", training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [4, 6])
def test_an_ir_unit_matches_torchs_functions(channels: int, stride: int, training: bool) -> None:
    unit = randomize(IRUnit(4, channels, stride).double(), 0.3).train(training)
    assert any(name.startswith("shortcut_layer") for name in unit.state_dict()) == (channels != 4)
    state = tensors(unit)
    x = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        actual = unit(x)
    torch.testing.assert_close(actual, ir_unit_by_functions(x, state, "", stride, training), rtol=0, atol=1e-12)
    assert actual.shape == (3, channels, 8 // stride, 6 // stride)
    assert (actual < 0).any()  # nothing rectifies the sum


def test_ir50_is_a_stem_and_three_stages() -> None:
    depths = (3, 1, 2)
    network = randomize(IR50(dims=(4, 6, 6), depths=depths).double(), 0.2).eval()
    state = tensors(network)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = F.conv2d(images, state["input_layer.0.weight"], padding=1)
    x = prelu(batch_norm(x, state, "input_layer.1", False), state["input_layer.2.weight"])
    with torch.no_grad():
        maps = network(images)
    for stage, (depth, actual) in enumerate(zip(depths, maps, strict=True), start=1):
        for unit in range(depth):
            x = ir_unit_by_functions(x, state, f"body{stage}.{unit}.", 2 if unit == 0 else 1, False)
        torch.testing.assert_close(actual, x, rtol=1e-10, atol=1e-10)
        assert actual.shape[-1] == 32 >> stage


def test_ir50_has_the_names_and_units_of_the_released_weights() -> None:
    with torch.device("meta"):
        state = IR50().state_dict()
    units = {tuple(name.split(".")[:2]) for name in state if name.startswith("body")}
    depths = (("body1", 3), ("body2", 4), ("body3", 14))
    assert units == {(stage, str(unit)) for stage, depth in depths for unit in range(depth)}
    assert state["body3.13.res_layer.3.weight"].shape == (256, 256, 3, 3)
    assert "body1.0.shortcut_layer.0.weight" not in state  # 64 to 64 channels: the stride alone
    assert state["body2.0.shortcut_layer.0.weight"].shape == (128, 64, 1, 1)
    assert not any(name.endswith(("conv.bias", "res_layer.1.bias", "res_layer.3.bias")) for name in state)


@pytest.mark.parametrize("training", [False, True])
def test_mobilefacenet_matches_torchs_functions(training: bool) -> None:
    network = randomize(MobileFaceNet(dims=(4, 6, 5)).double(), 0.2).train(training)
    state = tensors(network)

    def block(x: Tensor, name: str, stride: int = 1, act: bool = True) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2, groups=groups)
        x = batch_norm(x, state, f"{name}.bn", training)
        return prelu(x, state[f"{name}.prelu.weight"]) if act else x

    def bottleneck(x: Tensor, name: str, expanded: int, stride: int) -> Tensor:
        wide = block(x, f"{name}.conv")
        assert wide.shape[1] == expanded and state[f"{name}.conv_dw.conv.weight"].shape == (expanded, 1, 3, 3)
        y = block(block(wide, f"{name}.conv_dw", stride), f"{name}.project", act=False)
        return y if stride == 2 else x + y

    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = block(block(images, "conv1", 2), "conv2_dw")
    x = bottleneck(x, "conv_23", 8, 2)
    for i in range(4):
        x = bottleneck(x, f"conv_3.model.{i}", 8, 1)
    expected = [x]
    x = bottleneck(x, "conv_34", 16, 2)
    for i in range(6):
        x = bottleneck(x, f"conv_4.model.{i}", 12, 1)
    expected.append(x)
    x = bottleneck(x, "conv_45", 24, 2)
    for i in range(2):
        x = bottleneck(x, f"conv_5.model.{i}", 12, 1)
    expected.append(block(x, "conv_6_sep"))
    with torch.no_grad():
        maps = network(images)
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 8, 8), (6, 4, 4), (10, 2, 2)]
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_both_streams_see_the_images_at_half_size_and_meet_at_three_levels() -> None:
    model = build().double()
    images = images_for(model)
    state = model.state_dict()
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    with torch.no_grad():
        stages, landmarks = model.backbone(small), model.landmarks(small)
        landmarks[2] = F.conv2d(landmarks[2], state["landmark_conv.weight"], state["landmark_conv.bias"], padding=1)
        expected = []
        for i, (stage, landmark) in enumerate(zip(stages, landmarks, strict=True)):
            weight, bias = state[f"image_convs.{i}.weight"], state[f"image_convs.{i}.bias"]
            convolved = F.conv2d(stage, weight, bias, stride=2, padding=1)
            expected.append(model.cross_attentions[i](convolved, landmark))
        output = model(images, output_hidden_states=True)
        embeddings = model.fusion(expected)
    assert len(output.hidden_states) == 3
    for one, other in zip(output.hidden_states, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.embeddings, embeddings, rtol=1e-9, atol=1e-9)
    assert embeddings.std(dim=0).mean() > 0.01  # different images, different embeddings


def test_windows_as_large_as_their_levels_are_the_papers_one_window() -> None:
    one, other, windows = build(), build(window_sizes=[8, 4, 2]), build(window_sizes=[4, 2, 1])
    assert_same_tensors(tensors(one), tensors(other))
    with torch.no_grad():
        assert torch.equal(one(images_for(one)).logits, other(images_for(one)).logits)
    assert [tuple(crossing.position_bias.shape) for crossing in windows.cross_attentions] == [(49, 2), (9, 3), (1, 4)]
    loss = windows.train()(images_for(windows), labels=torch.arange(4)).loss
    loss.backward()
    assert all(crossing.position_bias.grad.isfinite().all() for crossing in windows.cross_attentions)


# Reliability balancing, by loops ---------------------------------------------------------------------------


def attentive_by_loops(module: AttentiveCorrection, embedding: Numbers) -> Numbers:
    s, width, dim = numbers(module), module.width, len(embedding)
    pieces = [embedding[start : start + width] for start in range(0, dim, width)]
    qkv = [linear(piece, s["query_key_value.weight"], s["query_key_value.bias"]) for piece in pieces]
    keys, values = [t[dim : 2 * dim] for t in qkv], [t[2 * dim :] for t in qkv]
    projected: Numbers = []
    for token in qkv:
        attended = attend(token[:dim], keys, values, heads=dim // width)
        projected += linear(attended, s["project.weight"], s["project.bias"])
    return linear(projected, s["classifier.weight"], s["classifier.bias"])


@pytest.mark.parametrize(("dim", "width"), [(12, 3), (12, 4), (12, 12), (4, 1)])
def test_attentive_correction_matches_the_loops(dim: int, width: int) -> None:
    module = randomize(AttentiveCorrection(dim, width, 3).double(), 1.0)
    embeddings = torch.randn(3, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.tensor([attentive_by_loops(module, e) for e in embeddings.tolist()], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(module(embeddings), expected, rtol=0, atol=1e-11)


def test_queries_and_keys_of_the_attentive_correction_matter() -> None:
    """Attention to a single token would give them no gradient."""
    module = randomize(AttentiveCorrection(12, 3, 3), 0.3)
    embeddings = torch.randn(3, 12, generator=torch.Generator().manual_seed(1))
    module(embeddings).square().sum().backward()
    query, key, value = module.query_key_value.weight.grad.chunk(3)
    for gradient in (query, key, value):
        assert (gradient.abs().amax(dim=1) > 1e-6).all()


def head_by_loops(head: nn.Sequential, embedding: Numbers) -> Numbers:
    """Two hidden layers, normalised with running statistics, and the logits."""
    s, x = numbers(head), embedding
    for layer, norm in ((0, 1), (4, 5)):
        x = linear(x, s[f"{layer}.weight"], s[f"{layer}.bias"])
        statistics = (s[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = [
            max((v - mean) / math.sqrt(variance + 1e-5) * weight + bias, 0.0)
            for v, mean, variance, weight, bias in zip(x, *statistics, strict=True)
        ]
    return linear(x, s["8.weight"], s["8.bias"])


def confidence(p: Numbers) -> float:
    return 1 + math.fsum(v * math.log(v) for v in p if v > 0) / math.log(len(p))


def weighed(first: Numbers, second: Numbers) -> Numbers:
    one, two = confidence(first), confidence(second)
    return [(one * p + two * q) / (one + two) for p, q in zip(first, second, strict=True)]


def distance(one: Numbers, other: Numbers) -> float:
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True)))


def balancing_by_loops(model: GReFELForImageClassification, embedding: Numbers) -> dict[str, Numbers]:
    """All distributions of one sample (GReFEL Eqs. 9–19)."""
    found = {"primary": softmax(head_by_loops(model.classifier, embedding))}
    corrections = []
    if model.anchors is not None:
        anchors = model.anchors.weight.tolist()
        powers = [[-distance(embedding, a) / model.config.anchor_temperature for a in group] for group in anchors]
        similarities = softmax([value for group in powers for value in group])
        count = len(anchors[0])
        found["anchor"] = [math.fsum(similarities[k * count : (k + 1) * count]) for k in range(len(anchors))]
        corrections.append(found["anchor"])
    if model.attentive is not None:
        found["attentive"] = softmax(attentive_by_loops(model.attentive, embedding))
        corrections.append(found["attentive"])
    found["final"] = found["primary"]
    if corrections:
        found["corrected"] = weighed(*corrections) if len(corrections) == 2 else corrections[0]
        found["final"] = weighed(found["primary"], found["corrected"])
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.4])
@each_setup
def test_reliability_balancing_matches_the_loops(setup: str, temperature: float) -> None:
    model = decided(anchor_temperature=temperature, **table_2(setup))
    with torch.no_grad():
        output = model(images_for(model))
    expected = [balancing_by_loops(model, e) for e in output.embeddings.tolist()]
    names = expected[0].keys()
    for name in ("primary", "anchor", "attentive", "corrected", "final"):
        distribution, sure = output.get(f"{name}_distribution"), output.get(f"{name}_confidence")
        if name not in names:
            assert distribution is None and sure is None
            continue
        rows = [found[name] for found in expected]
        wanted = torch.tensor(rows, dtype=torch.float64)
        torch.testing.assert_close(distribution, wanted, rtol=0, atol=1e-12)
        wanted = torch.tensor([confidence(row) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(sure, wanted, rtol=0, atol=1e-12)
        assert sure.min() > 0.005 and sure.max() < 0.995, name  # else the weights would be no test
    torch.testing.assert_close(output.logits.softmax(dim=1), output.final_distribution, rtol=0, atol=1e-14)
    torch.testing.assert_close(output.logits.exp(), output.final_distribution, rtol=0, atol=1e-14)
    assert (names >= {"anchor", "attentive"}) == (setup == "both")


def test_without_corrections_the_answer_is_the_heads_own() -> None:
    model = decided(**table_2("without reliability balancing"))
    with torch.no_grad():
        output = model(images_for(model))
        head = model.classifier(output.embeddings)
    torch.testing.assert_close(output.logits, head.log_softmax(dim=1), rtol=0, atol=1e-12)
    assert model.anchors is None and model.attentive is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weighs_in_float32(dtype: torch.dtype) -> None:
    model = build().to(dtype)
    with torch.no_grad():
        output = model(images_for(model))
    for name in ("primary", "anchor", "attentive", "corrected", "final"):
        distribution = output[f"{name}_distribution"]
        assert distribution.dtype == output[f"{name}_confidence"].dtype == torch.float32
        torch.testing.assert_close(distribution.sum(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    assert output.logits.dtype == output.embeddings.dtype == torch.float32


def test_predictions_are_what_evaluation_loops_gather() -> None:
    """Everything but loss and logits is kept out of them."""
    fields = GReFELOutput.__dataclass_fields__.keys() - {"loss", "logits"}
    assert fields == {*GReFELConfig.keys_to_ignore_at_inference}


# The loss --------------------------------------------------------------------------------------------------

IDS = [1, 4, 0, 1]  # classes 2 and 3 are absent
SOFT = [[0.7, 0.3, 0, 0, 0], [0, 0, 0, 0, 1], [0.2, 0.2, 0.2, 0.2, 0.2], [0, 0, 0.1, 0.5, 0.4]]
WEIGHTS = {"classification_weight": 0.7, "anchor_weight": 1.3, "center_weight": 0.4}


def loss_by_loops(model: GReFELForImageClassification, output: GReFELOutput, targets: Matrix) -> dict[str, float]:
    """GReFEL's Eq. 23 and its parts, from the distributions."""
    config, classes, batch = model.config, len(targets[0]), len(targets)
    parts = {"classification": 0.0}
    for row, target in zip(output.final_distribution.tolist(), targets, strict=True):
        share = config.label_smoothing
        smooth = [(1 - share) * t + share / classes for t in target]
        parts["classification"] -= math.fsum(t * math.log(p) for t, p in zip(smooth, row, strict=True)) / batch
    loss = config.classification_weight * parts["classification"]
    if model.anchors is not None:
        groups = model.anchors.weight.tolist()
        units = [[v / distance(a, [0.0] * len(a)) for v in a] for group in groups for a in group]
        pairs = list(itertools.permutations(units, 2))
        parts["anchor"] = -math.fsum(distance(one, other) ** 2 for one, other in pairs) / len(pairs)
        parts["center"] = 0.0
        for e, target in zip(output.embeddings.tolist(), targets, strict=True):
            nearest = [min(distance(e, a) for a in group) ** 2 for group in groups]
            parts["center"] += math.fsum(t * d for t, d in zip(target, nearest, strict=True)) / batch
        loss += config.anchor_weight * parts["anchor"] + config.center_weight * parts["center"]
    for name in ("primary", "anchor", "attentive", "final"):
        if output.get(f"{name}_distribution") is not None:
            rows = output[f"{name}_distribution"].tolist()
            parts[f"{name}_confidence"] = math.fsum(confidence(row) for row in rows) / batch
    return {**parts, "loss": loss}


@pytest.mark.parametrize("smoothing", [0.11, 0.0])
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@each_setup
def test_the_training_loss_matches_the_loops(setup: str, soft: bool, smoothing: float) -> None:
    model = decided(label_smoothing=smoothing, **WEIGHTS, **table_2(setup)).train()
    labels = torch.tensor(SOFT, dtype=torch.float64) if soft else torch.tensor(IDS)
    targets = SOFT if soft else [[float(k == label) for k in range(5)] for label in IDS]
    output = model(images_for(model), labels=labels)
    expected = loss_by_loops(model, output, targets)
    assert output.loss.requires_grad and output.loss.ndim == 0
    assert {*output.losses, "loss"} == expected.keys()
    assert output.loss.item() == pytest.approx(expected.pop("loss"), rel=1e-12)
    for name, value in expected.items():
        assert output.losses[name].item() == pytest.approx(value, rel=1e-11), name
        assert not output.losses[name].requires_grad
    assert expected["classification"] > 0.1


def test_the_papers_loss_weighs_all_terms_alike() -> None:
    model = decided().train()
    output = model(images_for(model), labels=torch.tensor(IDS))
    terms = sum(output.losses[name] for name in ("classification", "anchor", "center"))
    torch.testing.assert_close(output.loss.detach(), terms)
    targets = [[float(k == label) for k in range(5)] for label in IDS]
    assert output.loss.item() == pytest.approx(loss_by_loops(model, output, targets)["loss"], rel=1e-12)


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@each_setup
def test_the_evaluation_loss_is_the_negative_log_likelihood(setup: str, soft: bool) -> None:
    model = decided(**WEIGHTS, **table_2(setup))
    labels = torch.tensor(SOFT) if soft else torch.tensor(IDS)  # the rows in float32
    targets = SOFT if soft else [[float(k == label) for k in range(5)] for label in IDS]
    with torch.no_grad():
        output = model(images_for(model), labels=labels)
    expected = 0.0
    for row, target in zip(output.final_distribution.tolist(), targets, strict=True):
        expected -= math.fsum(t * math.log(p) for t, p in zip(target, row, strict=True)) / 4
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert output.losses is None


@pytest.mark.parametrize("training", [True, False])
def test_no_labels_no_loss(training: bool) -> None:
    model = build().train(training)
    output = model(images_for(model))
    assert output.loss is None and output.losses is None and output.final_distribution is not None


def test_the_gradient_is_that_of_the_whole_loss() -> None:
    """Against finite differences: nothing on the way is detached, the confidences included."""
    model = with_frozen_statistics(decided(**WEIGHTS))
    images, labels = images_for(model), torch.tensor(IDS)
    model(images, labels=labels).loss.backward()
    step = 1e-6
    for name in (
        "classifier.8.bias",
        "classifier.0.weight",
        "anchors.weight",
        "attentive.classifier.weight",
        "attentive.query_key_value.weight",
        "fusion.cls_token",
        "cross_attentions.1.position_bias",
        "landmark_conv.weight",
        "landmarks.conv1.conv.weight",
        "backbone.input_layer.0.weight",
    ):
        parameter = model.get_parameter(name)
        gradient = parameter.grad.flatten()
        place = gradient.abs().argmax()  # where it can be told from rounding
        with torch.no_grad():
            losses = []
            for move in (step, -2 * step):
                parameter.view(-1)[place] += move
                losses.append(model(images, labels=labels).loss.item())
            parameter.view(-1)[place] += step
        assert gradient[place].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=1e-5), name


@pytest.mark.parametrize(
    ("row", "only"),
    [
        ("L_cls", "classification"),
        ("L_a", "anchor"),
        ("L_c", "center"),
    ],
)
def test_table_3s_rows_leave_one_term(row: str, only: str) -> None:
    model = decided(**GReFELConfig.ablations[f"Table 3: {row}"]).train()
    output = model(images_for(model), labels=torch.tensor(IDS))
    torch.testing.assert_close(output.loss.detach(), output.losses[only])


# Edges -----------------------------------------------------------------------------------------------------


def make_uniform(model: GReFELForImageClassification) -> None:
    """Heads that say nothing, and all anchors at one point."""
    with torch.no_grad():
        for layer in (model.classifier[-1], *([model.attentive.classifier] if model.attentive is not None else [])):
            layer.weight.zero_()
            layer.bias.zero_()
        if model.anchors is not None:
            model.anchors.weight.fill_(0.3)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7, 8])
@each_setup
def test_without_any_confidence_all_weigh_the_same(setup: str, classes: int) -> None:
    model = build(num_labels=classes, **table_2(setup))
    make_uniform(model)
    images, labels = images_for(model), torch.arange(4) % classes
    with torch.no_grad():
        output = model(images, labels=labels)
    torch.testing.assert_close(output.final_distribution, torch.full((4, classes), 1 / classes), rtol=0, atol=1e-6)
    assert output.final_confidence.abs().max() < 1e-6
    assert output.loss.item() == pytest.approx(math.log(classes), rel=1e-6)
    model.train()(images, labels=labels).loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("setup", "share"),
    [("without reliability balancing", 1.0), ("anchors", 0.5), ("MHSA", 0.5), ("both", 0.5)],
)
def test_equal_weights_pass_on_equal_gradients(setup: str, share: float) -> None:
    """Where nothing is confident, the head answers for half of the result."""
    model = build(num_labels=4, label_smoothing=0.0, center_weight=0.0, anchor_weight=0.0, **table_2(setup)).double()
    make_uniform(model)
    model.train()(images_for(model, 2), labels=torch.tensor([2, 2])).loss.backward()
    expected = share * torch.tensor([0.25, 0.25, -0.75, 0.25], dtype=torch.float64)
    torch.testing.assert_close(model.classifier[-1].bias.grad, expected, rtol=0, atol=1e-9)
    if setup == "both":
        torch.testing.assert_close(model.attentive.classifier.bias.grad, expected / 2, rtol=0, atol=1e-9)


def test_an_embedding_on_its_anchor() -> None:
    model = with_frozen_statistics(build(label_smoothing=0.0))
    images, labels = images_for(model), torch.tensor(IDS)
    with torch.no_grad():
        embeddings = model(images).embeddings
        model.anchors.weight[1, 0] = embeddings[0]
        model.anchors.weight[2, 1] = embeddings[1]  # another class' anchor
    output = model(images, labels=labels)
    alone = [
        min((e - a).square().sum().item() for a in model.anchors.weight[y])
        for e, y in zip(embeddings, IDS, strict=True)
    ]
    assert alone[0] == 0 and min(alone[1:]) > 0.01
    assert output.losses["center"].item() == pytest.approx(sum(alone) / 4, rel=1e-5)
    assert output.anchor_distribution[0].argmax() == 1 and output.anchor_distribution[1].argmax() == 2
    output.loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("scale", [1e3, 1e6])
@each_setup
def test_saturated_heads(setup: str, scale: float, training: bool) -> None:
    """Confidence 1 in everything, right or wrong: no NaN, and a loss that a float can hold."""
    model = build(**table_2(setup)).train(training)
    with torch.no_grad():
        for layer in (model.classifier[-1], *([model.attentive.classifier] if model.attentive is not None else [])):
            layer.weight.mul_(scale)
        if model.anchors is not None:
            model.anchors.weight.mul_(scale)
    images = images_for(model)
    for label in range(5):
        model.zero_grad()
        output = model(images, labels=torch.full((4,), label))
        assert output.logits.isfinite().all()
        torch.testing.assert_close(output.logits.softmax(dim=1), output.final_distribution, rtol=0, atol=1e-6)
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
        for name in ("primary", "anchor", "attentive", "corrected", "final"):
            sure = output.get(f"{name}_confidence")
            assert sure is None or bool(((sure >= 0) & (sure <= 1)).all())


@each_setup
def test_two_classes(setup: str) -> None:
    model = decided(num_labels=2, **table_2(setup))
    images = images_for(model)
    with torch.no_grad():
        output = model(images)
    for row, e in zip(output.final_distribution.tolist(), output.embeddings.tolist(), strict=True):
        assert row == pytest.approx(balancing_by_loops(model, e)["final"], abs=1e-12)
    model.train()(images, labels=torch.tensor([0, 1, 1, 0])).loss.backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())


def test_one_anchor_for_each_of_two_classes() -> None:
    model = build(num_labels=2, num_anchors=1).train()
    output = model(images_for(model, 2), labels=torch.tensor([0, 1]))
    one, other = F.normalize(model.anchors.weight[:, 0], dim=1)
    torch.testing.assert_close(output.losses["anchor"], -(one - other).square().sum().detach())


def test_one_image_is_enough_to_predict_and_too_few_to_train_on() -> None:
    model = build()
    alone = images_for(model, 1)
    with torch.no_grad():
        assert model(alone, labels=torch.tensor([0])).loss.isfinite()
    with pytest.raises(ValueError, match=r"head normalises over the batch: give at least 2 images .*, got 1$"):
        model.train()(alone, labels=torch.tensor([0]))
    assert model(images_for(model, 2), labels=torch.tensor([0, 1])).loss.isfinite()


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (64, 32), (32, 64), (63, 64)])
def test_images_of_another_size_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"pixel_values must be 64 px wide and high, got \(2, 3, "):
        build()(torch.zeros(2, 3, *size))


# Anchors ---------------------------------------------------------------------------------------------------


def test_fresh_anchors_lie_apart() -> None:
    torch.manual_seed(0)
    weight = Anchors(8, 10, 768).weight.detach()
    assert weight.shape == (8, 10, 768)
    assert weight.mean().abs() < 0.02 and weight.std().item() == pytest.approx(1.0, rel=0.02)
    apart = torch.cdist(weight.flatten(0, 1), weight.flatten(0, 1)) + 1e6 * torch.eye(80)
    assert apart.min() > 30
    directions = F.normalize(weight.flatten(0, 1), dim=1)
    assert (directions @ directions.T - torch.eye(80)).abs().max() < 0.25


def test_the_anchor_loss_moves_fresh_anchors() -> None:
    torch.manual_seed(0)
    model = GReFELForImageClassification(GReFELConfig(**{**SMALL, **GReFELConfig.ablations["Table 3: L_a"]})).train()
    output = model(images_for(model), labels=torch.tensor(IDS))
    output.loss.backward()
    gradient = model.anchors.weight.grad
    assert (gradient.norm(dim=2) > 1e-3).all()  # of each of them
    before = anchor_loss(model.anchors.weight).item()
    assert output.loss.item() == pytest.approx(before)
    with torch.no_grad():
        assert anchor_loss(model.anchors.weight - 0.1 * gradient) < before - 1e-4


def test_the_center_loss_pulls_embeddings_and_the_labels_nearest_anchors_together() -> None:
    model = build(**GReFELConfig.ablations["Table 3: L_c"]).train()
    output = model(images_for(model), labels=torch.tensor(IDS))
    output.embeddings.retain_grad()
    output.loss.backward()
    pulled = model.anchors.weight.grad.norm(dim=2) > 0
    assert set(pulled.any(dim=1).nonzero().flatten().tolist()) == {*IDS}
    assert pulled.sum() <= len(IDS)
    assert (output.embeddings.grad.norm(dim=1) > 0).all()


# Samples, training and evaluation --------------------------------------------------------------------------


@each_setup
def test_no_sample_sees_its_neighbours(setup: str) -> None:
    model = build(**table_2(setup))
    images = images_for(model, 5)
    order = torch.tensor([3, 0, 4, 2, 1])
    with torch.no_grad():
        output = model(images)
        permuted = model(images[order])
        others = images.clone()
        others[1:] = 50 * images_for(model, 4, seed=9)
        others[4] = math.nan
        among_others = model(others)
    for name in ("logits", "embeddings", "primary_distribution", "corrected_distribution", "final_confidence"):
        if name in output:
            torch.testing.assert_close(permuted[name], output[name][order], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(among_others[name][0], output[name][0], rtol=1e-6, atol=1e-6)
    assert among_others.logits[4].isnan().all()


@each_setup
def test_training_and_evaluation_are_one_function(setup: str) -> None:
    """But for what dropout and batch normalisation do in training: corrections, weights and smoothing are alike."""
    model = build(**table_2(setup))
    images = images_for(model)
    with torch.no_grad():
        evaluated = model(images)
        trained = with_frozen_statistics(model)(images, labels=torch.tensor(IDS))
    assert trained.keys() - {"loss", "losses"} == evaluated.keys()
    for name in evaluated:
        torch.testing.assert_close(trained[name], evaluated[name], rtol=0, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    model = with_frozen_statistics(build())
    for layer in model.classifier:
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5
    images = images_for(model)
    with torch.no_grad():
        assert not torch.equal(model(images).logits, model(images).logits)
        assert torch.equal(model(images).embeddings, model(images).embeddings)
    rates = [m.p for m in GReFELForImageClassification(GReFELConfig(**SMALL)).classifier if isinstance(m, nn.Dropout)]
    assert rates == [0.5, 0.5]


# Initialisation --------------------------------------------------------------------------------------------


def test_fresh_streams_are_as_they_were_made() -> None:
    """Neither N(0, 0.02) nor reset statistics: what each module's own constructor gives."""
    config = GReFELConfig(**SMALL)
    torch.manual_seed(3)
    backbone = IR50(dims=config.dims, depths=config.image_depths)
    landmarks = MobileFaceNet(dims=config.dims)
    torch.manual_seed(3)
    model = GReFELForImageClassification(config)
    assert_same_tensors(tensors(model.backbone), tensors(backbone))
    assert_same_tensors(tensors(model.landmarks), tensors(landmarks))
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            bound = module.weight[0].numel() ** -0.5
            assert bound / 4 < module.weight.abs().max() <= bound
    bias = model.cross_attentions[0].position_bias
    for tensor in (bias, model.fusion.cls_token, model.fusion.pos_embed):
        assert 0.01 < tensor.std() < 0.03


# The landmark stream ---------------------------------------------------------------------------------------


def detector() -> MobileFaceNet:
    torch.manual_seed(7)
    return randomize(MobileFaceNet(dims=SMALL["dims"]), seed=7)


@pytest.fixture(scope="module")
def landmark_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the shape of the field's file, with the landmark detector's last layers and a data-parallel prefix."""
    path = tmp_path_factory.mktemp("somebodys-private-folder") / "mobilefacenet_model_best.pth.tar"
    state = {**detector().state_dict(), "output_layer.linear.weight": torch.rand(136, 32)}
    content = {"epoch": 60, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(content, path)
    return path


@pytest.fixture
def frozen(landmark_file: Path) -> GReFELForImageClassification:
    model = build()
    model.load_landmark_weights(str(landmark_file))
    return model


def train_a_step(model: GReFELForImageClassification) -> None:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.01)
    optimizer.zero_grad()
    model.train()(images_for(model), labels=torch.tensor(IDS)).loss.backward()
    optimizer.step()


def assert_frozen(model: GReFELForImageClassification) -> None:
    assert {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad} == {"landmarks"}
    assert not any(parameter.requires_grad for parameter in model.landmarks.parameters())
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert model.training == model.backbone.training == model.landmark_conv.training == mode
        assert not any(module.training for module in model.landmarks.modules())
    before, others = tensors(model.landmarks), tensors(model.landmark_conv)
    train_a_step(model)
    assert_same_tensors(tensors(model.landmarks), before)
    assert all(parameter.grad is None for parameter in model.landmarks.parameters())
    for name, tensor in tensors(model.landmark_conv).items():
        assert not torch.equal(tensor, others[name])


def test_pretrained_landmarks_are_loaded_and_frozen(landmark_file: Path) -> None:
    model = build()
    before = tensors(model)
    report = model.load_landmark_weights(str(landmark_file))
    assert_same_tensors(tensors(model.landmarks), tensors(detector()))
    others = {name: tensor for name, tensor in tensors(model).items() if not name.startswith("landmarks.")}
    assert_same_tensors(others, {name: before[name] for name in others})
    assert not report.missing
    assert_frozen(model)


def test_the_config_says_what_was_loaded_without_saying_where_it_lay(
    frozen: GReFELForImageClassification, landmark_file: Path, tmp_path: Path
) -> None:
    assert frozen.config.landmark_weights == "mobilefacenet_model_best.pth.tar"
    frozen.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert json.loads(text)["landmark_weights"] == "mobilefacenet_model_best.pth.tar"
    assert landmark_file.parent.name not in text and str(landmark_file.parent) not in text


def test_loading_in_the_middle_of_training_freezes_at_once(landmark_file: Path) -> None:
    model = build().train()
    model.load_landmark_weights(str(landmark_file))
    assert model.training and not model.landmarks.training
    statistics = tensors(model.landmarks)
    model(images_for(model), labels=torch.tensor(IDS)).loss.backward()
    assert_same_tensors(tensors(model.landmarks), statistics)
    assert all(parameter.grad is None for parameter in model.landmarks.parameters())


def test_a_file_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model = build()
    before = tensors(model)
    torch.save(IR50(dims=(4, 8, 8), depths=(1, 1, 1)).state_dict(), tmp_path / "ir50.pth")
    for source in (tmp_path / "ir50.pth", tmp_path / "nothing.pth.tar"):
        with pytest.raises(ValueError, match=source.name):
            model.load_landmark_weights(str(source))
    assert_same_tensors(tensors(model), before)
    assert model.config.landmark_weights is None
    assert all(parameter.requires_grad for parameter in model.landmarks.parameters())
    assert model.train().landmarks.training


def test_without_landmark_weights_the_stream_trains() -> None:
    model = build()
    assert model.config.landmark_weights is None
    before = tensors(model.landmarks)
    train_a_step(model)
    assert all(module.training for module in model.landmarks.modules())
    for name, tensor in tensors(model.landmarks).items():
        if name.endswith(("conv.weight", "prelu.weight", "running_mean", "running_var", "num_batches_tracked")):
            assert not torch.equal(tensor, before[name]), name


def test_a_saved_model_stays_frozen(frozen: GReFELForImageClassification, tmp_path: Path) -> None:
    frozen.save_pretrained(tmp_path)
    loaded = GReFELForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.landmark_weights == "mobilefacenet_model_best.pth.tar"
    assert_same_tensors(tensors(loaded), tensors(frozen))
    with torch.no_grad():
        assert torch.equal(loaded(images_for(loaded)).logits, frozen.eval()(images_for(frozen)).logits)
    assert_frozen(loaded)


def test_an_unfrozen_model_stays_unfrozen(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path)
    loaded = GReFELForImageClassification.from_pretrained(tmp_path)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.train().landmarks.training


RANDOM = (
    r"^GReFEL's landmark stream is frozen \(config\.landmark_weights is 'detector'\) but random: "
    r"load_landmark_weights first, or set landmark_weights to None and train it with the rest$"
)


def test_a_random_stream_is_never_trained_on_frozen(landmark_file: Path) -> None:
    model = build(landmark_weights="detector")
    images, labels = images_for(model), torch.tensor(IDS)
    with torch.no_grad():
        assert model(images, labels=labels).loss.isfinite()  # to look at it is no harm
    for given in (labels, None):
        with pytest.raises(ValueError, match=RANDOM):
            model.train()(images, labels=given)
    model.load_landmark_weights(str(landmark_file))
    assert_frozen(model)


def load_whole(model: GReFELForImageClassification, other: GReFELForImageClassification) -> None:
    model.load_state_dict(other.state_dict())


def load_stream(model: GReFELForImageClassification, other: GReFELForImageClassification) -> None:
    model.landmarks.load_state_dict(other.landmarks.state_dict())


@pytest.mark.parametrize("load", [load_whole, load_stream])
def test_a_state_dict_is_pretrained_enough(load: Callable[..., None]) -> None:
    model, other = build(landmark_weights="detector"), build(seed=1)
    load(model, other)
    assert_same_tensors(tensors(model.landmarks), tensors(other.landmarks))
    assert_frozen(model)


def test_half_a_state_dict_is_not() -> None:
    model, other = build(landmark_weights="detector"), build(seed=1)
    state = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith("landmarks.conv_5")}
    model.load_state_dict(state, strict=False)
    with pytest.raises(ValueError, match=RANDOM):
        model.train()(images_for(model), labels=torch.tensor(IDS))


def test_a_copy_of_the_weights_for_averaging_stays_frozen(frozen: GReFELForImageClassification) -> None:
    average = copy.deepcopy(frozen)
    for _ in range(2):
        train_a_step(frozen)
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), frozen.parameters(), strict=True):
                mean.lerp_(parameter, 0.5)
    assert_same_tensors(tensors(average.landmarks), tensors(frozen.landmarks))
    assert average.config is not frozen.config
    assert_frozen(average)


def test_copies_know_for_themselves_what_was_loaded() -> None:
    model = build(landmark_weights="detector")
    twin = copy.deepcopy(model)
    twin.load_state_dict(build(seed=1).state_dict())
    assert_frozen(twin)
    with pytest.raises(ValueError, match=RANDOM):
        model.train()(images_for(model), labels=torch.tensor(IDS))


def test_the_way_out_that_the_error_names_trains_the_stream() -> None:
    model = build(landmark_weights="detector")
    model.config.landmark_weights = None
    before = tensors(model.landmarks)
    train_a_step(model.train())
    assert not torch.equal(model.landmarks.conv1.conv.weight, before["conv1.conv.weight"])


@pytest.mark.parametrize("lacking", ["landmarks.", "landmarks.conv_5."])
def test_a_checkpoint_that_lacks_the_stream_is_not_pretrained_enough(lacking: str, tmp_path: Path) -> None:
    assert saved_without(build(landmark_weights="detector"), tmp_path, lacking)
    loaded = GReFELForImageClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=RANDOM):
        loaded.train()(images_for(loaded), labels=torch.tensor(IDS))


@pytest.mark.parametrize("lacking", ["classifier.", "backbone."])
def test_what_else_a_state_dict_lacks_is_no_matter(lacking: str) -> None:
    model, other = build(landmark_weights="detector"), build(seed=1)
    state = {name: tensor for name, tensor in other.state_dict().items() if not name.startswith(lacking)}
    model.load_state_dict(state, strict=False)
    assert_same_tensors(tensors(model.landmarks), tensors(other.landmarks))
    assert_frozen(model)


def test_a_file_without_a_part_of_the_stream_is_refused(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in detector().state_dict().items() if not name.startswith("conv_6_sep")}
    torch.save({"state_dict": state}, tmp_path / "mobilefacenet.pth.tar")
    with pytest.raises(ValueError, match=r"conv_6_sep\.conv\.weight"):
        build().load_landmark_weights(str(tmp_path / "mobilefacenet.pth.tar"))


# Loading what is not all there -----------------------------------------------------------------------------


def saved_without(model: GReFELForImageClassification, folder: Path, *prefixes: str) -> set[str]:
    """Saves the model, then takes tensors out of the file; their names."""
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    lacking = {name for name in state if name.startswith(prefixes)}
    kept = {name: tensor for name, tensor in state.items() if name not in lacking}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return lacking


@pytest.mark.parametrize(
    ("prefixes", "spread"),
    [
        (("fusion.cls_token",), 0.02),
        (("fusion.pos_embed",), 0.02),
        (("cross_attentions.0.position_bias",), 0.02),
        (("anchors.weight",), 1.0),
        (("fusion.cls_token", "fusion.pos_embed", "cross_attentions.", "anchors."), None),
        (("attentive.",), None),
        (("landmark_conv.", "image_convs.1."), None),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_tensors_the_checkpoint_lacks_get_their_own_initialisation(
    prefixes: tuple[str, ...], spread: float | None, tmp_path: Path
) -> None:
    model = build()
    lacking = saved_without(model, tmp_path, *prefixes)
    loaded, report = GReFELForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert {*report["missing_keys"]} == lacking
    before, after = tensors(model), tensors(loaded)
    assert_same_tensors(
        {name: tensor for name, tensor in after.items() if name not in lacking},
        {name: tensor for name, tensor in before.items() if name not in lacking},
    )
    for name in lacking:
        assert after[name].device.type == "cpu" and after[name].isfinite().all()
        assert not torch.equal(after[name], before[name])
        if spread is not None:
            assert 0.5 * spread < after[name].std() < 1.5 * spread
    with torch.no_grad():
        assert loaded(images_for(loaded)).logits.isfinite().all()
    train_a_step(loaded)
    assert all(parameter.isfinite().all() for parameter in loaded.parameters())


def test_lacking_anchors_come_back_apart(tmp_path: Path) -> None:
    saved_without(build(), tmp_path, "anchors.")
    weight = GReFELForImageClassification.from_pretrained(tmp_path).anchors.weight.detach().flatten(0, 1)
    apart = torch.cdist(weight, weight) + 1e6 * torch.eye(15)
    assert apart.min() > 1


def test_a_checkpoint_without_balancing_gets_a_fresh_one(tmp_path: Path) -> None:
    """From one of Table 2's rows to another."""
    plain = build(**table_2("without reliability balancing"))
    plain.save_pretrained(tmp_path / "plain")
    both = GReFELForImageClassification.from_pretrained(tmp_path / "plain", num_anchors=3, attentive_correction=True)
    assert both.anchors.weight.shape == (5, 3, 24) and both.anchors.weight.std() > 0.5
    assert_same_tensors(tensors(both.fusion), tensors(plain.fusion))
    train_a_step(both)
    both.save_pretrained(tmp_path / "both")
    back = GReFELForImageClassification.from_pretrained(tmp_path / "both", **table_2("without reliability balancing"))
    assert back.anchors is None and back.attentive is None
    assert_same_tensors(tensors(back.fusion), tensors(both.fusion))


def test_another_image_size_brings_new_positions_and_nothing_else(tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    loaded, report = GReFELForImageClassification.from_pretrained(
        tmp_path, image_size=96, ignore_mismatched_sizes=True, output_loading_info=True
    )
    changed = {"fusion.pos_embed", *(f"cross_attentions.{i}.position_bias" for i in range(3))}
    assert {key[0] for key in report["mismatched_keys"]} == changed
    before, after = tensors(model), tensors(loaded)
    for name in before.keys() - changed:
        assert torch.equal(before[name], after[name]), name
    for name in changed:
        assert 0.01 < after[name].std() < 0.03
    with torch.no_grad():
        assert loaded(images_for(loaded)).logits.isfinite().all()


# Configuration ---------------------------------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")
MISTAKES: list[tuple[dict[str, Any], str]] = [
    *(({"image_size": size}, rf"image_size must be a multiple of 32, got {size}") for size in (8, 100, 225)),
    ({"image_size": 0}, "image_size must be an integer from 8 to 2048, got 0"),
    ({"backbone": "resnet18"}, "backbone must be one of 'ir50', got 'resnet18'"),
    ({"landmark_backbone": "ir50"}, "landmark_backbone must be one of 'mobilefacenet', got 'ir50'"),
    *(
        ({"landmark_weights": value}, "landmark_weights must be the name of their source, or null, got ")
        for value in (3, True, ["a"])
    ),
    *(
        ({field: value}, rf"{field} must be 3 integers from 1 to {high}, got ")
        for field, high in (("dims", 2048), ("image_depths", 256), ("num_heads", 2048), ("window_sizes", 2048))
        for value in (
            [4, 2],
            [4, 2, 1, 1],
            [4, 2, 0],
            [4, 2, -1],
            [4, 2, 1.0],
            [4, 2, True],
            [4, 2, 10**9],
            4,
            "421",
            [],
        )
    ),
    *(({field: None}, rf"{field} must be 3 integers") for field in ("dims", "image_depths", "num_heads")),
    ({"num_heads": [2, 4, 7]}, r"num_heads must be divisors of dims \[64, 128, 256\], got \[2, 4, 7\]"),
    ({"dims": [64, 126, 256]}, r"num_heads must be divisors of dims \[64, 126, 256\], got \[2, 4, 8\]"),
    ({"window_sizes": [28, 14, 3]}, r"window_sizes must be divisors of the levels' sides \[28, 14, 7\], got \[28, 14"),
    ({"window_sizes": [56, 14, 7]}, r"window_sizes must be divisors of the levels' sides \[28, 14, 7\], got \[56"),
    ({"window_sizes": [7, 7, 7], "image_size": 64}, r"window_sizes must be divisors of the levels' sides \[8, 4, 2\]"),
    ({"embed_dim": 770}, "vit_heads must be a divisor of embed_dim 770, got 8"),
    ({"vit_heads": 5}, "vit_heads must be a divisor of embed_dim 768, got 5"),
    ({"attentive_width": 100}, "attentive_width must be a divisor of embed_dim 768, got 100"),
    ({"embed_dim": 760}, "attentive_width must be a divisor of embed_dim 760, got 64"),
    *(
        ({field: value}, rf"{field} must be an integer from 1 to 4096, got ")
        for field in ("embed_dim", "vit_heads", "head_width", "attentive_width")
        for value in (0, -1, 4097, 64.0, "64", True, None)
    ),
    *(({"vit_depth": value}, "vit_depth must be an integer from 1 to 64, got ") for value in (0, 65, 2.0)),
    *(({"num_anchors": v}, "num_anchors must be an integer from 0 to 1000, got ") for v in (-1, 1001, 2.5, True, None)),
    ({"num_anchors": 101, "num_labels": 1000}, "num_anchors must be at most 100 for 1000 labels, got 101"),
    *(({"anchor_temperature": v}, "anchor_temperature must be positive, got ") for v in (0, -1, NAN, INFINITY, "1")),
    *(({"attentive_correction": v}, "attentive_correction must be true or false, got ") for v in (None, 1, "no")),
    *(({"head_dropout": v}, r"head_dropout must be a number in \[0, 1\), got ") for v in (1, -0.1, None, NAN)),
    *(({"label_smoothing": v}, r"label_smoothing must be a number in \[0, 1\], got ") for v in (11, -0.1, None, NAN)),
    *(
        ({field: value}, rf"{field} must be at least 0, got ")
        for field in ("classification_weight", "anchor_weight", "center_weight")
        for value in (-1, None, NAN, INFINITY, "1")
    ),
]


@pytest.mark.parametrize(("fields", "sentence"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_wrong_field_is_named(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^GReFELConfig: {sentence}"):
        GReFELConfig(**fields)


@pytest.mark.parametrize(
    ("field", "value"),
    [("window_sizes", [3, 2, 1]), ("num_heads", [3, 3, 4]), ("num_anchors", -1), ("vit_heads", 5), ("image_size", 80)],
)
def test_a_wrong_field_is_named_at_loading_and_building_too(field: str, value: Any, tmp_path: Path) -> None:
    model = build()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"GReFELConfig: {field} must be .*, got "):
        GReFELForImageClassification.from_pretrained(tmp_path, **{field: value})
    setattr(model.config, field, value)
    with pytest.raises(ValueError, match=rf"GReFELConfig: {field} must be .*, got "):
        GReFELForImageClassification(model.config)


def test_the_edges_are_allowed() -> None:
    GReFELConfig(num_labels=2, image_size=32, window_sizes=[4, 1, 1], num_anchors=0, label_smoothing=1, head_dropout=0)
    GReFELConfig(attentive_correction=False, attentive_width=100)  # of no concern then
    GReFELConfig(classification_weight=0, anchor_weight=0, center_weight=0, anchor_temperature=1e-3)
    GReFELConfig(dims=(64, 64, 64), num_heads=(64, 1, 8), window_sizes=(1, 1, 1), landmark_weights="somebody/detector")


def test_the_defaults_are_the_papers() -> None:
    config = GReFELConfig()
    assert (config.backbone, config.landmark_backbone, config.image_size) == ("ir50", "mobilefacenet", 224)
    assert (config.dims, config.image_depths, config.num_heads) == ([64, 128, 256], [3, 4, 14], [2, 4, 8])
    assert config.level_sides == (28, 14, 7) and config.window_sizes is None
    assert (config.embed_dim, config.vit_depth, config.head_width, config.head_dropout) == (768, 2, 64, 0.5)
    assert (config.num_anchors, config.anchor_temperature) == (10, 1.0)
    assert config.attentive_correction and config.attentive_width == 64
    assert config.classification_weight == config.anchor_weight == config.center_weight == 1.0
    assert config.label_smoothing == 0.11 and config.landmark_weights is None
