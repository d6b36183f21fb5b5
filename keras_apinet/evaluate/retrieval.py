"""Do images of one class lie together? Retrieval on the features."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FIGURES = ("recall@1", "recall@5", "map@r")
# Entries of the distance matrix that are held at a time.
_ENTRIES = 4_000_000


def retrieval_scores(
    features: ArrayLike, labels: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Recall@1, recall@5 and MAP@R of each image, with all others as the gallery.

    Neighbours are the Euclidean-nearest, as in the pairing of the training. With R
    other images of the query's class, `MAP@R = 1/R sum_{i <= R} precision@i * rel(i)`
    (Musgrave et al. 2020).

    Args:
        features: `[n, D]`.
        labels: `[n]` classes.

    Returns:
        `recall@1`, `recall@5` and `map@r`, each `[n]` float64 in 0..1, NaN for an image
        without another of its class.

    >>> scores = retrieval_scores([[0.0], [0.1], [5.0], [5.1]], [0, 0, 1, 1])
    >>> scores["recall@1"]
    array([1., 1., 1., 1.])
    """
    return scores_within(neighbours(features, labels), np.asarray(labels))


def neighbours(features: ArrayLike, labels: ArrayLike) -> NDArray[np.int32]:
    """The nearest other images of each image, nearest first.

    Returns:
        `[n, K]`, with K a little more than the size of the largest class, so that
        there are enough of them among some of the images, too.
    """
    x = np.asarray(features, np.float32)
    n = len(x)
    largest = int(np.bincount(labels).max()) if n else 0
    depth = min(n - 1, max(10, largest + largest // 4) + 10)
    if depth < 1:
        return np.zeros((n, 0), np.int32)
    # Distances do not change when everything moves; near the origin they round less.
    x = x - x.mean(axis=0)
    squares = (x * x).sum(axis=1)
    result = np.empty((n, depth), np.int32)
    step = max(1, _ENTRIES // n)
    for start in range(0, n, step):
        rows = np.arange(start, min(start + step, n))
        distances = squares - 2 * (x[rows] @ x.T)
        distances[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(distances, depth - 1, axis=1)[:, :depth]
        order = np.argsort(np.take_along_axis(distances, near, 1), 1, kind="stable")
        result[rows] = np.take_along_axis(near, order, 1)
    return result


def scores_within(
    near: NDArray[np.int32],
    labels: NDArray[np.int64],
    chosen: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Scores of each image as `retrieval_scores`, perhaps among some of the images.

    Args:
        near: Of `neighbours`.
        labels: `[n]` classes.
        chosen: `[n]`, the images that are query and gallery. Default: all.

    Returns:
        One array for each of `FIGURES`, over the chosen images.
    """
    rows = np.arange(len(labels)) if chosen is None else np.flatnonzero(chosen)
    others = np.bincount(labels[rows], minlength=1)[labels[rows]] - 1
    result = {name: np.full(len(rows), np.nan) for name in FIGURES}
    if not near.shape[1] or not (others > 0).any():
        return result
    hits = labels[near[rows]] == labels[rows, None]
    if chosen is None:
        places = np.broadcast_to(np.arange(1, near.shape[1] + 1), hits.shape)
    else:
        there = chosen[near[rows]]
        hits &= there
        places = np.cumsum(there, axis=1)
    within = hits & (places <= others[:, None])
    precision = np.cumsum(within, axis=1) / np.maximum(places, 1)
    average = (precision * within).sum(axis=1) / np.maximum(others, 1)
    known = others > 0
    for name, value in (
        ("recall@1", (hits & (places <= 1)).any(axis=1)),
        ("recall@5", (hits & (places <= 5)).any(axis=1)),
        ("map@r", average),
    ):
        result[name][known] = value[known]
    return result
