"""`keras-apinet compare-runs`: compares two methods on the same test photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from keras_apinet.data import ImageData
from keras_apinet.data.image_data import end_of
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.calibration import BINS, confidence_bins, log_softmax
from keras_apinet.evaluate.evaluation import judge
from keras_apinet.files.bounds import BOOTSTRAP, Number
from keras_apinet.runs import Run, check_classes

# An interval needs at least one sample.
_SAMPLES = Number(int, 1, BOOTSTRAP.high)
# Samples whose weights are in memory at once.
_AT_ONCE = 1000


@dataclass(frozen=True, eq=False)
class Answers:
    """Predictions of the S runs of a method for `[n]` photos.

    Attributes:
        labels: `[n]` true classes.
        right: `[S, n]`, 1 where a model is right, else 0.
        nll: `[S, n]`, `-log p(true class)`, in nats.
        confidence: `[S, n]`, largest probability.
    """

    labels: NDArray[np.int64]
    right: NDArray[np.float64]
    nll: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @classmethod
    def of(cls, labels: ArrayLike, log_p: Sequence[NDArray[np.float64]]) -> "Answers":
        """Creates answers from the log-probabilities `[n, C]` of each run."""
        truth = np.asarray(labels, np.int64)
        rows = np.arange(len(truth))
        return cls(
            truth,
            np.stack([(one.argmax(axis=1) == truth).astype(float) for one in log_p]),
            np.stack([-one[rows, truth] for one in log_p]),
            np.stack([np.exp(one.max(axis=1)) for one in log_p]),
        )

    def figures(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Metrics of each run, `[r, S]`, for `[r, n]` weights of the photos."""
        total = weights.sum(axis=1, keepdims=True)
        by_class = []
        for c in np.unique(self.labels):
            rows = self.labels == c
            images = weights[:, rows].sum(axis=1, keepdims=True)
            hits = weights[:, rows] @ self.right[:, rows].T
            # Classes without images in a sample are ignored.
            by_class.append(np.where(images > 0, hits / np.maximum(images, 1), np.nan))
        gaps = []
        for sure, right in zip(self.confidence, self.right, strict=True):
            bins = np.eye(BINS)[confidence_bins(sure)] * (sure - right)[:, None]
            gaps.append(np.abs(weights @ bins).sum(axis=1))
        return {
            "top1": weights @ self.right.T / total,
            "mean_per_class_accuracy": np.nanmean(by_class, axis=0),
            "nll": weights @ self.nll.T / total,
            "ece": np.stack(gaps, axis=1) / total,
        }


def differences(
    first: Answers, second: Answers, *, repeats: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Metrics of two methods, and 95 % intervals of their differences.

    Photos and runs are resampled together with replacement, `repeats` times: the same
    photos for all runs, and the runs of each method independently. S - 1 of S runs are
    drawn, which makes the variance between runs unbiased (Rao and Wu 1988). With a
    single run, the interval does not cover the variation between seeds.

    Returns:
        `{figure: {"first", "second", "difference", "low", "high"}}`: the mean over the
        runs of each method, and `first - second` with the ends of its interval.
    """
    _SAMPLES.check("repeats", repeats)
    rng = np.random.default_rng(seed)
    n = len(first.labels)
    drawn: list[dict[str, Any]] = []
    for done in range(0, repeats, _AT_ONCE):
        count = min(_AT_ONCE, repeats - done)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float)
        each = [_drawn(answers, weights, rng) for answers in (first, second)]
        drawn.append({name: each[0][name] - each[1][name] for name in each[0]})
    whole = [
        {
            name: float(each.mean())
            for name, each in one.figures(np.ones((1, n))).items()
        }
        for one in (first, second)
    ]
    result = {}
    for name, value in whole[0].items():
        found = np.concatenate([one[name] for one in drawn])
        ends = np.percentile(found, (2.5, 97.5))
        result[name] = {
            "first": value,
            "second": whole[1][name],
            "difference": value - whole[1][name],
            "low": float(ends[0]),
            "high": float(ends[1]),
        }
    return result


def _drawn(
    answers: Answers, weights: NDArray[np.float64], rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Metrics `[r]` of a method for `[r, n]` weights, each with resampled runs."""
    runs = len(answers.right)
    chance = np.full(runs, 1 / runs)
    picked = rng.multinomial(max(1, runs - 1), chance, size=len(weights))
    share = picked / picked.sum(axis=1, keepdims=True)
    return {
        name: (share * each).sum(axis=1)
        for name, each in answers.figures(weights).items()
    }


def mcnemar(first: ArrayLike, second: ArrayLike) -> dict[str, Any]:
    """McNemar's exact test for two models on the same `[n]` photos.

    Returns:
        `only_first` and `only_second`, the numbers of photos that only one model
        classifies correctly, and `p`, the p-value under equal accuracy.

    >>> mcnemar([1] * 8 + [0], [0] * 8 + [1])["p"]
    0.0390625
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    apart = only_first + only_second
    p = float(binomtest(only_first, apart).pvalue) if apart else 1.0
    return {"only_first": only_first, "only_second": only_second, "p": p}


def compare_runs(
    first: Sequence[Run | str | Path],
    second: Sequence[Run | str | Path],
    *,
    split: str | None = None,
    which: str = "best",
    data: str | ImageData | None = None,
    data_dir: str | None = None,
    batch_size: int = 64,
    bootstrap: int = 1000,
) -> dict[str, Any]:
    """Compares the finished runs of two methods on the same test photos.

    Probabilities are calibrated with each run's temperature, as in `predict`.

    Args:
        first: Runs of the first method, or their folders; one per seed.
        second: Runs of the second method.
        split: See `evaluate_run`.
        which: The `"best"` model of each run (default) or the `"last"`.
        data: See `evaluate_run`. By default, the original location of each run's data.
        data_dir: New location of TensorFlow Datasets data, if moved.
        batch_size: Batch size. Defaults to 64.
        bootstrap: Bootstrap samples, at least 1. Defaults to 1000.

    Returns:
        `images`, `classes`, `first` and `second` (names of the run folders), `figures`
        (see `differences`) and `mcnemar`: the test for each pair of runs at the same
        position in their lists.

    Raises:
        APINetError: If the runs have different classes or test photos, or as for
            `evaluate_run`.
    """
    _SAMPLES.check("bootstrap", bootstrap)
    methods = [[Run.open(run) for run in runs] for runs in (first, second)]
    check_classes([run for runs in methods for run in runs])
    known: tuple[str, ...] | None = None
    labels: NDArray[np.int64] = np.empty(0, np.int64)
    answers = []
    for runs in methods:
        log_p = []
        for run in runs:
            found = judge(
                run,
                split,
                which=which,
                data=data,
                data_dir=data_dir,
                batch_size=batch_size,
                bootstrap=0,
            )
            seen = found.seen
            photos = tuple(found.split.reference(int(i)) for i in seen.positions)
            ends = tuple(end_of(photo) for photo in photos)
            if known is None:
                known, labels = ends, seen.labels
            if ends != known or not np.array_equal(seen.labels, labels):
                raise APINetError(
                    f"The run {str(run.folder)!r} has different test photos than "
                    f"{str(methods[0][0].folder)!r} ({len(ends):,} and "
                    f"{len(known):,} photos); give the same to both with --data."
                )
            log_p.append(log_softmax(seen.logits, found.temperature))
        answers.append(Answers.of(labels, log_p))
    a, b = answers
    names = [[run.folder.resolve().name for run in runs] for runs in methods]
    return {
        "images": len(labels),
        "classes": len(methods[0][0].class_names),
        "first": names[0],
        "second": names[1],
        "figures": differences(a, b, repeats=bootstrap),
        "mcnemar": [
            {"first": one, "second": other, **mcnemar(x, y)}
            for one, other, x, y in zip(*names, a.right, b.right, strict=False)
        ],
    }
