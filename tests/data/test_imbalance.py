from __future__ import annotations

import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_fer import FerError, load_fer_dataset
from hf_fer.data.imbalance import imbalanced_counts, inject_label_noise, make_imbalanced, stable_permutation

DATA = Path(os.environ.get("FERPLUS_DIR", Path(__file__).parents[3] / "shared" / "data" / "ferplus"))
# METHODS' protocol on FERPlus' seven classes (8740, 7287, 3149, 3014, 2100, 119, 532), worked out by the oracle below.
FERPLUS_COUNTS = [8740, 7287, 3149, 3014, 2100, 119, 532]
FERPLUS_IMBALANCED = {
    50: [5950, 3099, 1615, 841, 438, 119, 228],
    100: [8740, 4056, 1882, 874, 405, 87, 188],
    150: [8740, 3791, 1644, 713, 309, 58, 134],
}


def labelled(labels: Sequence[int | None], names: tuple[str, ...] = ("neutral", "happiness", "anger")) -> Dataset:
    features = Features({"label": ClassLabel(names=[*names]), "row": Value("int64")})
    return Dataset.from_dict({"label": labels, "row": [*range(len(labels))]}, features=features)


def sizes(dataset: Any) -> list[int]:
    return np.bincount(dataset["label"][:], minlength=dataset.features["label"].num_classes).tolist()


def by_search(counts: list[int], factor: int) -> list[int]:
    """The same protocol without logarithms: c is bounded by each class in turn, and each n_r is found by trial."""
    last = len(counts) - 1
    ranked = sorted(range(len(counts)), key=lambda k: (-counts[k], k))

    def fits(rank: int, images: int) -> bool:
        """images ≤ c·factor^(−rank/last), for the c that the tightest class s allows: c = n_s·factor^(s/last)."""
        # images ≤ n_s·factor^((s − rank)/last)  ⟺  images^last ≤ n_s^last·factor^(s − rank), in whole numbers
        return all(
            Fraction(images) ** last <= Fraction(counts[k]) ** last * Fraction(factor) ** (s - rank)
            for s, k in enumerate(ranked)
        )

    wanted = [0] * len(counts)
    for rank, k in enumerate(ranked):
        low, high = 0, counts[k] + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(rank, middle) else (low, middle)
        wanted[k] = max(1, low)
    return wanted


@pytest.mark.parametrize("factor", [50, 100, 150])
def test_ferplus_gets_the_counts_of_the_protocol(factor: int) -> None:
    assert by_search(FERPLUS_COUNTS, factor) == FERPLUS_IMBALANCED[factor]
    assert imbalanced_counts(FERPLUS_COUNTS, factor) == FERPLUS_IMBALANCED[factor]


@pytest.mark.parametrize("seed", range(20))
def test_counts_agree_with_whole_numbers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 4000, size=rng.integers(2, 9)).tolist()
    factor = int(rng.integers(1, 300))
    assert imbalanced_counts(counts, factor) == by_search(counts, factor)


def test_exact_powers_are_not_rounded_away() -> None:
    assert imbalanced_counts([1000, 1000, 1000, 1000], 1000) == [1000, 100, 10, 1]
    assert imbalanced_counts([7, 7], 1) == [7, 7]
    assert imbalanced_counts([5, 500], 100) == [5, 500]  # rank goes by count, not by id
    assert imbalanced_counts([10, 10, 10], 1e6) == [10, 1, 1]  # at least 1


@pytest.mark.parametrize(
    ("counts", "factor", "said"),
    [
        ([5], 2, "at least two classes"),
        ([5, 0], 2, "none of them empty"),
        ([5, 5], 0.5, "at least 1, not 0.5"),
        ([5, 5], math.nan, "finite"),
        ([5, 5], math.inf, "finite"),
    ],
)
def test_impossible_imbalance(counts: list[int], factor: float, said: str) -> None:
    with pytest.raises(FerError, match=said):
        imbalanced_counts(counts, factor)


def test_a_set_is_thinned_out_in_place() -> None:
    labels = [0] * 40 + [1] * 40 + [2] * 40
    thin = make_imbalanced(labelled(labels), 4, seed=1)
    assert sizes(thin) == [40, 20, 10]
    rows = thin["row"][:]
    assert rows == sorted(rows) and len({*rows}) == 70
    assert all(labels[row] == label for row, label in zip(rows, thin["label"][:], strict=True))
    assert make_imbalanced(labelled(labels), 4, seed=1)["row"][:] == rows
    assert make_imbalanced(labelled(labels), 4, seed=2)["row"][:] != rows


def test_the_choice_is_the_same_on_every_machine() -> None:
    """Bits of PCG64, sorted: written down once."""
    assert stable_permutation(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert stable_permutation(10, 1).tolist() != stable_permutation(10, 0).tolist()
    assert sorted(stable_permutation(1000, 5).tolist()) == [*range(1000)]


def test_every_image_is_as_likely_as_any() -> None:
    chosen = np.zeros(30)
    for seed in range(400):
        chosen[make_imbalanced(labelled([0] * 30 + [1] * 60), counts=[10, 60, 0], seed=seed)["row"][:10]] += 1
    assert chosen.sum() == 4000
    assert chosen.min() > 90 and chosen.max() < 180  # 133 expected, standard deviation 9.4


def test_exact_counts_by_name_or_in_order() -> None:
    data = labelled([0] * 9 + [1] * 9 + [2] * 9)
    assert sizes(make_imbalanced(data, counts={"Happy": 3, "anger": 0, "neutral": 9})) == [9, 3, 0]
    assert sizes(make_imbalanced(data, counts=[1, 2, 3])) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "either factor= or counts="),
        ({"factor": 2, "counts": [1, 1, 1]}, "either factor= or counts="),
        ({"counts": [1, 1]}, "must be 3 whole numbers"),
        ({"counts": [1, -1, 1]}, "of at least 0"),
        ({"counts": [1, 1.5, 1]}, "whole numbers"),
        ({"counts": {"happiness": 1}}, "every class once: neutral, happiness, anger"),
        ({"counts": {"happiness": 1, "happy": 1, "anger": 1, "neutral": 1}}, "every class once"),
        ({"counts": [10, 1, 1]}, "'neutral' has 9 images, and counts= asks for 10"),
    ],
)
def test_what_cannot_be_chosen(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(FerError, match=said):
        make_imbalanced(labelled([0] * 9 + [1] * 9 + [2] * 9), **arguments)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"FERPlus is not at {DATA} (set FERPLUS_DIR)")
@pytest.mark.parametrize("factor", [50, 100, 150])
def test_real_ferplus(factor: int) -> None:
    splits = load_fer_dataset("ferplus", DATA, classes=7)
    assert sizes(splits["train"]) == FERPLUS_COUNTS
    before = {name: (len(splits[name]), splits[name]._fingerprint) for name in ("validation", "test")}
    thin = make_imbalanced(splits["train"], factor)
    assert sizes(thin) == FERPLUS_IMBALANCED[factor]
    assert {name: (len(splits[name]), splits[name]._fingerprint) for name in before} == before


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_noise_moves_its_share_to_other_classes(share: float) -> None:
    labels = np.random.default_rng(0).integers(0, 3, 2000).tolist()
    noisy = inject_label_noise(labelled(labels), share, seed=3)
    assert noisy["clean_label"][:] == labels and noisy["row"][:] == [*range(2000)]
    assert noisy.features["label"] == noisy.features["clean_label"]
    changed = [a != b for a, b in zip(noisy["label"][:], labels, strict=True)]
    assert sum(changed) == round(share * 2000)
    assert {*noisy["label"][:]} <= {0, 1, 2}
    if share:
        to = [b for a, b, c in zip(labels, noisy["label"][:], changed, strict=True) if c and a == 0]
        assert 0.35 < to.count(1) / len(to) < 0.65 and to.count(0) == 0


def test_more_noise_is_the_same_noise_and_more() -> None:
    data = labelled([0, 1, 2] * 100)
    some, more = (inject_label_noise(data, share, seed=1)["label"][:] for share in (0.1, 0.3))
    assert all(b == a for a, b, clean in zip(some, more, data["label"][:], strict=True) if a != clean)
    assert inject_label_noise(data, 0.3, seed=2)["label"][:] != more


def test_noise_on_noise_and_impossible_shares() -> None:
    data = labelled([0, 1, 2] * 10)
    with pytest.raises(FerError, match="label noise already"):
        inject_label_noise(inject_label_noise(data, 0.2), 0.2)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(FerError, match=r"must lie in \[0, 1\]"):
            inject_label_noise(data, share)


def test_sets_without_rows() -> None:
    with pytest.raises(FerError, match="none of them empty"):
        make_imbalanced(labelled([]), 2)
    assert len(make_imbalanced(labelled([]), counts=[0, 0, 0])) == 0
    assert len(inject_label_noise(labelled([]), 0.5)) == 0


@pytest.mark.parametrize("nothing", [-1, None])
def test_unlabelled_rows_are_refused(nothing: int | None) -> None:
    data = labelled([0, 1, nothing, 2])
    for use in (lambda d: make_imbalanced(d, 2), lambda d: inject_label_noise(d, 0.5)):
        with pytest.raises(FerError, match="no label; drop them"):
            use(data)


def test_noise_does_not_choose_the_rows_that_an_epoch_does() -> None:
    from hf_fer.data.sampling import group_balanced_rows

    labels = np.arange(8000) % 8
    data = Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(num_classes=8)}))
    noisy = inject_label_noise(data, 0.1)
    wrong = np.array(noisy["label"][:]) != np.array(noisy["clean_label"][:])
    for epoch in range(4):
        rows = group_balanced_rows(noisy["label"][:], range(8000), 512, 100, seed=0, epoch=epoch)
        assert wrong[rows].mean() == pytest.approx(0.1, abs=0.05)
