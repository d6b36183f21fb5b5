"""The class `unknown` inside the graph of a classifier, of operations that all know."""

from typing import TYPE_CHECKING

import numpy as np

from keras_apinet.open_world.unknown import Unknown

if TYPE_CHECKING:
    import keras

# What a converter has to divide by the temperature: all that gives logits.
SLOPE = "unknown_slope"


def with_unknown(
    model: "keras.Model", unknown: Unknown, temperature: float
) -> "keras.Model":
    """A model from pixels to logits with one more class, the last: `unknown`.

    Its logit is the largest of the others less `slope * margin`, so that it is the
    largest of all exactly where the margin is below 0:

    `margin = max_c (cos(z, prototype_c) - threshold_c)`, `z = (x - m) W`.

    These are two matrix products, a division by the length, a maximum and a
    subtraction. Divided by the temperature, the others are those without `unknown`.

    Args:
        model: From pixels to logits `[N, C]`; its layer `"classifier"` takes the
            pooled features.
        unknown: Prototypes and thresholds.
        temperature: What the logits are going to be divided by.

    Returns:
        A functional model to `[N, C + 1]`, sharing the layers of `model`.
    """
    import keras
    from keras import layers, ops

    part = unknown.prototypes
    features = model.get_layer("classifier").input
    logits = model.output
    options = {"dtype": "float32"}
    turned = layers.Dense(part.projection.shape[1], name="unknown_space", **options)
    similar = layers.Dense(len(part.directions), name="unknown_margins", **options)
    slope = layers.Dense(1, use_bias=False, name=SLOPE, **options)
    z = turned(features)
    z = layers.UnitNormalization(name="unknown_length", **options)(z)
    margin = ops.max(similar(z), axis=-1, keepdims=True)
    known = ops.max(logits, axis=-1, keepdims=True)
    outputs = layers.Concatenate(name="with_unknown", **options)(
        [logits, known - slope(margin)]
    )
    result = keras.Model(model.input, outputs, name=f"{model.name}_unknown")
    turned.set_weights([part.projection, -part.centre @ part.projection])
    similar.set_weights([part.directions.T, -unknown.thresholds])
    slope.set_weights([np.full((1, 1), unknown.slope * temperature, np.float32)])
    return result
