"""Backbones against the complete timm models they are cut from, and the two networks timm does not have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_fer.models.backbones import (
    create_backbone,
    create_pooled_backbone,
    keep_own_initialization,
    reset_missing_weights,
)
from hf_fer.models.configuration_mek import MEKConfig
from hf_fer.models.configuration_multires import MultiResConfig
from hf_fer.models.modeling_mek import MEKForImageClassification
from hf_fer.models.modeling_multires import MultiResForImageClassification

VIT: dict[str, Any] = {"embed_dim": 16, "depth": 3, "num_heads": 2, "patch_size": 8}
TINY: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32]},
    "legacy_seresnet50": {"layers": [1, 1, 1, 1]},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 16]},
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
    "swinv2_tiny_window8_256": {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
    "vit_tiny_patch16_224": VIT,
    "deit_tiny_patch16_224": VIT,
    "deit_tiny_distilled_patch16_224": VIT,
    "convit_tiny": {**VIT, "embed_dim": 8, "local_up_to_layer": 2},
    "xcit_nano_12_p16_224": VIT,
}
FIXED_SIZE = ("swin", "vit", "deit", "convit", "xcit")
SIZE = 64
COMPUTED = ("attn_mask", "relative_position_index", "relative_coords_table", "k_bias")


def sized(name: str, size: int = SIZE) -> dict[str, int]:
    return {"img_size": size} if name.startswith(FIXED_SIZE) else {}


def randomize(module: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """No tensor at a default: a norm that is left out, or applied twice, shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module.eval()


def images_for(batch: int = 2, channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def complete(name: str, size: int = SIZE, **kwargs: Any) -> nn.Module:
    scale = 0.3 if name.startswith(FIXED_SIZE) else 0.03
    return randomize(timm.create_model(name, num_classes=10, **sized(name, size), **TINY[name], **kwargs), scale)


def fill(body: nn.Module, source: nn.Module) -> None:
    """Gives each tensor of a feature extractor that of the complete model: `layers_0` is `layers.0` there."""
    state = {name.replace(".", "_"): tensor for name, tensor in source.state_dict().items()}
    own = {name: name.removeprefix("model.").replace(".", "_") for name in body.state_dict()}
    body.load_state_dict({name: state.get(other, body.state_dict()[name]) for name, other in own.items()})
    assert {name for name, other in own.items() if other not in state} <= {  # computed, not learned
        name for name in own if name.endswith(COMPUTED)
    }


# Feature maps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "legacy_seresnet50", "convnext_atto"])
def test_maps_of_cnns_are_those_before_timms_pooling(name: str) -> None:
    whole = complete(name)
    backbone = create_backbone(name, image_size=SIZE, **TINY[name]).eval()
    fill(backbone.body, whole)
    assert backbone.norm is None
    with torch.no_grad():
        maps, expected = backbone(images_for()), whole.forward_features(images_for())
    assert isinstance(maps, list)
    assert maps[-1].shape == (2, backbone.num_features, 2, 2)
    torch.testing.assert_close(maps[-1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
@pytest.mark.parametrize("size", [32, 64])
def test_maps_of_swin_are_normed_and_come_channels_first(name: str, size: int) -> None:
    whole = complete(name, size)
    backbone = create_backbone(name, image_size=size, **TINY[name]).eval()
    fill(backbone.body, whole)
    backbone.norm.load_state_dict(whole.norm.state_dict())
    with torch.no_grad():
        actual, expected = backbone(images_for(size=size))[-1], whole.forward_features(images_for(size=size))
        unnormed = backbone.body(images_for(size=size))[-1]
    assert actual.shape == (2, backbone.num_features, size // 8, size // 8) and backbone.num_features == 16
    torch.testing.assert_close(actual, expected.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)
    assert (unnormed - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "convit_tiny",
        "xcit_nano_12_p16_224",
    ],
)
def test_maps_of_plain_transformers_are_normed(name: str) -> None:
    """timm cuts the final norm off with the head; without it, what is pooled is not what was trained."""
    whole = complete(name)
    backbone = create_backbone(name, image_size=SIZE, **TINY[name]).eval()
    fill(backbone.body, whole)
    backbone.norm.load_state_dict(whole.norm.state_dict())
    with torch.no_grad():
        actual = backbone(images_for())[-1]
        expected = whole.forward_intermediates(images_for(), norm=True, intermediates_only=True)[-1]
    assert actual.shape == (2, 16, 8, 8) and backbone.num_features == 16
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert not isinstance(whole.norm, nn.Identity)


def test_a_fresh_norm_leaves_mean_zero_and_variance_one() -> None:
    for name in ("swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"):
        backbone = create_backbone(name, image_size=SIZE, **TINY[name])
        randomize(backbone.body)
        maps = backbone(images_for())[-1].detach()
        torch.testing.assert_close(maps.mean(dim=1), torch.zeros_like(maps[:, 0]), rtol=0, atol=1e-5)
        torch.testing.assert_close(maps.var(dim=1, correction=0), torch.ones_like(maps[:, 0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "legacy_seresnet50"])
def test_maps_of_cnns_that_norm_themselves_get_no_second_norm(name: str) -> None:
    backbone = create_backbone(name, **TINY[name])
    assert backbone.norm is None
    assert backbone(images_for())[-1].shape[1] == backbone.num_features


@pytest.mark.parametrize("name", list(TINY))
def test_grey_images(name: str) -> None:
    backbone = create_backbone(name, in_chans=1, image_size=SIZE, **TINY[name])
    assert backbone(images_for(channels=1))[-1].shape[1] == backbone.num_features
    with pytest.raises(RuntimeError):
        backbone(images_for(channels=3))


def test_shapes_follow_the_image_size() -> None:
    vit = create_backbone("vit_tiny_patch16_224", image_size=48, **VIT)
    assert vit.body.model.pos_embed.shape == (1, 37, 16)
    assert vit(images_for(size=48))[-1].shape == (2, 16, 6, 6)
    assert create_backbone("vit_tiny_patch16_224", **VIT).body.model.pos_embed.shape == (1, 28 * 28 + 1, 16)
    swin = create_backbone("swin_tiny_patch4_window7_224", image_size=48, **TINY["swin_tiny_patch4_window7_224"])
    assert swin(images_for(size=48))[-1].shape == (2, 16, 6, 6)


def test_the_full_size_of_massolis_network() -> None:
    """SE-ResNet-50: 26 M parameters beside its head, maps of 1/32."""
    with torch.device("meta"):
        backbone = create_backbone("legacy_seresnet50", image_size=224)
        assert backbone(torch.empty(2, 3, 224, 224))[-1].shape == (2, 2048, 7, 7)
    assert backbone.num_features == 2048
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(26.04, abs=0.01)


def test_only_the_last_map_comes_and_the_stem_pool_goes() -> None:
    with_pool = create_backbone("resnet18", **TINY["resnet18"]).eval()
    without = create_backbone("resnet18", stem_pool=False, **TINY["resnet18"]).eval()
    assert with_pool.state_dict().keys() == without.state_dict().keys()
    without.load_state_dict(with_pool.state_dict())
    assert len(with_pool(images_for())) == 1
    assert with_pool(images_for())[-1].shape == (2, 32, 2, 2)
    assert without(images_for())[-1].shape == (2, 32, 4, 4)
    with torch.no_grad():
        stem = without.body.act1(without.body.bn1(without.body.conv1(images_for())))
        for k in range(1, 5):
            stem = getattr(without.body, f"layer{k}")(stem)
        torch.testing.assert_close(without(images_for())[-1], stem)


def test_massolis_network_has_a_stem_pool_too() -> None:
    backbone = create_backbone("legacy_seresnet50", stem_pool=False, **TINY["legacy_seresnet50"])
    assert backbone(images_for())[-1].shape == (2, 2048, 4, 4)


@pytest.mark.parametrize("name", [name for name in TINY if name.startswith(FIXED_SIZE)])
def test_the_norm_that_was_cut_off_is_timms_to_the_last_bit(name: str) -> None:
    backbone = create_backbone(name, image_size=SIZE, **TINY[name])
    assert backbone.norm.eps == complete(name).norm.eps
    assert backbone.norm.normalized_shape == complete(name).norm.normalized_shape


# Whole networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "convit_tiny",
        "xcit_nano_12_p16_224",
        "swin_tiny_patch4_window7_224",
        "mobilenetv3_small_050",
        "resnet18",
        "convnext_atto",
    ],
)
def test_embeddings_are_what_timm_classifies(name: str) -> None:
    whole = complete(name)
    backbone = create_pooled_backbone(name, image_size=SIZE, **TINY[name]).eval()
    state = whole.state_dict()
    own = backbone.body.state_dict()
    backbone.body.load_state_dict({key: state.get(key, own[key]) for key in own})
    with torch.no_grad():
        actual = backbone(images_for())
        expected = whole.forward_head(whole.forward_features(images_for()), pre_logits=True)
        logits = whole(images_for())
        classifier = whole.get_classifier()
        assert actual.shape == (2, backbone.num_features)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(classifier(actual), logits, rtol=1e-4, atol=1e-4)
    assert backbone.num_features == classifier.in_features
    expected = timm.create_model(name, num_classes=0, **sized(name), **TINY[name]).state_dict()
    assert {key: tensor.shape for key, tensor in expected.items()}.items() <= {
        k: t.shape for k, t in own.items()
    }.items()


@pytest.mark.parametrize(("name", "width"), [("mobilenetv3_small_050", 1024), ("mobilenetv3_large_100", 1280)])
def test_mobilenets_embeddings_are_wider_than_their_maps(name: str, width: int) -> None:
    with torch.device("meta"):
        assert create_pooled_backbone(name).num_features == width
        assert create_backbone(name).num_features < width


def test_grey_images_for_whole_networks() -> None:
    backbone = create_pooled_backbone("deit_tiny_patch16_224", image_size=SIZE, in_chans=1, **VIT)
    assert backbone(images_for(channels=1)).shape == (2, 16)


# What is saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [create_backbone, create_pooled_backbone])
@pytest.mark.parametrize("name", list(TINY))
def test_every_buffer_is_saved(name: str, create: Callable[..., nn.Module]) -> None:
    """One that is not would come back as garbage from the meta device."""
    backbone = create(name, image_size=SIZE, **TINY[name])
    lacking = {name for name, _ in backbone.named_buffers()} - backbone.state_dict().keys()
    # ConViT's own table, which it makes anew, and in another shape, in its first forward.
    assert {name.split(".")[-1] for name in lacking} == ({"rel_indices"} if name == "convit_tiny" else set())
    if name.startswith("swin_"):
        assert any(key.endswith("attn_mask") for key in backbone.state_dict())


@pytest.mark.parametrize("name", list(TINY))
def test_a_seed_gives_timms_own_initialisation(name: str) -> None:
    torch.manual_seed(3)
    expected = timm.create_model(name, features_only=True, out_indices=(-1,), **sized(name), **TINY[name])
    torch.manual_seed(3)
    backbone = create_backbone(name, image_size=SIZE, **TINY[name])
    for (key, one), other in zip(backbone.body.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other), key


@pytest.mark.parametrize("name", ["convit_tiny", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_a_round_trip_keeps_the_answer(name: str, tmp_path: Path) -> None:
    """Before and after a first forward, in which some make their tables."""
    torch.manual_seed(0)
    config = MEKConfig(num_labels=4, backbone=name, backbone_kwargs=TINY[name], image_size=SIZE)
    model = randomize(MEKForImageClassification(config))
    for folder in (tmp_path / "before", tmp_path / "after"):
        model.save_pretrained(folder)
        loaded, report = MEKForImageClassification.from_pretrained(folder, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        with torch.no_grad():
            assert torch.equal(loaded(images_for()).logits, model(images_for()).logits)


class Scale(nn.Module):
    """A module with tensors of its own and no way to reset them."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((400,), 7.0))
        self.register_buffer("steps", torch.full((3,), 7))


def without_flags(module: nn.Module, *names: str) -> None:
    """As after `from_pretrained`, where these were not in the checkpoint: new tensors, without a flag."""
    keep_own_initialization(module)
    for name in names:
        old = getattr(module, name)
        new = torch.full_like(old, 9)
        setattr(module, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def test_missing_tensors_get_their_defaults_and_others_stay() -> None:
    norm = randomize(nn.BatchNorm2d(5))
    before = copy.deepcopy(norm)
    without_flags(norm, "bias", "running_var")
    reset_missing_weights(norm)
    assert torch.equal(norm.bias, torch.zeros(5)) and torch.equal(norm.running_var, torch.ones(5))
    assert torch.equal(norm.weight, before.weight) and torch.equal(norm.running_mean, before.running_mean)
    linear = nn.Linear(50, 40)
    bias = linear.bias.detach().clone()
    without_flags(linear, "weight")
    reset_missing_weights(linear)
    assert torch.equal(linear.bias, bias) and 0 < linear.weight.abs().max() <= 50**-0.5
    scale = Scale()
    without_flags(scale, "gamma", "steps")
    reset_missing_weights(scale)
    assert scale.gamma.std().item() == pytest.approx(0.02, rel=0.2) and scale.steps.tolist() == [0, 0, 0]


def test_a_table_made_anew_is_still_saved() -> None:
    """Swin's blocks register their masks again, as unsaved ones, when they are reset."""
    backbone = create_backbone("swin_tiny_patch4_window7_224", image_size=SIZE, **TINY["swin_tiny_patch4_window7_224"])
    block = backbone.body.layers_0.blocks[1]
    mask = block.attn_mask.clone()
    without_flags(block, "attn_mask")
    reset_missing_weights(block)
    assert torch.equal(block.attn_mask, mask)
    assert "attn_mask" in block.state_dict()


def test_nothing_is_touched_where_nothing_is_missing() -> None:
    for module in (randomize(nn.BatchNorm2d(5)), nn.Linear(4, 4), Scale()):
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        keep_own_initialization(module)
        state = torch.get_rng_state()
        reset_missing_weights(module)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_tensor_without_values_does_not_pass_for_initialised() -> None:
    module = nn.BatchNorm2d(5, device="meta")
    keep_own_initialization(module)
    assert not any(hasattr(tensor, "_is_hf_initialized") for tensor in (*module.parameters(), *module.buffers()))


# The networks timm does not have -----------------------------------------------------------------------------


def test_ir50_at_its_own_size() -> None:
    backbone = create_backbone("ir50")
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 112, 112))
    assert [tuple(m.shape) for m in maps] == [(1, 64, 56, 56), (1, 128, 28, 28), (1, 256, 14, 14)]
    assert backbone.num_features == 256
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 17.61
    assert [len(body) for body in (backbone.body1, backbone.body2, backbone.body3)] == [3, 4, 14]


def test_mobilefacenet_at_its_own_size() -> None:
    backbone = create_backbone("mobilefacenet")
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 112, 112))
    assert [tuple(m.shape) for m in maps] == [(1, 64, 28, 28), (1, 128, 14, 14), (1, 512, 7, 7)]
    assert backbone.num_features == 512
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6, 2) == 0.91


def norm_by_hand(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    shape = (1, -1, 1, 1)
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    return (x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


def prelu_by_hand(x: Tensor, act: nn.PReLU) -> Tensor:
    return torch.where(x > 0, x, act.weight.view(1, -1, 1, 1) * x)


def test_ir50_by_hand() -> None:
    network = randomize(create_backbone("ir50", dims=(4, 6, 8), depths=(2, 1, 2)), 0.1)

    def unit(x: Tensor, block: nn.Module, stride: int) -> Tensor:
        first, conv1, act, conv2, second = block.res_layer
        out = F.conv2d(norm_by_hand(x, first), conv1.weight, padding=1)
        out = F.conv2d(prelu_by_hand(out, act), conv2.weight, padding=1, stride=stride)
        shortcut = x[:, :, ::stride, ::stride]
        if isinstance(block.shortcut_layer, nn.Sequential):
            conv, norm = block.shortcut_layer
            shortcut = norm_by_hand(F.conv2d(shortcut, conv.weight), norm)
        return norm_by_hand(out, second) + shortcut

    with torch.no_grad():
        conv, norm, act = network.input_layer
        x = prelu_by_hand(norm_by_hand(F.conv2d(images_for(size=32), conv.weight, padding=1), norm), act)
        expected = []
        for body in (network.body1, network.body2, network.body3):
            for k, block in enumerate(body):
                x = unit(x, block, 2 if k == 0 else 1)
            expected.append(x)
        actual = network(images_for(size=32))
    assert [isinstance(b[0].shortcut_layer, nn.Sequential) for b in (network.body1, network.body2)] == [False, True]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_mobilefacenet_by_hand() -> None:
    network = randomize(create_backbone("mobilefacenet", dims=(4, 6, 5)), 0.1)

    def block(x: Tensor, part: nn.Module, stride: int = 1, groups: int = 1, linear: bool = False) -> Tensor:
        weight = part.conv.weight
        x = norm_by_hand(F.conv2d(x, weight, padding=weight.shape[-1] // 2, stride=stride, groups=groups), part.bn)
        return x if linear else prelu_by_hand(x, part.prelu)

    def bottleneck(x: Tensor, part: nn.Module, stride: int = 1) -> Tensor:
        wide = part.conv.conv.weight.shape[0]
        out = block(block(x, part.conv), part.conv_dw, stride=stride, groups=wide)
        out = block(out, part.project, linear=True)
        return out + x if stride == 1 else out

    with torch.no_grad():
        x = block(block(images_for(size=32), network.conv1, stride=2), network.conv2_dw, groups=4)
        expected = []
        for down, stage in (("conv_23", "conv_3"), ("conv_34", "conv_4"), ("conv_45", "conv_5")):
            x = bottleneck(x, getattr(network, down), stride=2)
            for part in getattr(network, stage).model:
                x = bottleneck(x, part)
            expected.append(x)
        expected[-1] = block(x, network.conv_6_sep)
        actual = network(images_for(size=32))
    assert [len(stage.model) for stage in (network.conv_3, network.conv_4, network.conv_5)] == [4, 6, 2]
    assert network.num_features == 10
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ir50", "mobilefacenet"])
def test_face_networks_take_grey_images(name: str) -> None:
    backbone = create_backbone(name, in_chans=1, dims=(4, 6, 8))
    assert backbone(images_for(channels=1, size=32))[-1].shape[1] == backbone.num_features


@pytest.mark.parametrize("method", ["mek", "multires"])
@pytest.mark.parametrize(
    ("backbone", "kwargs", "side"),
    [("ir50", {"dims": [4, 6, 8], "depths": [1, 1, 2]}, 4), ("mobilefacenet", {"dims": [4, 6, 5]}, 2)],
)
def test_methods_with_activation_maps_train_on_them(
    backbone: str, kwargs: dict[str, Any], side: int, method: str
) -> None:
    fields = {"num_labels": 4, "backbone": backbone, "backbone_kwargs": kwargs, "image_size": 32}
    torch.manual_seed(0)
    model = (
        MEKForImageClassification(MEKConfig(**fields))
        if method == "mek"
        else MultiResForImageClassification(MultiResConfig(**fields, resolution_probability=0.0))
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    labels, losses = torch.arange(8) % 4, []
    images = images_for(batch=8, size=32)
    for _ in range(12):
        output = model.train()(images, labels=labels, output_attention_maps=True)
        optimizer.zero_grad()
        output.loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
        optimizer.step()
        losses.append(output.loss.item())
    assert output.attention_maps.shape == (8, 4, side, side)
    assert losses[-1] < 0.7 * losses[0]


# Errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [create_backbone, create_pooled_backbone])
@pytest.mark.parametrize("name", ["resnet81", "legacy_seresnet", "zzzz", "", "../resnet18"])
def test_unknown_names_are_refused_with_known_ones(name: str, create: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=f"^backbone {name!r} is not a timm model: give the name of one") as error:
        create(name)
    if name == "legacy_seresnet":
        suggested = str(error.value).split("such as ")[1].split(", ")
        assert 0 < len(suggested) <= 5 and all(timm.is_model(model) for model in suggested)
    elif name == "zzzz":
        assert str(error.value).endswith("; see timm.list_models()")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convit_tiny"])
def test_unknown_arguments_are_refused(name: str) -> None:
    words = r"cannot be built {}by timm: .*unexpected keyword argument 'depthz'"
    with pytest.raises(ValueError, match=f"^backbone {name!r} " + words.format("as a feature extractor ")):
        create_backbone(name, image_size=SIZE, depthz=3)
    with pytest.raises(ValueError, match=f"^backbone {name!r} " + words.format("")):
        create_pooled_backbone(name, image_size=SIZE, depthz=3)


@pytest.mark.parametrize("name", ["ir50", "mobilefacenet"])
@pytest.mark.parametrize("kwargs", [{"layers": [1, 1]}, {"dims": 5}], ids=str)
def test_arguments_a_face_network_cannot_use_are_refused(name: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^backbone {name!r} cannot be built with .*{next(iter(kwargs))}"):
        create_backbone(name, **kwargs)


@pytest.mark.parametrize(("name", "field"), [("ir50", "dims"), ("ir50", "depths"), ("mobilefacenet", "dims")])
def test_too_few_stages_are_refused(name: str, field: str) -> None:
    with pytest.raises(ValueError, match=f"^backbone {name!r} cannot be built with .*{field}"):
        create_backbone(name, **{field: [4, 6]})


@pytest.mark.parametrize(
    "name",
    ["ir50", "mobilefacenet", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050"],
)
def test_a_stem_pool_that_is_not_there_cannot_be_dropped(name: str) -> None:
    with pytest.raises(ValueError, match=f"^stem_pool=False, but backbone {name!r} has no stem pooling to drop"):
        create_backbone(name, image_size=SIZE, stem_pool=False, **TINY.get(name, {}))


@pytest.mark.parametrize(
    "error", [AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ZeroDivisionError]
)
def test_whatever_timm_stumbles_over_is_one_sentence(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(name: str, **kwargs: Any) -> nn.Module:
        raise error("of a kind")

    monkeypatch.setattr(timm, "create_model", stumble)
    with pytest.raises(
        ValueError, match=r"^backbone 'resnet18' cannot be built as a feature extractor by timm: .*of a"
    ):
        create_backbone("resnet18")
    with pytest.raises(ValueError, match=r"^backbone 'resnet18' cannot be built by timm: .*of a kind"):
        create_pooled_backbone("resnet18")


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    original = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: (asked.append(k["pretrained"]), original(*a, **k))[1])
    create_backbone("resnet18", **TINY["resnet18"])
    create_pooled_backbone("resnet18", **TINY["resnet18"])
    assert asked and not any(asked)
