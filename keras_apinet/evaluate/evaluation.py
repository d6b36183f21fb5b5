"""`evaluate_run`: everything that `keras-apinet evaluate` finds out about a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_apinet.bounds import BATCH_SIZE, BOOTSTRAP
from keras_apinet.evaluate.calibration import (
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
)
from keras_apinet.evaluate.intervals import with_intervals
from keras_apinet.evaluate.measuring import measure
from keras_apinet.evaluate.metrics import Scores
from keras_apinet.evaluate.predictions import Predictions, predict_split
from keras_apinet.evaluate.run_data import (
    data_groups,
    default_split,
    known_images,
    open_data,
    run_options,
)
from keras_apinet.runs import Run

if TYPE_CHECKING:
    from keras_apinet.data import ImageData, Split
    from keras_apinet.model import APINet

CALIBRATION = "calibration.json"


def evaluate_run(
    run: Run | str | Path,
    split: str | None = None,
    *,
    which: str = "best",
    data: "str | ImageData | None" = None,
    data_dir: str | None = None,
    tta: str | None = None,
    batch_size: int = 64,
    bootstrap: int = 1000,
    ignore_unknown: bool = False,
) -> dict[str, Any]:
    """Evaluates a trained run and leaves `evaluation_<split>.json` in its folder.

    A temperature is fitted on the validation split first, unless the run has one
    already (`calibration.json`).

    Args:
        run: A run, or its folder.
        split: `"test"`, `"val"` or `"train"`. Default: `"test"`, or `"val"` where the
            data has no test split.
        which: The `"best"` model (default) or the `"last"`.
        data: Where the data set is now, or a data set, if it is not where the training
            found it.
        data_dir: Where TensorFlow Datasets data is now, if it moved.
        tta: Also report the mean over views: `"flip"` or `"five_crop"`. Default: no.
        batch_size: Images at a time; it does not change the result. Default 64.
        bootstrap: Samples for the 95 % intervals, 0 for none. Default 1000.
        ignore_unknown: Leave images of classes out that the model does not know, where
            they would be an error. Default False.

    Returns:
        What the file holds: `metrics` as `{name: {"value", "low", "high"}}`,
        `calibrated`, `per_class`, `confused_pairs`, `groups`, perhaps `tta`, and what
        was evaluated on what.

    Raises:
        APINetError: If the model, the data or the split is missing or does not fit.

    ```python
    result = keras_apinet.evaluate.evaluate_run("runs/birds")
    print(result["metrics"]["top1"])
    ```
    """
    run = run if isinstance(run, Run) else Run.open(run)
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
        options: dict[str, Any] = run_options(run, batch_size)
        views = predict_split(judged.model, judged.split, tta=tta, **options)
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

    model: "APINet"
    images: "ImageData"
    split: "Split"
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
    data: "str | ImageData | None" = None,
    data_dir: str | None = None,
    batch_size: int = 64,
    bootstrap: int = 1000,
    ignore_unknown: bool = False,
) -> Judged:
    """What `evaluate_run` does, with all that a report needs; writes no evaluation."""
    BATCH_SIZE.check("batch_size", batch_size)
    BOOTSTRAP.check("bootstrap", bootstrap)
    images = open_data(run, data, data_dir)
    split = split or default_split(images)
    part = known_images(images, split, run.class_names, ignore_unknown)
    model = run.model(which)
    calibration = calibrate_run(run, model, images, which=which, batch_size=batch_size)
    options: dict[str, Any] = run_options(run, batch_size)
    seen = predict_split(model, part, **options)
    result = {
        "data": images.name,
        "split": split,
        "model": which,
        "images": len(seen),
        "classes": len(run.class_names),
        "left_out": len(images.splits[split]) - len(part),
        "unreadable": seen.unreadable,
        **measure(
            seen,
            run.class_names,
            groups=data_groups(images, run.class_names),
            temperature=None if calibration is None else calibration["temperature"],
            bootstrap=bootstrap,
        ),
    }
    return Judged(model, images, part, seen, calibration, result)


def calibrate_run(
    run: Run,
    model: "APINet",
    images: "ImageData",
    *,
    which: str = "best",
    batch_size: int = 64,
    again: bool = False,
) -> dict[str, Any] | None:
    """Fits a run's temperature on the validation split and keeps it in the run.

    Args:
        run: The run.
        model: Its model.
        images: Its data set.
        which: Which model of the run that is.
        batch_size: Images at a time.
        again: Whether to fit even if `calibration.json` has this model's temperature.

    Returns:
        What `calibration.json` holds: `temperature`, `ece_before`, `ece_after`,
        `nll_before`, `nll_after`, `images`, `model`; `None` without a validation split.
    """
    known = run.read(CALIBRATION)
    if known is not None and known.get("model") == which and not again:
        return dict(known)
    if "val" not in images.splits:
        return None
    part = known_images(images, "val", run.class_names, ignore_unknown=True)
    seen = predict_split(model, part, **run_options(run, batch_size))
    temperature = fit_temperature(seen.labels, seen.logits)
    result: dict[str, Any] = {"temperature": temperature}
    for when, t in (("before", 1.0), ("after", temperature)):
        pair = (seen.labels, seen.logits)
        result[f"ece_{when}"] = calibration_error(*pair, temperature=t)
        result[f"nll_{when}"] = negative_log_likelihood(*pair, temperature=t)
    result |= {"images": len(seen), "model": which}
    # The file is for the model that predict and export use: the best.
    if which == "best":
        run.write(CALIBRATION, result)
    return result
