"""Feature extractors with one interface: (B, C_in, H, W) images -> list of (B, C, H', W') maps, last the deepest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .ir50 import IR50
from .mobilefacenet import MobileFaceNet

# Networks of face recognition that timm does not have.
_FACE_BACKBONES = {"ir50": IR50, "mobilefacenet": MobileFaceNet}


class Backbone(nn.Module):
    """A timm network cut down to its feature maps.

    Attributes:
        num_features: channels of the last map.
    """

    def __init__(self, body: nn.Module, num_features: int) -> None:
        super().__init__()
        self.body = body
        self.num_features = num_features
        self.channels_last_maps = getattr(body, "output_fmt", None) == "NHWC"  # Swin
        # These transformers normalise before they pool, and timm cuts the norm off together with the head.
        cut_off = isinstance(getattr(getattr(body, "model", None), "norm", None), nn.Identity)  # ViT
        self.norm = None
        if self.channels_last_maps or cut_off:
            eps = next((m.eps for m in body.modules() if isinstance(m, nn.LayerNorm)), 1e-5)
            self.norm = nn.LayerNorm(num_features, eps=eps)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = list(self.body(pixel_values))
        if self.channels_last_maps:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        if self.norm is not None:
            maps[-1] = self.norm(maps[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return maps


class PooledBackbone(nn.Module):
    """A whole timm network up to its classifier: (B, C_in, H, W) images -> (B, num_features) embeddings.

    The pooling is timm's own: the class token of ViT, DeiT, ConViT and XCiT, the average of Swin and of CNNs.

    Attributes:
        num_features: width of the embedding.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.num_features = getattr(body, "head_hidden_size", None) or body.num_features

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.body(pixel_values)


def create_backbone(
    name: str,
    in_chans: int = 3,
    image_size: int | None = None,
    stem_pool: bool = True,
    **kwargs: Any,
) -> nn.Module:
    """Builds any timm CNN or hierarchical transformer, IR-50 or MobileFaceNet, freshly initialised.

    Nothing is downloaded: pretrained weights are loaded after construction.

    Args:
        name: a timm model name, "ir50" or "mobilefacenet".
        in_chans: channels of the images.
        image_size: side in px, for architectures whose shape depends on it (Swin and other transformers).
        stem_pool: False drops the max-pooling after the stem, which would leave too little of a face under
            64 px (ResNet-like networks).
        **kwargs: arguments of the model, such as timm's `layers` and `channels` of a ResNet.

    Raises:
        ValueError: timm has no such model, it gives no feature maps, or it has no stem pooling to drop.
    """
    if name in _FACE_BACKBONES:
        return _create_face_backbone(name, in_chans, stem_pool, kwargs)
    body = _create_timm_model(name, image_size, features_only=True, out_indices=(-1,), in_chans=in_chans, **kwargs)
    if not stem_pool:
        pool = next((n for n in ("maxpool", "pool0") if isinstance(getattr(body, n, None), nn.Module)), None)
        if pool is None:
            raise ValueError(f"stem_pool=False, but backbone {name!r} has no stem pooling to drop")
        setattr(body, pool, nn.Identity())
    _make_buffers_persistent(body)
    return Backbone(body, body.feature_info.channels()[-1])


def create_pooled_backbone(name: str, image_size: int | None = None, **kwargs: Any) -> PooledBackbone:
    """As `create_backbone`, for any timm classifier, vision transformers included.

    Raises:
        ValueError: timm has no such model, or cannot build it with these arguments.
    """
    body = _create_timm_model(name, image_size, num_classes=0, **kwargs)
    _make_buffers_persistent(body)
    return PooledBackbone(body)


def _create_timm_model(name: str, image_size: int | None, **kwargs: Any) -> nn.Module:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        hint = f", such as {', '.join(near)}" if near else "; see timm.list_models()"
        raise ValueError(f"backbone {name!r} is not a timm model: give the name of one{hint}")
    error = None
    # Transformers want to know the image size; CNNs do not take the argument.
    for extra in ({"img_size": image_size}, {}):
        try:
            return timm.create_model(name, pretrained=False, **extra, **kwargs)
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError) as e:
            error = e
    what = "as a feature extractor " if kwargs.get("features_only") else ""
    raise ValueError(f"backbone {name!r} cannot be built {what}by timm: {error}") from error


def _create_face_backbone(name: str, in_chans: int, stem_pool: bool, kwargs: dict[str, Any]) -> nn.Module:
    if not stem_pool:
        raise ValueError(f"stem_pool=False, but backbone {name!r} has no stem pooling to drop")
    try:
        return _FACE_BACKBONES[name](in_chans=in_chans, **kwargs)
    except (IndexError, TypeError) as error:
        raise ValueError(f"backbone {name!r} cannot be built with {kwargs}: {error}") from error


def _make_buffers_persistent(module: nn.Module) -> None:
    # from_pretrained builds on the meta device and fills only what the checkpoint holds: a buffer that is
    # not saved (Swin's attention masks) would come back as garbage.
    for child in module.modules():
        # ConViT makes `rel_indices` anew in its first forward, in another shape: no fresh model could load them.
        child._non_persistent_buffers_set &= {"rel_indices"}


def keep_own_initialization(module: nn.Module) -> None:
    """Tells transformers' `post_init` that the weights of `module` are as they should be.

    The flag sits on the tensors, not on the modules: a weight that a checkpoint lacks is a new tensor
    without it, so `_init_weights` still gets to see, and must fill, the modules that own such tensors.
    The meta tensors of which `from_pretrained` builds the model get no flag: one that the checkpoint lacks
    would pass for loaded, and stay without values and without a word.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if not tensor.is_meta:
            tensor._is_hf_initialized = True


def reset_missing_weights(module: nn.Module) -> None:
    """For `_init_weights`: gives the tensors of a backbone module that no checkpoint filled their defaults."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    missing = [t for t in own if not getattr(t, "_is_hf_initialized", False)]
    kept = [(t, t.detach().clone()) for t in own if getattr(t, "_is_hf_initialized", False)]
    if not missing:
        return
    with torch.no_grad():
        if hasattr(module, "reset_parameters"):
            unsaved = {*module._non_persistent_buffers_set}
            module.reset_parameters()
            module._non_persistent_buffers_set = unsaved  # Swin registers its mask anew
        else:  # layer scales, position embeddings
            for tensor in missing:
                tensor.normal_(std=0.02) if tensor.is_floating_point() else tensor.zero_()
        for tensor, value in kept:
            tensor.copy_(value)
