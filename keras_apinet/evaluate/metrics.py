"""Figures of merit of predictions, computed for any selection of the images.

Everything that costs time is computed once for each image; a figure is then a mean or a
count over the chosen images, so that a thousand bootstrap samples take a second.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.evaluate.calibration import BINS, confidence_bins, log_softmax

RETRIEVAL = ("recall@1", "recall@5", "map@r")
# Entries of the distance matrix that are held at a time.
_ENTRIES = 4_000_000


def ranks(labels: ArrayLike, logits: ArrayLike) -> NDArray[np.int64]:
    """Place of the true class, 0 for the highest score, `[n]`.

    Of classes with equal scores the first counts as the higher, as in `argmax`.
    """
    truth, scores = np.asarray(labels), np.asarray(logits)
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    before = np.arange(scores.shape[1]) < truth[:, None]
    return np.asarray(((scores > own) | ((scores == own) & before)).sum(axis=1))


def class_scores(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> dict[str, NDArray[Any]]:
    """Counts, precision, recall and F1 of each class, `[classes]` each.

    As scikit-learn's `precision_recall_fscore_support` with `zero_division=0`; the
    accuracy of a class is its recall.
    """
    # Not scikit-learn's own: on 5,794 images of 200 classes it takes 9.6 ms, this
    # 0.05 ms, and the bootstrap calls it a thousand times.
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


@dataclass(frozen=True, eq=False)
class Scores:
    """What the figures need of each image, `[n]` each.

    Attributes:
        labels: True class.
        predicted: Class of the highest score.
        rank: Place of the true class, 0 for the first.
        nll: `-log p(true class)`, nats.
        confidence: Largest probability.
        near: Of `neighbours`, for retrieval; `None` to leave those figures out.
        classes: Number of classes C.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    nll: NDArray[np.float64]
    confidence: NDArray[np.float64]
    near: NDArray[np.int32] | None
    classes: int

    @classmethod
    def of(
        cls, labels: ArrayLike, logits: ArrayLike, features: ArrayLike | None = None
    ) -> "Scores":
        """Scores of `[n]` labels, `[n, C]` logits and perhaps `[n, D]` features."""
        truth, scores = np.asarray(labels, np.int64), np.asarray(logits)
        log_p = log_softmax(scores)
        return cls(
            truth,
            scores.argmax(axis=1),
            ranks(truth, scores),
            -log_p[np.arange(len(truth)), truth],
            np.exp(log_p.max(axis=1)),
            None if features is None else neighbours(features, truth),
            scores.shape[1],
        )

    def at_temperature(self, logits: ArrayLike, temperature: float) -> "Scores":
        """The same decisions with probabilities of `logits / temperature`."""
        return Scores.of(self.labels, np.asarray(logits, np.float64) / temperature)

    def figures(self, rows: NDArray[np.int64] | None = None) -> dict[str, float]:
        """Every figure over the images `rows` (repeats count); all images by default.

        Macro figures are means over the classes that have images among them. Of five
        classes or fewer the truth is always among the first five: no top-5.
        """
        everything = slice(None) if rows is None else rows
        labels, predicted = self.labels[everything], self.predicted[everything]
        rank = self.rank[everything]
        by_class = class_scores(labels, predicted, self.classes)
        present = by_class["images"] > 0
        result = {
            "top1": (rank == 0).mean(),
            **({"top5": (rank < 5).mean()} if self.classes > 5 else {}),
            "mean_per_class_accuracy": by_class["recall"][present].mean(),
            "macro_precision": by_class["precision"][present].mean(),
            "macro_recall": by_class["recall"][present].mean(),
            "macro_f1": by_class["f1"][present].mean(),
            "nll": self.nll[everything].mean(),
            "ece": np.abs(self.calibration_gaps(rows)).sum(),
        }
        return {name: float(value) for name, value in result.items()}

    def calibration_gaps(
        self, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Share of the images in a bin times confidence minus accuracy, `[bins]`."""
        everything = slice(None) if rows is None else rows
        confidence = self.confidence[everything]
        surplus = confidence - (self.rank[everything] == 0)
        place = confidence_bins(confidence)
        sums = np.bincount(place, surplus, minlength=BINS)
        return np.asarray(sums / len(confidence))

    @property
    def queries(self) -> int:
        """Images with another of their class: those that retrieval is judged on."""
        return int((np.bincount(self.labels, minlength=1)[self.labels] > 1).sum())

    def retrieval_figures(
        self, chosen: NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """Mean retrieval scores among the `chosen` images; all of them by default."""
        if self.near is None:
            return {}
        scores = scores_within(self.near, self.labels, chosen)
        known = {name: values[~np.isnan(values)] for name, values in scores.items()}
        return {
            name: float(values.mean()) if len(values) else float("nan")
            for name, values in known.items()
        }


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
        One array for each of `RETRIEVAL`, over the chosen images.
    """
    rows = np.arange(len(labels)) if chosen is None else np.flatnonzero(chosen)
    others = np.bincount(labels[rows], minlength=1)[labels[rows]] - 1
    result = {name: np.full(len(rows), np.nan) for name in RETRIEVAL}
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
