"""Which classes to photograph next, and what that should gain.

A head is fitted to all stored features and to half of each class's, and judges photos
that it has not seen. How much of the errors a doubling of the photos removes is the
learning curve, one for all classes. Photos go where they are fewest: to give more to
classes with more errors was no better than chance (`benchmarks/advice.py`), as an error
rate of a few photos is mostly noise, and look-alikes stay alike. What helped was photos
unlike those that are there. No network is trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.data import ImageData
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.evaluation import open_judged_data
from keras_apinet.evaluate.metrics import class_means, unit
from keras_apinet.open_world.confident import out_of_fold
from keras_apinet.open_world.features import run_features
from keras_apinet.runs import Run

# Photos' worth of the mean error that a class's own error is mixed with.
_PRIOR = 2.0
_STEP = 4  # photos that are given to one class at a time, at most
_SAMPLES = 200


@dataclass(frozen=True)
class Advice:
    """What one class lacks.

    Attributes:
        name: The class.
        photos: Photos that it has, held-out ones among them.
        more: Photos to take.
        beside: The class that it is most often taken for; `None` if for none.
        alike: Whether its photos differ less than those of most classes.
        accuracy: The share of its photos that a head is right about that has not seen
            them, mixed with the mean of all classes.
        gain: What that should gain, in 0..1.
        low: The lower end of the 95 % interval of `gain`.
        high: The upper end.
    """

    name: str
    photos: int
    more: int
    beside: str | None
    alike: bool
    accuracy: float
    gain: float
    low: float
    high: float


def sentence(advice: Advice) -> str:
    """The advice for people."""
    where = f", beside {advice.beside!r}" if advice.beside else ""
    sides = ", from other sides and in other light" if advice.alike else ""
    unlike = f"unlike those that it has{sides}"
    return (
        f"{advice.name}: {advice.more} more (it has {advice.photos}){where}, {unlike}; "
        f"now {advice.accuracy:.0%} right, expected {100 * advice.gain:+.1f} points "
        f"({100 * advice.low:.1f} to {100 * advice.high:.1f})."
    )


def sentences(given: Sequence[Advice]) -> list[str]:
    """The advice that promises something, and one line on the rest."""
    told = [sentence(advice) for advice in given if round(1000 * advice.gain) > 0]
    rest = len(given) - len(told)
    if not rest:
        return told
    whose = f"{rest} other classes" if told else "All classes"
    return [*told, f"{whose}: more photos are expected to gain less than 0.1 points."]


def advise_run(
    run: Run | str | Path,
    photos: int = 60,
    *,
    which: str = "best",
    data: str | ImageData | None = None,
    data_dir: str | None = None,
) -> list[Advice]:
    """What to photograph next for a run, from its stored features.

    Where the run held photos out, these are judged, as the backbone has not seen them.

    Args:
        run: The run, or its folder.
        photos: How many photos can be taken.
        which: The `"best"` model (default) or the `"last"`.
        data: Where the data set is now, if it moved.
        data_dir: Where TensorFlow Datasets data is now, if it moved.

    Returns:
        The advice for each class that should get photos, the most gain first; it is
        also left in the run, for its report and card.
    """
    run = Run.open(run)
    images, given = open_judged_data(run, data, data_dir)
    if given:
        raise APINetError(
            f"The data {images.name!r} is not what this run was trained on, which is "
            "what advice is about; give --data only where that has moved to."
        )
    found = run_features(run, run.model(which), images, which=which)
    parts = [found[name] for name in ("train", "val") if name in found]
    judged = np.concatenate(
        [np.full(len(part), len(parts) == 1 or i == 1) for i, part in enumerate(parts)]
    )
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    advised = advise(features, labels, run.class_names, photos, judged=judged)
    # Report and card tell it.
    run.write("advice.json", {"advice": sentences(advised), "model": which})
    return advised


def advise(
    features: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    photos: int,
    *,
    judged: ArrayLike | None = None,
    seed: int = 0,
) -> list[Advice]:
    """What to photograph next, from features `[n, D]`, if `photos` can be taken.

    Labels `[n]` int are positions in `names`; errors are counted on the `judged` `[n]`
    photos, by default on all.
    """
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    counts = np.bincount(y, minlength=len(names))
    on = np.ones(len(y), bool) if judged is None else np.asarray(judged, bool)
    if not on.any() or counts.min() < 2:
        few = names[int(counts.argmin())]
        raise APINetError(
            f"The class {few!r} has {counts.min()} photos, and errors are counted on "
            "photos that are held out; give every class at least 2."
        )
    full = out_of_fold(x, y, classes=len(names), folds=3, seed=seed)
    half = np.zeros_like(full)
    # Each half is judged by what is fitted to the other.
    first = _halves(y, seed)
    for part in (first, ~first):
        rows = np.flatnonzero(part)
        half[rows] = out_of_fold(
            x[rows], y[rows], classes=len(names), folds=3, seed=seed
        )
    wrong = full.argmax(axis=1) != y
    wrong_half = half.argmax(axis=1) != y
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(on)
    errors, slope = _curve(wrong, wrong_half, y, rows, len(names))
    more = _shares(errors, counts, photos if wrong[rows].any() else 0)
    samples = []
    for _ in range(_SAMPLES):
        drawn = rng.choice(rows, len(rows))
        e, s = _curve(wrong, wrong_half, y, drawn, len(names))
        samples.append(_gain(e, s, counts, more))
    low, high = np.percentile(np.stack(samples), (2.5, 97.5), axis=0)
    gains, spread = _gain(errors, slope, counts, more), _spread(x, y, len(names))
    usual = np.median(spread)
    result = []
    for c in np.argsort(-gains * (more > 0), kind="stable"):
        if not more[c]:
            continue
        taken = full[(y == c) & wrong & on].argmax(axis=1)
        partner = names[int(np.bincount(taken).argmax())] if len(taken) else None
        result.append(
            Advice(
                names[c],
                int(counts[c]),
                int(more[c]),
                partner,
                bool(spread[c] < usual),
                float(1 - errors[c]),
                float(gains[c]),
                float(low[c]),
                float(high[c]),
            )
        )
    return result


def _halves(labels: NDArray[Any], seed: int) -> NDArray[np.bool_]:
    """Half of the photos of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    first = np.zeros(len(labels), bool)
    first[order[::2]] = True
    return first


def _curve(
    wrong: NDArray[np.bool_],
    wrong_half: NDArray[np.bool_],
    labels: NDArray[Any],
    rows: NDArray[Any],
    classes: int,
) -> tuple[NDArray[np.float64], float]:
    """The error of each class, and the power by which photos make it smaller."""
    y = labels[rows]
    total = np.bincount(y, minlength=classes)
    missed = np.bincount(y, weights=wrong[rows], minlength=classes)
    mean = wrong[rows].mean()
    errors = (missed + _PRIOR * mean) / (total + _PRIOR)
    before, after = wrong_half[rows].mean(), max(mean, 1e-6)
    return errors, float(np.clip(math.log2(max(before, 1e-6) / after), 0, 1))


def _gain(errors: Any, slope: float, counts: Any, more: Any) -> NDArray[np.float64]:
    """By how much the error of each class falls with more photos."""
    return np.asarray(errors * (1 - ((counts + more) / counts) ** -slope))


def _shares(
    errors: NDArray[Any], counts: NDArray[Any], photos: int
) -> NDArray[np.int64]:
    """Photos for each class: where they are fewest, then where errors are most."""
    more = np.zeros(len(errors), np.int64)
    weights = 1 + 1e-6 * errors
    step = min(_STEP, max(1, photos // len(errors)))
    while (left := photos - int(more.sum())) > 0:
        more[int((weights / (counts + more)).argmax())] += min(step, left)
    return more


def _spread(x: NDArray[Any], labels: NDArray[Any], classes: int) -> NDArray[Any]:
    """How much the photos of each class differ: mean cosine distance to their mean."""
    means = class_means(unit(x), labels, classes)
    return np.asarray(1 - np.linalg.norm(means, axis=1))
