"""A model trained in 16 bits, as the same model in 32."""

from typing import Any

import keras

_SIXTEEN_BITS = {"mixed_bfloat16", "mixed_float16", "bfloat16", "float16"}


def in_float32(model: keras.Model) -> keras.Model:
    """The model itself if it computes in float32, else a copy that does.

    Converters know 16 bits only in part, and files choose their precision themselves.
    """
    if all(layer.compute_dtype == "float32" for layer in model._flatten_layers()):
        return model
    config = _replaced(keras.saving.serialize_keras_object(model))
    copy = keras.saving.deserialize_keras_object(config, safe_mode=True)
    copy.set_weights(model.get_weights())
    return copy


def _replaced(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _replaced(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return type(config)(_replaced(value) for value in config)
    return "float32" if isinstance(config, str) and config in _SIXTEEN_BITS else config
