"""Intervals: how far a figure would move with another test set."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.evaluate.metrics import Scores

LEVEL = 0.95
# Standard deviations to either side that hold so much of a normal distribution.
_NORMAL = 1.959964
# A retrieval sample costs a hundred times one of the other figures.
_RETRIEVAL_SAMPLES = 200


def with_intervals(
    scores: Scores, *, repeats: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All figures with 95 % bootstrap intervals.

    Images are drawn with replacement `repeats` times; the interval holds the middle
    95 % of a figure's values. Two figures need more care. Noise in the bins of the
    calibration error can only add to it; the samples say how much, and the interval is
    the normal one, moved down by half of that, which held the truth where the whole and
    none of it did not (`benchmarks/interval_coverage.py`).
    In retrieval every image is both query and gallery, and one drawn twice would find
    itself: there a fifth of the images is left out at random, and the spread that makes
    is scaled to that of the figure (delete-d jackknife).

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
    left_out = max(1, n // 5)
    stretch = np.sqrt((n - left_out) / left_out)
    samples: dict[str, list[float]] = {name: [] for name in values | retrieval}
    if n > 1:
        for _ in range(repeats):
            for name, value in scores.figures(rng.integers(0, n, n)).items():
                samples[name].append(value)
        for _ in range(min(repeats, _RETRIEVAL_SAMPLES) if retrieval else 0):
            chosen = np.ones(n, bool)
            chosen[rng.permutation(n)[:left_out]] = False
            for name, value in scores.retrieval_figures(chosen).items():
                samples[name].append(value)
    result = {}
    for name, value in (values | retrieval).items():
        drawn = np.array(samples[name])
        drawn = drawn[np.isfinite(drawn)]
        if name in retrieval and len(drawn):
            drawn = np.clip(value + stretch * (drawn - drawn.mean()), 0, 1)
        result[name] = _interval(name, value, drawn)
    return result


def _interval(
    name: str, value: float, drawn: NDArray[np.float64]
) -> dict[str, float | None]:
    if not np.isfinite(value) or not len(drawn):
        known = float(value) if np.isfinite(value) else None
        return {"value": known, "low": None, "high": None}
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    if name == "ece":
        middle, width = (3 * value - drawn.mean()) / 2, _NORMAL * drawn.std()
        low, high = max(0.0, middle - width), max(value, middle + width)
    return {"value": float(value), "low": float(low), "high": float(high)}


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
