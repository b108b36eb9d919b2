"""Accuracy by group and the gap between groups, as pure functions of numpy arrays.

The files of this folder stand alone (numpy): `evaluate` copies those that `fairness_gap.py` names next to it, so
nothing else of the package may be imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .common import bootstrap_counts, percentile_interval, ratio
from .inputs import check_inputs


def score_groups(
    predictions: Sequence[int] | np.ndarray,
    references: Sequence[int] | np.ndarray,
    groups: Sequence[str],
    min_support: int = 1,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the answers in each group of images, and the gap between the best and the worst group.

    Args:
        predictions: `(N,)` integers from 0.
        references: `(N,)` integers from 0.
        groups: `(N,)` texts, the value of one attribute of each image; taken as they are spelled.
        min_support: groups with fewer images stay out of the gaps.
        bootstrap: number of resamples for 95 % intervals, 0 (none) to 100,000. Images are resampled within each group.
        seed: seed of numpy's default generator.

    Returns:
        A JSON-serialisable dict:

        - `n`: number of images.
        - `per_group`: name -> `n`, `accuracy`, `mean_class_accuracy` (mean recall over the classes that the group's
          references hold) and, with `bootstrap`, `ci95` of both; sorted by name, with the groups left out.
        - `accuracy_gap`: largest minus smallest accuracy over the groups with `min_support` images or more;
          `best_group`, `worst_group`: where they are, of equals the first by name.
        - `mean_class_accuracy_gap`, `mean_class_accuracy_best_group`, `mean_class_accuracy_worst_group`: likewise.
        - `min_support`, and `left_out`: names of the groups with fewer images.
        - with `bootstrap`: `ci95`, `[low, high]` of `accuracy_gap` and `mean_class_accuracy_gap` with `method`,
          `resamples` and `seed`. Best and worst are found anew in each draw. Chance alone makes such a gap positive,
          the more so the smaller and the more numerous the groups (Lum et al., FAccT 2022): an interval above 0 is no
          evidence of a gap.

    Raises:
        ValueError: empty input, lengths that differ, ids that are no integers from 0, groups that are not text, empty,
            or more than 1,000, options out of range, and fewer than two groups with `min_support` images.
    """
    predicted, true, codes, names, compared = check_inputs(
        predictions, references, groups, min_support, bootstrap, seed
    )
    generator = np.random.default_rng(seed)
    per_group: dict[str, dict[str, Any]] = {}
    # Largest and smallest figure of each draw so far: memory does not grow with the groups.
    highest, lowest = np.full((2, bootstrap), -np.inf), np.full((2, bootstrap), np.inf)
    for code, name in enumerate(names):
        inside = codes == code
        hits, support = _count_hits(true[inside], (predicted == true)[inside])
        own = per_group[name] = {
            "n": int(support.sum()),
            "accuracy": float(hits.sum() / support.sum()),
            "mean_class_accuracy": float((hits / support).mean()),
        }
        if bootstrap:
            drawn = _resample(hits, support, bootstrap, generator)
            own["ci95"] = {
                "accuracy": percentile_interval(drawn[0]),
                "mean_class_accuracy": percentile_interval(drawn[1]),
            }
            if compared[code]:
                highest, lowest = np.maximum(highest, drawn), np.minimum(lowest, drawn)
    in_gap = [name for name, enough in zip(names, compared, strict=True) if enough]
    gap, best, worst = _gap(per_group, in_gap, "accuracy")
    mean_gap, mean_best, mean_worst = _gap(per_group, in_gap, "mean_class_accuracy")
    result: dict[str, Any] = {
        "n": len(true),
        "per_group": per_group,
        "accuracy_gap": gap,
        "best_group": best,
        "worst_group": worst,
        "mean_class_accuracy_gap": mean_gap,
        "mean_class_accuracy_best_group": mean_best,
        "mean_class_accuracy_worst_group": mean_worst,
        "min_support": int(min_support),
        "left_out": [name for name, enough in zip(names, compared, strict=True) if not enough],
    }
    if bootstrap:
        gaps = highest - lowest
        result["ci95"] = {
            "accuracy_gap": percentile_interval(gaps[0]),
            "mean_class_accuracy_gap": percentile_interval(gaps[1]),
            "method": "percentile bootstrap within groups",
            "resamples": int(bootstrap),
            "seed": int(seed),
        }
    return result


def _count_hits(true: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and images of each class present, `(K,)` each."""
    _, classes = np.unique(true, return_inverse=True)
    support = np.bincount(classes)
    return np.bincount(classes, weights=correct, minlength=len(support)).astype(np.int64), support


def _gap(per_group: dict[str, dict[str, Any]], names: Sequence[str], key: str) -> tuple[float, str, str]:
    """The gap, the best group and the worst; of equals, `max` and `min` take the first."""
    best = max(names, key=lambda name: per_group[name][key])
    worst = min(names, key=lambda name: per_group[name][key])
    return per_group[best][key] - per_group[worst][key], best, worst


def _resample(hits: np.ndarray, support: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Accuracy and mean class accuracy in draws of one group's images, `(2, R)`."""
    size, total = len(support), support.sum()
    accuracy, mean_class = [], []
    for draws in bootstrap_counts(np.concatenate([hits, support - hits]), resamples, generator):
        right, drawn = draws[:, :size], draws[:, :size] + draws[:, size:]
        accuracy.append(right.sum(axis=1) / total)
        mean_class.append(ratio(right, drawn).sum(axis=1) / (drawn > 0).sum(axis=1))
    return np.stack([np.concatenate(accuracy), np.concatenate(mean_class)])
