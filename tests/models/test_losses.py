"""Losses, targets and class weights against plain Python: decimals for the weights, loops for the rest."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fer.models.losses import (
    effective_number_weights,
    inverse_frequency_weights,
    one_hot_targets,
    rebalanced_smooth_labels,
    soft_cross_entropy,
)

COUNTS = [
    [1],
    [1, 1],
    [5, 5, 5],
    [1, 10_000_000],
    [10_000_000, 1, 1, 1],
    [1, 2, 3, 10, 100, 1000, 10_000, 100_000],
    [8740, 7287, 3149, 3014, 2100, 116, 532, 119],  # like FERPlus: long-tailed, not sorted
]
BETAS = [0.0, 1e-300, 0.5, 0.9, 0.999, 0.9999, 0.9999999, 1 - 2**-53]
EXTREME_WEIGHTS = effective_number_weights([10_000_000, 1, 50_000, 1], 0.9999999)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_distributions(batch: int, classes: int, seed: int = 0) -> Tensor:
    return torch.softmax(2 * draw(batch, classes, seed=seed), dim=1)


def draw_weights(classes: int, seed: int = 5) -> Tensor:
    """Positive, sum K."""
    return classes * torch.softmax(draw(classes, seed=seed), dim=0)


def weights_by_decimals(counts: list[int], beta: float) -> list[float]:
    with localcontext() as context:
        context.prec = 80
        b = Decimal(beta)
        raw = [(1 - b) / (1 - b**n) for n in counts]
        return [float(w * len(counts) / sum(raw)) for w in raw]


def smooth_by_loops(targets: list[list[float]], weights: list[float], alpha: float, smooth_target: str) -> Tensor:
    classes = len(weights)
    result = []
    for row in targets:
        out = [0.0] * classes
        for target, share in enumerate(row):
            rest = math.fsum(weights[j] for j in range(classes) if j != target)
            for j in range(classes):
                hit = 1 - alpha if j == target else 0.0
                if smooth_target == "all":
                    out[j] += share * (hit + alpha * weights[j] / classes)
                else:
                    out[j] += share * (hit + (0.0 if j == target else alpha * weights[j] / rest))
        result.append(out)
    return torch.tensor(result, dtype=torch.float64)


def cross_entropy_by_loops(logits: Tensor, targets: Tensor) -> Tensor:
    result = []
    for z, t in zip(logits.tolist(), targets.tolist(), strict=True):
        top = max(z)
        log_sum = top + math.log(math.fsum(math.exp(value - top) for value in z))
        result.append(-math.fsum(share * (value - log_sum) for share, value in zip(t, z, strict=True)))
    return torch.tensor(result, dtype=torch.float64)


def one_hot_rows(ids: list[int], classes: int) -> list[list[float]]:
    return [[1.0 if k == label else 0.0 for k in range(classes)] for label in ids]


# Effective number ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("counts", COUNTS, ids=lambda counts: f"{len(counts)}x{max(counts)}")
def test_effective_number_weights_to_twelve_digits(counts: list[int], beta: float) -> None:
    weights = effective_number_weights(counts, beta)
    expected = torch.tensor(weights_by_decimals(counts, beta), dtype=torch.float64)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)
    assert weights.sum().item() == pytest.approx(len(counts), rel=1e-14)
    assert bool((weights > 0).all())


def test_effective_number_weights_by_hand() -> None:
    # β = 1/2: 1 and 2/3, whose sum 5/3 becomes 2.
    torch.testing.assert_close(
        effective_number_weights([1, 2], beta=0.5),
        torch.tensor([1.2, 0.8], dtype=torch.float64),
        rtol=1e-15,
        atol=0,
    )


def test_effective_number_weights_default_to_the_papers_beta() -> None:
    counts = [1000, 10]
    assert torch.equal(effective_number_weights(counts), effective_number_weights(counts, 0.9999))
    assert not torch.equal(effective_number_weights(counts), effective_number_weights(counts, 0.999))


def test_effective_number_weights_at_the_ends_of_beta() -> None:
    counts = [1000, 100, 10, 7]
    assert torch.equal(effective_number_weights(counts, 0.0), torch.ones(4, dtype=torch.float64))
    inverse = [1 / n for n in counts]
    expected = torch.tensor([4 * w / sum(inverse) for w in inverse], dtype=torch.float64)
    torch.testing.assert_close(effective_number_weights(counts, 1 - 1e-13), expected, rtol=1e-9, atol=0)


def test_the_rarer_class_weighs_more() -> None:
    weights = effective_number_weights([10_000, 1000, 1000, 10, 1], 0.9999).tolist()
    assert weights[0] < weights[1] == weights[2] < weights[3] < weights[4]


@pytest.mark.parametrize(
    "counts",
    [(3, 20), torch.tensor([3, 20]), torch.tensor([3.0, 20.0]), torch.tensor([3, 20], dtype=torch.int32)],
)
def test_counts_come_as_any_sequence(counts: Any) -> None:
    assert torch.equal(effective_number_weights(counts), effective_number_weights([3, 20]))


def test_effective_number_weights_are_real_under_a_meta_device() -> None:
    """`from_pretrained` builds models in such a context."""
    with torch.device("meta"):
        weights = effective_number_weights([3, 20])
    assert weights.device.type == "cpu"
    assert torch.equal(weights, effective_number_weights([3, 20]))


@pytest.mark.parametrize(
    "counts", [[], [0, 5], [5, -1], [float("nan"), 5.0], [[1, 2], [3, 4]], torch.tensor(5)], ids=str
)
def test_bad_counts_are_an_error(counts: Any) -> None:
    with pytest.raises(ValueError, match="class_counts must be K counts of at least 1"):
        effective_number_weights(counts)


@pytest.mark.parametrize("beta", [1.0, 1.5, -0.1, float("nan"), float("inf")])
def test_bad_beta_is_an_error(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\)"):
        effective_number_weights([1, 2], beta)


# Inverse frequency -----------------------------------------------------------------------------------------


def test_inverse_frequency_weights_are_the_papers() -> None:
    """Massoli et al. 2021, Tables 1 and 2: Aff-Wild2."""
    counts = [585896, 23484, 12497, 11120, 149920, 100548, 38564]
    weights = inverse_frequency_weights(counts).tolist()
    assert [round(weight, 3) for weight in weights] == [0.365, 0.975, 0.986, 0.988, 0.837, 0.891, 0.958]


@pytest.mark.parametrize("counts", COUNTS, ids=lambda counts: f"{len(counts)}x{max(counts)}")
def test_inverse_frequency_weights_match_fractions(counts: list[int]) -> None:
    weights = inverse_frequency_weights(counts)
    expected = torch.tensor([float(1 - Fraction(n, sum(counts))) for n in counts], dtype=torch.float64)
    assert weights.dtype == torch.float64
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-15)
    assert bool(((weights >= 0) & (weights < 1)).all())
    assert weights.sum().item() == pytest.approx(len(counts) - 1, rel=1e-14)


@pytest.mark.parametrize(
    "counts",
    [(3, 20), torch.tensor([3, 20]), torch.tensor([3.0, 20.0]), torch.tensor([3, 20], dtype=torch.int32)],
)
def test_inverse_frequencies_come_of_any_sequence(counts: Any) -> None:
    with torch.device("meta"):
        weights = inverse_frequency_weights(counts)
    torch.testing.assert_close(weights, torch.tensor([20 / 23, 3 / 23], dtype=torch.float64), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "counts", [[], [0, 5], [5, -1], [float("nan"), 5.0], [[1, 2], [3, 4]], torch.tensor(5)], ids=str
)
def test_bad_counts_have_no_inverse_frequency(counts: Any) -> None:
    with pytest.raises(ValueError, match="class_counts must be K counts of at least 1"):
        inverse_frequency_weights(counts)


# Targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ids", "classes"), [([2, 0, 1, 2], 4), ([0], 2), ([1], 2), ([], 3)])
def test_ids_become_one_hot(ids: list[int], classes: int) -> None:
    targets = one_hot_targets(torch.tensor(ids, dtype=torch.int64), classes)
    assert targets.dtype == torch.float32
    assert targets.shape == (len(ids), classes)
    assert targets.tolist() == one_hot_rows(ids, classes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distributions_stay_as_they_are(dtype: torch.dtype) -> None:
    distributions = draw_distributions(3, 4).to(dtype)
    targets = one_hot_targets(distributions, 4)
    assert targets.dtype == dtype
    assert torch.equal(targets, distributions)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_narrow_distributions_become_float32(dtype: torch.dtype) -> None:
    distributions = torch.tensor([[1, 0, 0], [0, 0, 1]], dtype=dtype)
    targets = one_hot_targets(distributions, 3)
    assert targets.dtype == torch.float32
    assert targets.tolist() == one_hot_rows([0, 2], 3)


@pytest.mark.parametrize("shape", [(4, 1), (4, 2), (4, 4), (4, 3, 1), ()])
def test_labels_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    """Ids as a column would broadcast without a word."""
    for dtype in (torch.int64, torch.float32):
        with pytest.raises(ValueError, match=r"labels must be \(B,\) class ids or \(B, 3\) distributions, got shape"):
            one_hot_targets(torch.zeros(shape, dtype=dtype), 3)


@pytest.mark.parametrize("label", [3, -1])
def test_an_id_without_a_class_is_an_error(label: int) -> None:
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        one_hot_targets(torch.tensor([0, label]), 3)


# RSL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smooth_target", ["all", "others"])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize(("batch", "classes"), [(5, 7), (1, 2), (3, 3)])
def test_smooth_labels_match_the_loops(batch: int, classes: int, alpha: float, smooth_target: str) -> None:
    weights = draw_weights(classes)
    distributions = draw_distributions(batch, classes)
    actual = rebalanced_smooth_labels(distributions, weights, alpha, smooth_target)
    expected = smooth_by_loops(distributions.tolist(), weights.tolist(), alpha, smooth_target)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(actual.sum(1), torch.ones(batch, dtype=torch.float64), rtol=0, atol=1e-14)

    ids = [(3 * b + 1) % classes for b in range(batch)]
    actual = rebalanced_smooth_labels(torch.tensor(ids), weights, alpha, smooth_target)
    expected = smooth_by_loops(one_hot_rows(ids, classes), weights.tolist(), alpha, smooth_target)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-7)
    torch.testing.assert_close(actual.double().sum(1), torch.ones(batch, dtype=torch.float64), rtol=0, atol=5e-7)


def test_smooth_labels_default_to_the_paper() -> None:
    weights = draw_weights(4)
    actual = rebalanced_smooth_labels(torch.tensor([2, 0]), weights)
    expected = smooth_by_loops(one_hot_rows([2, 0], 4), weights.tolist(), 0.1, "all")
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("smooth_target", ["all", "others"])
def test_one_hot_distributions_smooth_like_their_ids(smooth_target: str) -> None:
    ids, weights = torch.tensor([3, 0, 3, 1]), draw_weights(5)  # classes 2 and 4 are absent
    by_ids = rebalanced_smooth_labels(ids, weights, 0.2, smooth_target)
    by_rows = rebalanced_smooth_labels(F.one_hot(ids, 5).float(), weights, 0.2, smooth_target)
    assert torch.equal(by_ids, by_rows)


@pytest.mark.parametrize("smooth_target", ["all", "others"])
def test_integer_rows_are_distributions_too(smooth_target: str) -> None:
    """Votes of one voter come as integers: the weights must not be cut to integers with them."""
    ids, weights = torch.tensor([3, 0, 1]), draw_weights(5)
    by_rows = rebalanced_smooth_labels(F.one_hot(ids, 5), weights, 0.2, smooth_target)
    torch.testing.assert_close(by_rows, rebalanced_smooth_labels(ids, weights, 0.2, smooth_target), rtol=0, atol=1e-7)


def test_equal_weights_give_torchs_label_smoothing() -> None:
    logits, ids = draw(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    smooth = rebalanced_smooth_labels(F.one_hot(ids, 5).double(), torch.ones(5), 0.3)
    expected = F.cross_entropy(logits, ids, label_smoothing=0.3, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, smooth), expected, rtol=1e-13, atol=0)


def test_the_ends_of_alpha() -> None:
    ids, weights = torch.tensor([0, 2]), draw_weights(3)
    for smooth_target in ("all", "others"):
        assert rebalanced_smooth_labels(ids, weights, 0.0, smooth_target).tolist() == one_hot_rows([0, 2], 3)
    everything = rebalanced_smooth_labels(ids, weights, 1.0, "all")
    torch.testing.assert_close(everything, (weights / 3).float().expand(2, 3), rtol=0, atol=1e-7)
    others = rebalanced_smooth_labels(ids, weights, 1.0, "others")
    assert others[0, 0] == 0 and others[1, 2] == 0


def test_two_classes_smooth_onto_the_other_one() -> None:
    weights = torch.tensor([1.9999, 0.0001])
    others = rebalanced_smooth_labels(torch.tensor([0, 1]), weights, 0.25, "others")
    torch.testing.assert_close(others, torch.tensor([[0.75, 0.25], [0.25, 0.75]]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("smooth_target", ["all", "others"])
def test_uniform_labels_and_weights_are_a_fixed_point(smooth_target: str) -> None:
    uniform = torch.full((2, 4), 0.25, dtype=torch.float64)
    smooth = rebalanced_smooth_labels(uniform, torch.ones(4), 0.4, smooth_target)
    torch.testing.assert_close(smooth, uniform, rtol=0, atol=1e-15)


@pytest.mark.parametrize("smooth_target", ["all", "others"])
def test_smooth_labels_survive_extreme_weights(smooth_target: str) -> None:
    """Counts from 1 to 10⁷: weights from 2 down to 3e-7."""
    assert EXTREME_WEIGHTS.max() / EXTREME_WEIGHTS.min() > 5e6
    ids = [0, 1, 2, 3]
    actual = rebalanced_smooth_labels(torch.tensor(ids), EXTREME_WEIGHTS, 0.1, smooth_target)
    expected = smooth_by_loops(one_hot_rows(ids, 4), EXTREME_WEIGHTS.tolist(), 0.1, smooth_target)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(actual.sum(1), torch.ones(4), rtol=0, atol=5e-7)


@pytest.mark.parametrize("smooth_target", ["all", "others"])
def test_smooth_label_gradients(smooth_target: str) -> None:
    inputs = (draw_distributions(2, 3).requires_grad_(), draw_weights(3).requires_grad_())
    assert torch.autograd.gradcheck(lambda t, b: rebalanced_smooth_labels(t, b, 0.2, smooth_target), inputs)


@pytest.mark.parametrize("smooth_target", ["All", "target", ""])
def test_unknown_smooth_target_is_an_error(smooth_target: str) -> None:
    with pytest.raises(ValueError, match="smooth_target must be 'all' or 'others'"):
        rebalanced_smooth_labels(torch.tensor([0]), torch.ones(2), 0.1, smooth_target)


# Cross-entropy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "classes"), [(6, 7), (1, 2), (1, 1)])
def test_soft_cross_entropy_matches_the_loops(batch: int, classes: int) -> None:
    logits, targets = 3 * draw(batch, classes), draw_distributions(batch, classes, seed=1)
    expected = cross_entropy_by_loops(logits, targets)
    actual = soft_cross_entropy(logits, targets)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-13)
    single = soft_cross_entropy(logits.float(), targets.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    logits, targets = (3 * draw(4, 5)).to(dtype), draw_distributions(4, 5, seed=1)
    actual = soft_cross_entropy(logits, targets.float())
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), cross_entropy_by_loops(logits.double(), targets), rtol=1e-6, atol=1e-6)


def test_one_hot_targets_give_torchs_cross_entropy() -> None:
    logits, ids = draw(5, 6), torch.tensor([0, 5, 2, 2, 1])
    actual = soft_cross_entropy(logits, one_hot_targets(ids, 6))
    torch.testing.assert_close(actual, F.cross_entropy(logits, ids, reduction="none"), rtol=1e-13, atol=0)


def test_uniform_targets_and_logits_cost_log_k() -> None:
    loss = soft_cross_entropy(torch.full((2, 8), 7.0), torch.full((2, 8), 1 / 8))
    torch.testing.assert_close(loss, torch.full((2,), math.log(8)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_confident_logits_stay_finite(scale: float) -> None:
    logits = torch.tensor([[scale, -scale], [scale, -scale]], requires_grad=True)
    loss = soft_cross_entropy(logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(loss, torch.tensor([0.0, 2 * scale]))
    loss.sum().backward()
    assert torch.equal(logits.grad, torch.tensor([[0.0, 0.0], [1.0, -1.0]]))


def test_soft_cross_entropy_gradients() -> None:
    logits, targets = draw(3, 4).requires_grad_(), draw_distributions(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(soft_cross_entropy, (logits, targets))
    (gradient,) = torch.autograd.grad(soft_cross_entropy(logits, targets).sum(), logits)
    torch.testing.assert_close(gradient, torch.softmax(logits, 1) - targets, rtol=0, atol=1e-14)
