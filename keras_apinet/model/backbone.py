"""The backbone of a model: frozen first layers, feature maps and pooled features."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_apinet.compat import flatten_layers
from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import FRACTION
from keras_apinet.model.inputs import CheckedModel, wrong_shape
from keras_apinet.types import Shape, Tensor


@dataclass(frozen=True)
class Halves:
    """The two parts of a split backbone, with which they share their layers.

    Attributes:
        frozen: From the backbone's input to the cut.
        tail: From the cut to the backbone's output.
    """

    frozen: keras.Model
    tail: keras.Model


def split(backbone: keras.Model, share: float) -> Halves:
    """Splits a backbone at the last tensor through which all data flows.

    At most a fraction `share`, in [0, 1), of the layers comes before the cut. The
    backbone is a functional model with one input and one output.

    Raises:
        APINetError: If the share is invalid, or the backbone has no such tensor.
    """
    FRACTION.check("freeze_fraction", share)
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
    """Creates the model from a tensor inside a backbone to its output.

    Returns:
        The model, or `None` if some data bypasses the tensor.
    """
    if not isinstance(tensor, keras.KerasTensor):
        return None
    try:
        return keras.Model(tensor, backbone.output)
    except ValueError:
        return None


def pooling_layer(backbone: keras.Model, pooling: str) -> keras.layers.Layer:
    """Creates the layer that pools a feature map, tokens or a vector to `[N, D]`.

    `pooling` is `"average"` or `"token"`; any other backbone output is an error.
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
        # Feature maps are channels-last whatever the Keras configuration.
        return keras.layers.GlobalAveragePooling2D("channels_last", name="pool")
    if pooling == "token":
        return FirstToken(name="pool")
    return keras.layers.GlobalAveragePooling1D("channels_last", name="pool")


def check_names(backbone: keras.Model, scaling: keras.layers.Layer | None) -> None:
    """Checks that the layers of a classifier have unique names."""
    taken = {"image", "pool", "classifier", "probabilities"}
    for part in filter(None, (scaling, backbone)):
        if part.name in taken:
            raise APINetError(
                f"The name {part.name!r} of the backbone or its scaling is reserved; "
                "use another, as in keras.Model(..., name='backbone')."
            )
        taken.add(part.name)


def check_unquantized(layers: Iterable[keras.layers.Layer]) -> None:
    """Checks that a model can be loaded again after saving."""
    for layer in layers:
        if getattr(layer, "quantization_mode", None):
            raise APINetError(
                f"The layer {layer.name!r} was quantized, which affects all models "
                "sharing it, and could not be loaded again; save the model before "
                "quantizing it, or export it with precision='int8'."
            )


@keras.saving.register_keras_serializable(package="keras_apinet")
class FirstToken(keras.layers.Layer):
    """Takes the first of `[N, T, D]` tokens, such as a transformer's class token."""

    def call(self, tokens: Tensor) -> Tensor:
        """Returns token 0, `[N, D]`."""
        return tokens[:, 0]


class BackboneModel(CheckedModel):
    """A model with a backbone that maps images to feature maps and pooled features.

    Attributes:
        backbone: Maps scaled images to a feature map, tokens or a vector.
        scaling: The layer before the backbone, or `None`.
        pool: The layer that pools the backbone's output to `[N, D]`.
    """

    backbone: keras.Model
    scaling: keras.layers.Layer | None
    pool: keras.layers.Layer
    batch_norm: str
    _halves: Halves | None

    @property
    def feature_size(self) -> int:
        """Number of channels D of a pooled feature."""
        return int(self.backbone.output_shape[-1])

    @property
    def image_size(self) -> int | None:
        """Height and width of the images, px; `None` if the backbone takes any size."""
        size = self.backbone.input_shape[1]
        return None if size is None else int(size)

    def features(self, inputs: Any, training: bool | None = False) -> Tensor:
        """Computes pooled backbone features, the x of the paper.

        Args:
            inputs: Images `[N, H, W, 3]`, float or uint8, 0..255, or precomputed
                values: `{"frozen": x}` or `{"features": x}`; see the class.
            training: Whether the backbone runs in training mode.

        Returns:
            `[N, D]`, in the compute dtype.
        """
        if isinstance(inputs, dict) and "features" in inputs:
            self._check_inputs(inputs)
            return ops.cast(inputs["features"], self.compute_dtype)
        return self.pool(self.feature_map(inputs, training=training))

    def feature_map(self, inputs: Any, training: bool | None = False) -> Tensor:
        """Computes the backbone's output before pooling; inputs as in `features`."""
        if self.batch_norm == "inference":
            training = False
        self._check_inputs(inputs, maps=True)
        if self._halves is None:
            return self.backbone(self._scaled(inputs), training=training)
        if isinstance(inputs, dict):
            given = inputs["frozen"]
        else:
            given = self._halves.frozen(self._scaled(inputs), training=False)
        return self._halves.tail(given, training=training)

    def _check_inputs(self, inputs: Any, maps: bool = False) -> None:
        """Checks images or precomputed values; `maps` rules out pooled features."""
        if not isinstance(inputs, dict):
            shape = tuple(inputs.shape)
            if not _fits(shape, (*self.backbone.input_shape[1:3], 3)):
                raise wrong_shape(shape, self.image_size)
            return
        names = [*inputs]
        if names == ["features"] and not maps:
            expected: Shape = (self.feature_size,)
        elif names == ["frozen"] and self._halves is not None:
            expected = self._halves.frozen.output_shape[1:]
        elif names == ["frozen"]:
            raise APINetError(
                "{'frozen': x} needs a model with frozen layers, but this one has "
                "freeze_fraction=0; pass images."
            )
        else:
            raise APINetError(
                f"The model got a dictionary with keys {names} instead of images; pass "
                "images, {'frozen': x} or, where no map is needed, {'features': x}."
            )
        shape = tuple(inputs[names[0]].shape)
        if not _fits(shape, expected):
            sides = ", ".join("S" if side is None else str(side) for side in expected)
            raise APINetError(
                f"The model needs {{{names[0]!r}: x}} with x [N, {sides}]; got "
                f"shape={shape}."
            )

    def _scaled(self, images: Tensor) -> Tensor:
        return images if self.scaling is None else self.scaling(images)

    def train_backbone(self, learns: bool) -> None:
        """Makes the backbone trainable except for its frozen layers, or not at all."""
        self.backbone.trainable = learns
        self._freeze()

    def _freeze(self) -> None:
        for layer in () if self._halves is None else self._halves.frozen.layers:
            layer.trainable = False

    def frozen_model(self) -> keras.Model:
        """Creates the model of scaling and frozen layers.

        It shares its layers with this model. Its output x can be passed to this model
        in place of images, as `{"frozen": x}`.

        Returns:
            A functional `keras.Model` from `[N, H, W, 3]` pixels 0..255 to the output
            of the frozen layers.

        Raises:
            APINetError: If no layer is frozen.
        """
        if self._halves is None:
            raise APINetError(
                "No layer is frozen (freeze_fraction=0); build with "
                "freeze_fraction=0.7."
            )
        inputs = keras.Input(self.backbone.input_shape[1:], name="image")
        return keras.Model(inputs, self._halves.frozen(self._scaled(inputs)))

    def feature_model(self) -> keras.Model:
        """Creates the model of pooled features: scaling, backbone, pooling.

        It shares its layers, and thus its weights, with this model.

        Returns:
            A functional `keras.Model` from `[N, H, W, 3]` pixels 0..255 to `[N, D]`
            float32.
        """
        inputs = keras.Input(self.backbone.input_shape[1:], name="image")
        outputs = self.pool(self.backbone(self._scaled(inputs)))
        if outputs.dtype != "float32":
            outputs = keras.layers.Activation("linear", dtype="float32")(outputs)
        return keras.Model(inputs, outputs, name=f"{self.name}_features")


def set_momentum(backbone: keras.Model, momentum: float) -> None:
    """Sets the momentum, in [0, 1), of every batch-norm layer of a backbone."""
    FRACTION.check("batch_norm_momentum", momentum)
    for layer in flatten_layers(backbone):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum


def _fits(shape: Shape, expected: Shape) -> bool:
    """Whether all dimensions but the first match; `None` matches anything."""
    pairs = zip(shape[1:], expected, strict=False)
    alike = all(None in pair or pair[0] == pair[1] for pair in pairs)
    return alike and len(shape) == len(expected) + 1
