"""`keras-apinet report`: everything about a run on one HTML page."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate import plots
from keras_apinet.evaluate.attribution.channels import evenly
from keras_apinet.evaluate.attribution.gallery import Gallery
from keras_apinet.evaluate.attribution.pictures import square
from keras_apinet.evaluate.calibration import reliability
from keras_apinet.evaluate.confusions import confusion_matrix, look_alike_order
from keras_apinet.evaluate.evaluation import Judged, judge
from keras_apinet.evaluate.measures import calibration_words
from keras_apinet.evaluate.open_split import known_images, open_data, run_options
from keras_apinet.evaluate.optional import need, templates
from keras_apinet.evaluate.predictions import predict_split
from keras_apinet.files.outputs import check_output, write_output
from keras_apinet.runs import Run

if TYPE_CHECKING:
    from keras_apinet.data import Split

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
    force: bool = False,
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
        data: Where the data set is now, or a data set; or another to test on, see
            `evaluate_run`.
        data_dir: Where TensorFlow Datasets data is now, if it moved.
        bootstrap: Samples for the 95 % intervals. Default 1000.
        ignore_unknown: Leave images of classes out that the model does not know.
        force: Replace an `out` that this package wrote. The run's own report is always
            written anew.

    Returns:
        The file.

    Raises:
        APINetError: As `evaluate_run`; or if an optional package is missing, or
            something else is at `out`.
    """
    need("matplotlib", "jinja2", "scipy")
    run = run if isinstance(run, Run) else Run.open(run)
    path = run.folder / "report.html" if out is None else Path(out)
    force = force or out is None
    check_output(path, "page", force)
    judged = judge(
        run,
        split,
        which=which,
        data=data,
        data_dir=data_dir,
        bootstrap=bootstrap,
        ignore_unknown=ignore_unknown,
    )
    result, seen = judged.result, judged.seen
    run.write(f"evaluation_{result['split']}.json", result)
    train = _training_images(run, judged, data_dir)
    gallery = Gallery(run, judged.model, judged.split, seen, train, judged.temperature)
    options: dict[str, Any] = run_options(run)
    known = None
    if train is not None and seen.wrong.any():
        known = predict_split(judged.model, train, **options)
    html = (
        templates()
        .get_template("report.html")
        .render(
            run=run.folder.resolve().name,
            data=Path(result["data"]).name,
            settings=run.settings,
            versions=run.description.get("versions", {}),
            result=result,
            fitted_on=(judged.calibration or {}).get("images"),
            sureness=calibration_words(result),
            plots=_plots(run, judged),
            advice=(run.read("advice.json") or {}).get("advice", []),
            pairs=gallery.confused_pairs(result["confused_pairs"]),
            errors=gallery.worst_errors(known),
        )
    )
    write_output(path, html, force)
    return path


def _training_images(run: Run, judged: Judged, data_dir: str | None) -> "Split | None":
    """Training images to look for neighbours in, if the run's own data is there."""
    images = judged.images
    if judged.result["given"]:
        try:
            images = open_data(run, data_dir=data_dir)
        except APINetError:
            return None
    if "train" not in images.splits:
        return None
    train = known_images(images, "train", run.class_names, ignore_unknown=True)
    return train.take(evenly(train, _TRAINING_IMAGES))


def _plots(run: Run, judged: Judged) -> dict[str, Any]:
    seen = judged.seen
    names = run.class_names
    log = read_log(run.folder / "log.csv")
    order = look_alike_order(seen.labels, seen.logits, seen.features)
    present = np.bincount(seen.labels, minlength=len(names)) > 0
    predicted = np.bincount(seen.predicted, minlength=len(names)) > 0
    order = order[(present | predicted)[order]]
    places = projection(seen.features)
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
            if judged.temperature == 1
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


def projection(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features `[n, D]` on their two principal components, `[n, 2]`."""
    x = features.astype(np.float64) - features.mean(axis=0)
    _, axes = np.linalg.eigh(x.T @ x)
    places = np.zeros((len(x), 2))
    found = x @ axes[:, ::-1][:, :2]
    places[:, : found.shape[1]] = found
    return places


def spread(places: NDArray[np.float64], cells: int = 13) -> list[int]:
    """One point of each used cell of a grid over the map: images do not overlap."""
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    grid = (places - low) / np.maximum(extent, 1e-9) * (cells - 1e-6)
    cell = grid.astype(int)
    distance = np.abs(grid - cell - 0.5).max(axis=1)
    best: dict[tuple[int, ...], int] = {}
    for i in np.argsort(distance, kind="stable").tolist():
        best.setdefault(tuple(cell[i].tolist()), i)
    return sorted(best.values())
