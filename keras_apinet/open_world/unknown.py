"""Unknown photos: a score and thresholds that detect photos of none of the classes.

The score is the sum of two cosine similarities to a class: of the features to the class
prototype, and of the logits to those of an ideal prediction of that class. An exported
file computes it in its graph.
A run stores the thresholds in `unknown.json` and `unknown.npz` (`unknown_last.*` for
the last model); the JSON identifies the model and arrays it belongs to.
"""

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.metrics import class_means, unit
from keras_apinet.files.bounds import KEEP
from keras_apinet.files.features import Features, weights_fingerprint
from keras_apinet.files.io import digest_of, replacing
from keras_apinet.files.run_shapes import file_of
from keras_apinet.runs import Run

if TYPE_CHECKING:
    import keras

    from keras_apinet.model.apinet import APINet

UNKNOWN = "unknown.json"
# Less shrinkage changes decisions of 8-bit files; see benchmarks/unknown.py.
LARGEST_RANK, SHRINKAGE = 256, 0.5
# A layer that outputs logits; exporting divides its kernel by the temperature.
SLOPE = "unknown_slope"
# Held-out photos, over all classes, needed to fit thresholds: 1 in 20 is below.
FEWEST_IMAGES = 40
# Held-out photos at which a class's own quantile weighs as much as the global one.
_CLASS_WEIGHT = 20
# Logits per standard deviation of the margins of known photos.
_STEEPNESS = 4.0
_ARRAYS = ("centre", "projection", "directions", "thresholds")


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Cosine similarity to class prototypes, in a whitened feature space.

    Features are centered and whitened with the within-class covariance, shrunk toward a
    multiple of the identity, then scaled to length 1: `z = (x - m) W / |(x - m) W|`. A
    prototype is the mean z of a class's training photos, scaled to length 1.

    Attributes:
        centre: `[D]` float32, m.
        projection: `[D, r]` float32, W.
        directions: `[C, r]` float32, the prototypes; 0 for a class without photos.
    """

    centre: NDArray[np.float32]
    projection: NDArray[np.float32]
    directions: NDArray[np.float32]

    @classmethod
    def fit(
        cls, features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
    ) -> "Prototypes":
        """Fits prototypes to training features `[n, D]` with labels `[n]`.

        By default, C is the largest label plus one.
        """
        x, y = np.asarray(features, np.float64), np.asarray(labels)
        count = int(y.max()) + 1 if num_classes is None else num_classes
        centre = x.mean(axis=0)
        x = x - centre
        rank = min(LARGEST_RANK, x.shape[1], len(x))
        # The principal directions.
        _, _, axes = np.linalg.svd(x.T @ x, hermitian=True)
        x = x @ axes[:rank].T
        within = x - class_means(x, y, count)[y]
        values, vectors = np.linalg.eigh(within.T @ within / len(x))
        shrunk = (1 - SHRINKAGE) * values + SHRINKAGE * values.mean()
        whitening = vectors / np.sqrt(np.maximum(shrunk, 1e-12 * (1 + values.max())))
        projection = axes[:rank].T @ whitening
        directions = unit(class_means(unit(x @ whitening), y, count))
        small = (part.astype(np.float32) for part in (centre, projection, directions))
        return cls(*small)

    def similarities(self, features: ArrayLike) -> NDArray[np.float32]:
        """Cosine similarities `[n, C]` float32 of `[n, D]` features to each class."""
        x = np.asarray(features, np.float32) - self.centre
        return unit(x @ self.projection) @ self.directions.T


@dataclass(frozen=True, eq=False)
class Unknown:
    """Detects photos that belong to none of the classes.

    Attributes:
        prototypes: Prototypes to compare features with.
        thresholds: `[C]` float32, minimum similarity for each class.
        slope: Scale from margins to logits.
        keep: Fraction of known held-out photos that the thresholds accept.
        by_logits: Whether logits are also compared; false in runs of earlier versions.
    """

    prototypes: Prototypes
    thresholds: NDArray[np.float32]
    slope: float
    keep: float
    by_logits: bool = True

    @classmethod
    def fit(
        cls, train: Features, held_out: Features, logits: ArrayLike, keep: float = 0.95
    ) -> "Unknown":
        """Fits prototypes to training photos, and thresholds to held-out photos.

        `logits` `[n, C]` are those of the held-out photos.

        The threshold of a class is the similarity that `keep` of its held-out photos
        reach, shrunk toward that of all photos if there are few. All thresholds are
        then shifted so that `keep` of all held-out photos are accepted.

        Raises:
            APINetError: For fewer than 40 held-out photos, or an invalid `keep`.
        """
        KEEP.check("unknown_keep", keep)
        if len(held_out) < FEWEST_IMAGES:
            raise APINetError(
                f"{len(held_out)} held-out photos are too few for a threshold for "
                f"unknown (at least {FEWEST_IMAGES}); hold out more with --validation."
            )
        num_classes = np.shape(logits)[1]
        prototypes = Prototypes.fit(train.features, train.labels, num_classes)
        similar = prototypes.similarities(held_out.features) + outstanding(logits)
        own = similar[np.arange(len(held_out)), held_out.labels]
        whole = np.quantile(own, 1 - keep)
        thresholds = np.full(num_classes, whole)
        for label in np.unique(held_out.labels):
            mine = own[held_out.labels == label]
            weight = len(mine) / (len(mine) + _CLASS_WEIGHT)
            lowest = np.quantile(mine, 1 - keep)
            thresholds[label] = weight * lowest + (1 - weight) * whole
        # A class without training photos has no prototype and accepts nothing.
        thresholds[~prototypes.directions.any(axis=1)] = 2
        margins = (similar - thresholds).max(axis=1)
        thresholds += np.quantile(margins, 1 - keep, method="lower") - 1e-6
        slope = _STEEPNESS / max(float(margins.std()), 1e-3)
        return cls(prototypes, thresholds.astype(np.float32), slope, keep)

    def margins(self, features: ArrayLike, logits: ArrayLike) -> NDArray[np.float32]:
        """Margins above the thresholds, `[n]`; photos below 0 are unknown.

        `features` are `[n, D]`, `logits` `[n, C]`.
        """
        similar = self.prototypes.similarities(features)
        if self.by_logits:
            similar = similar + outstanding(logits)
        return np.asarray((similar - self.thresholds).max(axis=1))

    def save(self, run: Run, which: str, model: "APINet", images: int) -> None:
        """Stores it in the run, for this model."""
        path = run.folder / file_of("unknown.npz", which)
        arrays = {name: getattr(self.prototypes, name) for name in _ARRAYS[:3]}
        with replacing(path) as temporary:
            np.savez(temporary, thresholds=self.thresholds, **arrays)
        content = {
            "keep": self.keep,
            "slope": self.slope,
            "logits": self.by_logits,
            "images": images,
            "weights": weights_fingerprint(model),
            "arrays": digest_of(path),
        }
        run.write(file_of(UNKNOWN, which), content)


def outstanding(logits: ArrayLike) -> NDArray[np.float32]:
    """Scale-invariant dominance of each class in logits `[n, C]`.

    The cosine similarity of the centered logits to those in which only that class
    stands out: `(l_c - mean(l)) sqrt(C / (C - 1)) / |l - mean(l)|`.
    """
    x = np.asarray(logits, np.float32)
    x = unit(x - x.mean(axis=1, keepdims=True))
    return np.asarray(x * _corner(x.shape[1]))


def _corner(classes: int) -> float:
    return float((classes / max(classes - 1, 1)) ** 0.5)


def open_unknown(run: Run, model: "APINet", which: str = "best") -> Unknown | None:
    """Loads a run's thresholds; `None` if missing or fitted to another model.

    Raises:
        APINetError: If the files are damaged.
    """
    content = run.read(file_of(UNKNOWN, which))
    path = run.folder / file_of("unknown.npz", which)
    if content is None or content["weights"] != weights_fingerprint(model):
        return None
    try:
        if digest_of(path) != content["arrays"]:
            raise ValueError("its digest does not match")
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as file:
            *parts, thresholds = (file[name] for name in _ARRAYS)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise APINetError(
            f"{str(path)!r} cannot be used ({error}); remove it and "
            f"{file_of(UNKNOWN, which)}, then run `keras-apinet evaluate --foreign "
            "FOLDER` to recreate both."
        ) from error
    options = content["slope"], content["keep"], content.get("logits", False)
    return Unknown(Prototypes(*parts), thresholds, *options)


def with_unknown(
    model: "keras.Model", unknown: Unknown, temperature: float
) -> "keras.Model":
    """Adds a last class, `unknown`, to a model from pixels to logits.

    Its logit is the largest of the others minus `slope * margin`, so it is the largest
    of all exactly if the margin is below 0:

    `margin = max_c (cos(z, prototype_c) + outstanding(logits)_c - threshold_c)`,
    `z = (x - m) W`.

    This takes three matrix products, two normalizations, a maximum and a subtraction.
    The input of the model's layer `"classifier"` is the pooled features. The other
    logits, which are divided by the temperature later, are the same as without
    `unknown`.

    Returns:
        A functional model to `[N, C + 1]`, sharing the layers of `model`.
    """
    import keras
    from keras import layers, ops

    def product(x: Any, name: str, kernel: Any, bias: Any = None) -> Any:
        options = {"use_bias": bias is not None, "name": name, "dtype": "float32"}
        layer = layers.Dense(kernel.shape[1], **options)
        result = layer(x)
        layer.set_weights([kernel] if bias is None else [kernel, bias])
        return result

    part, logits = unknown.prototypes, model.output
    features = model.get_layer("classifier").input
    offset = -part.centre @ part.projection
    z = _unit_length(product(features, "unknown_space", part.projection, offset))
    similar = product(z, "unknown_margins", part.directions.T, -unknown.thresholds)
    if unknown.by_logits:
        count = logits.shape[-1]
        centred = product(logits, "unknown_logits", np.eye(count) - 1 / count)
        similar = similar + _unit_length(centred) * _corner(count)
    margin = ops.max(similar, axis=-1, keepdims=True)
    known = ops.max(logits, axis=-1, keepdims=True)
    slope = np.full((1, 1), unknown.slope * temperature)
    outputs = layers.Concatenate(name="with_unknown", dtype="float32")(
        [logits, known - product(margin, SLOPE, slope)]
    )
    return keras.Model(model.input, outputs, name=f"{model.name}_unknown")


def _unit_length(x: Any) -> Any:
    """Normalizes rows `[N, n]`, written so that TFLite fuses it into one operation.

    The fused kernel is accurate in 8 bits; a separate norm would be too coarse.
    """
    from keras import ops

    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, 1e-12))
