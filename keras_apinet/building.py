"""`build`: an `APINet` on a backbone chosen by name."""

from typing import Any

import keras

from keras_apinet import backbones
from keras_apinet.errors import APINetError
from keras_apinet.model import APINet


def build(
    name: str | keras.Model,
    num_classes: int,
    image_size: int | None = None,
    weights: str | None = "imagenet",
    **options: Any,
) -> APINet:
    """An `APINet` on a backbone chosen by name.

    Args:
        name: A short name (`"efficientnet"`), a full one (`"resnet50"`), a preset or
            preset folder (`"keras_hub:..."`, `"keras_cv:..."`), `"tiny"`, or any
            `keras.Model`; `keras_apinet.backbones.available()` lists the names.
        num_classes: Number of classes, at least 2.
        image_size: Height and width of the images in px. Default: the backbone's own.
        weights: `"imagenet"`, `None` (random), or a weights file. Not used when `name`
            is a model.
        **options: See `APINet`.

    Returns:
        An `APINet`, ready to `compile`.

    Raises:
        APINetError: For an unknown name, weights that do not fit, or a bad option.

    Example:
    >>> model = keras_apinet.build("tiny", num_classes=10, weights=None)
    >>> model.feature_size > 0
    True
    """
    if isinstance(name, keras.Model):
        return APINet(name, num_classes, **options)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise APINetError(
            f"num_classes={num_classes!r} must be a whole number of at least 2."
        )
    backbone = backbones.create(name, image_size, weights)
    return APINet(backbone.model, num_classes, scaling=backbone.scaling, **options)
