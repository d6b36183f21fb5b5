"""`evaluate_run`: everything that `keras-apinet evaluate` finds out about a model."""

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
    """Evaluates a trained run and leaves `evaluation_<split>.json` in its folder.

    The temperature is the one that the training left (`calibration.json`); it is
    fitted on the run's validation split if it is missing or belongs to other weights.

    Args:
        run: A run, or its folder.
        split: `"test"`, `"val"` or `"train"`. Default: `"test"`, or `"val"` where the
            data has no test split.
        which: The `"best"` model (default) or the `"last"`.
        data: Where the run's data set is now, or a data set; or another data set to
            test the model on: its test split, or all of its images if it has no splits.
        data_dir: Where TensorFlow Datasets data is now, if it moved.
        tta: Also report the mean over views: `"flip"` or `"five_crop"`. Default: no.
        batch_size: Images at a time; it does not change the result. Default 64.
        bootstrap: Samples for the 95 % intervals of figures that are not shares, 0 for
            none. Default 1000.
        ignore_unknown: Leave images of classes out that the model does not know, where
            they would be an error. Default False.

    Returns:
        What the file holds: `metrics` as `{name: {"value", "low", "high", "images"}}`,
        `confidence`, `calibrated`, `per_class`, `confused_pairs`, `groups`, perhaps
        `tta`, what was evaluated on what, and `warnings`: sentences on why some figures
        cannot be believed.

    Raises:
        APINetError: If the model, the data or the split is missing or does not fit.

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
    """A run's model, what it said about a split, and the figures of that."""

    model: APINet
    images: ImageData
    split: Split
    seen: Predictions
    calibration: dict[str, Any] | None
    result: dict[str, Any]

    @property
    def temperature(self) -> float:
        """What the logits are divided by; 1 without a calibration."""
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
    """What `evaluate_run` does, with all that a report needs; writes no evaluation.

    With `stored`, features that lie in the run's folder spare the pass over the photos.
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
        # Another set than the run's own, and judged whole.
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
    """What a model says of rows of a split, by the features in the run's folder."""
    part = known_images(images, split, run.class_names, ignore_unknown=True)
    mark = files.features_fingerprint(run, model, images)
    path = run.folder / file_of(files.FEATURES, which)
    kept = files.read_features(path, mark, model.feature_size).get(split)
    # Where photos could not be read, nobody would hear of it.
    if kept is None or not np.array_equal(kept.labels, part.labels):
        return None
    features, labels = kept.features[rows], kept.labels[rows]
    logits = kept.logits(model)[rows]
    return Predictions(labels, logits, features, np.arange(len(labels)))


def _warnings(result: dict[str, Any], calibration: dict[str, Any] | None) -> list[str]:
    """Reasons to doubt the figures of a split, in sentences."""
    found = [few_images(result["images"])]
    if result["split"] == "val" and not result["given"]:
        found.append(
            "The best model was chosen by these validation images, so its figures on "
            "them are a little too high; a test split, or --data FOLDER, tells more."
        )
    elif result["split"] == "train" and not result["given"]:
        found.append(
            "The model was trained on these images: the figures say nothing about "
            "others."
        )
    if calibration is not None:
        if result["given"] or result["split"] == "test":
            found.append(disagreement(calibration, result["metrics"]["top1"]))
        raised = raised_errors(result)
        if raised:
            found.append(
                f"On these images the temperature raised {' and '.join(raised)}: the "
                "validation images that it was fitted on are unlike them, or too few."
            )
    if result["left_out"]:
        found.append(
            f"{result['left_out']:,} images of classes that the model does not know "
            "were left out; it would name one of its own classes for each of them."
        )
    return [sentence for sentence in found if sentence]


def open_data(
    run: Run, data: str | ImageData | None = None, data_dir: str | None = None
) -> ImageData:
    """The run's data set; if it moved, an error that says where it was."""
    if data is not None and not isinstance(data, (str, Path)):
        return data
    was = run.description["data"].get("load", {}).get("name")
    try:
        return run.data(None if data is None else str(data), data_dir)
    except (APINetError, OSError) as error:
        if data is not None:
            raise
        raise APINetError(
            f"The data of this run was at {was!r} when it was trained, and cannot be "
            f"read there now ({error}); say where it is with --data."
        ) from error


def open_judged_data(
    run: Run, data: str | ImageData | None = None, data_dir: str | None = None
) -> tuple[ImageData, bool]:
    """The data to judge a run on, and whether it is another set than the run's own.

    The run's own data, moved or not, has the splits of the training; a data set is
    taken for it. Another set is a test set: it keeps its splits if it has any, and is
    judged whole if it has none.
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
    """Whether the data at a place is what the run was trained on, or a copy of it."""
    recorded = run.description["data"]
    load = recorded.get("load", {})
    was = str(load.get("name", ""))
    if str(data) == was or (was and Path(data).resolve() == Path(was).resolve()):
        return True
    if not was and "fingerprint" not in recorded:
        return False  # nobody knows
    try:
        there = run.data(str(data), data_dir)
    except APINetError:
        return False  # it may not do for training, and be a good test set
    known = recorded.get("fingerprint", there.fingerprint())
    if there.fingerprint() != known:
        return False
    try:
        original = run.data()
    except APINetError:
        return True  # it moved
    # Files of other photos may bear the same names.
    if original.fingerprint() != there.fingerprint():
        return False
    first, second = original.splits["train"], there.splits["train"]
    for i in range(len(first)):
        with contextlib.suppress(APINetError):  # training left it out, too
            return np.array_equal(first.read(i), second.read(i))
    return False
