"""Do the probabilities mean what they say? Calibration error and temperature."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
# A temperature outside is no calibration: the predictions carry no information, or
# the validation split is too easy to tell.
_LOWEST, _HIGHEST = 0.02, 50.0


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Logarithms of the probabilities, `[n, C]` float64."""
    scores = np.asarray(logits, np.float64)
    scores = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


def confidence_bins(
    confidences: NDArray[np.float64], bins: int = BINS
) -> NDArray[np.int64]:
    """The bin of each confidence: equal widths over (0, 1], upper edges inside."""
    place = np.ceil(confidences * bins).astype(np.int64) - 1
    return np.clip(place, 0, bins - 1)


def calibration_error(
    labels: ArrayLike, logits: ArrayLike, *, temperature: float = 1.0, bins: int = BINS
) -> float:
    """Expected calibration error of the predicted class.

    `sum_b n_b / n * |accuracy_b - confidence_b|` over bins of equal width, where the
    confidence is the largest probability (Guo et al. 2017).

    Args:
        labels: `[n]` true classes.
        logits: `[n, C]`.
        temperature: What the logits are divided by. Default 1.
        bins: Number of bins. Default 15.

    Returns:
        A number in 0..1; NaN without images.

    >>> calibration_error([0, 1], [[0.0, 0.0], [0.0, 0.0]])
    0.0
    """
    table = reliability(labels, logits, temperature=temperature, bins=bins)
    counts, gaps = table["images"], np.abs(table["accuracy"] - table["confidence"])
    if not counts.sum():
        return float("nan")
    return float(np.sum(counts * np.where(counts > 0, gaps, 0.0)) / counts.sum())


def reliability(
    labels: ArrayLike, logits: ArrayLike, *, temperature: float = 1.0, bins: int = BINS
) -> dict[str, NDArray[np.float64]]:
    """Accuracy and mean confidence in each bin of confidence: a reliability diagram.

    Args:
        labels: `[n]` true classes.
        logits: `[n, C]`.
        temperature: What the logits are divided by. Default 1.
        bins: Number of bins of equal width. Default 15.

    Returns:
        `images`, `accuracy` and `confidence`, each `[bins]`; NaN in empty bins.

    >>> reliability([0], [[9.0, 0.0]])["images"].sum()
    np.float64(1.0)
    """
    truth = np.asarray(labels)
    log_p = log_softmax(np.asarray(logits, np.float64) / temperature)
    confidences = np.exp(log_p.max(axis=1))
    place = confidence_bins(confidences, bins)
    correct = log_p.argmax(axis=1) == truth
    counts = np.bincount(place, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return {
            "images": counts,
            "accuracy": np.bincount(place, correct, minlength=bins) / counts,
            "confidence": np.bincount(place, confidences, minlength=bins) / counts,
        }


def negative_log_likelihood(
    labels: ArrayLike, logits: ArrayLike, *, temperature: float = 1.0
) -> float:
    """Mean of `-log p(true class)`, in nats; NaN without images."""
    truth = np.asarray(labels)
    log_p = log_softmax(np.asarray(logits, np.float64) / temperature)
    return float(-log_p[np.arange(len(truth)), truth].mean()) if len(truth) else np.nan


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> float:
    """The temperature of the smallest negative log-likelihood (Guo et al. 2017).

    Dividing all logits by one number changes no decision, only how sure the model says
    it is. The likelihood is concave in `1 / temperature`, so halving an interval on its
    slope finds the one best value.

    Args:
        labels: `[n]` true classes of images the model was not trained on.
        logits: `[n, C]`.

    Returns:
        A number in 0.02..50: below 1 the model was under-confident, above 1
        over-confident.

    >>> fit_temperature([0, 0, 0, 1], [[1.0, 0.0]] * 4)  # three of four: log 3
    0.91...
    """
    truth = np.asarray(labels, np.int64)
    scores = np.asarray(logits, np.float64)
    own = scores[np.arange(len(truth)), truth]

    def slope(beta: float) -> float:
        """Derivative of the mean log-likelihood by the inverse temperature."""
        expected = (np.exp(log_softmax(scores * beta)) * scores).sum(axis=1)
        return float((own - expected).mean())

    # Equal logits for every class say the same at any temperature.
    if not len(truth) or np.ptp(scores, axis=1).max() == 0:
        return 1.0
    low, high = np.log(1 / _HIGHEST), np.log(1 / _LOWEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp(-(low + high) / 2))
