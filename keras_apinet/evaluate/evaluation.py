"""`evaluate_run`: the evaluation behind `keras-apinet evaluate`."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_apinet import data as sources
from keras_apinet.data import ImageData, Split
from keras_apinet.errors import APINetError
from keras_apinet.evaluate.calibration import calibrate_run
from keras_apinet.evaluate.measures import compute_metrics, raised_errors
from keras_apinet.evaluate.metrics import Scores, with_intervals
from keras_apinet.evaluate.predictions import (
    Predictions,
    data_groups,
    known_images,
    predict_split,
    run_options,
)
from keras_apinet.files import features as files
from keras_apinet.files.bounds import BATCH_SIZE, BOOTSTRAP
from keras_apinet.files.run_shapes import file_of
from keras_apinet.model.apinet import APINet
from keras_apinet.runs import Run
from keras_apinet.shares import disagreement, few_images


def evaluate_run(
    run: Run | str | Path,
    split: str | None = None,
    *,
    which: str = "best",
    data: str | ImageData | None = None,
    data_dir: str | None = None,
    tta: str | None = None,
    batch_size: int = 64,
    bootstrap: int = 1000,
    ignore_unknown: bool = False,
) -> dict[str, Any]:
    """Evaluates a trained run and writes `evaluation_<split>.json` to its folder.

    Uses the temperature fitted at the end of training (`calibration.json`), or fits it
    on the run's validation split if it is missing or belongs to other weights.

    Args:
        run: A run, or its folder.
        split: `"test"`, `"val"` or `"train"`. Defaults to `"test"`, or to `"val"` if
            the data has no test split.
        which: The `"best"` model (default) or the `"last"`.
        data: The run's data set or its new location, or another data set to test the
            model on: its test split, or all of its images if it has no splits.
        data_dir: New location of TensorFlow Datasets data, if moved.
        tta: Test-time augmentation to also report, the mean over views: `"flip"` or
            `"five_crop"`. By default, none.
        batch_size: Batch size; it does not affect the result. Defaults to 64.
        bootstrap: Samples for the 95 % intervals of metrics that are not fractions of
            images; 0 for none. Defaults to 1000.
        ignore_unknown: Whether to skip images of classes that the model does not know,
            instead of raising an error. Defaults to False.

    Returns:
        The content of the file: `metrics` as
        `{name: {"value", "low", "high", "images"}}`, `confidence`, `calibrated`,
        `per_class`, `confused_pairs`, `groups`, `tta` if requested, the model and the
        data, and `warnings`: sentences on why some metrics may be unreliable.

    Raises:
        APINetError: If the model, the data or the split is missing or incompatible.

    ```python
    result = keras_apinet.evaluate.evaluate_run("runs/birds")
    print(result["metrics"]["top1"])
    ```
    """
    run = Run.open(run)
    judged = judge(
        run,
        split,
        which=which,
        data=data,
        data_dir=data_dir,
        batch_size=batch_size,
        bootstrap=bootstrap,
        ignore_unknown=ignore_unknown,
    )
    result = judged.result
    if tta:
        views = predict_split(
            judged.model,
            judged.split,
            tta=tta,
            what="Evaluating views",
            **run_options(run, batch_size),
        )
        scores = Scores.of(views.labels, views.logits, views.features)
        result["tta"] = {
            "views": tta,
            "metrics": with_intervals(scores, repeats=bootstrap),
        }
    run.write(f"evaluation_{result['split']}.json", result)
    return result


@dataclass(frozen=True, eq=False)
class Judged:
    """A run's model, its predictions on a split, and the metrics."""

    model: APINet
    images: ImageData
    split: Split
    seen: Predictions
    calibration: dict[str, Any] | None
    result: dict[str, Any]

    @property
    def temperature(self) -> float:
        """Divisor of the logits; 1 without calibration."""
        return 1.0 if self.calibration is None else self.calibration["temperature"]


def judge(
    run: Run,
    split: str | None = None,
    *,
    which: str = "best",
    data: str | ImageData | None = None,
    data_dir: str | None = None,
    batch_size: int = 64,
    bootstrap: int = 1000,
    ignore_unknown: bool = False,
    stored: bool = False,
) -> Judged:
    """Evaluates like `evaluate_run` and returns all intermediate results.

    It does not write the evaluation. With `stored`, features cached in the run's folder
    are used instead of the photos.
    """
    BATCH_SIZE.check("batch_size", batch_size)
    BOOTSTRAP.check("bootstrap", bootstrap)
    images, given = open_judged_data(run, data, data_dir)
    splits = ("test", "val", *images.splits)
    split = split or next(name for name in splits if name in images.splits)
    part = known_images(images, split, run.class_names, ignore_unknown)
    model = run.model(which)
    calibration = calibrate_run(
        run, model, None if given else images, which=which, batch_size=batch_size
    )
    seen = None
    if stored:
        seen = stored_predictions(run, model, images, split, which, slice(None))
    if seen is None:
        options = run_options(run, batch_size)
        seen = predict_split(model, part, what="Evaluating", **options)
        if not given and not seen.unreadable:
            mark = files.features_fingerprint(run, model, images)
            kept = {split: files.Features(seen.features, seen.labels, seen.positions)}
            files.keep_features(run.folder / file_of(files.FEATURES, which), mark, kept)
    result = {
        "data": images.name,
        "split": split,
        # Whether it is another data set, and evaluated as a whole.
        "given": given,
        "whole": given and set(images.splits) == {split},
        "model": which,
        "images": len(seen),
        "classes": len(run.class_names),
        "left_out": len(images.splits[split]) - len(part),
        "unreadable": seen.unreadable,
        **compute_metrics(
            seen,
            run.class_names,
            groups=data_groups(images, run.class_names),
            temperature=(calibration or {}).get("temperature"),
            bootstrap=bootstrap,
        ),
    }
    if calibration is not None:
        result["calibrated"]["reason"] = calibration.get("reason")
    result["warnings"] = _warnings(result, calibration)
    return Judged(model, images, part, seen, calibration, result)


def stored_predictions(
    run: Run, model: APINet, images: ImageData, split: str, which: str, rows: Any
) -> Predictions | None:
    """Predictions for rows of a split from cached features, or `None`."""
    part = known_images(images, split, run.class_names, ignore_unknown=True)
    mark = files.features_fingerprint(run, model, images)
    path = run.folder / file_of(files.FEATURES, which)
    kept = files.read_features(path, mark, model.feature_size).get(split)
    # A cache without unreadable photos would hide them from the report.
    if kept is None or not np.array_equal(kept.labels, part.labels):
        return None
    features, labels = kept.features[rows], kept.labels[rows]
    logits = kept.logits(model)[rows]
    return Predictions(labels, logits, features, np.arange(len(labels)))


def _warnings(result: dict[str, Any], calibration: dict[str, Any] | None) -> list[str]:
    """Reasons why the metrics of a split may be unreliable, as sentences."""
    found = [few_images(result["images"])]
    if result["split"] == "val" and not result["given"]:
        found.append(
            "The best model was selected on these validation images, so its metrics "
            "are slightly optimistic; use a test split, or --data FOLDER."
        )
    elif result["split"] == "train" and not result["given"]:
        found.append(
            "The model was trained on these images, so the metrics do not apply to "
            "others."
        )
    if calibration is not None:
        if result["given"] or result["split"] == "test":
            found.append(disagreement(calibration, result["metrics"]["top1"]))
        raised = raised_errors(result)
        if raised:
            found.append(
                f"On these images, the temperature raised {' and '.join(raised)}: the "
                "validation images it was fitted on are different, or too few."
            )
    if result["left_out"]:
        found.append(
            f"{result['left_out']:,} images of classes that the model does not know "
            "were skipped; it would misclassify all of them."
        )
    return [sentence for sentence in found if sentence]


def open_data(
    run: Run, data: str | ImageData | None = None, data_dir: str | None = None
) -> ImageData:
    """Loads the run's data set; raises an error with its old location if it moved."""
    if data is not None and not isinstance(data, (str, Path)):
        return data
    was = run.description["data"].get("load", {}).get("name")
    try:
        return run.data(None if data is None else str(data), data_dir)
    except (APINetError, OSError) as error:
        if data is not None:
            raise
        raise APINetError(
            f"The data of this run was at {was!r} during training, but cannot be read "
            f"there now ({error}); give its new location with --data."
        ) from error


def open_judged_data(
    run: Run, data: str | ImageData | None = None, data_dir: str | None = None
) -> tuple[ImageData, bool]:
    """The data to evaluate a run on, and whether it differs from the run's own.

    The run's own data, moved or not, has the splits of training; an `ImageData` is
    assumed to be that. Other data is a test set: it keeps its splits, or is evaluated
    as a whole if it has none.
    """
    if not isinstance(data, (str, Path)) or _is_own(run, data, data_dir):
        return open_data(run, data, data_dir), False
    load = run.description["data"].get("load", {})
    options = {key: load[key] for key in ("level", "seed") if key in load}
    images = sources.load(str(data), data_dir=data_dir, validation=None, **options)
    if set(images.splits) == {"train"}:
        images = replace(images, splits={"test": images.splits["train"]})
    return images, True


def _is_own(run: Run, data: str | Path, data_dir: str | None) -> bool:
    """Whether a path holds the run's training data, or a copy of it."""
    recorded = run.description["data"]
    load = recorded.get("load", {})
    was = str(load.get("name", ""))
    if str(data) == was or (was and Path(data).resolve() == Path(was).resolve()):
        return True
    if not was and "fingerprint" not in recorded:
        return False  # unknown
    try:
        there = run.data(str(data), data_dir)
    except APINetError:
        return False  # not usable for training, but maybe for testing
    known = recorded.get("fingerprint", there.fingerprint())
    if there.fingerprint() != known:
        return False
    try:
        original = run.data()
    except APINetError:
        return True  # it moved
    # Other photos may have the same file names.
    if original.fingerprint() != there.fingerprint():
        return False
    first, second = original.splits["train"], there.splits["train"]
    for i in range(len(first)):
        with contextlib.suppress(APINetError):  # training skipped it, too
            return np.array_equal(first.read(i), second.read(i))
    return False
