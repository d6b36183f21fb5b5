"""The photos used to verify an exported file, and those used to set int8 ranges.

The latter also correct the bias that rounding weights to 8 bits adds to the mean of
every channel. Rounded kernels shift the mean output of each convolution, layer after
layer, and the batch normalization that follows can subtract that shift. No operation is
added; only moving means change (Nagel et al.: Data-Free Quantization Through Weight
Equalization and Bias Correction, ICCV 2019, with the means measured on photos).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet import data
from keras_apinet.compat import flatten_layers
from keras_apinet.data.birds import SPECIES, draw
from keras_apinet.data.photos import preprocessing
from keras_apinet.errors import APINetError
from keras_apinet.export.runtime.classifier import as_image
from keras_apinet.export.sources import Source

_REPRESENTATIVE = 200
_STEPS = 127  # from 0 to the largest weight of a channel, in int8
# Where to look for photos: in the first of these splits that exists.
_PROOF = ("val", "test", "train")
_RANGES = ("train", "val", "test")


@dataclass(frozen=True)
class Photos:
    """Images that are ready for the model.

    Attributes:
        images: uint8 `[N, S, S, 3]`.
        labels: `[N]` classes, `None` if unknown.
        origin: Human-readable description of their source.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    origin: str

    def __len__(self) -> int:
        return len(self.images)


def verification_photos(
    source: Source, given: Any, limit: int, apart: bool = False
) -> Photos:
    """Returns photos of the validation split of the run or of `given`, or what exists.

    If separated, they share no photo with `representative_photos`: if both would use
    the same split or array, each gets every second photo.

    Raises:
        APINetError: If no photo can be read, or there are too few to divide.
    """
    return _found(source, given, _PROOF, limit, 0 if apart else None)


def representative_photos(source: Source, given: Any, apart: bool = False) -> Photos:
    """Returns training photos that show layers' ranges; see `verification_photos`."""
    found = _found(source, given, _RANGES, _REPRESENTATIVE, 1 if apart else None)
    # The full range of pixels, whatever the photos contain, so that uint8 pixels can be
    # fed unchanged, as phones do.
    images = found.images.copy()
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    return replace(found, images=images)


def _found(
    source: Source, given: Any, splits: tuple[str, ...], limit: int, half: int | None
) -> Photos:
    size, resize = source.info.image_size, source.info.resize
    if given is None:
        try:
            given = source.run and source.run.data()
        except APINetError:
            if source.place and source.place.is_dir():
                raise
        if given is None and splits is _RANGES:
            raise APINetError(
                "int8 needs representative photos to choose its ranges, but there are "
                "none; use a run folder, or pass some of the training photos as "
                "photos= (--photos)."
            )
        if given is None:
            return Photos(_drawn(size), None, "16 drawn pictures, for want of photos")
    if _are_images(given):
        if isinstance(given, np.ndarray) and given.ndim != 4:
            raise APINetError(
                f"photos has shape {given.shape}; pass images [N, height, width, 3], "
                "or a list of them."
            )
        if not len(given):
            raise APINetError("photos is empty; pass at least one image.")
        chosen = _spread(_half(len(given), half), limit)
        images = [as_image(given[i], source.info) for i in chosen]
        return Photos(np.stack(images), None, f"{len(images)} given photos")
    found = given if isinstance(given, data.ImageData) else data.load(given)
    name, other = (
        next(name for name in order if name in found.splits)
        for order in (splits, _RANGES if splits is _PROOF else _PROOF)
    )
    split = found.splits[name]
    own = _half(len(split), half if name == other else None)
    split = split.take(_spread(own, limit))
    batches = data.evaluation_batches(
        split, image_size=size, resize=resize, on_error="skip"
    )
    with batches.report:
        read = [(np.asarray(images), np.asarray(labels)) for images, labels in batches]
    if not sum(len(labels) for _, labels in read):
        raise APINetError(
            f"No photo of the {name!r} split of {found.name!r} can be read; pass "
            "photos= (--photos)."
        )
    labels = np.concatenate([labels for _, labels in read]).astype(np.int64)
    failed = batches.report.failed
    known = source.info.class_names[: -1 if source.info.unknown else None]
    same = tuple(found.class_names) == known
    return Photos(
        np.concatenate([images for images, _ in read]),
        labels if same else None,
        # The file may be made public, so folders of this machine are left out.
        f"{len(labels)} of the {name!r} split of {Path(found.name).name}"
        + (f" ({len(failed):,} could not be read)" if failed else ""),
    )


def _are_images(given: Any) -> bool:
    return isinstance(given, np.ndarray) or (
        isinstance(given, (list, tuple))
        and all(isinstance(g, np.ndarray) for g in given)
    )


def _half(count: int, half: int | None) -> NDArray[np.int64]:
    """Returns all of `count` positions, or only the even (0) or odd ones (1)."""
    if half is None:
        return np.arange(count)
    if count < 2:
        raise APINetError(
            "int8 needs some photos to set its ranges and others to verify it, but got "
            f"{count}; pass more as photos= (--photos), or use precision "
            "'dynamic'."
        )
    return np.arange(half, count, 2)


def _spread(positions: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Selects at most `limit` of the positions, evenly spaced."""
    count = len(positions)
    places = np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)
    return positions[places]


def _drawn(size: int) -> NDArray[np.uint8]:
    return np.stack(
        [
            preprocessing.prepare(draw(i % len(SPECIES), i).pixels, size)
            for i in range(16)
        ]
    )


def round_and_correct(model: keras.Model, images: NDArray[np.uint8]) -> None:
    """Rounds kernels as int8 conversion does, and corrects the means that it shifts.

    The functional model, from pixels to logits, is modified in place. The means are
    measured on images `[N, S, S, 3]`.
    """
    norms: list[_MeanKeeper] = []

    def copied(layer: Any) -> Any:
        if type(layer) is not keras.layers.BatchNormalization:
            return type(layer).from_config(layer.get_config())
        norms.append(_MeanKeeper.from_config(layer.get_config()))
        return norms[-1]

    copy = keras.models.clone_model(model, clone_function=copied, recursive=True)
    if not norms:
        return
    copy.set_weights(model.get_weights())
    pixels = images.astype("float32")
    copy(pixels, training=False)
    for layer in flatten_layers(copy):
        _round_kernel(layer)
    # In layer order, so that each layer sees the output of the corrected ones before.
    for norm in norms:
        norm.corrects = True
    copy(pixels, training=False)
    model.set_weights(copy.get_weights())


class _MeanKeeper(keras.layers.BatchNormalization):
    """Batch normalization that restores the mean of its inputs to a measured one."""

    wanted: Any = None
    corrects = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not isinstance(inputs, keras.KerasTensor):  # not while it is cloned
            rank = len(inputs.shape)
            axes = [i for i in range(rank) if i != self.axis % rank]
            mean = keras.ops.mean(inputs, axes)
            if self.corrects:
                self.moving_mean.assign_add(mean - self.wanted)
            else:
                self.wanted = mean
        return super().call(inputs, training=training, mask=mask)


def _round_kernel(layer: Any) -> None:
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        axes: tuple[int, ...] = (0, 1)
    elif isinstance(layer, keras.layers.Conv2D):
        axes = (0, 1, 2)
    else:
        return
    kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel))
    step = np.maximum(np.abs(kernel).max(axes, keepdims=True), 1e-12) / _STEPS
    layer.kernel.assign(np.round(kernel / step) * step)
