"""Calibration of the predicted probabilities: calibration error and temperature."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.predictions import known_images, predict_split, run_options
from keras_apinet.files.features import weights_fingerprint
from keras_apinet.files.run_shapes import file_of
from keras_apinet.runs import CALIBRATION, Run
from keras_apinet.shares import wilson

if TYPE_CHECKING:
    from keras_apinet.data import ImageData
    from keras_apinet.model.apinet import APINet

BINS = 15
_METHOD = (
    "penalized likelihood with smoothed targets; below 1 only as far as the accuracy "
    "is certain"
)
# A temperature outside these bounds means that the predictions carry no information,
# or that the images it was fitted on are not representative.
LOWEST, HIGHEST = 0.5, 10.0
# Minimum number of images to fit a temperature, and minimum number of errors among
# them to make a model more confident.
FEWEST_IMAGES, FEWEST_ERRORS = 30, 10
# Standard deviation of the prior on the logarithm of the temperature: 90 % of models
# lie between 0.66 and 1.5.
_PRIOR = 0.25


def log_softmax(logits: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Log-probabilities at a temperature, `[n, C]` float64."""
    from scipy import special

    scores = np.asarray(logits, np.float64) / temperature
    return np.asarray(special.log_softmax(scores, axis=1))


def confidence_bins(confidences: ArrayLike, bins: int = BINS) -> NDArray[np.int64]:
    """The bin of each confidence: equal widths over (0, 1], right edges included."""
    place = np.ceil(np.asarray(confidences) * bins).astype(np.int64) - 1
    return np.asarray(np.clip(place, 0, bins - 1))


def calibration_error(
    labels: ArrayLike, logits: ArrayLike, *, temperature: float = 1.0, bins: int = BINS
) -> float:
    """Expected calibration error of the predicted class.

    `sum_b n_b / n * |accuracy_b - confidence_b|` over bins of equal width, where the
    confidence is the largest probability (Guo et al. 2017).

    Args:
        labels: `[n]` true classes.
        logits: `[n, C]`.
        temperature: Divisor of the logits. Defaults to 1.
        bins: Number of bins. Defaults to 15.

    Returns:
        A number in 0..1; NaN without images.

    >>> calibration_error([0, 1], [[0.0, 0.0], [0.0, 0.0]])
    0.0
    """
    table = reliability(labels, logits, temperature=temperature, bins=bins)
    gaps = np.abs(table["accuracy"] - table["confidence"])
    n = table["images"].sum()
    return float(np.nansum(table["images"] * gaps) / n) if n else np.nan


def reliability(
    labels: ArrayLike, logits: ArrayLike, *, temperature: float = 1.0, bins: int = BINS
) -> dict[str, NDArray[np.float64]]:
    """Accuracy and mean confidence per confidence bin, for a reliability diagram.

    Args:
        labels: `[n]` true classes.
        logits: `[n, C]`.
        temperature: Divisor of the logits. Defaults to 1.
        bins: Number of bins. Defaults to 15.

    Returns:
        `images`, `accuracy` and `confidence`, each `[bins]`; NaN in empty bins.

    >>> reliability([0], [[9.0, 0.0]])["images"].sum()
    np.float64(1.0)
    """
    truth = np.asarray(labels)
    log_p = log_softmax(logits, temperature)
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
    log_p = log_softmax(logits, temperature)
    return float(-log_p[np.arange(len(truth)), truth].mean()) if len(truth) else np.nan


def fit_temperature(labels: ArrayLike, logits: ArrayLike) -> float:
    """The temperature of `explained_temperature`, without the reason.

    A model with 88 % confidence and 70 % accuracy needs a temperature of 2.36. The fit
    approaches it with the number of images, here 100 and 10,000:

    >>> labels, logits = [0] * 70 + [1] * 30, [[2.0, 0.0]] * 100
    >>> fit_temperature(labels, logits)
    1.68...
    >>> fit_temperature(labels * 100, logits * 100)
    2.34...
    """
    return explained_temperature(labels, logits)[0]


def too_few(images: int) -> str | None:
    """The reason why there are too few images to fit a temperature, or `None`."""
    if images >= FEWEST_IMAGES:
        return None
    return (
        f"{images} validation image{'s are' if images != 1 else ' is'} too few to fit "
        f"a temperature (at least {FEWEST_IMAGES}), so it is 1."
    )


def explained_temperature(
    labels: ArrayLike, logits: ArrayLike
) -> tuple[float, str | None]:
    """Fits the divisor of all logits on images that the model was not trained on.

    It changes the confidence of the model but not its decisions. The temperature T
    minimizes the penalized negative log-likelihood (Guo et al. 2017):

    `sum_i -[(1 - e) log p_i + e log(1 - p_i)] + (log T)^2 / (2 * 0.25^2)`

    where `p_i` is the probability of the true class of image i at T, and
    `e = 1 / (n + 2)` smooths the targets (Platt 1999): n images without an error do not
    prove that errors never happen, and the optimal temperature stays finite.

    Validation photos are often near-duplicates of training photos and thus easier than
    future images. A temperature below 1, which makes a model more confident, therefore
    needs more evidence: at least 10 errors, and a mean confidence no higher than the
    lower end of the accuracy's 95 % interval. A temperature above 1 must also lower the
    plain negative log-likelihood.

    Args:
        labels: `[n]` true classes of images the model was not trained on.
        logits: `[n, C]`.

    Returns:
        A number in 0.5..10 and, if it is 1, a sentence that explains why.
    """
    # Takes half a second to import, and is not needed to read results.
    from scipy import optimize, special

    truth = np.asarray(labels, np.int64)
    scores = np.asarray(logits, np.float64)
    n = len(truth)
    if few := too_few(n):
        return 1.0, few
    if np.ptp(scores, axis=1).max() == 0:
        return 1.0, "All classes have the same score, so the temperature is 1."
    others = scores.copy()
    others[np.arange(n), truth] = -np.inf
    smoothing = 1 / (n + 2)

    def loss(log_t: float) -> float:
        scaled = scores / np.exp(log_t)
        total = special.logsumexp(scaled, axis=1)
        own = scaled[np.arange(n), truth] - total
        wrong = special.logsumexp(others / np.exp(log_t), axis=1) - total
        told = (1 - smoothing) * own + smoothing * wrong
        return float(log_t**2 / (2 * _PRIOR**2) - told.sum())

    ends = (np.log(LOWEST), np.log(HIGHEST))
    found = optimize.minimize_scalar(loss, bounds=ends, method="bounded")
    temperature = float(np.exp(found.x))
    if temperature < 1:
        return _surer(truth, scores, temperature)
    before = negative_log_likelihood(truth, scores)
    if negative_log_likelihood(truth, scores, temperature=temperature) >= before:
        return 1.0, (
            f"No temperature above 1 lowers the negative log-likelihood of the {n} "
            f"validation images, {before:.3f}, so it is 1."
        )
    return temperature, None


def _surer(
    truth: NDArray[np.int64], scores: NDArray[np.float64], wanted: float
) -> tuple[float, str | None]:
    """The lowest temperature, from `wanted` to 1, that the images support."""
    from scipy import optimize

    n = len(truth)
    right = int((scores.argmax(axis=1) == truth).sum())
    if n - right < FEWEST_ERRORS:
        return 1.0, (
            f"{n - right} error{'s' if n - right != 1 else ''} on {n} validation "
            f"images are too few to raise the confidence (at least {FEWEST_ERRORS}, as "
            "they may be near-duplicates of training photos), so the temperature is 1."
        )
    most = wilson(right, n)[0]

    def surplus(temperature: float) -> float:
        log_p = log_softmax(scores, temperature)
        return float(np.exp(log_p.max(axis=1)).mean()) - most

    if surplus(1.0) >= 0:
        return 1.0, (
            f"{n} validation images are too few to show that the model is "
            f"under-confident (the accuracy may be as low as {most:.1%}, with a mean "
            f"confidence of {most + surplus(1.0):.1%}), so the temperature is 1."
        )
    if surplus(wanted) <= 0:
        return wanted, None
    return float(optimize.brentq(surplus, wanted, 1.0)), None


def calibrate_run(
    run: Run,
    model: "APINet",
    images: "ImageData | None" = None,
    *,
    which: str = "best",
    batch_size: int = 64,
    again: bool = False,
) -> dict[str, Any] | None:
    """Fits a model's temperature on the validation split and stores it in the run.

    `train` does this at the end, so that `predict`, `export` and the report agree.

    Args:
        run: The run.
        model: Its model.
        images: Its data set. By default, loaded from its original location.
        which: Which model of the run it is.
        batch_size: Batch size.
        again: Whether to refit if the run already has a temperature for these weights.

    Returns:
        The content of `calibration.json` (`calibration_last.json` for `which="last"`):
        `temperature`, `reason` (why it is 1, else `None`), `method`, `images`, `right`
        (how many were correct), `ece_before`, `ece_after`, `nll_before`, `nll_after`,
        `model` and `weights`, a fingerprint; `None` without a validation split.
    """
    known = run.calibration(which, model)
    # With too few images, `train` does not store the number of correct ones.
    if known and not again and ("right" in known or not known.get("reason")):
        return known
    if images is None:
        try:
            images = run.data()
        except (APINetError, OSError):
            return None  # testing on other data; the run's own is gone
    if "val" not in images.splits:
        return None
    part = known_images(images, "val", run.class_names, ignore_unknown=True)
    seen = predict_split(
        model, part, what="Fitting the temperature", **run_options(run, batch_size)
    )
    pair = (seen.labels, seen.logits)
    temperature, reason = explained_temperature(*pair)
    result = {
        "temperature": temperature,
        "reason": reason,
        "method": _METHOD,
        "images": len(seen),
        "right": int((~seen.wrong).sum()),
        "ece_before": calibration_error(*pair),
        "ece_after": calibration_error(*pair, temperature=temperature),
        "nll_before": negative_log_likelihood(*pair),
        "nll_after": negative_log_likelihood(*pair, temperature=temperature),
        "model": which,
        "weights": weights_fingerprint(model),
    }
    run.write(file_of(CALIBRATION, which), result)
    return result
