"""Where in a face the evidence for each expression lies, by the map that the network's own structure allows.

| network | `method` | what a map is |
| --- | --- | --- |
| average pooling and a linear classifier (HSAC, MEK, multi-resolution; Neural Resizer with Swin or a CNN) | "cam" | the share of each place in the logit, exact where no spatial transformer has moved the face |
| class token (Neural Resizer with ViT, DeiT, ConViT; GReFEL's joining transformer; stock ViT, DeiT) | "gradient_rollout" | attention, followed from the answer back to the patches, each weight counted by what it does for the class |
| the same, on request | "rollout" | the same without gradients: one map for all classes |
| any other classifier of transformers', Neural Resizer with XCiT | "gradcam" | the last feature map, weighted by the class' mean gradients |

A map says what this network used, not what an expression is: two networks with the same answer have different maps.
"""  # noqa: E501 (a table)

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

from ..checkpoints.checks import first_sentence
from ..errors import FerError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor

METHODS = {
    "cam": "class activation maps (Zhou et al. 2016): the share of each place in the logit",
    "gradient_rollout": "attention rollout with class gradients (Chefer et al. 2021)",
    "rollout": "attention rollout (Abnar & Zuidema 2020): one map for all classes",
    "gradcam": "Grad-CAM (Selvaraju et al. 2017) on the last feature map",
}
"""The methods, each with a line for captions."""

MAX_CLASSES = 100  # a gradient each
MAX_FACTORS = 16

_CAM_MODELS = ("hsac", "mek", "multires")
_CLASS_TOKEN_MODELS = ("vit", "deit", "vit_msn")  # of transformers': the answer is read off the first token
_DISTRIBUTIONS = ("primary", "anchor", "attentive", "corrected", "final")

# One explanation at a time: a hook, or a model taken out of training mode, must be put back by whoever did it.
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Explanation:
    """Maps of B faces, all tensors on the CPU.

    Attributes:
        maps: (B, C, h, w) float32, one for each of `classes`. Signed for "cam" (`maps.mean((2, 3))` and the
            classifier's bias are the logits, but for maps that Neural Resizer's spatial transformer has moved and that
            were moved back), non-negative for all others.
        method: a key of `METHODS`.
        probabilities: (B, K) float32, the network's answer.
        labels: the K class names.
        classes: the C class ids that `maps` are of; all K of them unless fewer were asked for.
        extra: GReFEL's distributions (B, K), "primary", "anchor", "attentive", "corrected" and "final", of those that
            its configuration has, and their confidences (B,) in [0, 1], "primary_confidence" and so on.
    """

    maps: Tensor
    method: str
    probabilities: Tensor
    labels: tuple[str, ...]
    classes: tuple[int, ...]
    extra: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolutionExplanation:
    """One face at several resolutions.

    Attributes:
        factors: F down-sampling factors; 1 is `reference_side`.
        images: F RGB images, what the network got to see at each, undone from its pre-processing.
        explanation: of these, B = F.
        reference_side: px of the face's shorter side at factor 1.
        source_side: px of the shorter side of the image that was given: at factors under
            `reference_side / source_side` it was enlarged, and has no more detail than it came with.
        model_name: for captions.
    """

    factors: tuple[float, ...]
    images: tuple[Image.Image, ...]
    explanation: Explanation
    reference_side: int
    source_side: int
    model_name: str


def expression_maps(
    model: PreTrainedModel,
    pixel_values: Tensor,
    *,
    method: str | None = None,
    classes: Sequence[int] | None = None,
) -> Explanation:
    """Maps of the evidence for each class, in the frame of `pixel_values`.

    The model is left as it was found: mode, parameters, their gradients and hooks (transformers keeps hooks of its
    own on a model that was once asked for hidden states, as Grad-CAM of a stock model does). One call at a time in a
    process; other threads may predict with the model meanwhile.

    Args:
        model: an image classifier, as from `load_classifier`.
        pixel_values: (B, 3, H, W), as the model's image processor makes them.
        method: a key of `METHODS`; None: the first in this module's table that the network allows.
        classes: class ids to make maps of, in this order; None: all.

    Raises:
        FerError: a method that the network does not allow, class ids that it does not have, more than `MAX_CLASSES` of
            them, images that it does not take, an answer that is not a number, or no map to be had.
    """
    import torch

    labels = tuple(str(model.config.id2label[k]) for k in range(model.config.num_labels))
    wanted = _check_classes(classes, len(labels))
    if method is not None and method not in METHODS:
        raise FerError(f"{method!r} is no method of explanation; choose of {', '.join(METHODS)}, or leave it open")
    # The recorders need a graph, also where the caller has turned gradients off.
    with _LOCK, _in_eval_mode(model), torch.inference_mode(False), torch.enable_grad():
        pixels = pixel_values.detach().to(model.device, model.dtype, copy=True).requires_grad_()
        try:
            found = _ways(model)(model, pixels, wanted, method)
        except FerError:
            raise
        except torch.cuda.OutOfMemoryError as error:
            raise FerError(
                f"not enough memory on {model.device} to explain {len(pixels)} images at once; give fewer"
            ) from error
        except (RuntimeError, ValueError) as error:  # mostly shapes
            raise FerError(
                f"the model cannot explain pixel_values of shape {tuple(pixel_values.shape)} ({first_sentence(error)})"
            ) from error
        maps, used, logits, extra = found
    probabilities = _probabilities(logits.detach().float(), model)
    if not (torch.isfinite(maps).all() and torch.isfinite(probabilities).all()):
        raise FerError("the model's answer is not a number; its weights or the pixel values may be damaged")
    extra = {name: value.detach().float().cpu() for name, value in extra.items()}
    return Explanation(maps.detach().float().cpu(), used, probabilities.cpu(), labels, wanted, extra)


def explain_resolutions(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    image: Image.Image,
    factors: Sequence[float] = (1, 2, 4, 8),
    *,
    method: str | None = None,
    classes: Sequence[int] | None = None,
) -> ResolutionExplanation:
    """The same face at several resolutions, degraded as in the multi-resolution protocol.

    Args:
        model, processor: as from `load_classifier`.
        image: a crop of one face, any mode and size.
        factors: each at least 1, counted from the side of the network's input, `config.image_size` (the processor's
            size where the configuration has none).
        method, classes: see `expression_maps`.

    Raises:
        FerError: no factors, more than `MAX_FACTORS`, one below 1 or not finite; else see `expression_maps`.
    """
    import torch

    from ..data.images import to_rgb
    from ..data.resolution import degrade_image

    factors = tuple(factors)
    if not 1 <= len(factors) <= MAX_FACTORS:
        raise FerError(f"{len(factors)} resolution factors cannot be shown side by side; give 1 to {MAX_FACTORS}")
    rgb = to_rgb(image)
    reference = _reference_side(model, processor) or min(rgb.size)
    faces = [degrade_image(rgb, factor, reference_side=reference) for factor in factors]
    try:
        pixels = torch.cat([processor(images=face, return_tensors="pt")["pixel_values"] for face in faces])
    except Exception as error:  # processors raise whatever an impossible shape makes them raise
        size = f"{rgb.width} x {rgb.height}"
        raise FerError(f"the image ({size}) cannot be preprocessed ({first_sentence(error)})") from error
    explanation = expression_maps(model, pixels, method=method, classes=classes)
    images = tuple(seen_image(one, processor, bool(getattr(model.config, "grayscale", False))) for one in pixels)
    name = str(getattr(model, "name_or_path", "") or model.config.model_type)
    return ResolutionExplanation(tuple(float(f) for f in factors), images, explanation, reference, min(rgb.size), name)


def seen_image(pixels: Tensor, processor: BaseImageProcessor, grayscale: bool = False) -> Image.Image:
    """What a network gets to see: (3, H, W) pixel values, undone from `processor`'s normalisation, as RGB.

    Maps lie exactly over it, whatever the processor cut off.

    Args:
        pixels: of one image.
        processor: the one that made them.
        grayscale: show the luminance, which is all that a network with `config.grayscale` uses.
    """
    import torch
    from PIL import Image

    pixels = pixels.detach().float().cpu()
    if getattr(processor, "do_normalize", False) and processor.image_mean is not None:
        mean, std = (torch.tensor(list(v), dtype=torch.float32) for v in (processor.image_mean, processor.image_std))
        pixels = pixels * std[:, None, None] + mean[:, None, None]
    if getattr(processor, "do_rescale", True):
        pixels = pixels / float(getattr(processor, "rescale_factor", None) or 1 / 255)
    array = pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(array)
    return image.convert("L").convert("RGB") if grayscale else image


# --- each kind of network ---------------------------------------------------------------------------------------------

_Found = tuple["Tensor", str, "Tensor", "dict[str, Tensor]"]  # maps (B,C,h,w), method, logits (B,K), extra


def _ways(model: PreTrainedModel) -> Callable[..., _Found]:
    kind = model.config.model_type
    if kind in _CAM_MODELS:
        return _explain_map_classifier
    return {"neural_resizer": _explain_neural_resizer, "grefel": _explain_grefel}.get(kind, _explain_stock)


def _explain_map_classifier(model: Any, pixels: Tensor, classes: tuple[int, ...], method: str | None) -> _Found:
    """HSAC, MEK, multi-resolution training: the models' own maps."""
    method = _choose(method, "cam")
    output = model(pixels, output_attention_maps=True, return_dict=True)
    return output.attention_maps[:, list(classes)], method, output.logits, {}


def _explain_grefel(model: Any, pixels: Tensor, classes: tuple[int, ...], method: str | None) -> _Found:
    """Rollout through the transformer that joins the levels; the relevance of a place is the sum over the levels.

    What the convolutions and the cross-attention before it mix is not undone: their maps keep their place by residual
    connections, as the patches of a convolutional stem do.
    """
    from .rollout import AttentionRecorder

    method = _choose(method, "gradient_rollout", "rollout")
    levels = model._levels(pixels)
    with AttentionRecorder() as recorder:
        embeddings = model.fusion(levels)
    output = model._distributions(embeddings)
    side = model.config.level_sides[2]
    readout = _first_tokens(3 * side * side + 1)
    relevance = _relevance(recorder.weights, readout, output.logits, classes, method)
    maps = relevance[:, :, 1:].unflatten(2, (3, side, side)).sum(dim=2)
    extra = {}
    for name in _DISTRIBUTIONS:
        if output.get(f"{name}_distribution") is not None:
            extra[name] = output[f"{name}_distribution"]
            extra[f"{name}_confidence"] = output[f"{name}_confidence"]
    return maps, method, output.logits, extra


def _explain_neural_resizer(model: Any, pixels: Tensor, classes: tuple[int, ...], method: str | None) -> _Found:
    """By the pooling of timm's network; where the front end has moved the face, the map is moved back."""
    import torch

    from .rollout import AttentionRecorder

    body = model.backbone.body
    images = model.resize(pixels)
    with AttentionRecorder() as recorder, _captured(_last_block(body)) as blocks:
        features = body.forward_features(images)
        embedding = body.forward_head(features)
    logits = model.classifier(model.dropout(embedding))
    grid = _as_map(features, images.shape[-2:], getattr(body, "output_fmt", None) == "NHWC")
    tokens = _token_readout(body, features)
    near = torch.finfo(features.dtype).eps ** 0.5  # half of its digits
    if grid is not None and torch.allclose(grid.mean(dim=(2, 3)), embedding, rtol=near, atol=near):
        method = _choose(method, "cam", "gradcam")
    elif tokens is not None and _fits(recorder.weights, len(tokens), len(body.blocks)):
        method = _choose(method, "gradient_rollout", "rollout")
    else:
        method = _choose(method, "gradcam")
    if method == "cam":
        maps = torch.einsum("kc,bchw->bkhw", model.classifier.weight[list(classes)], grid)
    elif method == "gradcam":
        last = blocks[-1] if blocks and isinstance(blocks[-1], torch.Tensor) else features
        is_last = getattr(body, "output_fmt", None) == "NHWC"
        maps = _grad_cam([features, last], images.shape[-2:], logits, classes, channels_last=is_last)
    else:
        prefix = body.num_prefix_tokens
        relevance = _relevance(recorder.weights, tokens, logits, classes, method)[:, :, prefix:]
        maps = relevance.unflatten(2, _grid(relevance.shape[2], images.shape[-2:]))
    return _moved_back(maps.detach(), model, pixels), method, logits, {}


def _explain_stock(model: Any, pixels: Tensor, classes: tuple[int, ...], method: str | None) -> _Found:
    """Classifiers of transformers' own, and whoever keeps their interface."""
    from .rollout import AttentionRecorder

    if model.config.model_type in _CLASS_TOKEN_MODELS and method in (None, "rollout", "gradient_rollout"):
        with AttentionRecorder() as recorder:
            logits = model(pixel_values=pixels).logits
        count = recorder.weights[0].shape[-1] if recorder.weights else 0
        prefix = 2 if model.config.model_type == "deit" else 1
        if _fits(recorder.weights, count, model.config.num_hidden_layers):
            method = _choose(method, "gradient_rollout", "rollout")
            # DeiTForImageClassificationWithTeacher answers the mean of two classifiers, each on a token of its own.
            readout = _first_tokens(count, 2 if hasattr(model, "distillation_classifier") else 1)
            relevance = _relevance(recorder.weights, readout, logits, classes, method)[:, :, prefix:]
            return relevance.unflatten(2, _grid(relevance.shape[2], pixels.shape[-2:])), method, logits, {}
    method = _choose(method, "gradcam")
    output = model(pixel_values=pixels, output_hidden_states=True, return_dict=True)
    states = output.get("hidden_states")
    if not states:
        kind = type(model).__name__
        raise FerError(f"a {kind} shows no feature maps, so there is nothing to explain its answer with")
    return _grad_cam(states[::-1], pixels.shape[-2:], output.logits, classes), method, output.logits, {}


# --- rollout ----------------------------------------------------------------------------------------------------------


def _relevance(weights: list[Tensor], readout: Tensor, logits: Tensor, classes: tuple[int, ...], method: str) -> Tensor:
    """(B, C, N): the tokens' relevance for each class."""
    import torch

    from .rollout import attention_rollout, gradient_rollout

    plain = [a.detach().float() for a in weights]
    if method == "rollout":
        return attention_rollout(plain, readout).unsqueeze(1).expand(-1, len(classes), -1)
    rows = [
        gradient_rollout(plain, [g.float() for g in gradients], readout)
        for gradients in _gradients(logits, weights, classes)
    ]
    return torch.stack(rows, dim=1)


def _gradients(logits: Tensor, inputs: Sequence[Tensor], classes: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """Of each class' logit with respect to the inputs (zeros where it does not depend); no parameter gets a `grad`."""
    import torch

    for place, k in enumerate(classes):
        # No sample sees its neighbours in eval mode, so the gradient of the sum is each sample's own.
        found = torch.autograd.grad(
            logits[:, k].sum(), inputs, retain_graph=place + 1 < len(classes), allow_unused=True
        )
        yield [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


def _fits(weights: list[Tensor], tokens: int, blocks: int) -> bool:
    """Whether these are the attention of all blocks, over all tokens at least in the last."""
    sizes = [a.shape[-1] for a in weights]
    return len(sizes) == blocks > 0 and sizes == sorted(sizes) and sizes[-1] == tokens


def _token_readout(body: nn.Module, features: Tensor) -> Tensor | None:
    """(N,): what of timm's tokens makes the embedding; None where it is neither class token nor average."""
    import torch
    from timm.models.convit import ConVit
    from timm.models.vision_transformer import VisionTransformer

    # XCiT attends between channels, CaiT mixes the heads' weights: what they record is no rollout's.
    if features.ndim != 3 or not isinstance(body, (VisionTransformer, ConVit)):
        return None
    count, prefix = features.shape[1], body.num_prefix_tokens
    if getattr(body, "dist_token", None) is not None:  # the embedding is the mean of class and distillation token
        return _first_tokens(count, 2)
    pool = getattr(body, "global_pool", None)
    if pool == "token" and prefix:
        return _first_tokens(count)
    if pool == "avg" and not getattr(body, "pool_include_prefix", False):
        return torch.cat([torch.zeros(prefix), torch.full((count - prefix,), 1 / (count - prefix))])
    return None


def _first_tokens(count: int, several: int = 1) -> Tensor:
    """(count,): the mean of the first ones."""
    import torch

    return torch.cat([torch.full((several,), 1 / several), torch.zeros(count - several)])


# --- feature maps -----------------------------------------------------------------------------------------------------


def _grad_cam(
    candidates: Sequence[Tensor],
    size: Sequence[int],
    logits: Tensor,
    classes: tuple[int, ...],
    channels_last: bool = False,
) -> Tensor:
    """`ReLU(Σ_c mean_hw(∂z_k/∂F_c)·F_c)` on the first of the candidates that is a map and matters for the answer.

    The tokens beside the class token of a last block do not: whatever they become, nobody reads it.
    """
    import torch

    maps = []
    for state in candidates:
        shape = _as_map(state, size, channels_last)
        if shape is None or shape.shape[-1] * shape.shape[-2] < 2 or not state.requires_grad:
            continue
        maps = []
        for k in classes:
            (gradient,) = torch.autograd.grad(logits[:, k].sum(), [state], retain_graph=True, allow_unused=True)
            if gradient is None:
                break
            weight = _as_map(gradient, size, channels_last).mean(dim=(2, 3), keepdim=True)
            if not weight.any():
                break
            maps.append((weight * shape).sum(dim=1).clamp_min(0))
        if len(maps) == len(classes):
            return torch.stack(maps, dim=1)
    raise FerError("the model has no feature map that its answer depends on place by place, so there is no Grad-CAM")


def _as_map(state: Tensor, size: Sequence[int], channels_last: bool = False) -> Tensor | None:
    """A feature map, or the patches among tokens, as (B, C, h, w); None for what is neither."""
    if state.ndim == 4:
        return state.permute(0, 3, 1, 2) if channels_last else state
    if state.ndim != 3:
        return None
    for prefix in range(6):  # class, distillation and register tokens come first
        grid = _grid(state.shape[1] - prefix, size)
        if grid is not None:
            return state[:, prefix:].transpose(1, 2).unflatten(2, grid)
    return None


def _grid(count: int, size: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of `count` patches of an image of that size; None where they do not fill it."""
    rows = round(math.sqrt(count * size[0] / size[1])) if count > 0 else 0
    return (rows, count // rows) if rows and count % rows == 0 and rows * size[1] == count // rows * size[0] else None


def _last_block(body: nn.Module) -> nn.Module | None:
    """XCiT's last block before class attention, which is where its patches end."""
    return body.blocks[-1] if hasattr(body, "cls_attn_blocks") and hasattr(body, "blocks") else None


@contextlib.contextmanager
def _captured(module: nn.Module | None) -> Iterator[list[Any]]:
    """What a module gives in this thread, while the block lasts."""
    outputs: list[Any] = []
    if module is None:
        yield outputs
        return
    me = threading.get_ident()

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if threading.get_ident() == me:
            outputs.append(output)

    handle = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def _moved_back(maps: Tensor, model: Any, pixels: Tensor) -> Tensor:
    """Maps of the image that Neural Resizer's spatial transformer made, on the image that it was given.

    Nothing is known about what it moved out of sight: 0.
    """
    import torch
    import torch.nn.functional as F

    if not hasattr(model.spatial_transformer, "theta"):
        return maps
    with torch.no_grad():
        theta = model.spatial_transformer.theta(model.upsampler(pixels)).cpu().double()
        maps = maps.cpu()
        last = torch.tensor([0.0, 0.0, 1.0], dtype=theta.dtype, device=theta.device).expand(len(theta), 1, 3)
        try:
            inverse = torch.linalg.inv(torch.cat([theta, last], dim=1))[:, :2]
        except RuntimeError:  # it has flattened the face: there is no way back
            return torch.zeros_like(maps)
        if torch.equal(inverse, torch.eye(2, 3).to(inverse).expand_as(inverse)):
            return maps
        # Finer than the map: a turned map of 7 × 7 squares is not one of 7 × 7 squares.
        fine = F.interpolate(maps.double(), scale_factor=4, mode="bilinear", align_corners=False)
        grid = F.affine_grid(inverse, list(fine.shape), align_corners=False)
        return F.grid_sample(fine, grid, padding_mode="zeros", align_corners=False).to(maps.dtype)


# --- small things -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module as it was afterwards: one that was frozen in a model in training stays frozen."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _choose(method: str | None, *allowed: str) -> str:
    if method is None or method in allowed:
        return method or allowed[0]
    raise FerError(f"this model has no {method!r} maps; choose {' or '.join(map(repr, allowed))}, or leave it open")


def _check_classes(classes: Sequence[int] | None, count: int) -> tuple[int, ...]:
    wanted = tuple(range(count)) if classes is None else tuple(classes)
    if strange := [k for k in wanted if not isinstance(k, Integral)]:
        raise FerError(f"classes: {str(strange[0])[:40]!r} is no class id; the model's ids are 0 to {count - 1}")
    if not 1 <= len(wanted) <= MAX_CLASSES:
        raise FerError(
            f"{len(wanted)} classes are too many or too few to make maps of; name 1 to {MAX_CLASSES} by classes="
        )
    if unknown := [k for k in wanted if not 0 <= k < count]:
        raise FerError(f"classes: there is no class {unknown[0]}, the model's ids are 0 to {count - 1}")
    return tuple(int(k) for k in wanted)


def _reference_side(model: PreTrainedModel, processor: BaseImageProcessor) -> int | None:
    """Side in px of what the network takes."""
    side = getattr(model.config, "image_size", None)
    if isinstance(side, (list, tuple)) and side:
        side = min(side)
    if not side:
        for sizes in (getattr(processor, "crop_size", None), getattr(processor, "size", None)):
            values = [v for v in dict(sizes or {}).values() if isinstance(v, int) and v > 0]
            if values:
                return min(values)
    return int(side) if side else None


def _probabilities(logits: torch.Tensor, model: PreTrainedModel) -> Tensor:
    """By the rule of the image-classification pipeline."""
    several = getattr(model.config, "problem_type", None) == "multi_label_classification" or logits.shape[1] == 1
    return logits.sigmoid() if several else logits.softmax(dim=1)
