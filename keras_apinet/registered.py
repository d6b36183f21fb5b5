"""Everything that a saved model may be made of: importing this lets Keras find it."""

from keras_apinet import (
    compiling,
    interaction,
    losses,
    memory,
    mining,
    model,
    optimizers,
    pooling,
)
from keras_apinet.backbones import creation, scaling

__all__ = [
    "compiling",
    "creation",
    "interaction",
    "losses",
    "memory",
    "mining",
    "model",
    "optimizers",
    "pooling",
    "scaling",
]
