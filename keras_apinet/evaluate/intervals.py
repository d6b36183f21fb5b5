"""Intervals: how far a figure would move with another test set."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.evaluate.metrics import Scores

_TAILS = (2.5, 97.5)
# Standard deviations to either side that hold as much of a normal distribution.
_NORMAL = 1.959964
# A retrieval sample costs a hundred times one of the other figures.
_RETRIEVAL_SAMPLES = 50


def with_intervals(
    scores: Scores, *, repeats: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All figures with 95 % bootstrap intervals.

    Images are drawn with replacement `repeats` times; the interval holds the middle
    95 % of a figure's values. Two kinds of figures need more care, for the calibration
    error see `calibration_interval`, for retrieval `retrieval_errors`;
    `benchmarks/interval_coverage.py` shows that all hold the truth as often as said.

    Args:
        scores: What the figures need of each image.
        repeats: Samples drawn; 0 for no intervals. Default 1000.
        seed: Of the samples.

    Returns:
        `{name: {"value", "low", "high"}}`; `low` and `high` are `None` where none can
        be said: for fewer than two images, or a figure that is not defined.
    """
    rng = np.random.default_rng(seed)
    n = len(scores.labels)
    values, retrieval = scores.figures(), scores.retrieval_figures()
    ends: dict[str, tuple[float, float]] = {}
    if n > 1 and repeats:
        drawn, gaps = [], []
        for _ in range(repeats):
            rows = rng.integers(0, n, n)
            drawn.append(scores.figures(rows))
            gaps.append(scores.calibration_gaps(rows))
        for name in values:
            low, high = np.percentile([one[name] for one in drawn], _TAILS)
            ends[name] = (float(low), float(high))
        ends["ece"] = calibration_interval(scores.calibration_gaps(), np.array(gaps))
    if n > 1 and repeats and retrieval:
        errors = retrieval_errors(scores, rng, min(repeats, _RETRIEVAL_SAMPLES))
        for name, error in errors.items():
            value, width = retrieval[name], _NORMAL * error
            ends[name] = (max(0.0, value - width), min(1.0, value + width))
    return {
        name: _figure(value, *ends.get(name, (None, None)))
        for name, value in (values | retrieval).items()
    }


def _figure(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None}
    if low is None or not np.isfinite(low):
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


def share_interval(
    hits: ArrayLike, total: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of the share `hits / total` (Wilson 1927), elementwise.

    For the figures of one class: of the few images of a class often all are right, and
    then every bootstrap sample says 100 %.

    Args:
        hits: Counts.
        total: Counts; where 0, nothing is known: 0 to 1.

    Returns:
        Lower and upper ends.

    >>> low, high = share_interval([3], [3])
    >>> print(f"{low[0]:.2f} to {high[0]:.2f}")
    0.44 to 1.00
    """
    k, n = np.asarray(hits, np.float64), np.asarray(total, np.float64)
    z2 = _NORMAL**2
    share = k / np.maximum(n, 1)
    middle = (k + z2 / 2) / (n + z2)
    width = _NORMAL * np.sqrt(n * share * (1 - share) + z2 / 4) / (n + z2)
    return np.clip(middle - width, 0, share), np.clip(middle + width, share, 1)
