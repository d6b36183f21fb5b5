"""Pooled features of a run's photos, cached in its folder, and of other photos."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data import ImageData, Split
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.evaluation import open_data
from keras_apinet.evaluate.predictions import known_images, predict_split, run_options
from keras_apinet.files.features import (
    FEATURES,
    Features,
    features_fingerprint,
    keep_features,
    read_features,
)
from keras_apinet.files.outputs import check_output, write_output
from keras_apinet.files.run_shapes import file_of
from keras_apinet.model.apinet import APINet
from keras_apinet.runs import Run


def run_features(
    run: Run,
    model: APINet,
    images: ImageData | None = None,
    *,
    which: str = "best",
    splits: Sequence[str] = ("train", "val"),
) -> dict[str, Features]:
    """The pooled features of a run's splits, loaded from its folder or computed.

    Args:
        run: The run.
        model: Its model.
        images: Its data set. By default, loaded from its original location.
        which: Which model of the run it is.
        splits: The splits; those that the data set does not have are skipped.
    """
    images = open_data(run) if images is None else images
    path = run.folder / file_of(FEATURES, which)
    mark = features_fingerprint(run, model, images)
    stored = read_features(path, mark, model.feature_size)
    found, new = {}, False
    for name in splits:
        if name not in images.splits:
            continue
        part = known_images(images, name, run.class_names, ignore_unknown=True)
        if name not in stored:
            stored[name] = photo_features(run, model, part)
            new = True
        names = tuple(part.reference(int(i)) for i in stored[name].positions)
        found[name] = replace(stored[name], names=names)
    if new:
        keep_features(path, mark, stored)
    return found


def photo_features(run: Run, model: APINet, split: Split) -> Features:
    """The features of any photos, preprocessed like the run's own."""
    seen = predict_split(model, split, **run_options(run))
    names = tuple(split.reference(int(i)) for i in seen.positions)
    return Features(seen.features, seen.labels, seen.positions, names)


def check_features_file(path: str | Path, force: bool = False) -> None:
    """Checks that features of photos may be written to a path, `.npz` or `.csv`."""
    kinds = {".npz": "NumPy file of features", ".csv": "table of features"}
    ending = Path(path).suffix.lower()
    if ending not in kinds:
        raise APINetError(f"{str(path)!r} must end in one of {', '.join(kinds)}.")
    check_output(path, kinds[ending], force)


def write_photo_features(
    path: str | Path,
    photos: Sequence[str],
    features: NDArray[np.float32],
    force: bool = False,
) -> None:
    """Writes pooled features `[n, D]` of photos, one row each, as `.npz` or `.csv`.

    The `.npz` file has `photos` `[n]` and `features` `[n, D]` float32; the table has
    the columns `photo`, `feature_0`, `feature_1`, and so on.
    """
    check_features_file(path, force)
    if Path(path).suffix.lower() == ".csv":
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["photo", *(f"feature_{i}" for i in range(features.shape[1]))])
        for photo, row in zip(photos, features, strict=True):
            table.writerow([photo, *(f"{value:.6g}" for value in row)])
        write_output(path, text.getvalue(), force)
        return
    content = io.BytesIO()
    named = {"photos": np.array(photos, str), "keras-apinet": np.array("features")}
    np.savez(content, features=features, **named)  # type: ignore[arg-type]
    write_output(path, content.getvalue(), force)
