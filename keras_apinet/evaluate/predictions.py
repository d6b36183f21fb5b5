"""One pass of a model over a split: logits and features of every image, in order."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.evaluate.calibration import log_softmax

if TYPE_CHECKING:
    from keras_apinet.data import Split
    from keras_apinet.model import APINet

TTA = ("flip", "five_crop")
_CROP = 7 / 8


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about the images of a split.

    Attributes:
        labels: `[n]` int, positions in the model's classes.
        logits: `[n, C]` float32.
        features: `[n, D]` float32, the pooled features.
        positions: `[n]` int, the place of each image in the split.
        unreadable: image -> why it could not be read.
    """

    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    positions: NDArray[np.int64]
    unreadable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """`[n, C]`, each row adding up to 1."""
        return np.exp(log_softmax(self.logits / temperature))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """`[n]`, the class of the highest score (the first of equal ones)."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """`[n]`, whether that is not the true class."""
        return np.not_equal(self.predicted, self.labels)


def outputs_model(model: "APINet") -> Any:
    """A plain Keras model from pixels to `[features, logits]`, sharing all weights."""
    import keras

    extractor = model.feature_model()
    return keras.Model(
        extractor.input, [extractor.output, model.classifier(extractor.output)]
    )


def predict_split(
    model: "APINet",
    split: "Split",
    *,
    image_size: int,
    resize: str = "fit",
    batch_size: int = 64,
    tta: str | None = None,
) -> Predictions:
    """Runs a model over a split; only a few batches of pixels are in memory.

    Args:
        model: The trained model.
        split: Images and labels; the labels are positions in the model's classes.
        image_size: px.
        resize: As in the training: `"fit"` (default) or `"squash"`.
        batch_size: Images at a time. It does not change the result. Default 64.
        tta: `"flip"`: mean of the image and its mirror image; `"five_crop"`: mean of
            the centre and the four corners; of the probabilities. Default: neither.

    Returns:
        One row for each readable image.

    Raises:
        APINetError: If more than 1 % of the images cannot be read, the model gives
            values that are not finite, or `tta` is unknown.
    """
    from keras_apinet import data

    if tta is not None and tta not in TTA:
        raise APINetError(f"tta={tta!r} is not one of {', '.join(TTA)}.")
    if tta == "five_crop":
        crops = _five_crops(split, image_size, resize, max(1, batch_size // 5))
        return _mean_over_views(_collect(model, crops, split), 5)
    batches = data.evaluation_batches(
        split,
        image_size=image_size,
        batch_size=batch_size,
        resize=resize,
        on_error="skip",
    )
    with batches.report:
        if tta == "flip":
            pairs = ((_with_mirrored(x), np.repeat(y, 2)) for x, y in batches)
            return _mean_over_views(_collect(model, pairs, split, batches.report), 2)
        return _collect(model, batches, split, batches.report)


def _collect(
    model: "APINet", batches: Iterable[Any], split: "Split", report: Any = None
) -> Predictions:
    network = outputs_model(model)
    features, logits, labels = [], [], []
    for images, batch_labels in batches:
        x, scores = network.predict_on_batch(np.asarray(images))
        features.append(np.asarray(x, np.float32))
        logits.append(np.asarray(scores, np.float32))
        labels.append(np.asarray(batch_labels, np.int64))
    if not labels:
        raise APINetError("The split has no images: there is nothing to evaluate.")
    positions = np.arange(len(split))
    failed = {} if report is None else dict(report.failed)
    if failed:
        positions = np.array(
            [i for i in range(len(split)) if split.reference(i) not in failed]
        )
    result = Predictions(
        np.concatenate(labels),
        np.concatenate(logits),
        np.concatenate(features),
        positions,
        failed,
    )
    if not np.isfinite(result.logits).all():
        bad = int((~np.isfinite(result.logits).all(axis=1)).sum())
        raise APINetError(
            f"The model gives scores that are not finite for {bad} of {len(result)} "
            "images; its weights are damaged or its training diverged."
        )
    return result


def _mean_over_views(seen: Predictions, views: int) -> Predictions:
    """Averages probabilities and features over consecutive views of each image."""
    log_p = log_softmax(seen.logits).reshape(-1, views, seen.logits.shape[1])
    mean = np.log(np.maximum(np.exp(log_p).mean(axis=1), 1e-30))
    features = seen.features.reshape(-1, views, seen.features.shape[1]).mean(axis=1)
    return replace(
        seen,
        labels=seen.labels[::views],
        logits=mean.astype(np.float32),
        features=features,
    )


def _with_mirrored(images: Any) -> NDArray[np.uint8]:
    pixels = np.asarray(images)
    both = np.stack([pixels, pixels[:, :, ::-1]], axis=1)
    return np.reshape(both, (-1, *pixels.shape[1:]))


def _five_crops(
    split: "Split", image_size: int, resize: str, batch_size: int
) -> Iterable[Any]:
    """Batches with the centre and the four corners of each image, one after another."""
    for start in range(0, len(split), batch_size):
        rows = range(start, min(start + batch_size, len(split)))
        views = [five_crop(split.read(i), image_size, resize) for i in rows]
        labels = split.labels[start : start + batch_size]
        yield np.concatenate(views), np.repeat(labels, 5)


def five_crop(
    pixels: NDArray[np.uint8], image_size: int, resize: str = "fit"
) -> NDArray[np.uint8]:
    """The centre of a photo, as in plain evaluation, and its four corners.

    Args:
        pixels: uint8 `[h, w, 3]`.
        image_size: px.
        resize: `"fit"` or `"squash"`, see `keras_apinet.data.prepare`.

    Returns:
        uint8 `[5, image_size, image_size, 3]`.
    """
    import tensorflow as tf

    height, width = pixels.shape[:2]
    short = min(height, width)
    kept = (short, short) if resize == "fit" else (height, width)
    h, w = (max(1, int(np.rint(side * _CROP))) for side in kept)
    corners = [((height - h) // 2, (width - w) // 2)]
    corners += [(top, left) for top in (0, height - h) for left in (0, width - w)]
    crops = np.stack([pixels[t : t + h, x : x + w] for t, x in corners])
    with tf.device("cpu"):
        sized = tf.image.resize(crops, [image_size, image_size], antialias=True)
        rounded = np.clip(np.rint(sized.numpy()), 0, 255)
    return np.asarray(rounded, np.uint8)
