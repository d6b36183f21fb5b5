"""Fractions of images and probabilities: intervals and formatting."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Display names of metrics.
TITLES = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "mean_per_class_accuracy": "Mean per-class accuracy",
    "macro_precision": "Macro precision",
    "macro_recall": "Macro recall",
    "macro_f1": "Macro F1",
    "nll": "Negative log-likelihood",
    "ece": "Expected calibration error",
    "recall@1": "Retrieval recall@1",
    "recall@5": "Retrieval recall@5",
    "map@r": "Retrieval MAP@R",
}
# Below this number of images, a warning is shown.
FEW_IMAGES = 100


@lru_cache(maxsize=65536)
def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of the share `hits / total` (Wilson 1927).

    Unlike a bootstrap interval, its width is never 0: for 40 of 40 correct images it is
    91.2 % to 100 %. Without images, it is 0 to 1.

    >>> low, high = wilson(40, 40)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.912 to 1.000
    """
    # Imported lazily, because exported files run without SciPy.
    from scipy.stats import binomtest

    if not total:
        return 0.0, 1.0
    interval = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share_interval(
    hits: ArrayLike, total: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Elementwise `wilson` for arrays of counts: lower and upper ends."""
    pairs = np.broadcast_arrays(np.asarray(hits, int), np.asarray(total, int))
    ends = [wilson(int(k), int(n)) for k, n in zip(*map(np.ravel, pairs), strict=True)]
    low, high = np.reshape(ends, (*pairs[0].shape, 2)).T
    return low.T, high.T


def share_of(hits: ArrayLike) -> dict[str, Any]:
    """The fraction of true values, with its interval and the number of images.

    >>> share_of([True, True, True, False])["value"]
    0.75
    """
    right = np.asarray(hits, bool)
    count, n = int(right.sum()), len(right)
    low, high = wilson(count, n)
    value = count / n if n else None
    return {"value": value, "low": low, "high": high, "images": n}


def percent(share: float) -> str:
    """Formats a fraction of images in percent, never rounded to all or none.

    >>> [percent(x) for x in (1.0, 0.9999, 0.5, 0.0001, 0.0)]
    ['100.0%', '>99.9%', '50.0%', '<0.1%', '0.0%']
    """
    if 0.9995 <= share < 1:
        return ">99.9%"
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def probability(value: float) -> str:
    """Formats a probability in percent; a softmax is never exactly 0 or 1.

    >>> [probability(x) for x in (1.0, 0.9994, 0.0)]
    ['>99.9%', '99.9%', '<0.1%']
    """
    return percent(min(max(value, 1e-9), 1 - 1e-9))


def decimal(value: float) -> str:
    """Formats a metric that is not a fraction, with three decimals."""
    return f"{value:.3f}"


def interval(
    low: float | None, high: float | None, form: Callable[[float], str] = percent
) -> str:
    """Formats an interval as `low to high`; empty if unknown.

    >>> interval(0.912, 1.0)
    '91.2% to 100.0%'
    """
    if low is None or high is None:
        return ""
    ends = form(low), form(high)
    if ends[0] == ends[1]:  # with very many images
        ends = (f"{low:.4%}", f"{high:.4%}") if form is percent else (f"{low:.2g}",) * 2
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def cells(name: str, figure: Mapping[str, Any]) -> tuple[str, str, str]:
    """Formatted value, interval and number of images of a metric.

    >>> cells("top1", {"value": 0.5, "low": 0.4, "high": 0.6, "images": 1000})
    ('50.0%', '40.0% to 60.0%', '1,000')
    """
    form = decimal if name in ("nll", "ece") else percent
    if figure["value"] is None:
        return "-", "", ""
    ends = interval(figure["low"], figure["high"], form)
    return form(figure["value"]), ends, f"{figure['images']:,}"


def spread_points(images: int) -> str:
    """The largest margin of error of a fraction of `images` images.

    >>> spread_points(40)
    '±15 points'
    """
    low, high = wilson(images // 2, images)
    return f"±{50 * (high - low):.0f} points"


def few_images(images: int) -> str | None:
    """A warning if there are too few images for reliable fractions, else `None`."""
    if images >= FEW_IMAGES:
        return None
    return (
        f"Only {images} image{'s' if images != 1 else ''}: each percentage may be off "
        f"by {spread_points(images)}."
    )


def disagreement(validation: Mapping[str, Any], test: Mapping[str, Any]) -> str | None:
    """A warning if validation and test accuracy disagree, with likely reasons.

    They disagree if they differ by more than 5 points and their 95 % intervals (Wilson)
    do not overlap.

    Args:
        validation: `right` and `images` of the validation split; without `right`, there
            is no warning.
        test: `value`, `low`, `high` and `images` of the top-1 accuracy on the test set.
    """
    if validation.get("right") is None or not validation.get("images"):
        return None
    right, images = int(validation["right"]), int(validation["images"])
    value, (low, high) = right / images, wilson(right, images)
    apart = low > test["high"] or high < test["low"]
    if not apart or abs(value - test["value"]) <= 0.05:
        return None
    seen = (
        f"The validation accuracy is {percent(value)} on {images:,} images "
        f"({interval(low, high)}), but the test accuracy is {percent(test['value'])} "
        f"on {test['images']:,} ({interval(test['low'], test['high'])}). "
    )
    if value < test["value"]:
        return seen + (
            "Usually the test photos are near-duplicates of training photos (bursts of "
            "the same object), or the validation photos are harder or mislabeled. "
            "`keras-apinet data FOLDER` lists near-duplicates across splits."
        )
    few = f", or {images} validation photos are too few" if images < FEW_IMAGES else ""
    return seen + (
        "Usually the validation photos are near-duplicates of training photos (bursts "
        "of the same object), which makes their accuracy too high, or the test photos "
        f"differ from the training photos{few}. Trust the lower accuracy. "
        "`keras-apinet data FOLDER` lists near-duplicates across splits, and "
        "`keras-apinet train --group-by` holds out whole groups of photos."
    )
