"""`keras-apinet report`: everything about a run on one HTML page."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from keras_apinet.errors import APINetError
from keras_apinet.evaluate import plots
from keras_apinet.evaluate.calibration import reliability
from keras_apinet.evaluate.channels import evenly
from keras_apinet.evaluate.confusions import confusion_matrix, look_alike_order
from keras_apinet.evaluate.evaluation import Judged, judge
from keras_apinet.evaluate.extras import need, templates
from keras_apinet.evaluate.flat_map import flat_map, method, spread
from keras_apinet.evaluate.gallery import Gallery
from keras_apinet.evaluate.pictures import square
from keras_apinet.evaluate.predictions import predict_split
from keras_apinet.evaluate.run_data import known_images, run_options
from keras_apinet.runs import Run, write_atomically

# Training images to look for neighbours in.
_TRAINING_IMAGES = 4000


def write_report(
    run: Run | str | Path,
    out: str | Path | None = None,
    *,
    split: str | None = None,
    which: str = "best",
    data: Any = None,
    data_dir: str | None = None,
    bootstrap: int = 1000,
    ignore_unknown: bool = False,
) -> Path:
    """Writes one HTML file about a run: figures, curves, confusions, photos, recipe.

    It opens from disk without a network. The evaluation is also left in the run, as
    `evaluate_run` does.

    Args:
        run: A run, or its folder.
        out: The file. Default: `report.html` in the run folder.
        split: `"test"`, `"val"` or `"train"`. Default: `"test"`, or `"val"` where the
            data has no test split.
        which: The `"best"` model (default) or the `"last"`.
        data: Where the data set is now, or a data set, if it moved.
        data_dir: Where TensorFlow Datasets data is now, if it moved.
        bootstrap: Samples for the 95 % intervals. Default 1000.
        ignore_unknown: Leave images of classes out that the model does not know.

    Returns:
        The file.

    Raises:
        APINetError: As `evaluate_run`; or if an optional package is missing.
    """
    need("matplotlib", "jinja2", "scipy")
    run = run if isinstance(run, Run) else Run.open(run)
    judged = judge(
        run,
        split,
        which=which,
        data=data,
        data_dir=data_dir,
        bootstrap=bootstrap,
        ignore_unknown=ignore_unknown,
    )
    result, seen, calibration = judged.result, judged.seen, judged.calibration
    run.write(f"evaluation_{result['split']}.json", result)
    train = known_images(judged.images, "train", run.class_names, ignore_unknown=True)
    train = train.take(evenly(train, _TRAINING_IMAGES))
    gallery = Gallery(run, judged.model, judged.split, seen, train, judged.temperature)
    options: dict[str, Any] = run_options(run)
    known = predict_split(judged.model, train, **options) if seen.wrong.any() else None
    html = (
        templates()
        .get_template("report.html")
        .render(
            run=run.folder.resolve().name,
            data=Path(result["data"]).name,
            settings=run.settings,
            versions=run.description.get("versions", {}),
            result=result,
            calibration=calibration,
            plots=_plots(run, judged),
            pairs=gallery.confused_pairs(result["confused_pairs"]),
            errors=[] if known is None else gallery.worst_errors(known),
            method=method(seen.features),
        )
    )
    path = run.folder / "report.html" if out is None else Path(out)
    write_atomically(path, html)
    return path


def _plots(run: Run, judged: Judged) -> dict[str, Any]:
    seen = judged.seen
    names = run.class_names
    log = read_log(run.folder / "log.csv")
    order = look_alike_order(seen.labels, seen.logits, seen.features)
    present = np.bincount(seen.labels, minlength=len(names)) > 0
    predicted = np.bincount(seen.predicted, minlength=len(names)) > 0
    order = order[(present | predicted)[order]]
    places = flat_map(seen.features)
    pair = (seen.labels, seen.logits)
    table = judged.result["per_class"]
    return {
        "curves": plots.curves(log) if log else None,
        "classes": plots.per_class(
            [row["class"] for row in table],
            [row["accuracy"] for row in table],
            [row["images"] for row in table],
        ),
        "reliability": plots.reliability_diagram(
            reliability(*pair),
            None
            if judged.calibration is None
            else reliability(*pair, temperature=judged.temperature),
        ),
        "confusion": plots.confusion(
            confusion_matrix(seen.labels, seen.predicted, len(names)), names, order
        ),
        "many": len(order) > 30,
        "features": plots.feature_map(
            places,
            ~seen.wrong,
            [
                (i, square(judged.split.read(int(seen.positions[i])), 56))
                for i in spread(places)
            ],
        ),
    }


def read_log(path: Path) -> dict[str, list[float]]:
    """The columns of a training log; nothing if there is no line in it."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            return {}
        return {key: [float(row[key] or "nan") for row in rows] for key in rows[0]}
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise APINetError(
            f"The training log {str(path)!r} cannot be read ({error}); remove it, or "
            "the lines that are damaged."
        ) from error
