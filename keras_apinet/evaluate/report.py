"""`keras-apinet report`: a run on one HTML page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data import Split
from keras_apinet.errors import APINetError
from keras_apinet.evaluate import evaluation, plots
from keras_apinet.evaluate.calibration import reliability
from keras_apinet.evaluate.contrast_maps import contrast, data_uri, with_heat
from keras_apinet.evaluate.feature_maps import FeatureMaps, evenly
from keras_apinet.evaluate.measures import calibration_words, confusion_matrix
from keras_apinet.evaluate.pages import advice_words, need, rendered, unknown_words
from keras_apinet.evaluate.predictions import (
    Predictions,
    inside_box,
    known_images,
    predict_split,
    run_options,
)
from keras_apinet.files.outputs import check_output, write_output
from keras_apinet.progress import counted
from keras_apinet.runs import FIGURES, Run

_PAIRS, _ERRORS, _NEAREST = 6, 12, 3
# Training images to search for neighbors, and images on the feature map.
_TRAINING_IMAGES, _DOTS = 4000, 600


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
    """Writes an HTML report of a run: metrics, curves, confusions, photos, recipe.

    The file is self-contained and works offline. The evaluation is also stored in the
    run, as by `evaluate_run`.

    Args:
        run: A run, or its folder.
        out: The file. Defaults to `report.html` in the run folder.
        split: `"test"`, `"val"` or `"train"`; see `evaluate_run`.
        which: The `"best"` model (default) or the `"last"`.
        data: The run's data set or its new location, or another data set to test on;
            see `evaluate_run`.
        data_dir: New location of TensorFlow Datasets data, if moved.
        bootstrap: Samples for the 95 % intervals. Defaults to 1000.
        ignore_unknown: Whether to skip images of classes that the model does not know.
        force: Whether to replace an `out` that this package wrote. The run's own report
            is always rewritten.

    Returns:
        The path of the file.

    Raises:
        APINetError: As for `evaluate_run`, for a missing package, or if `out` exists.
    """
    need("matplotlib", "jinja2")
    run = Run.open(run)
    path = run.folder / "report.html" if out is None else Path(out)
    force = force or out is None
    check_output(path, "page", force)
    judged = evaluation.judge(
        run,
        split,
        which=which,
        data=data,
        data_dir=data_dir,
        bootstrap=bootstrap,
        ignore_unknown=ignore_unknown,
        stored=True,
    )
    result = judged.result
    run.write(f"evaluation_{result['split']}.json", result)
    gallery = Gallery(run, judged)
    html = rendered(
        "report.html",
        run=run.folder.resolve().name,
        data=Path(result["data"]).name,
        settings=run.settings,
        versions=run.description["versions"],
        result=result,
        fitted_on=(judged.calibration or {}).get("images"),
        sureness=calibration_words(result),
        plots=_plots(run, judged),
        dots=gallery.dots(),
        unknown=unknown_words(run, result),
        advice=advice_words(run, result),
        pairs=gallery.confused_pairs(result["confused_pairs"]),
        errors=gallery.worst_errors(_training_images(run, judged, data_dir)),
    )
    write_output(path, html, force)
    return path


def _training_images(
    run: Run, judged: evaluation.Judged, data_dir: str | None
) -> tuple[Split, Predictions] | None:
    """Training images to search for neighbors of errors, and their predictions."""
    images, model = judged.images, judged.model
    if judged.result["given"]:
        try:
            images = evaluation.open_data(run, data_dir=data_dir)
        except APINetError:
            return None
    if "train" not in images.splits or not judged.seen.wrong.any():
        return None
    train = known_images(images, "train", run.class_names, ignore_unknown=True)
    rows = evenly(train, _TRAINING_IMAGES)
    near, which = train.take(rows), judged.result["model"]
    known = evaluation.stored_predictions(run, model, images, "train", which, rows)
    return near, known or predict_split(model, near, **run_options(run))


def _plots(run: Run, judged: evaluation.Judged) -> dict[str, Any]:
    seen, names = judged.seen, run.class_names
    log, head = plots.read_log(run.folder)
    order = plots.look_alike_order(seen.labels, seen.logits, seen.features)
    present = np.bincount(seen.labels, minlength=len(names)) > 0
    predicted = np.bincount(seen.predicted, minlength=len(names)) > 0
    order = order[(present | predicted)[order]]
    pair = (seen.labels, seen.logits)
    shown = [("Accuracy by confidence", reliability(*pair))]
    if judged.temperature != 1:
        cooled = reliability(*pair, temperature=judged.temperature)
        shown = [("Before calibration", shown[0][1]), ("After calibration", cooled)]
    best = (run.read(FIGURES) or {}).get("best_epoch")
    return {
        "curves": plots.curves(log, best, head) if log else None,
        "reliability": [(t, plots.reliability_diagram(table, t)) for t, table in shown],
        "confusion": plots.confusion(
            confusion_matrix(seen.labels, seen.predicted, len(names)), names, order
        ),
        "shown": len(order),
    }


@dataclass(frozen=True, eq=False)
class Gallery:
    """Selects photos that explain the errors of a model on a split."""

    run: Run
    judged: evaluation.Judged

    def _prepared(self, split: Split, position: int) -> NDArray[np.uint8]:
        from keras_apinet.data import prepare

        pixels, told = split.read(position), self.run.settings.get
        if told("box_crop"):
            pixels = inside_box(pixels, split, position)
        return prepare(pixels, self.run.image_size, resize=told("resize", "fit"))

    def _figure(self, picture: NDArray[np.uint8], title: str) -> dict[str, str]:
        return {"image": data_uri(picture, min(224, len(picture))), "title": title}

    def dots(self) -> list[dict[str, Any]]:
        """Positions of the images on a 640 x 480 map, with labels and thumbnails."""
        names, seen, split = self.run.class_names, self.judged.seen, self.judged.split
        rows = evenly(split.take(seen.positions), _DOTS)
        places, apart = plots.map_places(seen.features, rows)
        return [
            {
                "x": x,
                "y": y,
                "open": i in apart,
                "true": names[int(seen.labels[i])],
                "predicted": names[int(seen.predicted[i])],
                "file": _file(split, place),
                "image": data_uri(self._prepared(split, place), 96, quality=70),
            }
            for i, place, (x, y) in zip(
                rows, seen.positions[rows].tolist(), places.tolist(), strict=True
            )
        ]

    def confused_pairs(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """For each pair: a misclassified image, next to a correct one."""
        names, seen, split = self.run.class_names, self.judged.seen, self.judged.split
        model = self.judged.model
        try:
            feature_maps = FeatureMaps(model)
        except APINetError:  # the features have no positions
            return []
        gallery = []
        for pair in counted("Explaining confused pairs", pairs[:_PAIRS], "pairs"):
            a, b = (names.index(name) for name in pair["classes"])
            lost = np.flatnonzero((seen.labels == a) & (seen.predicted == b))
            own = np.flatnonzero(seen.labels == b)
            right = own[seen.predicted[own] == b]
            candidates = right if len(right) else own
            if not len(candidates):
                continue
            x = int(surest(seen, split, lost)[0])
            gaps = seen.features[candidates] - seen.features[x]
            y = int(candidates[(gaps**2).sum(axis=1).argmin()])
            places = seen.positions[[x, y]].tolist()
            photos = [self._prepared(split, place) for place in places]
            found = contrast(model, *photos, classes=(a, b), feature_maps=feature_maps)
            first, second = pair["classes"]
            titles = (f"{first}, predicted as {second}", f"{second}, close to it")
            shown = [
                self._figure(picture, words)
                for photo, title, where in zip(photos, titles, found.where, strict=True)
                for picture, words in (
                    (photo, title),
                    (with_heat(photo, where), "Deciding regions"),
                )
            ]
            gallery.append(pair | {"photos": shown})
        return gallery

    def worst_errors(
        self, training: tuple[Split, Predictions] | None
    ) -> list[dict[str, Any]]:
        """The most confident errors, each with the nearest training images.

        They are sorted by `surest`.
        """
        names, seen, split = self.run.class_names, self.judged.seen, self.judged.split
        sure = seen.probabilities(self.judged.temperature)
        order = surest(seen, split, np.flatnonzero(seen.wrong))[:_ERRORS]
        result = []
        for i in counted("Showing the most confident errors", order.tolist()):
            label, guess = int(seen.labels[i]), int(seen.predicted[i])
            near: list[dict[str, str]] = []
            if training is not None:
                train, known = training
                gaps = ((known.features - seen.features[i]) ** 2).sum(axis=1)
                near = [
                    self._figure(
                        self._prepared(train, int(known.positions[j])),
                        names[int(known.labels[j])],
                    )
                    for j in np.argsort(gaps, kind="stable")[:_NEAREST].tolist()
                ]
            position = int(seen.positions[i])
            photo = self._figure(self._prepared(split, position), names[label])
            result.append(
                {
                    "true": names[label],
                    "predicted": names[guess],
                    "probability": float(sure[i, guess]),
                    "own": float(sure[i, label]),
                    "file": _file(split, position),
                    "photo": photo,
                    "nearest": near,
                }
            )
        return result


def surest(
    seen: Predictions, split: Split, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sorts `rows` of `seen` by confidence, most confident first.

    Confidence is the margin between the two highest logits, because probabilities of
    confident predictions all round to 1. Ties are sorted by a checksum of the file
    name, so that no class is favored by the order of files.
    """
    second, first = np.sort(seen.logits[rows].astype(np.float64), axis=1)[:, -2:].T
    files = [_file(split, int(seen.positions[i])) for i in rows]
    sums = [crc32(file.encode("utf-8", "surrogateescape")) for file in files]
    return np.asarray(rows[np.lexsort((sums, second - first))])


def _file(split: Split, position: int) -> str:
    return "/".join(split.reference(position).split("/")[-2:])
