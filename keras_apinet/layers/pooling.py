"""From what a backbone gives to one vector for each image."""

import keras

from keras_apinet.errors import APINetError
from keras_apinet.types import Tensor


def pooling_layer(backbone: keras.Model, pooling: str) -> keras.layers.Layer:
    """The layer that pools a backbone's feature map, tokens or vector to `[N, D]`.

    Args:
        backbone: The backbone.
        pooling: `"average"` or `"token"`.

    Raises:
        APINetError: If the backbone gives something else.
    """
    shape = backbone.output_shape
    if not isinstance(shape, tuple) or len(shape) not in (2, 3, 4):
        raise APINetError(
            "The backbone must give one output of rank 2, 3 or 4; got "
            f"output_shape={shape}."
        )
    if len(shape) == 2:
        return keras.layers.Identity(name="pool")
    if len(shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name="pool")
    if pooling == "token":
        return FirstToken(name="pool")
    return keras.layers.GlobalAveragePooling1D(name="pool")


@keras.saving.register_keras_serializable(package="keras_apinet")
class FirstToken(keras.layers.Layer):
    """The first of `[N, T, D]` tokens, `[N, D]`: the class token of a transformer."""

    def call(self, tokens: Tensor) -> Tensor:
        """Takes token 0."""
        return tokens[:, 0]
