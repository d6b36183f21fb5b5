"""Runs a model over a split: logits and features of each image, in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError
from keras_apinet.progress import phase
from keras_apinet.runs import Run

if TYPE_CHECKING:
    from keras_apinet.data import ImageData, ReadingReport, Split
    from keras_apinet.model.apinet import APINet

TTA = ("flip", "five_crop")
_CROP = 7 / 8


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a model for the images of a split.

    Attributes:
        labels: `[n]` int, indices into the model's classes.
        logits: `[n, C]` float32.
        features: `[n, D]` float32, the pooled features.
        positions: `[n]` int, index of each image in the split.
        unreadable: Mapping from unreadable images to the reason.
    """

    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    positions: NDArray[np.int64]
    unreadable: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """Probabilities `[n, C]`; rows sum to 1."""
        from scipy.special import softmax

        return np.asarray(softmax(self.logits.astype(np.float64) / temperature, axis=1))

    @property
    def predicted(self) -> NDArray[np.int64]:
        """`[n]`, the class with the highest score (the first of ties)."""
        return np.asarray(self.logits.argmax(axis=1))

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """`[n]`, whether the prediction is wrong."""
        return np.not_equal(self.predicted, self.labels)


def predict_split(
    model: "APINet",
    split: "Split",
    *,
    image_size: int,
    resize: str = "fit",
    box_crop: bool = False,
    batch_size: int = 64,
    tta: str | None = None,
    what: str = "Computing features",
) -> Predictions:
    """Runs a model over a split, with only a few batches of pixels in memory.

    Args:
        model: The trained model.
        split: Images and labels; labels are indices into the model's classes.
        image_size: Image size in px.
        resize: `"fit"` (default) or `"squash"`, as in training.
        box_crop: Whether to crop photos to the object's box, as in training. Defaults
            to False.
        batch_size: Batch size; it does not affect the result. Defaults to 64.
        tta: Test-time augmentation, averaging probabilities: `"flip"` (image and mirror
            image) or `"five_crop"` (center and four corners). By default, none.
        what: Name of the phase on a terminal.

    Returns:
        One row per readable image.

    Raises:
        APINetError: If more than 1 % of the images cannot be read, the model outputs
            values that are not finite, or `tta` is unknown.
    """
    from keras_apinet import data

    if tta is not None and tta not in TTA:
        raise APINetError(f"tta={tta!r} is not one of {', '.join(TTA)}.")
    if not len(split):
        raise APINetError("The split has no images to evaluate; choose another split.")
    options: Any = {"image_size": image_size, "resize": resize, "box_crop": box_crop}
    if tta == "five_crop":
        report = data.ReadingReport(split, "skip", at_least=1)
        batch_size = max(1, batch_size // 5)
        images: Any = _five_crops(report, batch_size, **options)
    else:
        batches = data.evaluation_batches(
            split, batch_size=batch_size, on_error="skip", **options
        )
        report = batches.report
        images = batches.map(
            lambda images, _: _with_mirrored(images) if tta == "flip" else images
        )
    with report, phase(what, len(split)) as shown:
        seen = _collect(model, images, report, lambda n: shown(n * batch_size))
    views = {"flip": 2, "five_crop": 5}.get(tta or "")
    return _mean_over_views(seen, views) if views else seen


def _collect(
    model: "APINet", batches: Any, report: "ReadingReport", moved: Callable[[int], None]
) -> Predictions:
    """Predicts batches of images, without keeping their pixels."""
    import keras

    extractor = model.feature_model()
    outputs = keras.Model(
        extractor.input, [extractor.output, model.classifier(extractor.output)]
    )
    parts = []
    for images in batches:
        parts.append(outputs.predict_on_batch(np.asarray(images)))
        moved(len(parts))
    features, logits = map(np.concatenate, zip(*parts, strict=True))
    failed, split = dict(report.failed), report.split
    read = [i for i in range(len(split)) if split.reference(i) not in failed]
    positions = np.array(read, np.int64)
    result = Predictions(
        np.asarray(split.labels[positions], np.int64),
        np.asarray(logits, np.float32),
        np.asarray(features, np.float32),
        positions,
        failed,
    )
    if not np.isfinite(result.logits).all():
        bad = int((~np.isfinite(result.logits).all(axis=1)).sum())
        raise APINetError(
            f"The model outputs scores that are not finite for {bad} of {len(result)} "
            "images; its weights are damaged or its training diverged."
        )
    return result


def _mean_over_views(seen: Predictions, views: int) -> Predictions:
    """Averages probabilities and features over consecutive views of each image."""
    each = seen.probabilities().reshape(-1, views, seen.logits.shape[1])
    mean = np.log(np.maximum(each.mean(axis=1), 1e-30))
    features = seen.features.reshape(-1, views, seen.features.shape[1]).mean(axis=1)
    return replace(seen, logits=mean.astype(np.float32), features=features)


def _with_mirrored(images: Any) -> Any:
    """Each image of a `tf.data` batch, followed by its mirror image."""
    import tensorflow as tf

    both = tf.stack([images, images[:, :, ::-1]], axis=1)
    return tf.reshape(both, (-1, *images.shape[1:]))


def _five_crops(
    report: "ReadingReport",
    batch_size: int,
    *,
    image_size: int,
    resize: str,
    box_crop: bool,
) -> Iterator[NDArray[np.uint8]]:
    """Batches with the center and the four corners of each image, in sequence."""
    views, split = [], report.split
    for i in range(len(split)):
        try:
            pixels = split.read(i)
        except APINetError as error:
            report.add(i, error)
            continue
        if box_crop:
            pixels = inside_box(pixels, split, i)
        views.append(five_crop(pixels, image_size, resize))
        if len(views) == batch_size:
            yield np.concatenate(views)
            views = []
    if views:
        yield np.concatenate(views)


def inside_box(
    pixels: NDArray[np.uint8], split: "Split", index: int
) -> NDArray[np.uint8]:
    """A photo cropped to its object's box, if it has one."""
    if split.boxes is None:
        return pixels
    height, width = pixels.shape[:2]
    scale = (width, height, width, height) if split.boxes_are_fractions else (1,) * 4
    box = split.boxes[index] * np.array(scale)
    left, top = np.clip(np.floor(box[:2]), 0, (width - 1, height - 1)).astype(int)
    right, low = np.ceil(box[2:]).astype(int)
    return pixels[top : max(low, top + 1), left : max(right, left + 1)]


def five_crop(
    pixels: NDArray[np.uint8], image_size: int, resize: str = "fit"
) -> NDArray[np.uint8]:
    """The center of a photo, as in plain evaluation, and its four corners.

    Converts uint8 `[h, w, 3]` to uint8 `[5, image_size, image_size, 3]`, with `resize`
    as in `keras_apinet.data.prepare`.
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


def known_images(
    images: "ImageData",
    split: str,
    class_names: Sequence[str],
    ignore_unknown: bool = False,
) -> "Split":
    """A split whose labels are indices into the model's classes, matched by name.

    Raises:
        APINetError: If the split is missing or unlabeled, or has classes that the model
            does not know; with `ignore_unknown`, their images are skipped instead.
    """
    if split not in images.splits:
        raise APINetError(
            f"The data set {images.name!r} has no split {split!r}; it has "
            f"{', '.join(map(repr, images.splits))}: choose one with --split."
        )
    part = images.splits[split]
    if not len(part) or int(part.labels.min()) < 0:
        raise APINetError(
            f"The {split!r} split of {images.name!r} has "
            + ("images without labels" if len(part) else "no images")
            + ", so predictions cannot be evaluated; choose another split."
        )
    places = {name: i for i, name in enumerate(class_names)}
    target = np.array([places.get(name, -1) for name in images.class_names], np.int32)
    labels = target[part.labels]
    strangers = np.unique(part.labels[labels < 0])
    if len(strangers) and (not ignore_unknown or (labels < 0).all()):
        names = ", ".join(repr(images.class_names[c][:60]) for c in strangers[:5])
        raise APINetError(
            f"The {split!r} split of {images.name!r} has {len(strangers)} classes "
            "that the model does not know "
            f"({names}{', ...' if len(strangers) > 5 else ''}); "
            "give data with the model's classes, or skip these images with "
            "--ignore-unknown."
        )
    return replace(part, labels=labels).take(np.flatnonzero(labels >= 0))


def data_groups(
    images: "ImageData", class_names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The groups of the data set, in the order of the model's classes."""
    result = {}
    for level, names in images.groups.items():
        group_of = dict(zip(images.class_names, names, strict=True))
        result[level] = tuple(group_of.get(name, name) for name in class_names)
    return result


def run_options(run: Run, batch_size: int = 64) -> dict[str, Any]:
    """The preprocessing of training, as arguments for `predict_split`."""
    return {
        "image_size": run.image_size,
        "resize": run.settings.get("resize", "fit"),
        "box_crop": run.settings.get("box_crop", False),
        "batch_size": batch_size,
    }
