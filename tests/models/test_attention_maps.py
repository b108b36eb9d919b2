"""Attention maps and RAC against plain Python loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fer.models.attention_maps import class_activation_map, flip_maps, rebalanced_attention_consistency

MAP_SHAPES = [(3, 7, 5, 4), (1, 2, 3, 3), (2, 2, 1, 1), (1, 8, 2, 6), (4, 3, 1, 5)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(size: int, seed: int = 9) -> Tensor:
    return draw(size, seed=seed).abs() + 0.05


def activation_map_by_loops(features: Tensor, weight: Tensor) -> Tensor:
    f, w = features.tolist(), weight.tolist()
    batch, channels, height, width = features.shape
    return torch.tensor(
        [
            [
                [
                    [math.fsum(w[k][c] * f[b][c][y][x] for c in range(channels)) for x in range(width)]
                    for y in range(height)
                ]
                for k in range(len(w))
            ]
            for b in range(batch)
        ],
        dtype=torch.float64,
    )


def consistency_by_loops(
    attn: Tensor,
    attn_flip: Tensor,
    class_weights: Tensor,
    weighting: str,
    source: Callable[[int, int, int, int], tuple[int, int]] = lambda y, x, height, width: (y, width - 1 - x),
) -> Tensor:
    """`source(y, x, H, W)`: the place in the second view's map that belongs to (y, x) in the first's."""
    a, a_flip, b_weight = attn.tolist(), attn_flip.tolist(), class_weights.tolist()
    batch, classes, height, width = attn.shape
    result = []
    for b in range(batch):
        terms = []
        for k in range(classes):
            for y in range(height):
                for x in range(width):
                    sy, sx = source(y, x, height, width)
                    one, other = a[b][k][y][x], a_flip[b][k][sy][sx]
                    if weighting == "inside":
                        terms.append((b_weight[k] * one - b_weight[k] * other) ** 2)
                    else:
                        terms.append(b_weight[k] * (one - other) ** 2)
        result.append(math.fsum(terms) / (classes * height * width))
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize(("batch", "classes", "channels", "height", "width"), [(3, 7, 6, 4, 5), (1, 2, 1, 1, 1)])
def test_class_activation_map_is_the_weighted_sum_of_channels(
    batch: int, classes: int, channels: int, height: int, width: int
) -> None:
    features, weight = draw(batch, channels, height, width), draw(classes, channels, seed=1)
    expected = activation_map_by_loops(features, weight)
    assert expected.shape == (batch, classes, height, width)
    torch.testing.assert_close(class_activation_map(features, weight), expected, rtol=0, atol=1e-13)
    single = class_activation_map(features.float(), weight.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=2e-6)


def test_class_activation_map_takes_any_memory_format() -> None:
    features, weight = draw(2, 5, 3, 4), draw(3, 5, seed=1)
    expected = activation_map_by_loops(features, weight)
    for layout in (
        features.to(memory_format=torch.channels_last),
        features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        draw(2, 5, 3, 8)[..., ::2].copy_(features),
    ):
        torch.testing.assert_close(class_activation_map(layout, weight), expected, rtol=0, atol=1e-13)


def test_class_activation_maps_average_to_the_linear_logits() -> None:
    features, weight = draw(3, 6, 4, 5), draw(7, 6, seed=1)
    logits = F.linear(features.mean(dim=(2, 3)), weight)
    maps = class_activation_map(features, weight)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits, rtol=0, atol=1e-13)


def test_class_activation_map_gradients() -> None:
    inputs = (draw(2, 3, 2, 2).requires_grad_(), draw(4, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(class_activation_map, inputs)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (4, 5), (2, 1, 3, 2)])
def test_flip_maps_mirrors_the_width_alone(shape: tuple[int, ...]) -> None:
    maps = draw(*shape)
    rows = maps.reshape(-1, shape[-1]).tolist()
    expected = torch.tensor([row[::-1] for row in rows], dtype=torch.float64).reshape(shape)
    assert torch.equal(flip_maps(maps), expected)
    assert torch.equal(flip_maps(flip_maps(maps)), maps)
    assert torch.autograd.gradcheck(flip_maps, (maps.requires_grad_(),))


@pytest.mark.parametrize("weighting", ["inside", "outside"])
@pytest.mark.parametrize("shape", MAP_SHAPES)
def test_consistency_matches_the_loops(shape: tuple[int, ...], weighting: str) -> None:
    attn, attn_flip, class_weights = draw(*shape), draw(*shape, seed=1), positive(shape[1])
    expected = consistency_by_loops(attn, attn_flip, class_weights, weighting)
    actual = rebalanced_attention_consistency(attn, attn_flip, class_weights, weighting)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    # As in training: float32 maps, weights of any float dtype.
    single = rebalanced_attention_consistency(attn.float(), attn_flip.float(), class_weights, weighting)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)


def test_consistency_weights_inside_the_square_and_flips_by_default() -> None:
    attn, attn_flip, class_weights = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1), positive(3)
    expected = consistency_by_loops(attn, attn_flip, class_weights, "inside")
    actual = rebalanced_attention_consistency(attn, attn_flip, class_weights)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("weighting", ["inside", "outside"])
def test_consistency_realigns_the_second_view_alone(weighting: str) -> None:
    attn, attn_flip, class_weights = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1), positive(3)
    seen: list[Tensor] = []

    def upside_down(maps: Tensor) -> Tensor:
        seen.append(maps)
        return maps.flip(-2)

    actual = rebalanced_attention_consistency(attn, attn_flip, class_weights, weighting, realign=upside_down)
    expected = consistency_by_loops(
        attn, attn_flip, class_weights, weighting, source=lambda y, x, height, width: (height - 1 - y, x)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    assert len(seen) == 1 and torch.equal(seen[0], attn_flip)


@pytest.mark.parametrize("weighting", ["inside", "outside"])
@pytest.mark.parametrize("shape", MAP_SHAPES)
def test_identical_views_cost_nothing_and_pull_nowhere(shape: tuple[int, ...], weighting: str) -> None:
    attn = draw(*shape).requires_grad_()
    mirrored = attn.detach().flip(-1).requires_grad_()
    loss = rebalanced_attention_consistency(attn, mirrored, positive(shape[1]), weighting)
    assert torch.equal(loss, torch.zeros(shape[0], dtype=torch.float64))
    for gradient in torch.autograd.grad(loss.sum(), (attn, mirrored)):
        assert torch.equal(gradient, torch.zeros_like(attn))


@pytest.mark.parametrize("weighting", ["inside", "outside"])
def test_consistency_gradients(weighting: str) -> None:
    inputs = (
        draw(2, 3, 2, 3).requires_grad_(),
        draw(2, 3, 2, 3, seed=1).requires_grad_(),
        positive(3).requires_grad_(),
    )
    assert torch.autograd.gradcheck(lambda a, f, b: rebalanced_attention_consistency(a, f, b, weighting), inputs)


@pytest.mark.parametrize("weighting", ["inside", "outside"])
def test_equal_weights_give_the_plain_mean_squared_difference(weighting: str) -> None:
    attn, attn_flip = draw(3, 4, 5, 6), draw(3, 4, 5, 6, seed=1)
    actual = rebalanced_attention_consistency(attn, attn_flip, torch.ones(4), weighting)
    expected = F.mse_loss(attn, attn_flip.flip(-1), reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


def test_inside_is_quadratic_and_outside_linear_in_the_weights() -> None:
    attn, attn_flip, class_weights = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1), positive(3)
    for weighting, power in (("inside", 2), ("outside", 1)):
        once = rebalanced_attention_consistency(attn, attn_flip, class_weights, weighting)
        thrice = rebalanced_attention_consistency(attn, attn_flip, 3 * class_weights, weighting)
        torch.testing.assert_close(thrice, 3.0**power * once, rtol=1e-13, atol=0)


@pytest.mark.parametrize("weighting", ["inside", "outside"])
def test_a_class_of_weight_zero_does_not_count(weighting: str) -> None:
    attn, attn_flip = draw(2, 3, 2, 2), draw(2, 3, 2, 2, seed=1)
    class_weights = torch.tensor([1.5, 0.0, 1.5], dtype=torch.float64)
    before = rebalanced_attention_consistency(attn, attn_flip, class_weights, weighting)
    attn[:, 1] += 100
    assert torch.equal(rebalanced_attention_consistency(attn, attn_flip, class_weights, weighting), before)
    attn[:, 0] += 100
    assert (rebalanced_attention_consistency(attn, attn_flip, class_weights, weighting) > before).all()


def test_each_sample_has_its_own_value() -> None:
    attn, attn_flip, class_weights = draw(4, 3, 2, 3), draw(4, 3, 2, 3, seed=1), positive(3)
    together = rebalanced_attention_consistency(attn, attn_flip, class_weights)
    alone = [rebalanced_attention_consistency(attn[b : b + 1], attn_flip[b : b + 1], class_weights) for b in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize("weighting", ["Inside", "", "none"])
def test_unknown_weighting_is_an_error(weighting: str) -> None:
    with pytest.raises(ValueError, match="weighting must be 'inside' or 'outside'"):
        rebalanced_attention_consistency(draw(1, 2, 2, 2), draw(1, 2, 2, 2), torch.ones(2), weighting)
