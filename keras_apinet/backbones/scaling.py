"""Scaling of raw pixels to the range that a backbone was trained on."""

from collections.abc import Sequence
from typing import Any, cast

import keras
import numpy as np
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.types import Shape, Tensor

_RGB_MEAN = (0.485, 0.456, 0.406)
_RGB_STD = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="keras_apinet")
class PixelScaling(keras.layers.Layer):
    """Scales raw pixels per channel: `scaled = pixels * scale + offset`.

    It is the first layer of a model that takes raw pixels from image files, so that
    training, prediction and every exported file scale them alike.

    Args:
        scale: Factor, either one number or one number per channel. Default 1.
        offset: Offset, likewise. Default 0.
        to_bgr: Whether to convert RGB to BGR first; `scale` and `offset` are then in
            the order blue, green, red. Default `False`.
        **kwargs: Passed to `keras.layers.Layer` (`name`, `dtype`).

    Call arguments:
        pixels: `[N, H, W, 3]`, any integer or floating dtype, 0 to 255.

    Returns:
        `[N, H, W, 3]` in the layer's compute dtype. It is computed in float32 even
        under a 16-bit policy, where 8-bit pixels times a small factor lose precision.

    Raises:
        APINetError: If `scale` or `offset` is neither a number nor three numbers.

    Example:
        >>> import numpy as np
        >>> from keras_apinet.backbones import PixelScaling
        >>> scaling = PixelScaling(scale=1 / 127.5, offset=-1.0)
        >>> pixels = np.full((1, 2, 2, 3), 255, "uint8")
        >>> float(scaling(pixels)[0, 0, 0, 0])
        1.0
    """

    def __init__(
        self,
        scale: float | Sequence[float] = 1.0,
        offset: float | Sequence[float] = 0.0,
        to_bgr: bool = False,
        **kwargs: Any,
    ) -> None:
        # Autocasting would round the pixels to 16 bits before `call` sees them.
        super().__init__(**{"autocast": False, **kwargs})
        self.scale = _per_channel("scale", scale)
        self.offset = _per_channel("offset", offset)
        self.to_bgr = bool(to_bgr)

    def call(self, pixels: Tensor) -> Tensor:
        """Scales `pixels`, `[N, H, W, 3]`."""
        pixels = ops.cast(pixels, "float32")
        if self.to_bgr:
            pixels = ops.flip(pixels, axis=-1)
        scale = ops.convert_to_tensor(self.scale, dtype="float32")
        offset = ops.convert_to_tensor(self.offset, dtype="float32")
        return ops.cast(pixels * scale + offset, self.compute_dtype)

    def compute_output_shape(self, pixels_shape: Shape) -> Shape:
        """Returns the input shape."""
        return pixels_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values."""
        config = cast("dict[str, Any]", super().get_config())
        return {
            **config,
            "scale": self.scale,
            "offset": self.offset,
            "to_bgr": self.to_bgr,
        }


def _per_channel(name: str, value: float | Sequence[float]) -> float | list[float]:
    try:
        numbers = np.asarray(value, dtype="float64")
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape not in ((), (3,)) or not np.isfinite(numbers).all():
        raise APINetError(
            f"PixelScaling needs one number or three numbers as {name}, got "
            f"{name}={value!r}"
        )
    return cast("float | list[float]", numbers.tolist())


def keras_scaling(mode: str | None) -> PixelScaling | None:
    """Creates the layer equivalent of `keras.applications.*.preprocess_input`.

    `"caffe"` is BGR minus the ImageNet mean; `"tf"` is -1 to 1; `"torch"` is 0 to 1,
    then normalization by the ImageNet mean and deviation; `"lite"` is EfficientNet-
    Lite's `(x - 127) / 128`; with `None`, the model scales its input itself.
    """
    if mode is None:
        return None
    if mode == "caffe":
        offset = (-103.939, -116.779, -123.68)
        return PixelScaling(offset=offset, to_bgr=True, name="pixel_scaling")
    if mode == "tf":
        return PixelScaling(1 / 127.5, -1.0, name="pixel_scaling")
    if mode == "lite":
        return PixelScaling(1 / 128, -127 / 128, name="pixel_scaling")
    return PixelScaling(
        scale=[1 / (255 * std) for std in _RGB_STD],
        offset=[-mean / std for mean, std in zip(_RGB_MEAN, _RGB_STD, strict=True)],
        name="pixel_scaling",
    )


def efficientnet_correction() -> PixelScaling:
    """Creates the layer that ImageNet files of EfficientNet B0 to B7 need as input.

    Keras's files hold the standard deviation where the normalization layer expects its
    square. With `weights="imagenet"`, Keras compensates with a layer that divides by
    the square root again, but does not do so for a weights file. This is the same
    correction, applied before the model's own normalization:
    `(y / 255 - mean) / sqrt(std) == (x / 255 - mean) / std`.
    """
    return PixelScaling(
        scale=[std**-0.5 for std in _RGB_STD],
        offset=[
            255 * mean * (1 - std**-0.5)
            for mean, std in zip(_RGB_MEAN, _RGB_STD, strict=True)
        ],
        name="pixel_scaling",
    )
