"""Cluster scores are scikit-learn's where those mean something; maps and subsets depend on a seed alone."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from hf_fer.errors import FerError
from hf_fer.evaluation.embeddings import cluster_scores, stratified_rows, tsne


def clusters(counts: list[int], dims: int = 16, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = 2 * rng.normal(size=(len(counts), dims))
    return (centres[labels] + spread * rng.normal(size=(len(labels), dims))).astype(np.float32), labels


# cluster_scores


@pytest.mark.parametrize("counts", [[30, 20], [100, 50, 3, 1], [40, 0, 7, 0, 9]])
def test_scores_are_scikit_learns(counts):
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

    embeddings, labels = clusters(counts)
    assert cluster_scores(embeddings, labels) == {
        "davies_bouldin": pytest.approx(davies_bouldin_score(embeddings, labels), rel=1e-5),
        "calinski_harabasz": pytest.approx(calinski_harabasz_score(embeddings, labels), rel=1e-5),
        "n": sum(counts),
    }


def test_scores_by_hand():
    """Two classes on a line: 0, 2 and 10, 14. Spreads 1 and 2, centres 1 and 12."""
    scores = cluster_scores(np.array([[0.0], [2.0], [10.0], [14.0]]), np.array([0, 0, 3, 3]))
    assert scores["davies_bouldin"] == pytest.approx((1 + 2) / 11)
    between, within = 2 * 5.5**2 + 2 * 5.5**2, 1 + 1 + 4 + 4
    assert scores["calinski_harabasz"] == pytest.approx((between / 1) / (within / 2))


def test_better_is_lower_and_higher():
    near, far = (cluster_scores(*clusters([50, 50, 50], spread=spread)) for spread in (0.3, 3.0))
    assert near["davies_bouldin"] < far["davies_bouldin"]
    assert near["calinski_harabasz"] > far["calinski_harabasz"]


@pytest.mark.parametrize(("scale", "shift"), [(1e-12, 0.0), (1e6, 0.0), (1.0, 1000.0)])
def test_scores_know_neither_scale_nor_origin(scale, shift):
    """scikit-learn's own would: it takes distances below 1e-8 for none."""
    embeddings, labels = clusters([30, 20, 10])
    moved = cluster_scores(embeddings.astype(np.float64) * scale + shift, labels)
    assert moved == pytest.approx(cluster_scores(embeddings, labels), rel=1e-6)


@pytest.mark.parametrize(
    ("embeddings", "labels", "reason"),
    [
        (np.zeros((0, 3)), [], "there are no images"),
        (np.eye(3), [1, 1, 1], "of 1 class"),
        (np.eye(3), [0, 1, 2], "3 images of 3 classes"),
        (np.full((4, 3), 0.1), [0, 0, 1, 1], "all the same"),
        (np.array([[1.0], [-1.0], [2.0], [-2.0]]), [0, 0, 1, 1], "one centre"),
        (np.array([[1.0], [1.0], [2.0], [2.0]]), [0, 0, 1, 1], "a single point"),
    ],
)
def test_scores_that_do_not_exist_are_none_with_a_reason(embeddings, labels, reason):
    scores = cluster_scores(embeddings, np.array(labels))
    assert scores["davies_bouldin"] is None and scores["calinski_harabasz"] is None
    assert scores["n"] == len(labels) and reason in scores["reason"]


@pytest.mark.parametrize("function", [cluster_scores, tsne])
def test_what_does_not_fit_is_refused(function):
    with pytest.raises(FerError, match="must be"):
        function(np.zeros((3, 2)), np.zeros(4))
    with pytest.raises(FerError, match="must be"):
        function(np.zeros(3), np.zeros(3))
    broken = np.ones((5, 2))
    broken[3, 1] = np.nan
    with pytest.raises(FerError, match="Embedding 3 is not finite"):
        function(broken, np.zeros(5))


# stratified_rows


@pytest.mark.parametrize("limit", [4, 10, 57, 180])
def test_each_class_gives_its_share(limit):
    counts = np.array([100, 60, 20, 1])
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 5, 7], counts))
    rows = stratified_rows(labels, limit)
    assert len(rows) == len(set(rows.tolist())) == limit
    assert (np.diff(rows) > 0).all()
    given = np.array([(labels[rows] == k).sum() for k in (0, 1, 5, 7)])
    assert (given >= 1).all()
    share = counts / counts.sum()
    assert (given <= limit * share + 1).all() and (given >= (limit - 4) * share).all()


def test_rows_depend_on_the_seed_alone():
    labels = np.arange(100) % 3
    assert np.array_equal(stratified_rows(labels, 20, 1), stratified_rows(labels, 20, 1))
    assert not np.array_equal(stratified_rows(labels, 20, 1), stratified_rows(labels, 20, 2))
    assert np.array_equal(stratified_rows(labels, 100, 2), np.arange(100))
    with pytest.raises(FerError, match="limit=2 is below the number of classes, 3"):
        stratified_rows(labels, 2)


# tsne


def test_a_map_depends_on_the_seed_alone():
    embeddings, labels = clusters([40, 30, 5])
    points, rows = tsne(embeddings, labels, seed=3, limit=50)
    assert points.shape == (50, 2) and points.dtype == np.float32 and np.isfinite(points).all()
    assert np.array_equal(rows, stratified_rows(labels, 50, 3))
    again, _ = tsne(embeddings, labels, seed=3, limit=50)
    assert np.array_equal(points, again)
    assert not np.array_equal(points, tsne(embeddings, labels, seed=4, limit=50)[0])


def test_a_map_is_the_same_on_more_threads(tmp_path):
    embeddings, _ = clusters([40, 30, 5])
    np.save(tmp_path / "points.npy", embeddings)
    code = (
        "import sys, numpy as np; from hf_fer.evaluation.embeddings import tsne; "
        "x = np.load(sys.argv[1]); np.save(sys.argv[2], tsne(x, np.zeros(len(x)), seed=3)[0])"
    )
    found = []
    for threads in ("1", "4"):
        out = tmp_path / f"{threads}.npy"
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, str(tmp_path / "points.npy"), str(out)]
        subprocess.run(command, check=True, env=environment, timeout=120)
        found.append(np.load(out))
    assert np.array_equal(*found)


def test_a_map_keeps_clusters_together():
    embeddings, labels = clusters([40, 40, 40], spread=0.2)
    points, rows = tsne(embeddings, labels)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (labels[rows][distances.argmin(axis=1)] == labels[rows]).all()


@pytest.mark.parametrize("n", [4, 5, 12])
def test_small_maps(n):
    embeddings, _ = clusters([n])
    points, rows = tsne(embeddings, np.zeros(n))
    assert points.shape == (n, 2) and np.isfinite(points).all() and rows.tolist() == [*range(n)]


def test_maps_that_cannot_be():
    with pytest.raises(FerError, match="needs 4 embeddings of 2 numbers or more, got 3 of 8"):
        tsne(np.eye(3, 8), np.zeros(3))
    with pytest.raises(FerError, match="got 9 of 1"):
        tsne(np.arange(9.0)[:, None], np.zeros(9))
    with pytest.raises(FerError, match="all the same"):
        tsne(np.full((9, 3), 0.1), np.zeros(9))


def test_scikit_learn_is_not_imported_before_it_is_used():
    code = "import sys, hf_fer.evaluation.embeddings; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
