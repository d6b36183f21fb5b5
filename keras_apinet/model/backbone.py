"""What a model does with its backbone: it freezes first layers and pools the output."""

from dataclasses import dataclass
from typing import Any

import keras

from keras_apinet.errors import APINetError
from keras_apinet.types import Tensor


@dataclass(frozen=True)
class Halves:
    """Two models that share their layers with a backbone, one after the other.

    Attributes:
        frozen: From the backbone's input to the cut.
        tail: From the cut to the backbone's output.
    """

    frozen: keras.Model
    tail: keras.Model


def split(backbone: keras.Model, share: float) -> Halves:
    """Cuts a backbone at the last place that everything flows through.

    Args:
        backbone: A functional model of one input and one output.
        share: Share of its layers, in their order, that may lie before the cut; in
            [0, 1).

    Raises:
        APINetError: For another share, or a backbone without such a place.
    """
    if not 0 <= share < 1:
        raise APINetError(
            f"freeze_fraction={share!r} must lie in [0, 1): a share of the layers."
        )
    layers = getattr(backbone, "layers", [])
    for layer in reversed(layers[1 : round(share * len(layers))]):
        rest = tail(backbone, getattr(layer, "output", None))
        if rest is not None:
            return Halves(keras.Model(backbone.input, layer.output), rest)
    raise APINetError(
        f"freeze_fraction={share!r}: among the first {share:.0%} of the {len(layers)} "
        f"layers of {backbone.name!r} there is no place that everything flows through; "
        "take a larger share, or 0."
    )


def tail(backbone: keras.Model, tensor: Any) -> keras.Model | None:
    """The model from a tensor inside a backbone to its output.

    Returns:
        `None` where something flows past the tensor.
    """
    if not isinstance(tensor, keras.KerasTensor):
        return None
    try:
        return keras.Model(tensor, backbone.output)
    except ValueError:
        return None


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
