"""Takes back what rounding weights to 8 bits adds to the mean of every channel.

Rounded kernels shift the mean of what each convolution gives, layer after layer; batch
normalisation, which comes next, can subtract that shift. No operation is added: only
moving means change (Nagel et al.: Data-Free Quantization Through Weight Equalization
and Bias Correction, ICCV 2019, with the means measured on photos).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet.compat import flatten_layers

_STEPS = 127  # from 0 to the largest weight of a channel, in int8


def round_and_correct(model: keras.Model, images: NDArray[np.uint8]) -> None:
    """Rounds kernels as int8 conversion does, and corrects the means that this moves.

    Args:
        model: From pixels to logits; runs eagerly. Its weights are changed in place.
        images: Photos `[N, S, S, 3]` to measure the means on.
    """
    layers = flatten_layers(model)
    norms = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
    if not norms:
        return
    pixels = images.astype("float32")
    means: dict[int, NDArray[Any]] = {}

    def remember(layer: Any, inputs: Any) -> None:
        means[id(layer)] = _channel_means(layer, inputs)

    def correct(layer: Any, inputs: Any) -> None:
        shift = _channel_means(layer, inputs) - means[id(layer)]
        layer.moving_mean.assign(layer.moving_mean + shift)

    with _watched(norms, remember):
        model(pixels, training=False)
    for layer in flatten_layers(model):
        _round_kernel(layer)
    # In the order of the layers: each sees what the corrected ones before it give.
    with _watched(norms, correct):
        model(pixels, training=False)


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


def _channel_means(layer: Any, inputs: Any) -> NDArray[Any]:
    values: NDArray[Any] = np.asarray(keras.ops.convert_to_numpy(inputs), "float32")
    axis = layer.axis % values.ndim
    means: NDArray[Any] = values.mean(tuple(i for i in range(values.ndim) if i != axis))
    return means


@contextlib.contextmanager
def _watched(layers: list[Any], see: Callable[[Any, Any], None]) -> Iterator[None]:
    """Shows `see` each layer and its inputs, before the layer is called."""

    def shown(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def seen_first(inputs: Any, *args: Any, **options: Any) -> Any:
            see(layer, inputs)
            return call(inputs, *args, **options)

        return seen_first

    for layer in layers:
        layer.call = shown(layer, layer.call)
    try:
        yield
    finally:
        for layer in layers:
            del layer.call  # uncovers the method of the class
