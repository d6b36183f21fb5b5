"""Shares of images and probabilities: their intervals, and honest ways to show them."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# What figures are called.
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
# Under so many images a share says little, and that is said beside it.
FEW_IMAGES = 100


@lru_cache(maxsize=65536)
def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of the share `hits / total` (Wilson 1927).

    Unlike a bootstrap interval it is never of width 0: of 40 images that are all right,
    it says 91.2 % to 100 %. Without images nothing is known: 0 to 1.

    >>> low, high = wilson(40, 40)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.912 to 1.000
    """
    # Imported when it is needed: exported files run without SciPy.
    from scipy.stats import binomtest

    if not total:
        return 0.0, 1.0
    interval = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share_interval(
    hits: ArrayLike, total: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`wilson` of arrays of counts, elementwise: lower and upper ends."""
    pairs = np.broadcast_arrays(np.asarray(hits, int), np.asarray(total, int))
    ends = [wilson(int(k), int(n)) for k, n in zip(*map(np.ravel, pairs), strict=True)]
    low, high = np.reshape(ends, (*pairs[0].shape, 2)).T
    return low.T, high.T


def share_of(hits: ArrayLike) -> dict[str, Any]:
    """The share of true values, with its interval and the number of images.

    >>> share_of([True, True, True, False])["value"]
    0.75
    """
    right = np.asarray(hits, bool)
    count, n = int(right.sum()), len(right)
    low, high = wilson(count, n)
    value = count / n if n else None
    return {"value": value, "low": low, "high": high, "images": n}


def percent(share: float) -> str:
    """A share of images in percent; never rounded to all or none of them.

    >>> [percent(x) for x in (1.0, 0.9999, 0.5, 0.0001, 0.0)]
    ['100.0%', '>99.9%', '50.0%', '<0.1%', '0.0%']
    """
    if 0.9995 <= share < 1:
        return ">99.9%"
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def probability(value: float) -> str:
    """A model's probability in percent: a softmax is never quite 0 or 1.

    >>> [probability(x) for x in (1.0, 0.9994, 0.0)]
    ['>99.9%', '99.9%', '<0.1%']
    """
    return percent(min(max(value, 1e-9), 1 - 1e-9))


def decimal(value: float) -> str:
    """A figure that is not a share, to three decimals."""
    return f"{value:.3f}"


def interval(
    low: float | None, high: float | None, form: Callable[[float], str] = percent
) -> str:
    """`low to high`; nothing where an interval is not known.

    >>> interval(0.912, 1.0)
    '91.2% to 100.0%'
    """
    if low is None or high is None:
        return ""
    ends = form(low), form(high)
    if ends[0] == ends[1]:  # of very many images
        ends = (f"{low:.4%}", f"{high:.4%}") if form is percent else (f"{low:.2g}",) * 2
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def cells(name: str, figure: Mapping[str, Any]) -> tuple[str, str, str]:
    """Value, interval and images of a figure of that name, as they are shown.

    >>> cells("top1", {"value": 0.5, "low": 0.4, "high": 0.6, "images": 1000})
    ('50.0%', '40.0% to 60.0%', '1,000')
    """
    form = decimal if name in ("nll", "ece") else percent
    if figure["value"] is None:
        return "-", "", ""
    ends = interval(figure["low"], figure["high"], form)
    return form(figure["value"]), ends, f"{figure['images']:,}"


def spread_points(images: int) -> str:
    """How far a share of so many images may be off, at most.

    >>> spread_points(40)
    '±15 points'
    """
    low, high = wilson(images // 2, images)
    return f"±{50 * (high - low):.0f} points"


def few_images(images: int) -> str | None:
    """A warning where there are too few images to believe a share, else `None`."""
    if images >= FEW_IMAGES:
        return None
    return (
        f"Only {images} image{'s' if images != 1 else ''}: every share may be off by "
        f"{spread_points(images)}."
    )


def disagreement(validation: Mapping[str, Any], test: Mapping[str, Any]) -> str | None:
    """Says that validation and test accuracy differ by far, and why that may be.

    By far: by more than 5 points, and the two 95 % intervals (Wilson) do not touch.

    Args:
        validation: `right` and `images` of the validation split; without `right`
            nothing is known.
        test: `value`, `low`, `high` and `images` of the top-1 accuracy on the test.
    """
    if validation.get("right") is None or not validation.get("images"):
        return None
    right, images = int(validation["right"]), int(validation["images"])
    value, (low, high) = right / images, wilson(right, images)
    apart = low > test["high"] or high < test["low"]
    if not apart or abs(value - test["value"]) <= 0.05:
        return None
    seen = (
        f"Validation was right in {percent(value)} of {images:,} images "
        f"({interval(low, high)}) and this test in {percent(test['value'])} of "
        f"{test['images']:,} ({interval(test['low'], test['high'])}): they disagree by "
        "far. "
    )
    if value < test["value"]:
        return seen + (
            "Most often the test photos are twins of training photos (bursts of the "
            "same object), or the validation photos are harder or wrongly labelled. "
            "`keras-apinet data FOLDER` lists near-duplicates across splits."
        )
    few = f", or {images} validation photos are too few" if images < FEW_IMAGES else ""
    return seen + (
        "Most often the validation photos are twins of training photos (bursts of the "
        "same object), so that their figure is too high; or these photos are of "
        f"another kind than the training's{few}. Believe the lower figure. "
        "`keras-apinet data FOLDER` lists near-duplicates across splits, and "
        "`keras-apinet train --group-by` holds out whole groups of photos."
    )
