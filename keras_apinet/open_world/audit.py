"""`keras-apinet data --audit`: photos to review before training.

Finds labels that are probably wrong, near-duplicates with different labels, outliers,
and dark, blurred or tiny photos. Writes an HTML page with the photos and a table for
`train --exclude` and `--relabel`. The test split is not audited.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import laplace

from keras_apinet.data import ImageData, Split
from keras_apinet.data.inspection import near_duplicates
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.contrast_maps import data_uri
from keras_apinet.evaluate.pages import rendered
from keras_apinet.evaluate.plots import square
from keras_apinet.evaluate.predictions import predict_split, run_options
from keras_apinet.open_world.confident import doubtful_labels, out_of_fold, outliers
from keras_apinet.runs import Run

COLUMNS = ("path", "split", "label", "kind", "suggested", "score", "why")
KINDS = {
    "label": "Labels that are probably wrong",
    "conflict": "Near-duplicates with different labels",
    "outlier": "Photos unlike the others of their class",
    "dark": "Dark photos",
    "blurred": "Blurred photos",
    "tiny": "Tiny photos",
    "unreadable": "Photos that cannot be read",
}
_DARK = 40  # mean brightness, of 255
_BLURRED = 25.0  # variance of the Laplacian, at 256 px
_FAR = 2.5  # times the median distance in the class
_SIDE = 256
_SHOWN = 60


@dataclass(frozen=True)
class Finding:
    """A photo to review, and the reason.

    Attributes:
        path: The photo.
        split: `"train"` or `"val"`.
        label: Its label.
        kind: A key of `KINDS`.
        suggested: The class that is probably right, or `""`.
        score: Larger is worse; comparable within a kind.
        why: The reason, as a sentence.
        place: Index in the split.
    """

    path: str
    split: str
    label: str
    kind: str
    suggested: str
    score: float
    why: str
    place: int


def audit(run: Run | str | Path, images: ImageData) -> list[Finding]:
    """Finds photos to review in a data set, using the features of a run's model.

    The data may have other classes than the run, because heads are fitted to its own
    labels, out of fold. This does not detect wrong labels shared by all photos of a
    scene. Findings are sorted by kind, worst first.
    """
    run = Run.open(run)
    if len(images.class_names) < 2:
        raise APINetError(
            f"The data set {images.name!r} has {len(images.class_names)} class; an "
            "audit of labels needs at least 2."
        )
    splits = {n: s for n, s in images.splits.items() if n in ("train", "val")}
    found: list[Finding] = []

    def find(
        place: tuple[str, int], kind: str, score: float, why: str, suggested: str = ""
    ) -> None:
        name, i = place
        path = splits[name].reference(i)
        label = images.class_names[splits[name].labels[i]]
        found.append(Finding(path, name, label, kind, suggested, score, why, i))

    model, options = run.model(), run_options(run)
    features, labels, places = [], [], []
    for name, split in splits.items():
        bad = set()
        for place, kind, score, why in _quality(split, run.image_size):
            find((name, place), kind, score, why)
            if kind == "unreadable":
                bad.add(place)
        good = np.array([i for i in range(len(split)) if i not in bad], np.int64)
        if not len(good):
            continue
        seen = predict_split(model, split.take(good), **options)
        features.append(seen.features)
        labels.append(seen.labels)
        places += [(name, int(good[i])) for i in seen.positions]
    x, y = np.concatenate(features), np.concatenate(labels)
    p = out_of_fold(x, y, classes=len(images.class_names))
    doubts = doubtful_labels(p, y)
    for i in doubts.order[: doubts.candidates]:
        other = images.class_names[doubts.suggested[i]]
        why = (
            f"Probability {p[i, doubts.suggested[i]]:.0%} of {other!r}, "
            f"{p[i, y[i]]:.0%} of its label, by a head that was not fitted to it."
        )
        find(places[i], "label", float(doubts.margin[i]), why, other)
    far = outliers(x, y)
    for i in np.flatnonzero(far > _FAR):
        why = f"{far[i]:.1f} times the median distance to its class."
        find(places[i], "outlier", float(far[i]), why)
    kept = replace(images, splits=splits)
    for pair in near_duplicates(kept)["near_conflicts"]:
        for photo, (there, j) in (pair, pair[::-1]):
            twin = splits[there]
            why = (
                f"Near-duplicate of {twin.reference(j)}, which is labeled "
                f"{images.class_names[twin.labels[j]]!r}."
            )
            find(photo, "conflict", 1.0, why)
    order = [*KINDS]
    return sorted(found, key=lambda f: (order.index(f.kind), -f.score))


def _quality(split: Split, image_size: int) -> Iterator[tuple[int, str, float, str]]:
    """Yields index, kind, score and reason for photos of poor quality."""
    for i in range(len(split)):
        try:
            pixels = split.read(i)
        except APINetError as error:
            yield i, "unreadable", 1.0, str(error)
            continue
        height, width = pixels.shape[:2]
        if min(height, width) < image_size / 2:
            why = f"{width} x {height} px, for a model input of {image_size} px."
            yield i, "tiny", image_size / min(height, width), why
            continue
        small = Image.fromarray(pixels).convert("L")
        small.thumbnail((_SIDE, _SIDE))
        grey = np.asarray(small)
        bright = float(grey.mean())
        if bright < _DARK:
            why = f"Mean brightness {bright:.0f} of 255."
            yield i, "dark", 1 - bright / 255, why
            continue
        sharp = sharpness(grey)
        if sharp < _BLURRED:
            why = f"Sharpness {sharp:.0f}, below the threshold of {_BLURRED:.0f}."
            yield i, "blurred", 1 / (1 + sharp), why


def sharpness(grey: NDArray[Any]) -> float:
    """Variance of the Laplacian of a grayscale image `[h, w]`, 0..255."""
    return float(laplace(np.asarray(grey, np.float64))[1:-1, 1:-1].var())


def audit_table(findings: list[Finding]) -> str:
    """The findings as CSV, from which users delete rows they disagree with."""
    text = io.StringIO()
    # The default line ending makes the writer quote "\r" in paths.
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for f in findings:
        table.writerow(
            (f.path, f.split, f.label, f.kind, f.suggested, f"{f.score:.4f}", f.why)
        )
    return text.getvalue()


def audit_page(findings: list[Finding], images: ImageData, table: str) -> str:
    """The findings as one HTML page with photos and the name of the table."""
    sections = []
    for kind, title in KINDS.items():
        rows = [f for f in findings if f.kind == kind]
        cards = [(f, _picture(images, f)) for f in rows[:_SHOWN]]
        if rows:
            sections.append({"kind": kind, "title": title, "of": rows, "cards": cards})
    total = sum(len(s) for n, s in images.splits.items() if n in ("train", "val"))
    name = Path(images.name).name
    return rendered(
        "audit.html", data=name, sections=sections, total=total, table=table
    )


def _picture(images: ImageData, finding: Finding) -> str | None:
    if finding.kind == "unreadable":
        return None
    pixels = images.splits[finding.split].read(finding.place)
    return data_uri(square(pixels, 224))
