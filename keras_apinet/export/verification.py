"""The proof: the written file, in its own runtime, against the Keras model."""

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
from keras_apinet.export.runtimes import Runtime

_HEAD = (
    "file",
    "format",
    "precision",
    "size",
    "photos",
    "largest difference",
    "top-1 agreement",
    "accuracy",
    "accuracy drop",
    "median latency",
)


@dataclass(frozen=True)
class ExportReport:
    """What an exported file is worth.

    Attributes:
        path: The file or folder.
        format: `"tflite"`, `"saved_model"`, `"onnx"` or `"web"`.
        precision: Of its numbers.
        size: Bytes.
        photos: Number of photos it was compared on; 0 if it was not verified.
        difference: Largest difference of a probability from the Keras model's.
        agreement: Share of the photos with the Keras model's top-1 class.
        accuracy: Top-1 accuracy on the photos, `None` if their classes are unknown.
        accuracy_drop: The Keras model's accuracy less this one.
        latency_ms: Median time for one photo on this machine, without decoding.
    """

    path: Path
    format: str
    precision: str
    size: int
    photos: int = 0
    difference: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    latency_ms: float | None = None

    def table(self) -> str:
        """As a table of one row."""
        return reports_table([self])


def reports_table(reports: Sequence[ExportReport]) -> str:
    """Several reports as one Markdown table."""

    def shown(value: float | None, pattern: str) -> str:
        return "-" if value is None else pattern.format(value)

    rows = [
        (
            report.path.name,
            report.format,
            report.precision,
            f"{report.size / 1e6:.2f} MB",
            str(report.photos),
            shown(report.difference, "{:.1e}"),
            shown(report.agreement, "{:.2%}"),
            shown(report.accuracy, "{:.2%}"),
            shown(
                None if report.accuracy_drop is None else 100 * report.accuracy_drop,
                "{:+.2f} points",
            ),
            shown(report.latency_ms, "{:.2f} ms"),
        )
        for report in reports
    ]
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    lines = [_HEAD, tuple("-" * width for width in widths), *rows]
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
    """Compares a file with the Keras model.

    Args:
        runtime: The opened file.
        images: `[N, S, S, 3]`.
        expected: `[N, C]` probabilities of the Keras model.
        labels: `[N]` true classes, if they are known.

    Returns:
        The measured fields of `ExportReport`.
    """
    given = np.concatenate(
        [runtime.probabilities(images[i : i + 32]) for i in range(0, len(images), 32)]
    )
    best, expected_best = given.argmax(-1), expected.argmax(-1)
    measured: dict[str, Any] = {
        "photos": len(images),
        "difference": float(np.abs(given - expected).max()),
        "agreement": float(np.mean(best == expected_best)),
        "latency_ms": median_latency_ms(runtime, images),
    }
    if labels is not None:
        accuracy = float(np.mean(best == labels))
        drop = float(np.mean(expected_best == labels)) - accuracy
        measured |= {"accuracy": accuracy, "accuracy_drop": drop}
    if not np.isfinite(given).all():
        measured["difference"] = float("inf")
    return measured


def median_latency_ms(
    runtime: Runtime, images: NDArray[np.uint8], repeats: int = 25
) -> float:
    """Median time of one image, after a warm-up."""
    times = []
    for i in range(repeats + 3):
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
) -> None:
    """Raises if a file loses more than its precision may.

    Args:
        report: What was measured.
        backbone: For the error.
        min_agreement: In place of the precision's own smallest top-1 agreement.
        max_difference: In place of its own largest difference of a probability.

    Raises:
        APINetError: With the measured and the allowed figure.
    """
    tolerance = TOLERANCES[report.precision]
    if min_agreement is not None:
        tolerance = replace(tolerance, agreement=min_agreement)
    if max_difference is not None:
        tolerance = replace(tolerance, difference=max_difference)
    difference, agreement = report.difference, report.agreement
    if difference is None or agreement is None:
        return
    found = accepting = ""
    if tolerance.difference is not None and not difference <= tolerance.difference:
        found = f"differs from the Keras model by {difference:.2g} in a probability"
        if np.isfinite(difference):
            accepting = f"--max-difference {math.ceil(1000 * difference) / 1000:g}"
    elif agreement < tolerance.agreement:
        found = (
            f"agrees with the Keras model on {agreement:.1%} of {report.photos} photos"
        )
        if report.accuracy_drop is not None:
            found += f" (accuracy drop {100 * report.accuracy_drop:+.2f} points)"
        accepting = f"--min-agreement {math.floor(100 * agreement) / 100:g}"
    if found:
        raise APINetError(
            f"The {report.format} file of {backbone!r} in {report.precision} {found}, "
            f"but must have {tolerance}; nothing was written. Choose another precision "
            "or backbone (docs/quantisation.md says which lose little)"
            + (f", or accept this with {accepting}." if accepting else ".")
        )
