"""`compute_metrics`: all metrics of predictions, as plain values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.evaluate.calibration import log_softmax
from keras_apinet.evaluate.metrics import Scores, class_rows, with_intervals
from keras_apinet.evaluate.predictions import Predictions
from keras_apinet.shares import percent, share_of, wilson

# Metrics that a temperature should reduce.
_ERRORS = {"ece": "calibration error", "nll": "negative log-likelihood"}


def compute_metrics(
    seen: Predictions,
    class_names: Sequence[str],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    temperature: float | None = None,
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """Computes all metrics of predictions, without a run.

    Args:
        seen: Predictions of a model.
        class_names: One name per class.
        groups: Groups of look-alike classes: `{"family": (group of class 0, ...)}`.
        temperature: Temperature for `calibrated`, which is omitted by default.
        bootstrap: Samples for the 95 % intervals; 0 for none. Defaults to 1000.

    Returns:
        `metrics`, `confidence` (see `confidence_gap`), `calibrated` (or `None`),
        `per_class`, `classes_without_images`, `confused_pairs` and `groups`, as plain
        values suitable for JSON.

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
        cooled = Scores.of(seen.labels, seen.logits.astype(np.float64) / temperature)
        figures = with_intervals(cooled, repeats=bootstrap)
        gap = confidence_gap(seen.labels, seen.logits, temperature=temperature)
        calibrated = {
            "temperature": temperature,
            "nll": figures["nll"],
            "ece": figures["ece"],
            "confidence": gap,
        }
    return {
        "metrics": metrics,
        "confidence": confidence_gap(seen.labels, seen.logits),
        "calibrated": calibrated,
        "per_class": class_rows(scores, class_names),
        "classes_without_images": [
            name for c, name in enumerate(class_names) if c not in scores.labels
        ],
        "errors": int((scores.labels != scores.predicted).sum()),
        "confused_pairs": confused_pairs(scores.labels, scores.predicted, class_names),
        "groups": within_groups(scores.labels, seen.logits, groups or {}),
    }


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Counts of images by true class (row) and predicted class (column), `[C, C]`."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes)


def confused_pairs(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """The ten most confused pairs of classes.

    Returns:
        For each pair: `classes` (the one misclassified more often first), `errors` in
        both directions, `first_as_second`, `second_as_first`, `share` of all errors,
        and `of`, the number of all errors.
    """
    matrix = confusion_matrix(labels, predicted, len(class_names))
    np.fill_diagonal(matrix, 0)
    both = np.triu(matrix + matrix.T)
    total = int(both.sum())
    result = []
    for flat in np.argsort(-both, axis=None, kind="stable")[:10]:
        a, b = (int(i) for i in np.unravel_index(flat, both.shape))
        errors = int(both[a, b])
        if not errors:
            break
        if matrix[b, a] > matrix[a, b]:
            a, b = b, a
        result.append(
            {
                "classes": [class_names[a], class_names[b]],
                "errors": errors,
                "first_as_second": int(matrix[a, b]),
                "second_as_first": int(matrix[b, a]),
                "share": errors / total,
                "of": total,
            }
        )
    return result


def within_groups(
    labels: NDArray[np.int64],
    logits: NDArray[np.float32],
    groups: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Any]]:
    """Accuracy between and within look-alike groups of classes.

    Returns:
        For each level: `top1_of_group` (accuracy of the group), `top1_within_group`
        (accuracy of the class when restricted to the true group),
        `errors_within_group` (fraction of the errors inside the true group; `None`
        without errors), their 95 % `intervals` (Wilson), and the same for each group in
        `groups`.
    """
    predicted = logits.argmax(axis=1)
    wrong = predicted != labels
    result: dict[str, dict[str, Any]] = {}
    for level, group_names in groups.items():
        names, group_of = np.unique(np.asarray(group_names), return_inverse=True)
        own = group_of[labels]
        same = own == group_of[predicted]
        allowed = group_of[None, :] == own[:, None]
        inside = np.where(allowed, logits, -np.inf).argmax(axis=1) == labels
        result[level] = _group_shares(wrong, same, inside) | {
            "groups": [
                {
                    "group": str(names[g]),
                    "classes": int((group_of == g).sum()),
                    **_group_shares(*(x[own == g] for x in (wrong, same, inside))),
                }
                for g in np.unique(own)
            ]
        }
    return result


def _group_shares(
    wrong: NDArray[np.bool_], same: NDArray[np.bool_], inside: NDArray[np.bool_]
) -> dict[str, Any]:
    shares = {
        "top1": share_of(~wrong),
        "top1_of_group": share_of(same),
        "top1_within_group": share_of(inside),
        "errors_within_group": share_of(same[wrong]),
    }
    ends = {name: [share["low"], share["high"]] for name, share in shares.items()}
    values = {name: share["value"] for name, share in shares.items()}
    return {"images": len(wrong), **values, "intervals": ends}


def confidence_gap(
    labels: ArrayLike, logits: ArrayLike, *, temperature: float = 1.0
) -> dict[str, Any]:
    """The mean confidence of a model minus its accuracy.

    The interval is derived from that of the accuracy (Wilson), so it is wide for few
    images, even if all of them are correct.

    Returns:
        `value`, `low`, `high` (differences of fractions), `images`, `confidence` (the
        mean of the largest probabilities), `accuracy`, and `verdict`:
        `"over-confident"` or `"under-confident"` if the interval excludes 0, else
        `None`.

    >>> gap = confidence_gap([0] * 9 + [1], [[3.0, 0.0]] * 10)
    >>> print(f"{gap['value']:.3f}", gap["verdict"])
    0.053 None
    """
    truth, scores = np.asarray(labels), np.asarray(logits, np.float64)
    n = len(truth)
    if not n:
        none = dict.fromkeys(("value", "low", "high", "confidence", "accuracy"))
        return {**none, "images": 0, "verdict": None}
    right = int((scores.argmax(axis=1) == truth).sum())
    confidence = float(np.exp(log_softmax(scores, temperature).max(axis=1)).mean())
    low, high = (confidence - end for end in reversed(wilson(right, n)))
    sure = "over-confident" if low > 0 else "under-confident" if high < 0 else None
    return {
        "value": confidence - right / n,
        "low": low,
        "high": high,
        "images": n,
        "confidence": confidence,
        "accuracy": right / n,
        "verdict": sure,
    }


def calibration_words(result: Mapping[str, Any]) -> list[str]:
    """Describes the calibration in the results of `compute_metrics`, as sentences."""
    calibrated = result["calibrated"]
    plain = _confidence_words("The model", result["confidence"])
    if calibrated is None or calibrated["temperature"] == 1:
        return [plain]
    at = f"At its temperature, {calibrated['temperature']:.2f}, it"
    changes = [_change(result, name) for name in _ERRORS]
    return [
        plain.replace("The model", "Without a temperature, the model", 1),
        _confidence_words(at, calibrated["confidence"]),
        f"The temperature changes {' and '.join(changes)}.",
    ]


def raised_errors(result: Mapping[str, Any]) -> list[str]:
    """Descriptions of the calibration metrics that the temperature made worse."""
    calibrated = result["calibrated"]
    if calibrated is None or calibrated["temperature"] == 1:
        return []
    return [
        _change(result, name)
        for name in _ERRORS
        if calibrated[name]["value"] > result["metrics"][name]["value"]
    ]


def _change(result: Mapping[str, Any], name: str) -> str:
    before, after = (result[key][name]["value"] for key in ("metrics", "calibrated"))
    return f"the {_ERRORS[name]} from {before:.3f} to {after:.3f}"


def _confidence_words(who: str, gap: Mapping[str, Any]) -> str:
    points = [100 * gap[end] for end in ("value", "low", "high")]
    said = (
        f"{who} has a mean confidence of {percent(gap['confidence'])} and an accuracy "
        f"of {percent(gap['accuracy'])} on {gap['images']:,} images"
    )
    if gap["verdict"] is None:
        return (
            f"{said}, which does not show whether it is over- or under-confident (the "
            f"difference is {points[1]:+.1f} to {points[2]:+.1f} points)."
        )
    ends = sorted(abs(end) for end in points[1:])
    return (
        f"{said}: it is {gap['verdict']} by {abs(points[0]):.1f} points "
        f"({ends[0]:.1f} to {ends[1]:.1f})."
    )


def detection(
    known: ArrayLike, foreign: ArrayLike, keep: float = 0.95, repeats: int = 300
) -> dict[str, Any]:
    """Measures how well scores separate `[n]` known photos from `[m]` foreign ones.

    Returns:
        `auroc` (area under the ROC curve) and `rejected` (fraction of foreign photos
        below the score that `keep` of the known ones reach), each as
        `{"value", "low", "high"}`, with 95 % intervals from `repeats` bootstraps.

    >>> detection([3.0, 2.0], [1.0, 0.0], repeats=10)["auroc"]["value"]
    1.0
    """
    a, b = np.asarray(known, np.float64), np.asarray(foreign, np.float64)
    rng = np.random.default_rng(0)
    drawn = ((rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(repeats))
    samples = [_figures(x, y, keep) for x, y in ((a, b), *drawn)]
    ends = np.quantile(samples[1:] or samples, [0.025, 0.975], axis=0)
    rows = zip(("auroc", "rejected"), samples[0], *ends.tolist(), strict=True)
    return {name: {"value": v, "low": a, "high": b} for name, v, a, b in rows}


def _figures(a: NDArray[Any], b: NDArray[Any], keep: float) -> tuple[float, float]:
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([a, b]))[: len(a)]
    auroc = (ranks.mean() - (len(a) + 1) / 2) / len(b)
    return float(auroc), float((b < np.quantile(a, 1 - keep)).mean())
