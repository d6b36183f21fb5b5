"""Which training images fire a channel most, and where."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.evaluate.attribution.feature_maps import as_grid

if TYPE_CHECKING:
    from keras_apinet.data import Split
    from keras_apinet.model.apinet import APINet

# Side of a patch, as a share of the image.
_PATCH = 0.4


def evenly(split: "Split", limit: int) -> NDArray[np.int64]:
    """At most `limit` positions of a split, evenly from all classes, ascending."""
    if len(split) <= limit:
        return np.arange(len(split))
    by_class = np.argsort(split.labels, kind="stable")
    chosen = np.linspace(0, len(split) - 1, limit).round().astype(np.int64)
    return np.sort(by_class[chosen])


def channel_patches(
    model: "APINet",
    split: "Split",
    channels: Iterable[int],
    *,
    image_size: int,
    resize: str = "fit",
    box_crop: bool = False,
    patches: int = 3,
    limit: int = 1000,
    batch_size: int = 32,
) -> dict[int, list[NDArray[np.uint8]]]:
    """Patches of training images that fire channels most, one from each image.

    Args:
        model: A model whose backbone gives a feature map or a square of tokens.
        split: Training images.
        channels: Channels of the features.
        image_size: px.
        resize: As in the training.
        box_crop: As in the training. Default False.
        patches: Patches for each channel. Default 3.
        limit: Images to look at, evenly from all classes. Default 1000.
        batch_size: Images at a time. Default 32.

    Returns:
        For each channel, the patches in falling order of what they fire, each uint8
        `[p, p, 3]`.
    """
    import keras

    from keras_apinet import data

    wanted = np.unique(np.fromiter(channels, np.int64))
    if not len(wanted) or not len(split):
        return {}
    part = split.take(evenly(split, limit))
    inputs = keras.Input(model.backbone.input_shape[1:])
    scaled = inputs if model.scaling is None else model.scaling(inputs)
    network = keras.Model(inputs, model.backbone(scaled))
    side = max(8, round(_PATCH * image_size))
    best: dict[int, list[tuple[float, Any]]] = {int(c): [] for c in wanted}
    batches = data.evaluation_batches(
        part,
        image_size=image_size,
        batch_size=batch_size,
        resize=resize,
        box_crop=box_crop,
        on_error="skip",
    )
    with batches.report:
        for images, _ in batches:
            pixels = np.asarray(images)
            maps = as_grid(np.asarray(network.predict_on_batch(pixels), np.float32))
            height, width = maps.shape[1:3]
            flat = maps[..., wanted].reshape(len(maps), -1, len(wanted))
            places, peaks = flat.argmax(axis=1), flat.max(axis=1)
            for column, channel in enumerate(wanted.tolist()):
                kept = best[channel]
                for row in np.argsort(-peaks[:, column])[:patches]:
                    y, x = divmod(int(places[row, column]), width)
                    middle = ((y + 0.5) / height, (x + 0.5) / width)
                    kept.append(
                        (float(peaks[row, column]), _patch(pixels[row], middle, side))
                    )
                kept.sort(key=lambda entry: -entry[0])
                del kept[patches:]
    return {channel: [patch for _, patch in kept] for channel, kept in best.items()}


def _patch(
    image: NDArray[np.uint8], middle: tuple[float, float], side: int
) -> NDArray[np.uint8]:
    size = len(image)
    top, left = (
        int(np.clip(round(m * size - side / 2), 0, size - side)) for m in middle
    )
    return image[top : top + side, left : left + side].copy()
