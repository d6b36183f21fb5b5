"""Backbones that Keras does not include: DenseNet-161, EfficientNet-Lite, `"tiny"`."""

import math
from functools import partial

import keras
from keras import layers

from keras_apinet.types import Tensor


def densenet161(image_size: int) -> keras.Model:
    """Creates DenseNet-161 (Huang et al. 2017) without top, randomly initialized.

    Growth rate 48, stem of 96 channels, blocks of 6, 12, 36 and 24 layers, 2,208
    features. Layers are named and wired as in `keras.applications.DenseNet121`,
    whose growth rate and stem are fixed at 32 and 64.
    """
    image = layers.Input((image_size, image_size, 3))
    x = layers.ZeroPadding2D(3)(image)
    x = layers.Conv2D(96, 7, strides=2, use_bias=False, name="conv1_conv")(x)
    x = _norm_relu(x, "conv1_bn", "conv1_relu")
    x = layers.ZeroPadding2D(1)(x)
    x = layers.MaxPooling2D(3, strides=2, name="pool1")(x)
    for stage, depth in enumerate((6, 12, 36, 24), start=2):
        if stage > 2:
            x = _transition(x, f"pool{stage - 1}")
        for block in range(1, depth + 1):
            x = _dense_layer(x, 48, f"conv{stage}_block{block}")
    x = _norm_relu(x, "bn", "relu")
    return keras.Model(image, x, name="densenet161")


def _norm_relu(x: Tensor, norm_name: str, relu_name: str) -> Tensor:
    x = layers.BatchNormalization(epsilon=1.001e-5, name=norm_name)(x)
    return layers.Activation("relu", name=relu_name)(x)


def _dense_layer(x: Tensor, growth: int, name: str) -> Tensor:
    y = _norm_relu(x, f"{name}_0_bn", f"{name}_0_relu")
    y = layers.Conv2D(4 * growth, 1, use_bias=False, name=f"{name}_1_conv")(y)
    y = _norm_relu(y, f"{name}_1_bn", f"{name}_1_relu")
    y = layers.Conv2D(growth, 3, padding="same", use_bias=False, name=f"{name}_2_conv")(
        y
    )
    return layers.Concatenate(name=f"{name}_concat")([x, y])


def _transition(x: Tensor, name: str) -> Tensor:
    x = _norm_relu(x, f"{name}_bn", f"{name}_relu")
    channels = x.shape[-1] // 2
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_conv")(x)
    return layers.AveragePooling2D(2, strides=2, name=f"{name}_pool")(x)


def tiny(image_size: int) -> keras.Model:
    """Creates a small residual network that can be trained from scratch in minutes.

    It consists of plain 3x3 convolutions (depthwise ones are slow on XLA CPU and lose
    most when quantized to 8 bits), each with batch normalization of momentum 0.9, whose
    moving statistics keep up in runs of a few hundred steps.
    """
    image = layers.Input((image_size, image_size, 3))
    x = _conv(image, 16, "stem", strides=2)
    for stage, channels in enumerate((32, 64, 96), start=1):
        x = _conv(x, channels, f"stage{stage}_down", strides=2)
        y = _conv(x, channels, f"stage{stage}_conv1")
        y = _conv(y, channels, f"stage{stage}_conv2", relu=False)
        x = layers.Add(name=f"stage{stage}_add")([x, y])
        x = layers.ReLU(name=f"stage{stage}_relu")(x)
    return keras.Model(image, x, name="tiny")


def _conv(
    x: Tensor,
    channels: int,
    name: str,
    strides: int = 1,
    relu: bool = True,
) -> Tensor:
    x = layers.Conv2D(
        channels,
        3,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


# Repeats, kernel, stride, expansion and channels of each stage of EfficientNet-Lite0.
_LITE_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def efficientnet_lite(
    image_size: int, number: int, width: float, depth: float
) -> keras.Model:
    """Creates an EfficientNet-Lite, 0 to 4, without top, randomly initialized.

    This is EfficientNet (Tan and Le 2019) designed for 8 bits: ReLU6 instead of swish,
    no squeeze-and-excitation, and a stem and head of constant size. `width` scales the
    channels (rounded to multiples of 8), `depth` the repeats of the other stages.
    Layers are in the order of TensorFlow's weights.
    """
    image = layers.Input((image_size, image_size, 3))
    x = _lite_conv(image, "stem", 32, kernel=3, strides=2)
    for stage, (repeats, kernel, strides, expansion, channels) in enumerate(
        _LITE_STAGES, start=1
    ):
        if 1 < stage < len(_LITE_STAGES):
            repeats = math.ceil(depth * repeats)
        for block in range(1, repeats + 1):
            name = f"stage{stage}_block{block}"
            y = x
            if expansion > 1:
                y = _lite_conv(y, f"{name}_expand", expansion * x.shape[-1])
            y = _lite_conv(
                y, f"{name}_depthwise", None, kernel, strides if block == 1 else 1
            )
            y = _lite_conv(
                y, f"{name}_project", _multiple_of_8(width * channels), linear=True
            )
            if block > 1 or (strides == 1 and x.shape[-1] == y.shape[-1]):
                y = layers.Add(name=f"{name}_add")([x, y])
            x = y
    x = _lite_conv(x, "head", 1280)
    return keras.Model(image, x, name=f"efficientnet_lite{number}")


efficientnet_lite0 = partial(efficientnet_lite, number=0, width=1.0, depth=1.0)
efficientnet_lite1 = partial(efficientnet_lite, number=1, width=1.0, depth=1.1)
efficientnet_lite2 = partial(efficientnet_lite, number=2, width=1.1, depth=1.2)
efficientnet_lite3 = partial(efficientnet_lite, number=3, width=1.2, depth=1.4)
efficientnet_lite4 = partial(efficientnet_lite, number=4, width=1.4, depth=1.8)


def _multiple_of_8(channels: float) -> int:
    """Rounds to a multiple of 8, or up if rounding loses more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _lite_conv(
    x: Tensor,
    name: str,
    channels: int | None,
    kernel: int = 1,
    strides: int = 1,
    linear: bool = False,
) -> Tensor:
    """Adds convolution (depthwise if `channels=None`), batch norm, optional ReLU6."""
    initializer = keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal"
    )
    options = {
        "strides": strides,
        "padding": "same",
        "use_bias": False,
        "name": f"{name}_conv",
    }
    if channels is None:
        x = layers.DepthwiseConv2D(
            kernel, depthwise_initializer=initializer, **options
        )(x)
    else:
        x = layers.Conv2D(channels, kernel, kernel_initializer=initializer, **options)(
            x
        )
    x = layers.BatchNormalization(epsilon=1e-3, name=f"{name}_bn")(x)
    return x if linear else layers.ReLU(6.0, name=f"{name}_relu")(x)
