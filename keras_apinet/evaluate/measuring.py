"""`measure`: all figures of predictions, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_apinet.evaluate.confusions import confused_pairs, within_groups
from keras_apinet.evaluate.intervals import share_interval, with_intervals
from keras_apinet.evaluate.metrics import Scores, class_scores
from keras_apinet.evaluate.predictions import Predictions


def measure(
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
        `metrics`, `calibrated` (or `None`), `per_class`, `classes_without_images`,
        `confused_pairs` and `groups`; plain values, fit for JSON.

    >>> seen = Predictions(
    ...     labels=np.array([0, 1]),
    ...     logits=np.array([[2.0, 0.0], [1.0, 0.0]], "float32"),
    ...     features=np.zeros((2, 4), "float32"),
    ...     positions=np.arange(2),
    ... )
    >>> measure(seen, ["cat", "dog"])["metrics"]["top1"]["value"]
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
        }
    per_class = class_rows(scores, class_names)
    return {
        "metrics": metrics,
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
