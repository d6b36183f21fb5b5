"""`keras-apinet report`: everything about a run on one HTML page."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate import plots
from keras_apinet.evaluate.calibration import reliability
from keras_apinet.evaluate.channels import evenly
from keras_apinet.evaluate.confusions import confusion_matrix, look_alike_order
from keras_apinet.evaluate.contrast import contrast
from keras_apinet.evaluate.evaluation import (
    Judged,
    judge,
    known_images,
    run_options,
)
from keras_apinet.evaluate.extras import need, templates
from keras_apinet.evaluate.levels import EvidenceLevels
from keras_apinet.evaluate.pictures import data_uri, square, with_heat
from keras_apinet.evaluate.predictions import Predictions, predict_split
from keras_apinet.runs import Run, write_atomically

if TYPE_CHECKING:
    from keras_apinet.data import Split
    from keras_apinet.model import APINet

_PAIRS, _ERRORS, _NEAREST = 6, 12, 3
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
    photos = _Photos(run, judged.model, judged.split, seen, train, judged.temperature)
    options: dict[str, Any] = run_options(run)
    known = (
        predict_split(judged.model, train, **options) if _wrong(seen).any() else None
    )
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
            pairs=photos.confused_pairs(result["confused_pairs"]),
            errors=[] if known is None else photos.worst_errors(known),
            method="UMAP" if _umap() else "principal components",
        )
    )
    path = run.folder / "report.html" if out is None else Path(out)
    write_atomically(path, html)
    return path


def _wrong(seen: Predictions) -> NDArray[np.bool_]:
    return np.not_equal(seen.predicted, seen.labels)


def _plots(run: Run, judged: Judged) -> dict[str, str | None]:
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
        "features": plots.feature_map(
            places,
            ~_wrong(seen),
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
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}
    try:
        return {key: [float(row[key] or "nan") for row in rows] for key in rows[0]}
    except (TypeError, ValueError) as error:
        raise APINetError(
            f"The training log {str(path)!r} cannot be read ({error}); remove it, or "
            "the lines that are damaged."
        ) from error


def _umap() -> Any:
    try:
        import umap
    except ImportError:
        return None
    return umap


def flat_map(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features `[n, D]` in two dimensions, by UMAP if it is installed, else PCA."""
    umap = _umap()
    if umap and len(features) > 15:
        return np.asarray(umap.UMAP(random_state=0).fit_transform(features), np.float64)
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


@dataclass(frozen=True, eq=False)
class _Photos:
    """Picks the photos that explain the errors."""

    run: Run
    model: "APINet"
    split: "Split"
    seen: Predictions
    train: "Split"
    temperature: float

    def _prepared(self, split: "Split", position: int) -> NDArray[np.uint8]:
        from keras_apinet.data import prepare

        resize = self.run.settings.get("resize", "fit")
        return prepare(split.read(position), self.run.image_size, resize=resize)

    def _figure(
        self, picture: NDArray[np.uint8], title: str, lines: Sequence[str] = ()
    ) -> dict[str, Any]:
        side = min(224, len(picture))
        return {"image": data_uri(picture, side), "title": title, "lines": list(lines)}

    def confused_pairs(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """For each pair: an image of one taken for the other, beside a right one."""
        names, seen = self.run.class_names, self.seen
        try:
            levels = EvidenceLevels(self.model)
        except APINetError:  # the features have no places
            return []
        gallery = []
        sure = seen.probabilities(self.temperature)
        for pair in pairs[:_PAIRS]:
            a, b = (names.index(name) for name in pair["classes"])
            lost = np.flatnonzero((seen.labels == a) & (seen.predicted == b))
            own = np.flatnonzero(seen.labels == b)
            right = own[seen.predicted[own] == b]
            candidates = right if len(right) else own
            if not len(candidates):
                continue
            x = int(lost[sure[lost, b].argmax()])
            gaps = seen.features[candidates] - seen.features[x]
            y = int(candidates[(gaps**2).sum(axis=1).argmin()])
            photos = [
                self._prepared(self.split, int(seen.positions[i])) for i in (x, y)
            ]
            found = contrast(self.model, *photos, classes=(a, b), levels=levels)
            first, second = pair["classes"]
            gallery.append(
                pair
                | {
                    "photos": [
                        self._figure(photos[0], f"{first}, taken for {second}"),
                        self._figure(
                            with_heat(photos[0], found.where[0]),
                            "What decides between the two here",
                        ),
                        self._figure(photos[1], f"{second}, close to it"),
                        self._figure(
                            with_heat(photos[1], found.where[1]),
                            "What decides between the two here",
                        ),
                    ]
                }
            )
        return gallery

    def worst_errors(self, known: Predictions) -> list[dict[str, Any]]:
        """The surest wrong answers, each with the nearest training images."""
        names, seen = self.run.class_names, self.seen
        sure = seen.probabilities(self.temperature)
        wrong = np.flatnonzero(_wrong(seen))
        order = wrong[np.argsort(-sure[wrong].max(axis=1), kind="stable")][:_ERRORS]
        result = []
        for i in order.tolist():
            guess = int(seen.predicted[i])
            gaps = ((known.features - seen.features[i]) ** 2).sum(axis=1)
            near = np.argsort(gaps, kind="stable")[:_NEAREST].tolist()
            position = int(seen.positions[i])
            result.append(
                {
                    "true": names[int(seen.labels[i])],
                    "predicted": names[guess],
                    "probability": float(sure[i, guess]),
                    "own": float(sure[i, int(seen.labels[i])]),
                    "file": "/".join(self.split.reference(position).split("/")[-2:]),
                    "photo": self._figure(
                        self._prepared(self.split, position),
                        names[int(seen.labels[i])],
                    ),
                    "nearest": [
                        self._figure(
                            self._prepared(self.train, int(known.positions[j])),
                            names[int(known.labels[j])],
                        )
                        for j in near
                    ],
                }
            )
        return result
