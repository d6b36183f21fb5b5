"""A model by the name of its backbone, and a trained one read back.

Importing this registers every class that a saved model may be made of.
"""

from pathlib import Path
from typing import Any

import keras

from keras_apinet import backbones, layers, losses, optimizers
from keras_apinet.errors import APINetError, reason
from keras_apinet.files.bounds import CLASSES
from keras_apinet.files.sealing import check_model
from keras_apinet.model import APINet

REGISTERED = (backbones, layers, losses, optimizers)


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
    CLASSES.check("num_classes", num_classes)
    backbone = backbones.create(name, image_size, weights)
    return APINet(backbone.model, num_classes, scaling=backbone.scaling, **options)


def load(path: str | Path, which: str = "best") -> APINet:
    """The trained `APINet` of a run folder or a `.keras` file.

    Args:
        path: A run folder of `keras-apinet train`, or a `.keras` file.
        which: In a run folder, `"best"` (highest validation accuracy) or `"last"`.

    Returns:
        The model, with the weights it was saved with, on the active backend.

    Raises:
        APINetError: If there is no such model, or the file is damaged or holds
            something else, or would unpack to more than it holds. Nothing in the file
            is ever executed or unpickled.
    """
    path = Path(path)
    file = path / f"{which}.keras" if path.is_dir() else path
    if not file.is_file():
        raise APINetError(
            f"There is no model at {str(file)!r}; give a run folder of "
            "`keras-apinet train` or a .keras file."
        )
    try:
        check_model(file)
        loaded = keras.saving.load_model(file, safe_mode=True)
    except APINetError as error:  # an option that this version does not take
        raise APINetError(
            f"The model {str(file)!r} cannot be loaded: {error}"
        ) from error
    except Exception as error:
        raise APINetError(
            f"The model {str(file)!r} cannot be read ({reason(error)}); it is "
            "damaged, or not a .keras file of this package."
        ) from error
    if not isinstance(loaded, APINet):
        raise APINetError(
            f"{str(file)!r} holds a {type(loaded).__name__}, not an APINet; give a "
            "model that was saved by this package."
        )
    return loaded
