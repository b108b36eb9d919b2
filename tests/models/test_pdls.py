"""Focal PDLS and its prior against plain Python: loops for the loss, fractions for the prior."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_fer.models.losses import focal_pdls, prior_label_distribution

ALPHAS = [0.0, 0.3, 0.8, 1.0]
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_distributions(batch: int, classes: int, seed: int = 7) -> Tensor:
    return torch.softmax(2 * draw(batch, classes, seed=seed), dim=1)


def draw_prior(classes: int, seed: int = 11) -> Tensor:
    """Row y leans to y, and is not column y."""
    return torch.softmax(draw(classes, classes, seed=seed) + 2 * torch.eye(classes, dtype=torch.float64), dim=1)


def ids_for(batch: int, classes: int) -> Tensor:
    return torch.tensor([(3 * b + 1) % classes for b in range(batch)])


def focal_pdls_by_loops(logits: Tensor, labels: Tensor, prior: Tensor | None, alpha: float, gamma: float) -> Tensor:
    classes = logits.shape[1]
    if labels.ndim == 2:
        rows = labels.tolist()
    else:
        rows = [[1.0 if k == label else 0.0 for k in range(classes)] for label in labels.tolist()]
    d = torch.zeros(classes, classes).tolist() if prior is None else prior.tolist()
    result = []
    for z, t in zip(logits.tolist(), rows, strict=True):
        top = max(z)
        powers = [math.exp(value - top) for value in z]
        log_sum = top + math.log(math.fsum(powers))
        terms = []
        for c in range(classes):
            smooth = math.fsum(t[y] * d[y][c] for y in range(classes))
            rest = math.fsum(powers[:c] + powers[c + 1 :]) / math.fsum(powers)  # 1 − p_c
            terms.append(rest**gamma * (alpha * t[c] + (1 - alpha) * smooth) * (z[c] - log_sum))
        result.append(-math.fsum(terms))
    return torch.tensor(result, dtype=torch.float64)


# The loss --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "distributions"])
@pytest.mark.parametrize(("batch", "classes"), [(6, 7), (5, 8), (1, 2)])
def test_focal_pdls_matches_the_loops(batch: int, classes: int, soft: bool, alpha: float, gamma: float) -> None:
    logits, prior = 3 * draw(batch, classes), draw_prior(classes)
    labels = draw_distributions(batch, classes) if soft else ids_for(batch, classes)
    expected = focal_pdls_by_loops(logits, labels, prior, alpha, gamma)
    actual = focal_pdls(logits, labels, prior, alpha, gamma)
    assert actual.dtype == torch.float64 and actual.shape == (batch,)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-14)
    single = focal_pdls(logits.float(), labels.float() if soft else labels, prior.float(), alpha, gamma)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-6, atol=1e-6)


def test_focal_pdls_by_hand() -> None:
    # p = (¼, ¾), label 0, d_0 = (½, ½): targets 0.8 + 0.1 and 0.1, focused by (¾)² and (¼)².
    prior = torch.tensor([[0.5, 0.5], [0.1, 0.9]])
    loss = focal_pdls(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0]), prior, alpha=0.8, gamma=2.0)
    expected = 0.9 * 0.75**2 * math.log(4) + 0.1 * 0.25**2 * math.log(4 / 3)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_focal_pdls_defaults_to_the_released_settings() -> None:
    logits, labels, prior = draw(4, 5), ids_for(4, 5), draw_prior(5)
    torch.testing.assert_close(
        focal_pdls(logits, labels, prior), focal_pdls_by_loops(logits, labels, prior, 0.8, 2.0), rtol=1e-12, atol=0
    )


def test_gamma_zero_is_pdls() -> None:
    logits, labels, prior = 3 * draw(6, 5), ids_for(6, 5), draw_prior(5)
    targets = 0.7 * F.one_hot(labels, 5).double() + 0.3 * prior[labels]
    actual = focal_pdls(logits, labels, prior, alpha=0.7, gamma=0.0)
    torch.testing.assert_close(actual, F.cross_entropy(logits, targets, reduction="none"), rtol=1e-13, atol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_without_a_prior_it_is_focal_cross_entropy(gamma: float) -> None:
    logits, labels = 3 * draw(6, 5), ids_for(6, 5)
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    expected = (1 - (-cross_entropy).exp()) ** gamma * cross_entropy
    torch.testing.assert_close(focal_pdls(logits, labels, None, 1.0, gamma), expected, rtol=1e-12, atol=1e-14)
    # A prior without weight is no prior, and one that says what the label says adds nothing.
    with_prior = focal_pdls(logits, labels, draw_prior(5), 1.0, gamma)
    torch.testing.assert_close(with_prior, expected, rtol=1e-12, atol=1e-14)
    for alpha in ALPHAS:
        certain = focal_pdls(logits, labels, torch.eye(5), alpha, gamma)
        torch.testing.assert_close(certain, expected, rtol=1e-12, atol=1e-14)


def test_a_uniform_prior_is_torchs_label_smoothing() -> None:
    logits, labels = draw(6, 5), ids_for(6, 5)
    actual = focal_pdls(logits, labels, torch.full((5, 5), 0.2, dtype=torch.float64), alpha=0.9, gamma=0.0)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=0)


def test_one_hot_rows_and_votes_count_like_ids() -> None:
    logits, ids, prior = draw(4, 5).float(), torch.tensor([3, 0, 3, 1]), draw_prior(5)  # classes 2 and 4 are absent
    by_ids = focal_pdls(logits, ids, prior)
    for rows in (F.one_hot(ids, 5), F.one_hot(ids, 5).float(), F.one_hot(ids, 5).double()):
        torch.testing.assert_close(focal_pdls(logits, rows, prior), by_ids, rtol=1e-7, atol=0)


def test_easy_samples_count_less_the_larger_gamma() -> None:
    logits, labels = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]], dtype=torch.float64), torch.tensor([0, 0])
    shares = []
    for gamma in (0.0, 1.0, 2.0, 5.0):
        easy, hard = focal_pdls(logits, labels, None, 1.0, gamma).tolist()
        shares.append(easy / hard)
    assert shares == sorted(shares, reverse=True) and shares[0] > 20 * shares[1] > 400 * shares[2]


@pytest.mark.parametrize("gamma", [0.0, 1e-3, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("logit", [0.0, 15.0, 17.0, 40.0, 100.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_logits_stay_finite(dtype: torch.dtype, logit: float, gamma: float) -> None:
    """Gammas below 1 have an infinite slope at p = 1."""
    logits = torch.tensor([[logit, -logit, -logit], [-logit, logit, -logit]], dtype=dtype, requires_grad=True)
    labels = torch.tensor([0, 0])
    for prior, alpha in ((None, 1.0), (draw_prior(3), 0.8), (torch.eye(3), 0.0)):
        loss = focal_pdls(logits, labels, prior, alpha, gamma)
        expected = focal_pdls_by_loops(logits, labels, prior, alpha, gamma)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        assert bool((loss >= 0).all())
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert bool(gradient.isfinite().all())
        if logit >= 100:
            # The wrong answer is pulled as by cross-entropy, the right one of a sure label left alone.
            weight = 1.0 if prior is None else float(alpha + (1 - alpha) * prior[0, 0])
            assert gradient[1, 0].item() == pytest.approx(-weight, rel=1e-5)
            if prior is None:
                torch.testing.assert_close(gradient[0], torch.zeros(3, dtype=dtype), rtol=0, atol=1e-20)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    logits, labels, prior = (3 * draw(4, 5)).to(dtype), ids_for(4, 5), draw_prior(5)
    actual = focal_pdls(logits, labels, prior.float())
    assert actual.dtype == torch.float32
    expected = focal_pdls_by_loops(logits.double(), labels, prior, 0.8, 2.0)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)
    saturated = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    loss = focal_pdls(saturated, torch.tensor([0, 0]), None, 1.0)
    assert loss.tolist() == [0, pytest.approx(2e4, rel=1e-2)]
    (gradient,) = torch.autograd.grad(loss.sum(), saturated)
    assert gradient.tolist() == [[0, 0], [-1, 1]]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_pdls_gradients(gamma: float) -> None:
    logits, prior = draw(3, 4).requires_grad_(), draw_prior(4)
    assert torch.autograd.gradcheck(lambda z: focal_pdls(z, ids_for(3, 4), prior, 0.8, gamma), (logits,))
    labels = draw_distributions(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, t: focal_pdls(z, t, prior, 0.8, gamma), (logits, labels))


def test_each_sample_has_its_own_value() -> None:
    logits, labels, prior = draw(4, 5), ids_for(4, 5), draw_prior(5)
    alone = [focal_pdls(logits[b : b + 1], labels[b : b + 1], prior) for b in range(4)]
    torch.testing.assert_close(focal_pdls(logits, labels, prior), torch.cat(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("alpha", "gamma"), [(-0.1, 2.0), (1.1, 2.0), (float("nan"), 2.0), (0.8, -1.0), (0.8, -1e-9), (2, -2)]
)
def test_alpha_and_gamma_out_of_range_are_an_error(alpha: float, gamma: float) -> None:
    for prior in (torch.eye(3), None):
        with pytest.raises(ValueError, match=r"alpha must lie in \[0, 1\] and gamma be at least 0 and finite, got "):
            focal_pdls(draw(1, 3), torch.tensor([0]), prior, alpha, gamma)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (4, 3), (2, 2), (1, 3, 3)])
def test_a_prior_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"prior must be \(3, 3\), got shape"):
        focal_pdls(draw(2, 3), torch.tensor([0, 1]), torch.ones(shape))


@pytest.mark.parametrize("alpha", [0.0, 0.8])
def test_a_missing_prior_is_an_error(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha={alpha} mixes in a prior, and prior is None: give one, or alpha=1"):
        focal_pdls(draw(2, 3), torch.tensor([0, 1]), None, alpha)


@pytest.mark.parametrize("shape", [(2, 1), (2, 4)])
def test_labels_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels must be \(B,\) class ids or \(B, 3\) distributions, got shape"):
        focal_pdls(draw(2, 3), torch.zeros(shape, dtype=torch.int64), torch.eye(3))


# The prior -------------------------------------------------------------------------------------------------


def draw_votes(images: int, classes: int, seed: int = 3) -> Tensor:
    """At least one vote an image, and unlike numbers of them."""
    generator = torch.Generator().manual_seed(seed)
    votes = torch.randint(0, 6, (images, classes), generator=generator)
    votes[torch.arange(images), torch.randint(0, classes, (images,), generator=generator)] += 1
    return votes


def prior_by_fractions(votes: list[list[int]], labels: list[int], classes: int) -> Tensor:
    rows = []
    for y in range(classes):
        members = [image for image, label in zip(votes, labels, strict=True) if label == y]
        if members:
            row = [sum(Fraction(image[c], sum(image)) for image in members) / len(members) for c in range(classes)]
        else:
            row = [Fraction(int(c == y)) for c in range(classes)]
        rows.append([float(value) for value in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("images", "classes"), [(200, 8), (9, 3), (2, 2), (1, 2)])
def test_the_prior_matches_fractions(images: int, classes: int) -> None:
    votes = draw_votes(images, classes)
    for labels in (votes.argmax(dim=1), ids_for(images, classes)):
        prior = prior_label_distribution(votes, labels)
        assert prior.dtype == torch.float64
        expected = prior_by_fractions(votes.tolist(), labels.tolist(), classes)
        torch.testing.assert_close(prior, expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(prior.sum(1), torch.ones(classes, dtype=torch.float64), rtol=0, atol=1e-14)


def test_the_prior_by_hand() -> None:
    """Images count alike, however many votes they have."""
    votes = torch.tensor([[8, 2, 0], [3, 3, 0], [0, 1, 9]])
    prior = prior_label_distribution(votes, torch.tensor([0, 0, 2]))
    expected = torch.tensor([[0.65, 0.35, 0.0], [0.0, 1.0, 0.0], [0.0, 0.1, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(prior, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float16, torch.float32, torch.float64])
def test_votes_come_in_any_dtype(dtype: torch.dtype) -> None:
    """Ten uint8 votes of 30 would run over, and a float16 mean would round."""
    votes, labels = 30 * draw_votes(40, 8), ids_for(40, 8)
    expected = prior_by_fractions(votes.tolist(), labels.tolist(), 8)
    torch.testing.assert_close(prior_label_distribution(votes.to(dtype), labels), expected, rtol=0, atol=1e-14)


def test_classes_without_images_have_a_one_hot_row() -> None:
    votes = torch.tensor([[5, 5, 0, 0], [1, 9, 0, 0]])
    prior = prior_label_distribution(votes, torch.tensor([1, 1]))
    assert prior[[0, 2, 3]].tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(prior[1], torch.tensor([0.3, 0.7, 0, 0], dtype=torch.float64), rtol=0, atol=1e-15)
    nothing = prior_label_distribution(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert torch.equal(nothing, torch.eye(3, dtype=torch.float64))


def test_unanimous_votes_give_the_identity() -> None:
    labels = ids_for(12, 4)
    assert torch.equal(prior_label_distribution(7 * F.one_hot(labels, 4), labels), torch.eye(4, dtype=torch.float64))


def test_the_prior_feeds_the_loss() -> None:
    votes = draw_votes(50, 5)
    prior = prior_label_distribution(votes, votes.argmax(dim=1))
    logits, labels = draw(6, 5), ids_for(6, 5)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        actual = focal_pdls(logits.to(dtype), labels, prior)
        assert actual.dtype == dtype
        expected = focal_pdls_by_loops(logits, labels, prior, 0.8, 2.0)
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("votes", "labels"),
    [((3,), (3,)), ((3, 2, 2), (3,)), ((3, 2), (2,)), ((3, 2), (3, 2)), ((3, 2), (3, 1)), ((3, 2), ())],
)
def test_shapes_that_do_not_fit_are_an_error(votes: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"votes must be \(N, K\) and labels \(N,\), got "):
        prior_label_distribution(torch.ones(votes), torch.zeros(labels, dtype=torch.int64))


@pytest.mark.parametrize("votes", [[[1, 1], [3, -1]], [[1, 1], [0, 0]], [[1, 1], [-1, -1]], [[1.0, 1.0], [-0.5, 0.5]]])
def test_negative_or_missing_votes_are_an_error(votes: Any) -> None:
    with pytest.raises(ValueError, match="votes must be finite and not negative, and every image needs at least one"):
        prior_label_distribution(torch.tensor(votes), torch.tensor([0, 1]))


@pytest.mark.parametrize("label", [2, -1])
def test_an_id_without_votes_for_it_is_an_error(label: int) -> None:
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        prior_label_distribution(torch.ones(2, 2), torch.tensor([0, label]))
