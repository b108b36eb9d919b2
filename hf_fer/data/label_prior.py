"""The prior label distribution of FERPlus, for training with F-PDLS on data without votes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import FerError
from ..labels import canonical_expression, label_names

# `prior_label_distribution` of FERPlus' training images: 8 classes, majority rule, 25,060 of them
# (tests/data/test_label_prior.py computes it anew). Rows and columns in FERPlus' order.
_FERPLUS = (
    (0.78382, 0.03039, 0.01781, 0.10534, 0.02714, 0.00830, 0.00494, 0.02226),
    (0.04250, 0.91984, 0.02104, 0.00493, 0.00427, 0.00215, 0.00183, 0.00344),
    (0.05856, 0.03610, 0.78746, 0.01104, 0.01513, 0.00350, 0.08531, 0.00289),
    (0.16562, 0.01433, 0.00995, 0.74551, 0.02363, 0.01277, 0.01754, 0.01066),
    (0.07550, 0.02792, 0.06222, 0.03343, 0.73135, 0.03483, 0.02441, 0.01035),
    (0.09247, 0.01956, 0.02104, 0.09121, 0.12885, 0.59845, 0.01366, 0.03477),
    (0.04594, 0.01263, 0.16855, 0.07407, 0.03146, 0.01535, 0.64779, 0.00421),
    (0.13822, 0.02089, 0.01265, 0.04981, 0.04055, 0.06416, 0.00935, 0.66437),
)


def ferplus_label_prior(names: Sequence[str]) -> Tensor:
    """FERPlus' prior `d` in the order of another data set's labels.

    Args:
        names: K of FERPlus' eight expressions, each once, under any of their usual names. What is left out, such as
            contempt, loses its row and column.

    Returns:
        (K, K) float64, rows sum to 1: row y is how FERPlus' voters judged images of class y.

    Raises:
        FerError: a label that FERPlus does not have, or the same twice.
    """
    known = [canonical_expression(name) for name in label_names("ferplus", 8)]
    wanted = [canonical_expression(name) for name in names]
    strangers = [name for name, canonical in zip(names, wanted, strict=True) if canonical not in known]
    if strangers or len({*wanted}) != len(wanted):
        what = f"has no label {strangers[0]!r}" if strangers else f"cannot serve one expression twice in {[*names]}"
        raise FerError(f"FERPlus' label prior {what}; set label_prior to rows of your own, or prior_alpha: 1.")
    order = [known.index(name) for name in wanted]
    prior = torch.tensor(_FERPLUS, dtype=torch.float64)[order][:, order]
    return prior / prior.sum(dim=1, keepdim=True)
