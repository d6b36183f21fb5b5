"""Intervals: how far a figure would move with another test set."""

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.evaluate.metrics import Scores
from keras_apinet.shares import wilson

_TAILS = (2.5, 97.5)
# Standard deviations to either side that hold as much of a normal distribution.
_NORMAL = 1.959964
# A retrieval sample costs a hundred times one of the other figures.
_RETRIEVAL_SAMPLES = 50
# With fewer errors than this, samples of the images hardly differ.
_FEW = 10
_MEANS_OF_SHARES = (
    "mean_per_class_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
)


def with_intervals(
    scores: Scores, *, repeats: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All figures with 95 % intervals and the number of images behind them.

    Shares of images (top-1, top-5) have Wilson's interval. For the other figures the
    images are drawn with replacement `repeats` times, the same samples for all of them;
    the interval holds the middle 95 % of a figure's values. For the calibration error
    see `calibration_interval`, for retrieval `retrieval_errors`. Where fewer than 10
    images are wrong (or right), samples hardly differ: then a mean of shares has at
    least the interval of one share, see `_effective`. No interval has a width of 0.
    `benchmarks/interval_coverage.py` shows how often they hold the truth.

    Args:
        scores: What the figures need of each image.
        repeats: Samples drawn; 0 for none, which leaves the shares' intervals. Default
            1000.
        seed: Of the samples.

    Returns:
        `{name: {"value", "low", "high", "images"}}`; `low` and `high` are `None` where
        none can be said: for fewer than two images, or a figure that is not defined.
    """
    rng = np.random.default_rng(seed)
    n = len(scores.labels)
    values, retrieval = scores.figures(), scores.retrieval_figures()
    ends: dict[str, tuple[float, float]] = {}
    right = int((scores.rank == 0).sum())
    few = min(right, n - right) < _FEW
    if n > 1 and repeats:
        drawn, gaps = [], []
        for _ in range(repeats):
            rows = rng.integers(0, n, n)
            drawn.append(scores.figures(rows))
            gaps.append(scores.calibration_gaps(rows))
        for name in values:
            low, high = np.percentile([one[name] for one in drawn], _TAILS)
            ends[name] = (float(low), float(high))
            if few and name in _MEANS_OF_SHARES:
                least = _of_share(values[name], _effective(scores.labels))
                ends[name] = _widened(ends[name], least)
        ends["ece"] = calibration_interval(scores.calibration_gaps(), np.array(gaps))
        if few:
            # |confidence - accuracy| is part of it, and the accuracy is not sure.
            sure = float(scores.confidence.mean())
            beyond = [abs(sure - end) for end in wilson(right, n)]
            ends["ece"] = _widened(ends["ece"], (values["ece"], max(beyond)))
    queries = scores.queries
    if n > 1 and repeats and retrieval:
        errors = retrieval_errors(scores, rng, min(repeats, _RETRIEVAL_SAMPLES))
        for name, error in errors.items():
            value, width = retrieval[name], _NORMAL * error
            ends[name] = (max(0.0, value - width), min(1.0, value + width))
            if np.isfinite(value) and min(value, 1 - value) * queries < _FEW:
                ends[name] = _widened(ends[name], _of_share(value, queries))
    for name, k in (("top1", 1), ("top5", 5)):
        if name in values:
            ends[name] = wilson(int((scores.rank < k).sum()), n)
    return {
        name: _figure(value, *ends.get(name, (None, None)))
        | {"images": queries if name in retrieval else n}
        for name, value in (values | retrieval).items()
    }


def _effective(labels: NDArray[np.int64]) -> int:
    """Images in a share that is as unsure as the mean of the classes' shares.

    With n_c images in class c of C, the mean of shares near p has the variance
    `p (1 - p) sum_c(1 / n_c) / C^2`; the share of m images has `p (1 - p) / m`.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return int(len(counts) ** 2 / np.sum(1 / counts))


def _of_share(value: float, images: int) -> tuple[float, float]:
    """Wilson's interval of a value between the shares that so many images can have."""
    hits = value * images
    low, high = wilson(int(hits), images)[0], wilson(ceil(hits - 1e-9), images)[1]
    return low, high


def _widened(
    ends: tuple[float, float], least: tuple[float, float]
) -> tuple[float, float]:
    if not np.isfinite(ends[0]):
        return least
    return min(ends[0], least[0]), max(ends[1], least[1])


def _figure(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    # Images that are all alike differ in no sample, which says nothing about others.
    if low is None or high is None or not low < high:
        return {"value": value, "low": None, "high": None}
    return {"value": value, "low": low, "high": high}


def calibration_interval(
    gaps: NDArray[np.float64], drawn: NDArray[np.float64]
) -> tuple[float, float]:
    """95 % interval of the calibration error.

    Chance in the bins can only add to the error `sum_b |gap_b|`: it is above the truth,
    its bootstrap samples are above it again, and a calibrated model never reaches 0.
    So the lower end is found by asking which errors would make one as large as was seen
    likely: the gaps are shrunk towards 0, the samples' noise is added, and the lower
    end is the smallest error that reaches what was seen with a probability of 2.5 %.
    The upper end is the usual one.

    Args:
        gaps: `[bins]`, share of the images in a bin times confidence minus accuracy.
        drawn: `[samples, bins]`, the same of bootstrap samples.

    Returns:
        Lower and upper end.
    """
    value, noise = float(np.abs(gaps).sum()), drawn - gaps
    factors = np.linspace(0, 1, 21)
    errors = np.abs(factors[:, None, None] * gaps + noise).sum(axis=-1)
    middle, spread = errors.mean(axis=1), errors.std(axis=1)
    reached = np.maximum.accumulate(middle + _NORMAL * spread)
    low = value * float(np.interp(value, reached, factors))
    return low, min(1.0, value + _NORMAL * float(spread[-1]))


def retrieval_errors(
    scores: Scores, rng: np.random.Generator, samples: int
) -> dict[str, float]:
    """Standard errors of the retrieval figures.

    Every image is both query and gallery, and one drawn twice would find itself. The
    images are parted into random halves instead: the two halves' figures differ by
    `2 x` the standard error of the whole, for they are independent and each has twice
    its variance.

    Returns:
        For each figure; NaN where halves have none.
    """
    n = len(scores.labels)
    differences: dict[str, list[float]] = {}
    for _ in range(samples):
        half = np.zeros(n, bool)
        half[rng.permutation(n)[: n // 2]] = True
        others = scores.retrieval_figures(~half)
        for name, value in scores.retrieval_figures(half).items():
            differences.setdefault(name, []).append(value - others[name])
    result = {}
    for name, values in differences.items():
        known = np.array(values)[np.isfinite(values)]
        square = float((known**2).mean()) if len(known) else float("nan")
        result[name] = float(np.sqrt(square) / 2)
    return result
