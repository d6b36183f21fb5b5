"""Building models by backbone name, and loading trained models.

Importing this module registers all classes that a saved model may contain.
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
    """Builds an `APINet` on a backbone chosen by name.

    Args:
        name: A short name (`"efficientnet"`), a full name (`"resnet50"`), a preset or
            preset folder (`"keras_hub:..."`, `"keras_cv:..."`), `"tiny"`, or any
            `keras.Model`; `keras_apinet.backbones.available()` lists the names.
        num_classes: Number of classes, at least 2.
        image_size: Height and width of the images in px. Defaults to the backbone's.
        weights: `"imagenet"`, `None` (random), or a weights file. Not used if `name`
            is a model.
        **options: See `APINet`.

    Returns:
        An `APINet`, ready to `compile`.

    Raises:
        APINetError: For an unknown name, incompatible weights, or an invalid option.

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
    """Loads a trained `APINet` from a run folder or a `.keras` file.

    Args:
        path: A run folder of `keras-apinet train`, or a `.keras` file.
        which: In a run folder, `"best"` (highest validation accuracy) or `"last"`.

    Returns:
        The model with its saved weights, on the active backend.

    Raises:
        APINetError: If there is no such model, or the file is damaged, contains
            something else, or would unpack to more than it declares. Nothing in the
            file is ever executed or unpickled.
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
    except APINetError as error:  # an option that this version does not support
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
            f"{str(file)!r} contains a {type(loaded).__name__}, not an APINet; give a "
            "model saved by this package."
        )
    return loaded
