"""Suggests which classes to photograph next, and estimates the accuracy gain.

Heads are fitted to all stored features and to half of each class, and evaluated on
photos that they have not seen. The reduction in error from doubling the photos gives
one learning curve for all classes. Photos go to the classes with the fewest: favoring
classes with more errors was no better than chance (`benchmarks/advice.py`), because an
error rate on a few photos is mostly noise and look-alikes stay alike. What helped was
photos unlike the existing ones. No network is trained.
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

# Prior weight of the mean error, in photos, in a class's error.
_PRIOR = 2.0
_STEP = 4  # maximum number of photos assigned to a class at a time
_SAMPLES = 200


@dataclass(frozen=True)
class Advice:
    """Advice for one class.

    Attributes:
        name: The class.
        photos: Number of its photos, including held-out ones.
        more: Number of photos to take.
        beside: The class it is most often confused with, or `None`.
        alike: Whether its photos vary less than those of most classes.
        accuracy: Out-of-fold accuracy on its photos, shrunk toward the mean over all
            classes.
        gain: Expected gain in accuracy, in 0..1.
        low: Lower end of the 95 % interval of `gain`.
        high: Upper end.
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
    """The advice as a sentence."""
    where = f", to tell it from {advice.beside!r}" if advice.beside else ""
    sides = ", with other viewpoints and lighting" if advice.alike else ""
    unlike = f"unlike the existing ones{sides}"
    return (
        f"{advice.name}: {advice.more} more (it has {advice.photos}){where}, {unlike}; "
        f"accuracy {advice.accuracy:.0%}, expected {100 * advice.gain:+.1f} points "
        f"({100 * advice.low:.1f} to {100 * advice.high:.1f})."
    )


def sentences(given: Sequence[Advice]) -> list[str]:
    """The advice with an expected gain, and one line for the rest."""
    told = [sentence(advice) for advice in given if round(1000 * advice.gain) > 0]
    rest = len(given) - len(told)
    if not rest:
        return told
    whose = f"{rest} other classes" if told else "All classes"
    return [*told, f"{whose}: the expected gain from more photos is below 0.1 points."]


def advise_run(
    run: Run | str | Path,
    photos: int = 60,
    *,
    which: str = "best",
    data: str | ImageData | None = None,
    data_dir: str | None = None,
) -> list[Advice]:
    """Suggests what to photograph next for a run, from its stored features.

    If the run has a validation split, errors are counted on it, because the backbone
    has not seen those photos.

    Args:
        run: The run, or its folder.
        photos: Number of photos that can be taken.
        which: The `"best"` model (default) or the `"last"`.
        data: New location of the data set, if moved.
        data_dir: New location of TensorFlow Datasets data, if moved.

    Returns:
        Advice for each class that should get photos, largest gain first. It is also
        stored in the run, for its report and card.
    """
    run = Run.open(run)
    images, given = open_judged_data(run, data, data_dir)
    if given:
        raise APINetError(
            f"The data {images.name!r} is not the data this run was trained on, which "
            "advice requires; use --data only to give its new location."
        )
    found = run_features(run, run.model(which), images, which=which)
    parts = [found[name] for name in ("train", "val") if name in found]
    judged = np.concatenate(
        [np.full(len(part), len(parts) == 1 or i == 1) for i, part in enumerate(parts)]
    )
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    advised = advise(features, labels, run.class_names, photos, judged=judged)
    # Shown in the report and card.
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
    """Suggests what to photograph next, from features `[n, D]`, for `photos` photos.

    Labels `[n]` int are indices into `names`. Errors are counted on the photos where
    `judged` `[n]` is true, by default on all.
    """
    x, y = np.asarray(features, np.float32), np.asarray(labels)
    counts = np.bincount(y, minlength=len(names))
    on = np.ones(len(y), bool) if judged is None else np.asarray(judged, bool)
    if not on.any() or counts.min() < 2:
        few = names[int(counts.argmin())]
        raise APINetError(
            f"The class {few!r} has {counts.min()} photos, too few to hold some out; "
            "give every class at least 2."
        )
    full = out_of_fold(x, y, classes=len(names), folds=3, seed=seed)
    half = np.zeros_like(full)
    # Heads are fitted out of fold within each half.
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
    """Mask of half of the photos of each class."""
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
    """The error of each class, and the exponent of its decay with more photos."""
    y = labels[rows]
    total = np.bincount(y, minlength=classes)
    missed = np.bincount(y, weights=wrong[rows], minlength=classes)
    mean = wrong[rows].mean()
    errors = (missed + _PRIOR * mean) / (total + _PRIOR)
    before, after = wrong_half[rows].mean(), max(mean, 1e-6)
    return errors, float(np.clip(math.log2(max(before, 1e-6) / after), 0, 1))


def _gain(errors: Any, slope: float, counts: Any, more: Any) -> NDArray[np.float64]:
    """Expected reduction in the error of each class with more photos."""
    return np.asarray(errors * (1 - ((counts + more) / counts) ** -slope))


def _shares(
    errors: NDArray[Any], counts: NDArray[Any], photos: int
) -> NDArray[np.int64]:
    """Photos for each class: first those with the fewest, then the most errors."""
    more = np.zeros(len(errors), np.int64)
    weights = 1 + 1e-6 * errors
    step = min(_STEP, max(1, photos // len(errors)))
    while (left := photos - int(more.sum())) > 0:
        more[int((weights / (counts + more)).argmax())] += min(step, left)
    return more


def _spread(x: NDArray[Any], labels: NDArray[Any], classes: int) -> NDArray[Any]:
    """Variation within each class: mean cosine distance to the class mean."""
    means = class_means(unit(x), labels, classes)
    return np.asarray(1 - np.linalg.norm(means, axis=1))
