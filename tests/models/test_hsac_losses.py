"""HSAC's label distribution loss and hard-sample indicator against plain Python loops in float64."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fer.models.losses import classification_difficulty, label_distribution_loss, soft_cross_entropy

SIZES = [(6, 7), (5, 8), (1, 2), (3, 3)]
SATURATED = [(torch.float32, 100.0), (torch.float32, 1e4), (torch.float64, 1e4)]  # probabilities of 0 and 1 alone


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_distributions(batch: int, classes: int, seed: int = 7) -> Tensor:
    return torch.softmax(2 * draw(batch, classes, seed=seed), dim=1)


def log_softmax(z: list[float]) -> list[float]:
    top = max(z)
    log_sum = top + math.log(math.fsum(math.exp(value - top) for value in z))
    return [value - log_sum for value in z]


def rows_of(labels: Tensor, classes: int) -> list[list[float]]:
    if labels.ndim == 2:
        return labels.tolist()
    return [[1.0 if k == label else 0.0 for k in range(classes)] for label in labels.tolist()]


def combined_by_loops(logits_lr: Tensor, logits_hr: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, `s_P` and `P_C`."""
    losses, shares, targets = [], [], []
    rows = rows_of(labels, logits_lr.shape[1])
    for z_low, z_high, t in zip(logits_lr.tolist(), logits_hr.tolist(), rows, strict=True):
        log_low = log_softmax(z_low)
        low = [math.exp(value) for value in log_low]
        high = [math.exp(value) for value in log_softmax(z_high)]
        to_high = math.fsum(abs(a - b) for a, b in zip(low, high, strict=True))
        to_label = math.fsum(abs(a - b) for a, b in zip(low, t, strict=True))
        s = to_label / (to_label + to_high) if to_label + to_high > 0 else 0.5
        target = [s * b + (1 - s) * c for b, c in zip(high, t, strict=True)]
        losses.append(-math.fsum(c * value for c, value in zip(target, log_low, strict=True)))
        shares.append(s)
        targets.append(target)
    return tuple(torch.tensor(values, dtype=torch.float64) for values in (losses, shares, targets))


# Label distribution ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "distributions"])
@pytest.mark.parametrize(("batch", "classes"), SIZES)
def test_label_distribution_loss_matches_the_loops(batch: int, classes: int, soft: bool) -> None:
    logits_lr, logits_hr = 3 * draw(batch, classes), 3 * draw(batch, classes, seed=1)
    ids = torch.tensor([(3 * b + 1) % classes for b in range(batch)])
    labels = draw_distributions(batch, classes) if soft else ids
    expected, expected_share, _ = combined_by_loops(logits_lr, logits_hr, labels)
    loss, s_p = label_distribution_loss(logits_lr, logits_hr, labels)
    assert loss.dtype == s_p.dtype == torch.float64
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(s_p, expected_share, rtol=1e-12, atol=0)
    loss, s_p = label_distribution_loss(logits_lr.float(), logits_hr.float(), labels.float() if soft else labels)
    assert loss.dtype == s_p.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s_p.double(), expected_share, rtol=0, atol=1e-6)


def test_label_distribution_loss_by_hand() -> None:
    # p_L = (¼, ¾), p_H = (½, ½), T = (1, 0): δ_PH = ½, δ_PT = 1½, P_C = ¾·p_H + ¼·T = (⅝, ⅜).
    logits_lr, logits_hr = torch.tensor([[0.25, 0.75]]).log(), torch.zeros(1, 2)
    loss, s_p = label_distribution_loss(logits_lr, logits_hr, torch.tensor([0]))
    assert s_p.item() == pytest.approx(0.75, rel=1e-6)
    assert loss.item() == pytest.approx(0.625 * math.log(4) + 0.375 * math.log(4 / 3), rel=1e-6)


@pytest.mark.parametrize("soft", [False, True], ids=["ids", "distributions"])
def test_the_combined_target_carries_no_gradient(soft: bool) -> None:
    """So the slope is that of a cross-entropy against a constant, `p_L − P_C`."""
    logits_lr, logits_hr = draw(4, 5).requires_grad_(), draw(4, 5, seed=1).requires_grad_()
    labels = draw_distributions(4, 5).requires_grad_() if soft else torch.tensor([0, 3, 3, 1])
    loss, s_p = label_distribution_loss(logits_lr, logits_hr, labels)
    assert not s_p.requires_grad
    inputs = (logits_lr, logits_hr, labels) if soft else (logits_lr, logits_hr)
    gradient, *others = torch.autograd.grad(loss.sum(), inputs, allow_unused=True)
    target = combined_by_loops(logits_lr, logits_hr, labels)[2]
    torch.testing.assert_close(gradient, torch.softmax(logits_lr, 1) - target, rtol=0, atol=1e-14)
    assert others == [None] * len(others)
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, target), (logits_lr,))


@pytest.mark.parametrize(("dtype", "logit"), SATURATED)
def test_three_agreeing_distributions_share_equally(dtype: torch.dtype, logit: float) -> None:
    logits = torch.tensor([[logit, -logit, -logit], [-logit, -logit, logit]], dtype=dtype, requires_grad=True)
    loss, s_p = label_distribution_loss(logits, logits.detach(), torch.tensor([0, 2]))
    assert torch.equal(s_p, torch.full((2,), 0.5, dtype=dtype))
    torch.testing.assert_close(loss, torch.zeros(2, dtype=dtype), rtol=0, atol=1e-30)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(logits), rtol=0, atol=1e-30)


@pytest.mark.parametrize("classes", [2, 4])
def test_uniform_distributions_share_equally(classes: int) -> None:
    logits = torch.full((2, classes), 3.0, dtype=torch.float64, requires_grad=True)
    uniform = torch.full((2, classes), 1 / classes, dtype=torch.float64)
    loss, s_p = label_distribution_loss(logits, logits.detach(), uniform)
    assert torch.equal(s_p, torch.full((2,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(loss, torch.full((2,), math.log(classes), dtype=torch.float64), rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(logits), rtol=0, atol=1e-15)


def test_equal_views_learn_from_the_image_and_agreement_with_the_label_from_the_label() -> None:
    """`s_P` is the image's share: 1 where the two views agree, 0 where label and view do."""
    logits, other = draw(4, 5), draw(4, 5, seed=1)
    loss, s_p = label_distribution_loss(logits, logits, torch.tensor([0, 1, 2, 3]))
    torch.testing.assert_close(s_p, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(loss, torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-12, atol=0)
    loss, s_p = label_distribution_loss(logits, other, torch.softmax(logits, 1))
    torch.testing.assert_close(s_p, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(loss, torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("dtype", "logit"), SATURATED)
def test_saturated_logits_stay_finite(dtype: torch.dtype, logit: float) -> None:
    """The low-resolution view is sure of class 0; the image and the label say 0 or 1."""
    logits_lr = torch.tensor([[logit, -logit]] * 4, dtype=dtype, requires_grad=True)
    logits_hr = torch.tensor([[logit, -logit], [-logit, logit]] * 2, dtype=dtype)
    loss, s_p = label_distribution_loss(logits_lr, logits_hr, torch.tensor([0, 0, 1, 1]))
    # Agreement with both, with the label, with the image, with neither.
    torch.testing.assert_close(s_p, torch.tensor([0.5, 0.0, 1.0, 0.5], dtype=dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(loss, torch.tensor([0, 0, 0, 2 * logit], dtype=dtype), rtol=1e-6, atol=1e-30)
    (gradient,) = torch.autograd.grad(loss.sum(), logits_lr)
    expected = torch.tensor([[0.0, 0.0]] * 3 + [[1.0, -1.0]], dtype=dtype)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    logits_lr, logits_hr = (3 * draw(4, 5)).to(dtype), (3 * draw(4, 5, seed=1)).to(dtype)
    labels = torch.tensor([4, 0, 0, 2])
    loss, s_p = label_distribution_loss(logits_lr, logits_hr, labels)
    assert loss.dtype == s_p.dtype == torch.float32
    expected, expected_share, _ = combined_by_loops(logits_lr.double(), logits_hr.double(), labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(s_p.double(), expected_share, rtol=0, atol=1e-6)


def test_one_hot_rows_and_votes_count_like_ids() -> None:
    logits_lr, logits_hr, ids = draw(3, 4).float(), draw(3, 4, seed=1).float(), torch.tensor([3, 0, 3])
    by_ids = label_distribution_loss(logits_lr, logits_hr, ids)
    for rows in (F.one_hot(ids, 4), F.one_hot(ids, 4).float(), F.one_hot(ids, 4).double()):
        by_rows = label_distribution_loss(logits_lr, logits_hr, rows)
        assert all(torch.equal(a, b) for a, b in zip(by_ids, by_rows, strict=True))


def test_each_sample_has_its_own_target() -> None:
    logits_lr, logits_hr, labels = draw(4, 5), draw(4, 5, seed=1), torch.tensor([0, 3, 3, 1])
    loss, s_p = label_distribution_loss(logits_lr, logits_hr, labels)
    for b in range(4):
        alone, share = label_distribution_loss(logits_lr[b : b + 1], logits_hr[b : b + 1], labels[b : b + 1])
        torch.testing.assert_close(loss[b : b + 1], alone, rtol=1e-14, atol=0)
        torch.testing.assert_close(s_p[b : b + 1], share, rtol=1e-14, atol=0)


@pytest.mark.parametrize("shape", [(4, 1), (4, 2), ()])
def test_labels_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"labels must be \(B,\) class ids or \(B, 3\) distributions, got shape"):
        label_distribution_loss(draw(4, 3), draw(4, 3), labels)


# Difficulty ------------------------------------------------------------------------------------------------


def logits_for(classes: list[int], num_classes: int, seed: int) -> Tensor:
    """Random logits whose largest entries are at `classes`."""
    logits = draw(len(classes), num_classes, seed=seed)
    logits[torch.arange(len(classes)), classes] = logits.max() + 1
    return logits


@pytest.mark.parametrize("criterion", ["both", "hr", "label"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_difficulty_in_every_case(num_classes: int, criterion: str) -> None:
    cases = list(itertools.product(range(num_classes), repeat=3))
    expected = []
    for low, high, label in cases:
        differs = {"both": low != high and low != label, "hr": low != high, "label": low != label}
        expected.append(0.0 if differs[criterion] else 1.0)
    assert {0.0, 1.0} == set(expected)
    lows, highs, labels = (list(column) for column in zip(*cases, strict=True))
    logits_lr, logits_hr = logits_for(lows, num_classes, 0), logits_for(highs, num_classes, 1)
    assert classification_difficulty(logits_lr, logits_hr, torch.tensor(labels), criterion).tolist() == expected
    soft = torch.softmax(logits_for(labels, num_classes, 2), 1)
    assert classification_difficulty(logits_lr, logits_hr, soft, criterion).tolist() == expected
    for case in range(len(cases)):
        one = slice(case, case + 1)
        alone = classification_difficulty(logits_lr[one], logits_hr[one], torch.tensor(labels[one]), criterion)
        assert alone.tolist() == expected[one]


def test_difficulty_asks_for_both_by_default() -> None:
    logits_lr, logits_hr = logits_for([0, 0, 0, 0], 3, 0), logits_for([0, 1, 0, 1], 3, 1)
    labels = torch.tensor([0, 0, 1, 1])
    assert classification_difficulty(logits_lr, logits_hr, labels).tolist() == [1, 1, 1, 0]
    assert classification_difficulty(logits_lr, logits_hr, labels, "hr").tolist() == [1, 0, 1, 0]
    assert classification_difficulty(logits_lr, logits_hr, labels, "label").tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_difficulty_is_a_constant_of_the_logits_dtype(dtype: torch.dtype) -> None:
    logits_lr = torch.tensor([[1e4, -1e4], [-100, 100]], dtype=dtype, requires_grad=True)
    logits_hr = torch.tensor([[-1e4, 1e4], [-100, 100]], dtype=dtype, requires_grad=True)
    tau = classification_difficulty(logits_lr, logits_hr, torch.tensor([1, 0]))
    assert tau.dtype == dtype and tau.shape == (2,)
    assert not tau.requires_grad
    assert tau.tolist() == [0, 1]


@pytest.mark.parametrize("criterion", ["Both", "lr", ""])
def test_unknown_criterion_is_an_error(criterion: str) -> None:
    with pytest.raises(ValueError, match="criterion must be 'both', 'hr' or 'label'"):
        classification_difficulty(draw(1, 2), draw(1, 2), torch.tensor([0]), criterion)
