"""The photos of a report: look-alikes that are confused, and the surest errors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.attribution.contrast import contrast
from keras_apinet.evaluate.attribution.feature_maps import FeatureMaps
from keras_apinet.evaluate.attribution.pictures import data_uri, with_heat
from keras_apinet.evaluate.predictions import Predictions
from keras_apinet.runs import Run

if TYPE_CHECKING:
    from keras_apinet.data import Split
    from keras_apinet.model.apinet import APINet

_PAIRS, _ERRORS, _NEAREST = 6, 12, 3


@dataclass(frozen=True, eq=False)
class Gallery:
    """Picks the photos that explain the errors of a model on a split."""

    run: Run
    model: "APINet"
    split: "Split"
    seen: Predictions
    train: "Split | None"
    temperature: float

    def _prepared(self, split: "Split", position: int) -> NDArray[np.uint8]:
        from keras_apinet.data import prepare

        resize = self.run.settings.get("resize", "fit")
        return prepare(split.read(position), self.run.image_size, resize=resize)

    def _figure(self, picture: NDArray[np.uint8], title: str) -> dict[str, str]:
        return {"image": data_uri(picture, min(224, len(picture))), "title": title}

    def confused_pairs(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """For each pair: an image of one taken for the other, beside a right one."""
        names, seen = self.run.class_names, self.seen
        try:
            feature_maps = FeatureMaps(self.model)
        except APINetError:  # the features have no places
            return []
        gallery = []
        for pair in pairs[:_PAIRS]:
            a, b = (names.index(name) for name in pair["classes"])
            lost = np.flatnonzero((seen.labels == a) & (seen.predicted == b))
            own = np.flatnonzero(seen.labels == b)
            right = own[seen.predicted[own] == b]
            candidates = right if len(right) else own
            if not len(candidates):
                continue
            x = int(surest(seen, self.split, lost)[0])
            gaps = seen.features[candidates] - seen.features[x]
            y = int(candidates[(gaps**2).sum(axis=1).argmin()])
            photos = [
                self._prepared(self.split, int(seen.positions[i])) for i in (x, y)
            ]
            found = contrast(
                self.model, *photos, classes=(a, b), feature_maps=feature_maps
            )
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

    def worst_errors(self, known: Predictions | None) -> list[dict[str, Any]]:
        """The surest wrong answers, each with the nearest training images.

        See `surest` for their order.
        """
        names, seen = self.run.class_names, self.seen
        sure = seen.probabilities(self.temperature)
        wrong = np.flatnonzero(seen.wrong)
        order = surest(seen, self.split, wrong)[:_ERRORS]
        result = []
        for i in order.tolist():
            guess = int(seen.predicted[i])
            near: list[dict[str, str]] = []
            if known is not None and self.train is not None:
                gaps = ((known.features - seen.features[i]) ** 2).sum(axis=1)
                near = [
                    self._figure(
                        self._prepared(self.train, int(known.positions[j])),
                        names[int(known.labels[j])],
                    )
                    for j in np.argsort(gaps, kind="stable")[:_NEAREST].tolist()
                ]
            position = int(seen.positions[i])
            result.append(
                {
                    "true": names[int(seen.labels[i])],
                    "predicted": names[guess],
                    "probability": float(sure[i, guess]),
                    "own": float(sure[i, int(seen.labels[i])]),
                    "file": _file(self.split, position),
                    "photo": self._figure(
                        self._prepared(self.split, position),
                        names[int(seen.labels[i])],
                    ),
                    "nearest": near,
                }
            )
        return result


def surest(
    seen: Predictions, split: "Split", rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Images in the order of how sure the model is of what it says, the surest first.

    That is the margin of the first class's logit over the second's: probabilities of
    sure answers are all 1. Of equal margins those come first whose file names have the
    smaller checksum, so that no class is shown because its files are read first.

    Args:
        seen: What the model says.
        split: The images.
        rows: The rows of `seen` to put in order.

    Returns:
        `rows`, in order.
    """
    second, first = np.sort(seen.logits[rows].astype(np.float64), axis=1)[:, -2:].T
    files = [_file(split, int(seen.positions[i])) for i in rows]
    sums = [crc32(file.encode("utf-8", "surrogateescape")) for file in files]
    return np.asarray(rows[np.lexsort((sums, second - first))])


def _file(split: "Split", position: int) -> str:
    return "/".join(split.reference(position).split("/")[-2:])
