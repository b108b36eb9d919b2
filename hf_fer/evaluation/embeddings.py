"""How well the classes lie apart in the embedding space: two scores and a map of it, as in GReFEL's Figure 5."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_fer.errors import FerError


def cluster_scores(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Davies-Bouldin and Calinski-Harabasz scores of the true classes as clusters (GReFEL Fig. 5).

    Of the embeddings themselves, not of their t-SNE map, whose distances mean little. Both depend on the network's
    width and on how many images each class has: compare models on the same split.

    Args:
        embeddings: (N, D), finite.
        labels: (N,) class ids; some of the classes may be absent.

    Returns:
        - `davies_bouldin`: mean over classes of the worst ratio of spread to distance; at least 0, **lower** is better.
        - `calinski_harabasz`: dispersion between classes over that within; at least 0, **higher** is better.
        - `n`: N.

        Where they are not defined both are None, and `reason` says why.

    Raises:
        FerError: shapes that do not fit, or an embedding that is not finite.
    """
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

    points, labels = _check(embeddings, labels)
    found, own = np.unique(labels, return_inverse=True)
    reason = _why_undefined(points, own, len(found))
    if reason:
        return {"davies_bouldin": None, "calinski_harabasz": None, "n": len(points), "reason": reason}
    return {
        "davies_bouldin": float(davies_bouldin_score(points, labels)),
        "calinski_harabasz": float(calinski_harabasz_score(points, labels)),
        "n": len(points),
    }


def tsne(embeddings: np.ndarray, labels: np.ndarray, seed: int = 0, limit: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """A map of the embeddings (van der Maaten and Hinton 2008; HSAC Fig. 7, GReFEL Fig. 5).

    Perplexity min(30, (n − 1)/3), initialised by PCA. On one thread, so that a seed gives the same map on every run.

    Args:
        embeddings: (N, D), finite, D at least 2.
        labels: (N,) class ids; they choose images, and t-SNE does not see them.
        seed: of the choice and of t-SNE.
        limit: map at most so many images, of each class its share and at least one.

    Returns:
        Points (n, 2) float32, and rows (n,) int64, ascending: whose they are.

    Raises:
        FerError: fewer than 4 images, D below 2, embeddings that are all the same, or as for `cluster_scores`.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    points, labels = _check(embeddings, labels)
    rows = stratified_rows(labels, limit, seed)
    if len(rows) < 4 or points.shape[1] < 2:
        raise FerError(f"t-SNE needs 4 embeddings of 2 numbers or more, got {len(rows)} of {points.shape[1]}.")
    points = points[rows]
    if (points == points[0]).all():
        raise FerError("The embeddings are all the same, so there is no map of them; has the model been trained?")
    with threadpool_limits(limits=1):
        # Sums over threads differ in their last bit from run to run, and t-SNE makes much of it.
        mapped = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed).fit_transform(
            points.astype(np.float32)
        )
    return mapped.astype(np.float32), rows


def stratified_rows(labels: np.ndarray, limit: int, seed: int = 0) -> np.ndarray:
    """Rows (n,) int64, ascending, of `limit` samples, or of all where there are no more.

    Of each class its share, which is rounded up where it is small: at least one.

    Raises:
        FerError: `limit` is below the number of classes.
    """
    found, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if limit < len(found):
        raise FerError(f"limit={limit} is below the number of classes, {len(found)}; raise it.")
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    # The j-th of a class's n samples, in random order, comes at j/n: cut anywhere, each class has given its share.
    turn = np.empty(len(labels))
    for k in range(len(found)):
        turn[order[own[order] == k]] = np.arange(counts[k]) / counts[k]
    return np.sort(order[np.argsort(turn[order], kind="stable")[:limit]])


def _check(embeddings: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings centred and scaled, float64: neither changes a score, and both keep float32 and sklearn's absolute
    tolerances out of it."""
    points, labels = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    if points.ndim != 2 or labels.shape != points.shape[:1]:
        raise FerError(f"Embeddings must be (N, D) and labels (N,), got {points.shape} and {labels.shape}.")
    finite = np.isfinite(points).all(axis=1)
    if not finite.all():
        raise FerError(f"Embedding {int((~finite).argmax())} is not finite; check the model's weights.")
    if not points.size or (points == points[0]).all():  # the mean's rounding would pass for a spread
        return np.zeros_like(points), labels
    points = points - points.mean(axis=0)
    return points / np.abs(points).max(), labels


def _why_undefined(points: np.ndarray, own: np.ndarray, classes: int) -> str | None:
    """Why the clusters have no scores; scikit-learn would raise, or return 0 and 1 where it divides by zero."""
    if classes < 2:
        return f"the images are of {classes} class, and clusters are compared" if classes else "there are no images"
    if len(points) <= classes:
        return f"{len(points)} images of {classes} classes are one each"
    if not points.any():
        return "the embeddings are all the same"
    centres = np.stack([points[own == k].mean(axis=0) for k in range(classes)])
    if np.allclose(centres, centres[0]):
        return "the classes have one centre"
    if np.allclose(points, centres[own]):
        return "each class is a single point"
    return None
