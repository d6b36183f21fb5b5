"""Every private Keras name that the package cannot do without, each with a test."""

from typing import Any

import keras


def flatten_layers(layer: Any, include_self: bool = True) -> list[keras.layers.Layer]:
    """A layer and all the layers inside it, at any depth, in Keras's own order.

    `Model.layers` is public, but does not look into layers that are not models.
    """
    return list(layer._flatten_layers(include_self=include_self))


def own_trainable_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The trainable variables of a layer, without those of the layers inside it."""
    return list(layer._trainable_variables)
