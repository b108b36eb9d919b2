"""Attention maps and their consistencies against plain Python loops in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fer.models.attention_maps import (
    attention_consistency,
    class_activation_map,
    combined_attention_consistency,
    flip_maps,
    rebalanced_attention_consistency,
    share,
)

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


def views_by_sample(*views: Tensor) -> list[list[list[tuple[float, ...]]]]:
    """Per sample and class: what the views hold at each place, the last one read from right to left."""
    batch, classes, height, width = views[0].shape
    values = [view.tolist() for view in views]
    return [
        [
            [
                (*(view[b][k][y][x] for view in values[:-1]), values[-1][b][k][y][width - 1 - x])
                for y in range(height)
                for x in range(width)
            ]
            for k in range(classes)
        ]
        for b in range(batch)
    ]


def combined_by_loops(
    attn_lr: Tensor, attn_hr: Tensor, attn_lr_flip: Tensor, shares: Tensor | None = None, target: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`shares` and `target` (maps) stand in for `s_A` and `A_C` where those are to be constants."""
    losses, s_a = [], []
    fixed = None if target is None else target.flatten(2).tolist()
    for b, classes in enumerate(views_by_sample(attn_lr, attn_hr, attn_lr_flip)):
        to_hr = math.fsum(abs(low - high) for places in classes for low, high, _ in places)
        to_flip = math.fsum(abs(low - mirrored) for places in classes for low, _, mirrored in places)
        s = to_flip / (to_flip + to_hr) if to_flip + to_hr > 0 else 0.5
        s_a.append(s)
        if shares is not None:
            s = shares[b].item()
        per_class = []
        for k, places in enumerate(classes):
            terms = []
            for place, (low, high, mirrored) in enumerate(places):
                combined = (1 - s) * high + s * mirrored if fixed is None else fixed[b][k][place]
                terms.append(abs(combined - low))
            per_class.append(math.fsum(terms) / len(terms))
        losses.append(math.fsum(per_class) / len(per_class))
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(s_a, dtype=torch.float64)


def slopes(function: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-6) -> Tensor:
    """Gradient of the sum of `function`, by central differences."""
    gradient = torch.zeros_like(at)
    for place in range(at.numel()):
        nudge = torch.zeros_like(at)
        nudge.view(-1)[place] = step
        gradient.view(-1)[place] = (function(at + nudge).sum() - function(at - nudge).sum()) / (2 * step)
    return gradient


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


# HSAC: the earlier and the combined consistency -----------------------------------------------------------


@pytest.mark.parametrize("shape", MAP_SHAPES)
def test_earlier_consistency_matches_the_loops(shape: tuple[int, ...]) -> None:
    attn_lr, attn_hr = draw(*shape), draw(*shape, seed=1)
    result = []
    for low, high in zip(attn_lr.tolist(), attn_hr.tolist(), strict=True):
        per_class = []
        for k in range(shape[1]):
            terms = [abs(high[k][y][x] - low[k][y][x]) for y in range(shape[2]) for x in range(shape[3])]
            per_class.append(math.fsum(terms) / len(terms))
        result.append(math.fsum(per_class) / len(per_class))
    expected = torch.tensor(result, dtype=torch.float64)
    torch.testing.assert_close(attention_consistency(attn_lr, attn_hr), expected, rtol=1e-13, atol=0)
    single = attention_consistency(attn_lr.float(), attn_hr.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)


def test_earlier_consistency_pulls_on_both_views() -> None:
    inputs = (draw(2, 3, 2, 3).requires_grad_(), draw(2, 3, 2, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(attention_consistency, inputs)
    low, high = torch.autograd.grad(attention_consistency(*inputs).sum(), inputs)
    assert torch.equal(low, -high)
    torch.testing.assert_close(low.abs(), torch.full_like(low, 1 / 18), rtol=1e-14, atol=0)


def test_earlier_consistency_of_equal_views_is_zero_and_pulls_nowhere() -> None:
    attn_lr = draw(2, 3, 4, 5).requires_grad_()
    attn_hr = attn_lr.detach().clone().requires_grad_()
    loss = attention_consistency(attn_lr, attn_hr)
    assert torch.equal(loss, torch.zeros(2, dtype=torch.float64))
    for gradient in torch.autograd.grad(loss.sum(), (attn_lr, attn_hr)):
        assert torch.equal(gradient, torch.zeros_like(attn_lr))


@pytest.mark.parametrize("shape", MAP_SHAPES)
def test_combined_consistency_matches_the_loops(shape: tuple[int, ...]) -> None:
    views = tuple(draw(*shape, seed=seed) for seed in range(3))
    expected, expected_share = combined_by_loops(*views)
    loss, s_a = combined_attention_consistency(*views)
    assert loss.shape == s_a.shape == shape[:1]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(s_a, expected_share, rtol=1e-13, atol=0)
    loss, s_a = combined_attention_consistency(*(view.float() for view in views))
    assert loss.dtype == s_a.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s_a.double(), expected_share, rtol=1e-6, atol=0)


def test_combined_consistency_by_hand() -> None:
    attn_lr = torch.tensor([[[[1.0, 2.0]]]])
    attn_hr = torch.tensor([[[[2.0, 2.0]]]])  # δ_LH = 1
    attn_lr_flip = torch.tensor([[[[5.0, 1.0]]]])  # mirrored 1, 5: δ_LF = 3
    loss, s_a = combined_attention_consistency(attn_lr, attn_hr, attn_lr_flip)
    # A_C = ¼·(2, 2) + ¾·(1, 5) = (1.25, 4.25)
    assert s_a.tolist() == [0.75]
    assert loss.tolist() == [1.25]


def test_the_view_that_agrees_has_no_say() -> None:
    """`s_A` is the share of the mirrored view, by its distance: 1 where the images' maps agree already."""
    attn_lr, other = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    loss, s_a = combined_attention_consistency(attn_lr, attn_lr, other)
    assert torch.equal(s_a, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(loss, (other.flip(-1) - attn_lr).abs().mean((1, 2, 3)), rtol=1e-14, atol=0)
    loss, s_a = combined_attention_consistency(attn_lr, other, attn_lr.flip(-1))
    assert torch.equal(s_a, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(loss, attention_consistency(attn_lr, other), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("detach_target", [False, True])
def test_three_identical_views_share_equally(dtype: torch.dtype, detach_target: bool) -> None:
    attn_lr, attn_hr = (draw(2, 3, 4, 5).to(dtype).requires_grad_() for _ in range(2))
    attn_lr_flip = attn_lr.detach().flip(-1).requires_grad_()
    views = (attn_lr, attn_hr, attn_lr_flip)
    loss, s_a = combined_attention_consistency(*views, detach_target=detach_target)
    assert torch.equal(s_a, torch.full((2,), 0.5, dtype=dtype))
    assert torch.equal(loss, torch.zeros(2, dtype=dtype))
    for gradient in torch.autograd.grad(loss.sum(), views, allow_unused=True):
        assert gradient is None or torch.equal(gradient, torch.zeros_like(attn_lr))


def test_one_agreeing_sample_leaves_the_others_alone() -> None:
    views = [draw(3, 2, 3, 3, seed=seed) for seed in range(3)]
    views[1][1], views[2][1] = views[0][1], views[0][1].flip(-1)
    loss, s_a = combined_attention_consistency(*views)
    assert (s_a[1].item(), loss[1].item()) == (0.5, 0.0)
    for b in range(3):
        alone, alone_share = combined_attention_consistency(*(view[b : b + 1] for view in views))
        torch.testing.assert_close(loss[b : b + 1], alone, rtol=1e-14, atol=0)
        torch.testing.assert_close(s_a[b : b + 1], alone_share, rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-8, 1e4])
def test_combined_consistency_scales_with_the_maps_and_the_share_does_not(scale: float) -> None:
    views = tuple(draw(2, 3, 4, 5, seed=seed) for seed in range(3))
    loss, s_a = combined_attention_consistency(*views)
    scaled, scaled_share = combined_attention_consistency(*(scale * view for view in views))
    torch.testing.assert_close(scaled, scale * loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled_share, s_a, rtol=1e-13, atol=0)


def test_the_share_carries_no_gradient_and_the_target_does() -> None:
    views = tuple(draw(2, 2, 2, 3, seed=seed).requires_grad_() for seed in range(3))
    loss, s_a = combined_attention_consistency(*views)
    assert not s_a.requires_grad
    gradients = torch.autograd.grad(loss.sum(), views)
    plain = [view.detach() for view in views]
    for index, gradient in enumerate(gradients):

        def held(view: Tensor, index: int = index) -> Tensor:
            return combined_by_loops(*plain[:index], view, *plain[index + 1 :], shares=s_a)[0]

        torch.testing.assert_close(gradient, slopes(held, plain[index]), rtol=0, atol=1e-8)
        assert gradient.abs().max() > 1e-3


def test_a_detached_target_moves_the_low_resolution_maps_alone() -> None:
    views = tuple(draw(2, 2, 2, 3, seed=seed).requires_grad_() for seed in range(3))
    loss, s_a = combined_attention_consistency(*views, detach_target=True)
    default, default_share = combined_attention_consistency(*views)
    assert torch.equal(loss, default) and torch.equal(s_a, default_share)
    attn_lr, attn_hr, attn_lr_flip = (view.detach() for view in views)
    weight = s_a[:, None, None, None]
    target = (1 - weight) * attn_hr + weight * attn_lr_flip.flip(-1)
    expected = slopes(lambda maps: combined_by_loops(maps, attn_hr, attn_lr_flip, target=target)[0], attn_lr)
    gradient, high, flipped = torch.autograd.grad(loss.sum(), views, allow_unused=True)
    assert high is None and flipped is None
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_share_of_two_numbers(dtype: torch.dtype) -> None:
    first = torch.tensor([0.0, 0.0, 3.0, 1.0, 1e-4, 1e4], dtype=dtype)
    second = torch.tensor([0.0, 5.0, 0.0, 3.0, 1e-4, 1e4], dtype=dtype)
    actual = share(first, second)
    assert actual.dtype == dtype
    assert actual.tolist() == [0.5, 0.0, 1.0, 0.25, 0.5, 0.5]


def test_share_gradients() -> None:
    first, second = draw(5).abs() + 0.1, draw(5, seed=1).abs() + 0.1
    torch.testing.assert_close(
        share(first, second),
        torch.tensor([a / (a + b) for a, b in zip(first.tolist(), second.tolist(), strict=True)], dtype=torch.float64),
        rtol=1e-15,
        atol=0,
    )
    assert torch.autograd.gradcheck(share, (first.requires_grad_(), second.requires_grad_()))
    empty = torch.zeros(2, requires_grad=True)
    some = torch.tensor([0.0, 2.0], requires_grad=True)
    for gradient in torch.autograd.grad(share(empty, some).sum(), (empty, some)):
        assert gradient.isfinite().all()
