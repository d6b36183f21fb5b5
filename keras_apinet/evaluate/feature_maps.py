"""Spatial evidence for a score: maps at several depths of a backbone."""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray
from PIL import Image

from keras_apinet import data
from keras_apinet.data import Split
from keras_apinet.errors import APINetError
from keras_apinet.model.apinet import APINet
from keras_apinet.model.backbone import tail
from keras_apinet.progress import phase
from keras_apinet.types import Tensor

# Side of a patch relative to the image.
_PATCH = 0.4
# Patches per channel, and number of images to search.
_PATCHES, _IMAGES = 3, 1000
# Maps finer than this fraction of the image's side show edges, not parts.
_FINEST = 1 / 4


class FeatureMaps:
    """Distributes weighted sums of a model's pooled features over image positions.

    On the last feature map, the sum `w . x` of pooled features x decomposes exactly
    into `w . f(position) / positions` (class activation). On earlier, finer maps, the
    evidence at a position is its activations times the gradient of the sum. One map is
    used per resolution, from a quarter of the image's side down to the last map.

    Args:
        model: The model; its backbone must output a feature map or a square of tokens.

    Raises:
        APINetError: If its features have no spatial positions.
    """

    def __init__(self, model: APINet) -> None:
        backbone = model.backbone
        rank = len(backbone.output_shape)
        if rank == 2 or (rank == 3 and model.pooling == "token"):
            raise APINetError(
                f"The features of {backbone.name!r} (output_shape="
                f"{backbone.output_shape}, pooling={model.pooling!r}) have no spatial "
                "positions to map; use a backbone that outputs a feature map."
            )
        self.model = model
        cuts, self._rest = _cuts(backbone)
        self._maps = keras.Model(backbone.inputs, [*cuts, backbone.output])

    def activations(self, images: Tensor) -> list[Tensor]:
        """Feature maps of images `[N, S, S, 3]`, finest first, as backend tensors."""
        scaling = self.model.scaling
        pixels = images if scaling is None else scaling(images)
        outputs = self._maps(pixels, training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    def evidence(
        self, activations: list[Tensor], weights: NDArray[np.float32]
    ) -> list[NDArray[np.float32]]:
        """Signed evidence `[N, h, w]` at each position, for each of the `activations`.

        Pooled features are weighted with `weights` `[N, D]`. The evidence on the last
        map sums to `w . x`.
        """
        result = []
        for maps, rest in zip(activations[:-1], self._rest, strict=True):

            def weighted(x: Tensor, rest: Any = rest) -> Tensor:
                features = ops.cast(self.model.pool(rest(x, training=False)), "float32")
                return ops.sum(features * ops.convert_to_tensor(weights))

            slope = _gradient(weighted, maps)
            result.append((as_array(maps) * slope).sum(axis=-1))
        last = as_grid(as_array(activations[-1]))
        places = last.shape[1] * last.shape[2]
        result.append(np.einsum("nhwd,nd->nhw", last, weights) / places)
        return result


def as_grid(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Feature maps `[N, h, w, D]`; tokens `[N, T, D]` are reshaped to a square grid.

    Leading extra tokens (class and register tokens) are dropped.
    """
    if maps.ndim == 4:
        return maps
    side = int(np.sqrt(maps.shape[1]))
    return maps[:, maps.shape[1] - side * side :].reshape(len(maps), side, side, -1)


def fused(feature_maps: list[NDArray[np.float32]], size: int) -> NDArray[np.float32]:
    """The mean `[N, size, size]` of signed maps, each scaled to extreme values of 1."""
    scaled = []
    for maps in feature_maps:
        extreme = np.abs(maps).max(axis=(1, 2), keepdims=True)
        scaled.append(enlarged(maps / np.maximum(extreme, 1e-12), size))
    # Bicubic resizing overshoots slightly; clipping would flatten the peaks.
    result = np.mean(scaled, axis=0)
    extreme = np.abs(result).max(axis=(1, 2), keepdims=True)
    return np.asarray(result / np.maximum(extreme, 1), np.float32)


def enlarged(maps: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Maps resized with bicubic interpolation, `[N, size, size]`."""
    pictures = [Image.fromarray(one.astype(np.float32)) for one in maps]
    smooth = Image.Resampling.BICUBIC
    return np.stack([np.asarray(p.resize((size, size), smooth)) for p in pictures])


def _cuts(backbone: Any) -> tuple[list[Any], list[Any]]:
    """Bottleneck tensors of a backbone, and the rest of the model after each."""
    side = backbone.input_shape[1] or 224
    by_size: dict[int, list[Any]] = {}
    for layer in getattr(backbone, "layers", []):
        output = getattr(layer, "output", None)
        shape: tuple[int | None, ...] = getattr(output, "shape", ())
        if len(shape) == 4 and shape[1]:
            by_size.setdefault(int(shape[1]), []).append(output)
    cuts: list[Any] = []
    rest: list[Any] = []
    known = len(backbone.output_shape) == 4 and backbone.output_shape[1]
    coarser = int(known) if known else side
    for size in sorted(by_size):
        # The next resolution; intermediate sizes are padded versions of the last.
        if size < 1.8 * coarser or size > side * _FINEST:
            continue
        for output in reversed(by_size[size]):
            after = tail(backbone, output)
            if after is not None:
                cuts.insert(0, output)
                rest.insert(0, after)
                coarser = size
                break
    return cuts, rest


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> NDArray[np.float32]:
    """Gradient of a scalar function of one tensor, on the active backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return as_array(tape.gradient(value, x))
    if backend == "jax":
        import jax

        return as_array(jax.grad(function)(x))
    import torch

    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(x), x)
    return as_array(slope)


def as_array(x: Tensor) -> NDArray[np.float32]:
    """Converts a backend tensor to a float32 NumPy array."""
    return np.asarray(ops.convert_to_numpy(ops.cast(x, "float32")), np.float32)


def evenly(split: Split, limit: int) -> NDArray[np.int64]:
    """Up to `limit` ascending indices of a split, evenly over all classes."""
    if len(split) <= limit:
        return np.arange(len(split))
    by_class = np.argsort(split.labels, kind="stable")
    chosen = np.linspace(0, len(split) - 1, limit).round().astype(np.int64)
    return np.sort(by_class[chosen])


def channel_patches(
    model: APINet,
    split: Split,
    channels: Iterable[int],
    *,
    image_size: int,
    resize: str,
    box_crop: bool,
    batch_size: int,
) -> dict[int, list[NDArray[np.uint8]]]:
    """Finds the patches of training images that activate channels most, one per image.

    Searches at most 1,000 images, evenly over all classes, preprocessed as in training
    (`image_size` in px). The model's backbone must output a feature map or a square of
    tokens.

    Returns:
        For each channel, three uint8 patches `[p, p, 3]`, strongest first.
    """
    wanted = np.unique(np.fromiter(channels, np.int64))
    if not len(wanted) or not len(split):
        return {}
    part = split.take(evenly(split, _IMAGES))
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
    looking = phase("Finding patches", len(part))
    with batches.report, looking as shown:
        for step, (images, _) in enumerate(batches):
            shown(step * batch_size)
            pixels = np.asarray(images)
            maps = as_grid(np.asarray(network.predict_on_batch(pixels), np.float32))
            height, width = maps.shape[1:3]
            flat = maps[..., wanted].reshape(len(maps), -1, len(wanted))
            places, peaks = flat.argmax(axis=1), flat.max(axis=1)
            for column, channel in enumerate(wanted.tolist()):
                kept = best[channel]
                for row in np.argsort(-peaks[:, column])[:_PATCHES]:
                    y, x = divmod(int(places[row, column]), width)
                    middle = ((y + 0.5) / height, (x + 0.5) / width)
                    kept.append(
                        (float(peaks[row, column]), _patch(pixels[row], middle, side))
                    )
                kept.sort(key=lambda entry: -entry[0])
                del kept[_PATCHES:]
    return {channel: [patch for _, patch in kept] for channel, kept in best.items()}


def _patch(
    image: NDArray[np.uint8], middle: tuple[float, float], side: int
) -> NDArray[np.uint8]:
    size = len(image)
    top, left = (
        int(np.clip(round(m * size - side / 2), 0, size - side)) for m in middle
    )
    return image[top : top + side, left : left + side].copy()
