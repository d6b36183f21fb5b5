"""The head without a backbone: batches of features, and a model that takes them."""

from typing import Any

import numpy as np


def feature_batch(
    images: int, channels: int, classes: int, images_per_class: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features `[N, D]` around class centers, and labels `[N]`."""
    rng = np.random.default_rng(0)
    # At least two: an image needs a partner of another class.
    present = max(2, min(images // images_per_class, classes))
    labels = (np.arange(images) % present).astype("int32")
    centres = rng.random((present, channels), "float32")
    noise = rng.random((images, channels), "float32")
    return 0.5 * centres[labels] + 0.5 * noise, labels


def head_model(channels: int, classes: int, **options: Any) -> Any:
    """An `APINet` that takes features: its backbone is the identity."""
    import keras

    from keras_apinet import APINet

    features = keras.Input((channels,))
    nothing = keras.layers.Identity()(features)
    return APINet(keras.Model(features, nothing), classes, **options)
