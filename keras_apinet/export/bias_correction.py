"""Takes back what rounding weights to 8 bits adds to the mean of every channel.

Rounded kernels shift the mean of what each convolution gives, layer after layer; batch
normalisation, which comes next, can subtract that shift. No operation is added: only
moving means change (Nagel et al.: Data-Free Quantization Through Weight Equalization
and Bias Correction, ICCV 2019, with the means measured on photos).
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_apinet.compat import flatten_layers

_STEPS = 127  # from 0 to the largest weight of a channel, in int8


def round_and_correct(model: keras.Model, images: NDArray[np.uint8]) -> None:
    """Rounds kernels as int8 conversion does, and corrects the means that this moves.

    Args:
        model: From pixels to logits, functional. Its weights are changed in place.
        images: Photos `[N, S, S, 3]` to measure the means on.
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
    # In the order of the layers: each sees what the corrected ones before it give.
    for norm in norms:
        norm.corrects = True
    copy(pixels, training=False)
    model.set_weights(copy.get_weights())


class _MeanKeeper(keras.layers.BatchNormalization):
    """Batch normalisation that brings the mean of its inputs back to a measured one."""

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
