"""`compute_metrics`: all figures of predictions, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_apinet.evaluate.calibration import confidence_gap
from keras_apinet.evaluate.confusions import confused_pairs, within_groups
from keras_apinet.evaluate.intervals import with_intervals
from keras_apinet.evaluate.metrics import Scores, class_scores
from keras_apinet.evaluate.predictions import Predictions
from keras_apinet.shares import FEW_IMAGES, interval, percent, share_interval, wilson

# Figures that a temperature is to make smaller.
_ERRORS = {"ece": "calibration error", "nll": "negative log-likelihood"}


def compute_metrics(
    seen: Predictions,
    class_names: Sequence[str],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    temperature: float | None = None,
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """All figures of predictions, without a run.

    Args:
        seen: What a model said.
        class_names: One name for each class.
        groups: Look-alike groups of the classes: `{"family": (name of class 0, ...)}`.
        temperature: For `calibrated`. Default: that part is left out.
        bootstrap: Samples for the 95 % intervals, 0 for none. Default 1000.

    Returns:
        `metrics`, `confidence` (see `confidence_gap`), `calibrated` (or `None`),
        `per_class`, `classes_without_images`, `confused_pairs` and `groups`; plain
        values, fit for JSON.

    >>> seen = Predictions(
    ...     labels=np.array([0, 1]),
    ...     logits=np.array([[2.0, 0.0], [1.0, 0.0]], "float32"),
    ...     features=np.zeros((2, 4), "float32"),
    ...     positions=np.arange(2),
    ... )
    >>> compute_metrics(seen, ["cat", "dog"])["metrics"]["top1"]["value"]
    0.5
    """
    scores = Scores.of(seen.labels, seen.logits, seen.features)
    metrics = with_intervals(scores, repeats=bootstrap)
    calibrated = None
    if temperature is not None:
        cooled = scores.at_temperature(seen.logits, temperature)
        figures = with_intervals(cooled, repeats=bootstrap)
        calibrated = {
            "temperature": temperature,
            "nll": figures["nll"],
            "ece": figures["ece"],
            "confidence": confidence_gap(
                seen.labels, seen.logits, temperature=temperature
            ),
        }
    per_class = class_rows(scores, class_names)
    return {
        "metrics": metrics,
        "confidence": confidence_gap(seen.labels, seen.logits),
        "calibrated": calibrated,
        "per_class": per_class,
        "classes_without_images": [
            name for c, name in enumerate(class_names) if c not in scores.labels
        ],
        "errors": int((scores.labels != scores.predicted).sum()),
        "confused_pairs": confused_pairs(scores.labels, scores.predicted, class_names),
        "groups": within_groups(scores.labels, seen.logits, groups or {}),
    }


def class_rows(scores: Scores, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The figures of every class that has images, and 95 % intervals of three."""
    table = class_scores(scores.labels, scores.predicted, scores.classes)
    images, predicted, hits = table["images"], table["predicted"], table["hits"]
    # F1 = 2 J / (1 + J), where J is a share: of the images that are of the class or
    # called so, those that are both.
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


def calibration_words(result: Mapping[str, Any]) -> list[str]:
    """What the figures of `compute_metrics` say of a model's sureness, in sentences.

    Args:
        result: Of `compute_metrics`.

    Returns:
        One sentence without a temperature (or with 1), else three.
    """
    calibrated = result["calibrated"]
    plain = _confidence_words("The model", result["confidence"])
    if calibrated is None or calibrated["temperature"] == 1:
        return [plain]
    at = f"At its temperature, {calibrated['temperature']:.2f}, it"
    changes = [_change(result, name) for name in _ERRORS]
    return [
        plain.replace("The model", "Without a temperature the model", 1),
        _confidence_words(at, calibrated["confidence"]),
        f"The temperature takes {' and '.join(changes)}.",
    ]


def raised_errors(result: Mapping[str, Any]) -> list[str]:
    """Which errors the temperature made larger on these images, in words."""
    calibrated = result["calibrated"]
    if calibrated is None or calibrated["temperature"] == 1:
        return []
    return [
        _change(result, name)
        for name in _ERRORS
        if calibrated[name]["value"] > result["metrics"][name]["value"]
    ]


def disagreement(validation: Mapping[str, Any], test: Mapping[str, Any]) -> str | None:
    """Says that validation and test accuracy differ by far, and why that may be.

    By far: by more than 5 points, and the two 95 % intervals (Wilson) do not touch.

    Args:
        validation: `right` and `images` of the validation split; without `right`
            nothing is known.
        test: `value`, `low`, `high` and `images` of the top-1 accuracy on the test.

    Returns:
        The sentences, or `None`.
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


def _change(result: Mapping[str, Any], name: str) -> str:
    before, after = (result[key][name]["value"] for key in ("metrics", "calibrated"))
    return f"the {_ERRORS[name]} from {before:.3f} to {after:.3f}"


def _confidence_words(who: str, gap: Mapping[str, Any]) -> str:
    points = [100 * gap[end] for end in ("value", "low", "high")]
    said = (
        f"{who} says {percent(gap['confidence'])} on average and is right in "
        f"{percent(gap['accuracy'])} of {gap['images']:,} images"
    )
    if gap["verdict"] is None:
        return (
            f"{said}: these cannot tell whether it is over- or under-confident (the "
            f"difference is {points[1]:+.1f} to {points[2]:+.1f} points)."
        )
    ends = sorted(abs(end) for end in points[1:])
    return (
        f"{said}: it is {gap['verdict']} by {abs(points[0]):.1f} points "
        f"({ends[0]:.1f} to {ends[1]:.1f})."
    )
