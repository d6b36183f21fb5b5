"""Verification of the exported file, in its own runtime, against the Keras model."""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.export.formats import TOLERANCES
from keras_apinet.export.runtime.runtimes import Runtime, softmax
from keras_apinet.shares import interval, percent, wilson

# A photo is decided if the Keras model's first class leads the second by more than
# this.
LEAD = 0.1


@dataclass(frozen=True)
class ExportReport:
    """Comparison of an exported file with the Keras model.

    Attributes:
        path: The file or folder.
        format: `"tflite"`, `"saved_model"`, `"onnx"` or `"web"`.
        precision: Numeric precision.
        size: Size in bytes.
        photos: Number of photos compared; 0 if it was not verified.
        difference: Maximum difference of a probability from the Keras model's.
        logit_difference: Maximum difference of a logit (divided by the temperature, as
            in the file), which is informative even if all probabilities are 0 or 1.
        largest_logit: Largest absolute logit of the Keras model, for comparison.
        agreement: Fraction of the photos with the Keras model's top-1 class.
        decided: Number of photos on which the Keras model's first class leads by more
            than 0.1 in probability.
        decided_agreement: Agreement on these photos; `None` if there are none.
        undecided_difference: Root mean square difference of a logit on the other
            photos; `None` if there are none.
        accuracy: Top-1 accuracy on the photos; `None` if their classes are unknown.
        accuracy_drop: The Keras model's accuracy minus this one.
        latency_ms: Median time for one photo on this machine, without decoding.
    """

    path: Path
    format: str
    precision: str
    size: int
    photos: int = 0
    difference: float | None = None
    logit_difference: float | None = None
    largest_logit: float | None = None
    agreement: float | None = None
    decided: int = 0
    decided_agreement: float | None = None
    undecided_difference: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    latency_ms: float | None = None

    def table(self) -> str:
        """Formats the report as a Markdown table."""
        return reports_table([self])


def reports_table(reports: Sequence[ExportReport]) -> str:
    """Formats several reports as one Markdown table, with a column for each file."""

    def shown(value: float | None, pattern: str) -> str:
        return "-" if value is None else pattern.format(value)

    def share(value: float | None, photos: int) -> str:
        if value is None:
            return "-"
        ends = wilson(round(value * photos), photos)
        return f"{value:.2%} ({interval(*ends)})"

    columns = [
        {
            "": report.path.name,
            "format, precision": f"{report.format}, {report.precision}",
            "size": f"{report.size / 1e6:.2f} MB",
            "photos compared": str(report.photos),
            "same top-1 class": share(report.agreement, report.photos),
            f"same where it leads by {LEAD:g}": share(
                report.decided_agreement, report.decided
            ),
            "difference of a logit elsewhere": shown(
                report.undecided_difference, "{:.1e}"
            ),
            "largest difference of a probability": shown(report.difference, "{:.1e}"),
            "largest difference of a logit": shown(report.logit_difference, "{:.1e}"),
            "largest logit": shown(report.largest_logit, "{:.1f}"),
            "accuracy": share(report.accuracy, report.photos),
            "accuracy drop": shown(
                None if report.accuracy_drop is None else 100 * report.accuracy_drop,
                "{:+.2f} points",
            ),
            "median latency": shown(report.latency_ms, "{:.2f} ms"),
        }
        for report in reports
    ]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    rows = [row for row in rows if set(row[1:]) != {"-"}]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def measure(
    runtime: Runtime,
    images: NDArray[np.uint8],
    expected: NDArray[np.float32],
    labels: NDArray[np.integer[Any]] | None,
) -> dict[str, Any]:
    """Compares a file with the Keras model's logits `[N, C]` at its temperature.

    Returns the measured fields of `ExportReport`.
    """
    given, logits = (
        np.concatenate([run(images[i : i + 32]) for i in range(0, len(images), 32)])
        for run in (runtime.probabilities, runtime.open_logits())
    )
    best, expected_best = given.argmax(-1), expected.argmax(-1)
    shares = softmax(expected)
    second, first = np.sort(shares, -1)[:, -2:].T
    decided = first - second > LEAD
    measured: dict[str, Any] = {
        "photos": len(images),
        "difference": float(np.abs(given - shares).max()),
        "logit_difference": float(np.abs(logits - expected).max()),
        "largest_logit": float(np.abs(expected).max()),
        "agreement": float(np.mean(best == expected_best)),
        "decided": int(decided.sum()),
        "latency_ms": median_latency_ms(runtime, images),
    }
    if decided.any():
        same = best[decided] == expected_best[decided]
        measured["decided_agreement"] = float(np.mean(same))
    if not decided.all():
        apart = np.square(logits[~decided] - expected[~decided])
        measured["undecided_difference"] = float(np.sqrt(np.mean(apart)))
    if labels is not None:
        accuracy = float(np.mean(best == labels))
        drop = float(np.mean(expected_best == labels)) - accuracy
        measured |= {"accuracy": accuracy, "accuracy_drop": drop}
    for key, values in (("difference", given), ("logit_difference", logits)):
        if not np.isfinite(values).all():
            measured[key] = float("inf")
    return measured


def median_latency_ms(runtime: Runtime, images: NDArray[np.uint8]) -> float:
    """Measures the median time of one image, over 25 runs after a warm-up."""
    times = []
    for i in range(28):
        image = images[i % len(images)][None]
        start = time.perf_counter()
        runtime.probabilities(image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[3:])


def check(
    report: ExportReport,
    backbone: str,
    min_agreement: float | None = None,
    max_difference: float | None = None,
    max_logit_difference: float | None = None,
) -> None:
    """Raises if a file differs by more than its precision or the user allows."""
    given: dict[str, Any] = {
        "agreement": min_agreement,
        "difference": max_difference,
        "logits": max_logit_difference,
    }
    given = {name: limit for name, limit in given.items() if limit is not None}
    tolerance = replace(TOLERANCES[report.precision], **given)
    if max_logit_difference is not None:
        tolerance = replace(tolerance, undecided=None)
    difference, agreement = report.difference, report.agreement
    if difference is None or agreement is None:
        return
    decided = report.decided_agreement
    # Small logits need only be exact to 1e-3 of 1; smaller differences decide nothing.
    largest = max(1.0, report.largest_logit or 0.0)
    apart = (report.logit_difference or 0.0) / largest
    elsewhere = (report.undecided_difference or 0.0) / largest
    found = accepting = ""
    if tolerance.difference is not None and not difference <= tolerance.difference:
        found = f"differs from the Keras model by {difference:.2g} in a probability"
        if np.isfinite(difference):
            accepting = f"--max-difference {math.ceil(1000 * difference) / 1000:g}"
    elif tolerance.logits is not None and not apart <= tolerance.logits:
        found = (
            f"differs from the Keras model by {report.logit_difference:.2g} in a logit "
            f"({apart:.2g} of the largest, {report.largest_logit:.3g})"
        )
        if np.isfinite(apart):
            accepting = f"--max-logit-difference {math.ceil(1000 * apart) / 1000:g}"
    elif decided is not None and decided < tolerance.agreement:
        found = (
            f"agrees with the Keras model on {percent(decided)} of the "
            f"{report.decided} photos on which its first class leads by {LEAD:g}, and "
            f"on {percent(agreement)} of all {report.photos}"
        )
        if report.accuracy_drop is not None:
            found += f" (accuracy drop {100 * report.accuracy_drop:+.2f} points)"
        accepting = f"--min-agreement {math.floor(100 * decided) / 100:g}"
    elif tolerance.undecided is not None and not elsewhere <= tolerance.undecided:
        found = (
            f"differs from the Keras model by {report.undecided_difference:.2g} in a "
            f"logit ({elsewhere:.2g} of the largest, {report.largest_logit:.3g}) where "
            f"no class leads by {LEAD:g}"
        )
        accepting = "--max-logit-difference 1"
    if found:
        raise APINetError(
            f"The {report.format} file of {backbone!r} in {report.precision} {found}, "
            f"but must have {tolerance}; nothing was written; choose another precision "
            "or backbone (docs/quantisation.md lists those that lose little)"
            + (f", or accept this with {accepting}." if accepting else ".")
        )
