"""Metrics of predictions, with 95 % intervals.

Expensive values are computed once per image. Each metric is then a mean or a count over
the selected images, so a thousand bootstrap samples take a second.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.evaluate.calibration import calibration_error, log_softmax
from keras_apinet.shares import share_interval, wilson

# Maximum number of entries of the distance matrix in memory.
_ENTRIES = 4_000_000
# With fewer errors than this, bootstrap samples hardly vary.
_FEW = 10
_MEANS_OF_SHARES = (
    "mean_per_class_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
)


def ranks(labels: ArrayLike, logits: ArrayLike) -> NDArray[np.int64]:
    """Rank of the true class, `[n]`; 0 is the highest score.

    Ties rank the first class higher, as in `argmax`.
    """
    truth, scores = np.asarray(labels), np.asarray(logits)
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    before = np.arange(scores.shape[1]) < truth[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1))


def class_scores(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> dict[str, NDArray[Any]]:
    """Counts, precision, recall and F1 of each class, `[classes]` each.

    Equivalent to scikit-learn's `precision_recall_fscore_support` with
    `zero_division=0`; the accuracy of a class is its recall.
    """
    # On 5,794 images of 200 classes, scikit-learn takes 9.6 ms and this 0.05 ms; the
    # bootstrap calls it a thousand times.
    support = np.bincount(labels, minlength=classes)
    called = np.bincount(predicted, minlength=classes)
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    return {
        "images": support,
        "predicted": called,
        "hits": hits,
        "precision": hits / np.maximum(called, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + called, 1),
    }


def class_means(x: NDArray[Any], y: NDArray[Any], count: int) -> NDArray[Any]:
    """Mean row of each class, `[C, D]`; 0 for classes without rows."""
    sums = np.zeros((count, x.shape[1]), x.dtype)
    np.add.at(sums, y, x)
    return np.asarray(sums / np.maximum(np.bincount(y, minlength=count), 1)[:, None])


def unit(x: NDArray[Any]) -> NDArray[Any]:
    """Rows scaled to length 1; zero rows are unchanged."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6))


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-image values from which the metrics are computed.

    Attributes:
        labels: `[n]`, true class.
        predicted: `[n]`, class with the highest score.
        rank: `[n]`, rank of the true class, from 0.
        nll: `[n]`, `-log p(true class)`, in nats.
        ece: Expected calibration error over all images.
        retrieval: Result of `retrieval_scores`; empty without features.
        classes: Number of classes C.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    nll: NDArray[np.float64]
    ece: float
    retrieval: dict[str, NDArray[np.float64]]
    classes: int

    @classmethod
    def of(
        cls, labels: ArrayLike, logits: ArrayLike, features: ArrayLike | None = None
    ) -> "Scores":
        """Computes scores from `[n]` labels, `[n, C]` logits and `[n, D]` features."""
        truth, scores = np.asarray(labels, np.int64), np.asarray(logits)
        return cls(
            truth,
            scores.argmax(axis=1),
            ranks(truth, scores),
            -log_softmax(scores)[np.arange(len(truth)), truth],
            calibration_error(truth, scores),
            {} if features is None else retrieval_scores(features, truth),
            scores.shape[1],
        )

    def figures(self, rows: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Metrics for the bootstrap, over the images `rows` (default: all).

        Macro metrics are means over the classes present. There is no top-5 accuracy
        with five classes or fewer, where it is always 1.
        """
        chosen = slice(None) if rows is None else rows
        labels, rank = self.labels[chosen], self.rank[chosen]
        by_class = class_scores(labels, self.predicted[chosen], self.classes)
        present = by_class["images"] > 0
        recall = by_class["recall"][present].mean()
        result = {
            "top1": (rank == 0).mean(),
            **({"top5": (rank < 5).mean()} if self.classes > 5 else {}),
            "mean_per_class_accuracy": recall,
            "macro_precision": by_class["precision"][present].mean(),
            "macro_recall": recall,
            "macro_f1": by_class["f1"][present].mean(),
            "nll": self.nll[chosen].mean(),
        }
        return {name: float(value) for name, value in result.items()}


def with_intervals(scores: Scores, *, repeats: int = 1000) -> dict[str, dict[str, Any]]:
    """All metrics, with 95 % intervals and the number of images they are based on.

    Fractions of images (top-1, top-5) have Wilson intervals. Means over classes and the
    negative log-likelihood are bootstrapped: the images are resampled with replacement
    `repeats` times, and the interval covers the middle 95 % of the values. If fewer
    than 10 images are wrong (or right), the samples hardly vary, so the interval of a
    mean of fractions is at least that of one fraction; see `_effective`. There is no
    interval for the calibration error, which a bootstrap overestimates, and for the
    retrieval metrics, because a bootstrap duplicates gallery images.
    `benchmarks/interval_coverage.py` measures the coverage of the intervals.

    Args:
        scores: Per-image scores.
        repeats: Bootstrap samples; 0 for Wilson intervals only. Defaults to 1000.

    Returns:
        `{name: {"value", "low", "high", "images"}}`; `value` is `None` for undefined
        metrics, `low` and `high` are `None` without an interval.
    """
    rng = np.random.default_rng(0)
    n, values = len(scores.labels), scores.figures()
    ends: dict[str, tuple[float, float]] = {}
    right = int((scores.rank == 0).sum())
    if n > 1 and repeats:
        drawn = [scores.figures(rng.integers(0, n, n)) for _ in range(repeats)]
        for name, value in values.items():
            low, high = np.percentile([one[name] for one in drawn], (2.5, 97.5))
            if min(right, n - right) < _FEW and name in _MEANS_OF_SHARES:
                least = _of_share(value, _effective(scores.labels))
                low, high = min(low, least[0]), max(high, least[1])
            ends[name] = (float(low), float(high))
    for name, k in (("top1", 1), ("top5", 5)):
        if name in values:
            ends[name] = wilson(int((scores.rank < k).sum()), n)
    result = {
        name: _figure(value, n, *ends.get(name, (None, None)))
        for name, value in (values | {"ece": scores.ece}).items()
    }
    for name, each in scores.retrieval.items():
        known = each[~np.isnan(each)]
        value = float(known.mean()) if len(known) else np.nan
        result[name] = _figure(value, len(known))
    return result


def _figure(
    value: float, images: int, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, "images": images}
    # Identical samples have zero width, which is not a valid interval.
    if low is None or high is None or not low < high:
        low = high = None
    return {"value": value, "low": low, "high": high, "images": images}


def _effective(labels: NDArray[np.int64]) -> int:
    """Number of images whose fraction has the same variance as the mean over classes.

    With n_c images in class c of C, the mean of fractions near p has the variance
    `p (1 - p) sum_c(1 / n_c) / C^2`; a fraction of m images has `p (1 - p) / m`.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return int(len(counts) ** 2 / np.sum(1 / counts))


def _of_share(value: float, images: int) -> tuple[float, float]:
    """The Wilson interval of a value that is not a multiple of `1 / images`."""
    hits = value * images
    return wilson(int(hits), images)[0], wilson(ceil(hits - 1e-9), images)[1]


def class_rows(scores: Scores, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Metrics of each class with images; 95 % intervals of precision, recall and F1."""
    table = class_scores(scores.labels, scores.predicted, scores.classes)
    images, predicted, hits = table["images"], table["predicted"], table["hits"]
    # F1 = 2 J / (1 + J), where J is a fraction: images both labeled and predicted as
    # the class, out of those that are either.
    low, high = share_interval(hits, images + predicted - hits)
    ends = {
        "precision": share_interval(hits, predicted),
        "recall": share_interval(hits, images),
        "f1": (2 * low / (1 + low), 2 * high / (1 + high)),
    }
    return [
        {
            "class": class_names[c],
            "images": int(images[c]),
            "predicted": int(predicted[c]),
            "accuracy": float(table["recall"][c]),
            **{name: float(table[name][c]) for name in ends},
            "intervals": {
                name: [float(low[c]), float(high[c])]
                for name, (low, high) in ends.items()
            },
        }
        for c in np.flatnonzero(images).tolist()
    ]


def retrieval_scores(
    features: ArrayLike, labels: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Recall@1, recall@5 and MAP@R of each image, with all others as the gallery.

    Neighbors are ranked by Euclidean distance. With R other images of the query's
    class, `MAP@R = 1/R sum_{i <= R} precision@i * rel(i)` (Musgrave et al. 2020).

    Args:
        features: `[n, D]`.
        labels: `[n]` classes.

    Returns:
        `recall@1`, `recall@5` and `map@r`, each `[n]` float64 in 0..1; NaN for the only
        image of a class.

    >>> scores = retrieval_scores([[0.0], [0.1], [5.0], [5.1]], [0, 0, 1, 1])
    >>> scores["recall@1"]
    array([1., 1., 1., 1.])
    """
    truth = np.asarray(labels)
    others = np.bincount(truth, minlength=1)[truth] - 1
    depth = min(len(truth) - 1, max(5, int(others.max(initial=0))))
    hits = truth[_neighbours(features, depth)] == truth[:, None]
    places = np.arange(1, hits.shape[1] + 1)
    within = hits & (places <= others[:, None])
    precision = np.cumsum(within, axis=1) / places
    found = {
        "recall@1": hits[:, :1].any(axis=1),
        "recall@5": hits[:, :5].any(axis=1),
        "map@r": (precision * within).sum(axis=1) / np.maximum(others, 1),
    }
    return {name: np.where(others > 0, one, np.nan) for name, one in found.items()}


def _neighbours(features: ArrayLike, depth: int) -> NDArray[np.int32]:
    """The `depth` nearest other images of each image, nearest first, `[n, depth]`."""
    x = np.asarray(features, np.float32)
    n = len(x)
    if depth < 1:
        return np.zeros((n, 0), np.int32)
    # Centering does not change distances but reduces rounding errors.
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
