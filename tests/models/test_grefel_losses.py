"""GReFEL's confidences, anchor distribution and anchor losses against plain Python loops in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fer.models.losses import (
    anchor_center_loss,
    anchor_distribution,
    anchor_loss,
    combine_by_confidence,
    normalized_entropy_confidence,
)

ANCHOR_SHAPES = [(3, 4, 5, 6), (1, 2, 1, 1), (2, 3, 1, 4), (5, 8, 2, 3)]  # B, K, M, D


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_distributions(*shape: int, seed: int = 7) -> Tensor:
    return torch.softmax(2 * draw(*shape, seed=seed), dim=-1)


def confidence_of(row: list[float]) -> float:
    return 1 + math.fsum(p * math.log(p) for p in row if p > 0) / math.log(len(row))


def combined_by_loops(first: Tensor, second: Tensor) -> Tensor:
    rows = []
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        a, b = confidence_of(one), confidence_of(two)
        rows.append([(a * p + b * q) / (a + b) for p, q in zip(one, two, strict=True)])
    return torch.tensor(rows, dtype=torch.float64)


def squared_distance(one: list[float], other: list[float]) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def anchor_distribution_by_loops(embeddings: Tensor, anchors: Tensor, delta: float = 1.0) -> Tensor:
    rows = []
    for e in embeddings.tolist():
        exponents = [[-math.sqrt(squared_distance(e, a)) / delta for a in group] for group in anchors.tolist()]
        top = max(itertools.chain(*exponents))
        total = math.fsum(math.exp(value - top) for value in itertools.chain(*exponents))
        rows.append([math.fsum(math.exp(value - top) for value in group) / total for group in exponents])
    return torch.tensor(rows, dtype=torch.float64)


def anchor_loss_by_loops(anchors: Tensor) -> float:
    units = []
    for anchor in anchors.flatten(0, 1).tolist():
        length = math.sqrt(math.fsum(value**2 for value in anchor))
        units.append([value / length for value in anchor])
    distances = [squared_distance(units[i], units[j]) for i in range(len(units)) for j in range(len(units)) if i != j]
    return -math.fsum(distances) / len(distances)


def center_loss_by_loops(embeddings: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
    result = []
    for e, label in zip(embeddings.tolist(), labels.tolist(), strict=True):
        nearest = [min(squared_distance(e, a) for a in group) for group in anchors.tolist()]
        shares = label if labels.ndim == 2 else [float(k == label) for k in range(len(nearest))]
        result.append(math.fsum(t * value for t, value in zip(shares, nearest, strict=True)))
    return torch.tensor(result, dtype=torch.float64)


def simplex(count: int) -> Tensor:
    """Unit vectors as far from each other as can be: any two at a squared distance of 2·N/(N − 1)."""
    corners = torch.eye(count, dtype=torch.float64) - 1 / count
    return corners / corners.norm(dim=1, keepdim=True)


# Confidence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 7), (1, 2), (5, 8), (4,), (2, 3, 5)])
def test_confidence_matches_the_loops(shape: tuple[int, ...]) -> None:
    p = draw_distributions(*shape)
    rows = p.reshape(-1, shape[-1]).tolist()
    expected = torch.tensor([confidence_of(row) for row in rows], dtype=torch.float64).reshape(shape[:-1])
    actual = normalized_entropy_confidence(p)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)
    single = normalized_entropy_confidence(p.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)


def test_confidence_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.75, 0.25, 0.0, 0.0]], dtype=torch.float64)
    # H = log 2 of log 4; H = ¾·log(4/3) + ¼·log 4.
    expected = [0.5, 1 - (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4)]
    assert normalized_entropy_confidence(p).tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", range(2, 21))
def test_confidence_is_0_for_the_uniform_and_1_for_a_one_hot_distribution(classes: int, dtype: torch.dtype) -> None:
    uniform = torch.full((1, classes), 1 / classes, dtype=dtype)
    softmax = torch.softmax(torch.full((1, classes), 3.0, dtype=dtype), dim=1)
    p = torch.cat([uniform, softmax, torch.eye(classes, dtype=dtype)]).requires_grad_()
    confidence = normalized_entropy_confidence(p)
    expected = torch.cat([torch.zeros(2, dtype=dtype), torch.ones(classes, dtype=dtype)])
    torch.testing.assert_close(confidence, expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert bool(((confidence >= 0) & (confidence <= 1)).all())
    (gradient,) = torch.autograd.grad(confidence.sum(), p)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [0.0, 40.0, 100.0, 1e4])
def test_confidence_of_saturated_logits_has_finite_gradients(logit: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([[logit, -logit, 0.0]], dtype=dtype, requires_grad=True)
    confidence = normalized_entropy_confidence(torch.softmax(logits, dim=1))
    assert confidence.item() == pytest.approx(float(logit > 0), abs=1e-6)
    (gradient,) = torch.autograd.grad(confidence.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(logits), rtol=0, atol=1e-6)


def test_sharper_distributions_are_more_confident() -> None:
    logits = draw(5, 6)
    values = torch.stack([normalized_entropy_confidence(torch.softmax(s * logits, 1)) for s in (0.1, 0.5, 1, 3, 10)])
    assert bool((values.diff(dim=0) > 0).all())


def test_confidence_gradients() -> None:
    """Through the softmax that makes distributions, and as they are."""
    logits = draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: normalized_entropy_confidence(torch.softmax(z, 1)), (logits,))
    assert torch.autograd.gradcheck(normalized_entropy_confidence, (draw_distributions(3, 4).requires_grad_(),))


# Combination -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "classes"), [(6, 7), (1, 2), (5, 8), (1, 3)])
def test_combination_matches_the_loops(batch: int, classes: int) -> None:
    first, second = draw_distributions(batch, classes), draw_distributions(batch, classes, seed=8)
    expected = combined_by_loops(first, second)
    actual = combine_by_confidence(first, second)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.sum(1), torch.ones(batch, dtype=torch.float64), rtol=0, atol=1e-14)
    torch.testing.assert_close(combine_by_confidence(second, first), actual, rtol=0, atol=1e-14)
    single = combine_by_confidence(first.float(), second.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_combination_at_the_ends_of_confidence(dtype: torch.dtype) -> None:
    uniform, sure, other = torch.full((4,), 0.25, dtype=dtype), *torch.eye(4, dtype=dtype)[:2]
    first = torch.stack([sure, uniform, sure, sure, uniform]).requires_grad_()
    second = torch.stack([uniform, sure, other, sure, uniform]).requires_grad_()
    combined = combine_by_confidence(first, second)
    expected = torch.stack([sure, sure, (sure + other) / 2, sure, uniform])
    torch.testing.assert_close(combined, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(combined.sum(1), torch.ones(5, dtype=dtype), rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(combined.square().sum(), (first, second)):
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 4, 7, 8, 13])
def test_without_any_confidence_both_weigh_the_same(classes: int, dtype: torch.dtype) -> None:
    """Rows a hair off the uniform one: their confidences are 0, or nothing but rounding."""
    logits = [torch.full((2, classes), value, dtype=dtype, requires_grad=True) for value in (0.0, 3.0)]
    combined = combine_by_confidence(*(torch.softmax(z, dim=1) for z in logits))
    uniform = torch.full((2, classes), 1 / classes, dtype=dtype)
    torch.testing.assert_close(combined, uniform, rtol=0, atol=2 * torch.finfo(dtype).eps)
    for gradient in torch.autograd.grad(combined[:, 0].sum(), logits):
        assert bool(gradient.isfinite().all())
    # Confidences cancel out to exactly 0 with two and four classes: half of the slope for each.
    if classes in (2, 4):
        first, second = (uniform.clone().requires_grad_() for _ in range(2))
        for gradient in torch.autograd.grad(combine_by_confidence(first, second).sum(), (first, second)):
            torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [100.0, 1e4])
def test_combination_of_saturated_logits_has_finite_gradients(logit: float, dtype: torch.dtype) -> None:
    first = torch.tensor([[logit, -logit], [logit, -logit], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    second = torch.tensor([[-logit, logit], [0.0, 0.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    combined = combine_by_confidence(torch.softmax(first, 1), torch.softmax(second, 1))
    expected = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]], dtype=dtype)
    torch.testing.assert_close(combined, expected, rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(combined[:, 0].sum(), (first, second)):
        assert bool(gradient.isfinite().all())


def test_combination_gradients() -> None:
    inputs = (draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: combine_by_confidence(torch.softmax(a, 1), torch.softmax(b, 1)), inputs
    )
    inputs = (draw_distributions(3, 4).requires_grad_(), draw_distributions(3, 4, seed=8).requires_grad_())
    assert torch.autograd.gradcheck(combine_by_confidence, inputs)


def test_each_sample_is_combined_by_itself() -> None:
    first, second = draw_distributions(4, 5), draw_distributions(4, 5, seed=8)
    alone = [combine_by_confidence(first[b : b + 1], second[b : b + 1]) for b in range(4)]
    torch.testing.assert_close(combine_by_confidence(first, second), torch.cat(alone), rtol=1e-13, atol=0)


# Anchor distribution ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [0.1, 1.0, 7.0])
@pytest.mark.parametrize(("batch", "classes", "per_class", "width"), ANCHOR_SHAPES)
def test_anchor_distribution_matches_the_loops(
    batch: int, classes: int, per_class: int, width: int, delta: float
) -> None:
    embeddings, anchors = draw(batch, width), draw(classes, per_class, width, seed=1)
    actual = anchor_distribution(embeddings, anchors, delta)
    expected = anchor_distribution_by_loops(embeddings, anchors, delta)
    assert actual.shape == (batch, classes)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual.sum(1), torch.ones(batch, dtype=torch.float64), rtol=0, atol=1e-14)
    embeddings, anchors = embeddings.float(), anchors.float()
    expected = anchor_distribution_by_loops(embeddings, anchors, delta)
    single = anchor_distribution(embeddings, anchors, delta)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-6 / min(delta, 1))


def test_anchor_distribution_by_hand() -> None:
    # Distances 1 and 1 + log 3, then 2 and 2 + 2·log 3.
    anchors = torch.tensor([[[1.0]], [[-1.0 - math.log(3)]]], dtype=torch.float64)
    embeddings = torch.zeros(1, 1, dtype=torch.float64)
    torch.testing.assert_close(
        anchor_distribution(embeddings, anchors),
        torch.tensor([[0.75, 0.25]], dtype=torch.float64),
        rtol=1e-10,
        atol=0,
    )
    halved = anchor_distribution(embeddings, 2 * anchors, delta=2.0)
    torch.testing.assert_close(halved, anchor_distribution(embeddings, anchors, delta=1.0), rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_embedding_on_an_anchor_has_finite_gradients(dtype: torch.dtype) -> None:
    anchors = draw(3, 2, 4).to(dtype).requires_grad_()
    embeddings = anchors.detach()[:, 0].clone().requires_grad_()
    actual = anchor_distribution(embeddings, anchors)
    expected = anchor_distribution_by_loops(embeddings, anchors)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-6)
    gradients = torch.autograd.grad(actual[:, 0].sum(), (embeddings, anchors))
    for gradient in gradients:
        assert bool(gradient.isfinite().all())
        assert 0 < gradient.abs().max() < 1
    # All anchors in one place, and the embedding on them.
    nowhere = torch.zeros(2, 3, 4, dtype=dtype, requires_grad=True)
    origin = torch.zeros(1, 4, dtype=dtype, requires_grad=True)
    actual = anchor_distribution(origin, nowhere)
    torch.testing.assert_close(actual, torch.full((1, 2), 0.5, dtype=dtype), rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(actual[:, 0].sum(), (origin, nowhere)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_embeddings_are_still_distributed(dtype: torch.dtype) -> None:
    """All anchors some 10⁵ away: a softmax of the distances, not of what is left of them after exp."""
    embeddings = (1e4 * draw(4, 64)).to(dtype).requires_grad_()
    anchors = draw(3, 2, 64, seed=1).to(dtype).requires_grad_()
    actual = anchor_distribution(embeddings, anchors)
    expected = anchor_distribution_by_loops(embeddings, anchors)
    # A distance of 10⁵ is known to some 0.01 in float32.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-2 if dtype == torch.float32 else 1e-10)
    torch.testing.assert_close(actual.sum(1), torch.ones(4, dtype=dtype), rtol=0, atol=1e-6)
    for gradient in torch.autograd.grad(actual[:, 0].sum(), (embeddings, anchors)):
        assert bool(gradient.isfinite().all())


def test_close_distances_far_from_the_origin_do_not_cancel() -> None:
    """Distances near 1 between points near 10³ each: exact in float32, and lost in |e|² − 2·e·a + |a|²."""
    embeddings = 1024 + (64 * draw(4, 3)).round() / 64
    anchors = 1024 + (64 * draw(3, 2, 3, seed=1)).round() / 64
    expected = anchor_distribution_by_loops(embeddings, anchors)
    actual = anchor_distribution(embeddings.float(), anchors.float())
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-6)
    labels = torch.tensor([0, 1, 2, 0])
    expected = center_loss_by_loops(embeddings, anchors, labels)
    actual = anchor_center_loss(embeddings.float(), anchors.float(), labels)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)


def test_a_small_delta_picks_the_nearest_anchor_and_a_large_one_none() -> None:
    embeddings, anchors = draw(6, 4), draw(3, 5, 4, seed=1)
    nearest = torch.tensor(
        [
            min(range(3), key=lambda k: min(squared_distance(e, a) for a in anchors[k].tolist()))
            for e in embeddings.tolist()
        ]
    )
    sharp = anchor_distribution(embeddings, anchors, delta=1e-3)
    torch.testing.assert_close(sharp, F.one_hot(nearest, 3).double(), rtol=0, atol=1e-3)
    flat = anchor_distribution(embeddings, anchors, delta=1e6)
    torch.testing.assert_close(flat, torch.full((6, 3), 1 / 3, dtype=torch.float64), rtol=0, atol=1e-5)


def test_anchor_distribution_gradients() -> None:
    inputs = (draw(2, 3).requires_grad_(), draw(3, 2, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(lambda e, a: anchor_distribution(e, a, 0.7), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_meet_float32_anchors_in_float32(dtype: torch.dtype) -> None:
    embeddings, anchors = draw(3, 8).to(dtype), draw(3, 2, 8, seed=1).float()
    actual = anchor_distribution(embeddings, anchors)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), anchor_distribution_by_loops(embeddings, anchors), rtol=0, atol=1e-6)
    labels = torch.tensor([2, 0, 1])
    loss = anchor_center_loss(embeddings, anchors, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), center_loss_by_loops(embeddings, anchors, labels), rtol=1e-6, atol=0)


def test_each_embedding_has_its_own_distribution() -> None:
    embeddings, anchors = draw(4, 5), draw(3, 2, 5, seed=1)
    alone = [anchor_distribution(embeddings[b : b + 1], anchors) for b in range(4)]
    torch.testing.assert_close(anchor_distribution(embeddings, anchors), torch.cat(alone), rtol=1e-13, atol=0)


# Anchor loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "per_class", "width"), [(3, 4, 6), (2, 1, 1), (2, 1, 3), (8, 10, 16), (1, 2, 3)])
def test_anchor_loss_matches_the_loops(classes: int, per_class: int, width: int) -> None:
    anchors = 3 * draw(classes, per_class, width)
    expected = anchor_loss_by_loops(anchors)
    actual = anchor_loss(anchors)
    assert actual.shape == () and actual.dtype == torch.float64
    assert actual.item() == pytest.approx(expected, rel=1e-12, abs=1e-14)
    single = anchor_loss(anchors.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_anchor_loss_between_its_bounds(dtype: torch.dtype) -> None:
    def lowest(count: int) -> float:
        return -2 * count / (count - 1)

    tolerance = 64 * torch.finfo(dtype).eps
    antipodal = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]], dtype=dtype)
    assert anchor_loss(antipodal).item() == lowest(2) == -4
    pairs = torch.cat([draw(3, 2, 5), -2 * draw(3, 2, 5)], dim=1).to(dtype)  # 12 anchors, pairs of opposites
    assert anchor_loss(pairs).item() == pytest.approx(lowest(12), rel=tolerance)
    for count, classes in ((2, 1), (3, 3), (8, 4), (70, 7)):
        corners = simplex(count).to(dtype).unflatten(0, (classes, -1))
        assert anchor_loss(corners).item() == pytest.approx(lowest(count), rel=tolerance)
    one_way = draw(5).to(dtype).expand(3, 4, 5) * torch.linspace(0.1, 9, 12, dtype=dtype).reshape(3, 4, 1)
    assert anchor_loss(one_way).item() == pytest.approx(0, abs=tolerance)
    for seed in range(20):
        anchors = draw(3, 2, 1 + seed, seed=seed).to(dtype)
        assert lowest(6) * (1 + tolerance) <= anchor_loss(anchors).item() <= tolerance


def test_anchor_loss_knows_directions_alone() -> None:
    """Moving the anchors away gains nothing."""
    anchors = draw(3, 2, 5)
    expected = anchor_loss(anchors).item()
    for scale in (1e-6, 0.5, 1e6):
        assert anchor_loss(scale * anchors).item() == pytest.approx(expected, rel=1e-12)
    lengths = torch.linspace(0.1, 9, 6, dtype=torch.float64).reshape(3, 2, 1)
    assert anchor_loss(lengths * anchors).item() == pytest.approx(expected, rel=1e-12)
    anchors.requires_grad_()
    (gradient,) = torch.autograd.grad(anchor_loss(anchors), anchors)
    torch.testing.assert_close((gradient * anchors).sum(2), torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=1e-14)


def test_anchor_loss_does_not_ask_which_class_an_anchor_is_of() -> None:
    anchors = draw(6, 2, 5)
    expected = anchor_loss(anchors).item()
    assert anchor_loss(anchors.reshape(3, 4, 5)).item() == pytest.approx(expected, rel=1e-13)
    assert anchor_loss(anchors.flip(0, 1)).item() == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_anchors_are_pushed_apart_and_equal_ones_stay(dtype: torch.dtype) -> None:
    anchors = draw(7, 10, 16).to(dtype).requires_grad_()
    loss = anchor_loss(anchors)
    (gradient,) = torch.autograd.grad(loss, anchors)
    assert bool((gradient.norm(dim=2) > 1e-5).all())
    step = anchors.detach() - gradient
    assert anchor_loss(step) < loss
    for equal in (torch.zeros(2, 3, 4, dtype=dtype), torch.ones(2, 3, 4, dtype=dtype)):
        equal.requires_grad_()
        loss = anchor_loss(equal)
        (gradient,) = torch.autograd.grad(loss, equal)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


def test_anchor_loss_gradients() -> None:
    assert torch.autograd.gradcheck(anchor_loss, (draw(3, 2, 4).requires_grad_(),))
    assert torch.autograd.gradcheck(anchor_loss, (draw(2, 1, 3).requires_grad_(),))


# Centre loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "distributions"])
@pytest.mark.parametrize(("batch", "classes", "per_class", "width"), ANCHOR_SHAPES)
def test_center_loss_matches_the_loops(batch: int, classes: int, per_class: int, width: int, soft: bool) -> None:
    embeddings, anchors = 3 * draw(batch, width), draw(classes, per_class, width, seed=1)
    ids = torch.tensor([(3 * b + 1) % classes for b in range(batch)])
    labels = draw_distributions(batch, classes) if soft else ids
    expected = center_loss_by_loops(embeddings, anchors, labels)
    actual = anchor_center_loss(embeddings, anchors, labels)
    assert actual.shape == (batch,) and actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)
    single = anchor_center_loss(embeddings.float(), anchors.float(), labels.float() if soft else labels)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)


def test_center_loss_by_hand() -> None:
    anchors = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [-1.0, -1.0]]])
    embeddings = torch.tensor([[3.0, 3.0], [0.0, 2.0]])
    assert anchor_center_loss(embeddings, anchors, torch.tensor([0, 1])).tolist() == [1, 2]
    soft = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    assert anchor_center_loss(embeddings, anchors, soft).tolist() == [4.5, 2.5]


def test_the_nearest_anchor_of_the_label_alone_is_pulled() -> None:
    embeddings, anchors = draw(3, 4).requires_grad_(), draw(5, 3, 4, seed=1).requires_grad_()
    labels = [4, 1, 4]  # classes 0, 2 and 3 are absent
    loss = anchor_center_loss(embeddings, anchors, torch.tensor(labels))
    to_embeddings, to_anchors = torch.autograd.grad(loss.sum(), (embeddings, anchors))
    expected = torch.zeros_like(anchors)
    for b, label in enumerate(labels):
        distances = [squared_distance(embeddings[b].tolist(), a) for a in anchors[label].tolist()]
        pull = 2 * (embeddings[b] - anchors[label, distances.index(min(distances))]).detach()
        torch.testing.assert_close(to_embeddings[b], pull, rtol=1e-13, atol=0)
        expected[label, distances.index(min(distances))] -= pull
    torch.testing.assert_close(to_anchors, expected.detach(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_embedding_on_its_anchor_costs_nothing(dtype: torch.dtype) -> None:
    anchors = draw(3, 2, 4).to(dtype).requires_grad_()
    embeddings = anchors.detach()[:, 1].clone().requires_grad_()
    loss = anchor_center_loss(embeddings, anchors, torch.tensor([0, 1, 2]))
    assert loss.tolist() == [0, 0, 0]
    for gradient in torch.autograd.grad(loss.sum(), (embeddings, anchors)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_anchors_at_the_same_distance_share_the_pull() -> None:
    anchors = torch.tensor([[[1.0], [-1.0]], [[5.0], [5.0]]], requires_grad=True)
    embeddings = torch.zeros(1, 1, requires_grad=True)
    loss = anchor_center_loss(embeddings, anchors, torch.tensor([0]))
    assert loss.tolist() == [1]
    to_embeddings, to_anchors = torch.autograd.grad(loss.sum(), (embeddings, anchors))
    assert to_embeddings.abs().item() <= 2
    assert to_anchors.abs().sum().item() == pytest.approx(2)
    assert torch.equal(to_anchors[1], torch.zeros(2, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_embeddings_cost_their_distance(dtype: torch.dtype) -> None:
    embeddings = (1e4 * draw(2, 64)).to(dtype).requires_grad_()
    anchors, labels = draw(3, 2, 64, seed=1).to(dtype), torch.tensor([2, 0])
    loss = anchor_center_loss(embeddings, anchors, labels)
    torch.testing.assert_close(loss.double(), center_loss_by_loops(embeddings, anchors, labels), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), embeddings)
    assert bool(gradient.isfinite().all())


def test_center_loss_gradients() -> None:
    embeddings, anchors = draw(2, 3).requires_grad_(), draw(3, 2, 3, seed=1).requires_grad_()
    labels = draw_distributions(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda e, a: anchor_center_loss(e, a, torch.tensor([2, 0])), (embeddings, anchors))
    assert torch.autograd.gradcheck(anchor_center_loss, (embeddings, anchors, labels))


def test_one_hot_rows_and_votes_count_like_ids() -> None:
    embeddings, anchors, ids = draw(3, 4).float(), draw(3, 2, 4, seed=1).float(), torch.tensor([2, 0, 2])
    by_ids = anchor_center_loss(embeddings, anchors, ids)
    for rows in (F.one_hot(ids, 3), F.one_hot(ids, 3).float(), F.one_hot(ids, 3).double()):
        assert torch.equal(anchor_center_loss(embeddings, anchors, rows), by_ids)


def test_each_embedding_has_its_own_center_loss() -> None:
    embeddings, anchors, labels = draw(4, 5), draw(3, 2, 5, seed=1), torch.tensor([0, 2, 2, 1])
    alone = [anchor_center_loss(embeddings[b : b + 1], anchors, labels[b : b + 1]) for b in range(4)]
    torch.testing.assert_close(anchor_center_loss(embeddings, anchors, labels), torch.cat(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(4, 1), (4, 2), ()])
def test_labels_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"labels must be \(B,\) class ids or \(B, 3\) distributions, got shape"):
        anchor_center_loss(draw(4, 5), draw(3, 2, 5), labels)
