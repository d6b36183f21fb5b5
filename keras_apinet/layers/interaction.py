"""Attentive pairwise interaction: compares features of two images by channel."""

from typing import Any

import keras
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import FRACTION, Number
from keras_apinet.types import Shape, Tensor


def interact(
    x1: Tensor, x2: Tensor, mutual: Tensor, residual_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes the gated features of each pair from its mutual vector (Eq. 2 to 6).

    All are `[P, D]`. Returns `x1_self, x1_other, x2_self, x2_other`, where
    `x_i_self = x_i (r + g_i)`, `x_i_other = x_i (r + g_other)`,
    `g_i = sigmoid(mutual * x_i)` and r is `residual_weight`.
    """
    gate1 = ops.sigmoid(mutual * x1)
    gate2 = ops.sigmoid(mutual * x2)
    kept1, kept2 = (
        x if residual_weight == 1 else residual_weight * x for x in (x1, x2)
    )
    return (
        kept1 + x1 * gate1,
        kept1 + x1 * gate2,
        kept2 + x2 * gate2,
        kept2 + x2 * gate1,
    )


@keras.saving.register_keras_serializable(package="keras_apinet")
class AttentivePairwiseInteraction(keras.layers.Layer):
    """Compares the two images of each pair and emphasizes the channels that differ.

    A two-layer MLP without a non-linearity, `R^2D -> R^mutual_units -> R^D`, with
    dropout in between, computes the mutual vector `x_m = f_m([x_1, x_2])` (Eq. 1). The
    gates and the four features follow from it (Eq. 2 to 6):

    ```
    g_i       = sigmoid(x_m * x_i)
    x_i_self  = x_i + x_i * g_i
    x_1_other = x_1 + x_1 * g_2        x_2_other = x_2 + x_2 * g_1
    ```

    The MLP's first layer is linear, `W [x_1; x_2] = W_a x_1 + W_b x_2`. Given
    `pairs=(anchors, partners)`, it is applied once per image and gathered, which gives
    the same values as applying it to every pair, at half the cost.

    Args:
        mutual_units: Width of the MLP's hidden layer. Default 512.
        dropout_rate: Fraction of hidden units dropped in training, 0 to 1. Default 0.5.
        seed: Seed for the dropout.
        residual_weight: Weight r of the ungated feature in `r x + x g`. Default 1, as
            in the paper. With 0.5, gated features are as large as the plain ones used
            at test time, because gates initially average 0.5.

    Call arguments:
        x1: `[P, D]` float, the first image of each pair; or, with `pairs`, the features
            `[N, D]` of all images.
        x2: `[P, D]` float, the second image of each pair; omitted with `pairs`.
        pairs: `(anchors, partners)`, each `[P]` integer row indices into `x1`.
        training: Whether to apply dropout.

    Returns:
        `x1_self, x1_other, x2_self, x2_other`, each `[P, D]`.

    Raises:
        APINetError: If the features differ in width, or both or neither of `x2` and
            `pairs` are given.

    Example:
    >>> layer = AttentivePairwiseInteraction(mutual_units=8)
    >>> outputs = layer(np.ones((3, 16)), np.zeros((3, 16)))
    >>> [tuple(x.shape) for x in outputs]
    [(3, 16), (3, 16), (3, 16), (3, 16)]

    Reference:
        Zhuang, Wang, Qiao: Learning Attentive Pairwise Interaction for Fine-Grained
        Classification, AAAI 2020 (arXiv 2002.10191), section 3.
    """

    def __init__(
        self,
        mutual_units: int = 512,
        dropout_rate: float = 0.5,
        seed: int | None = None,
        residual_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        Number(int, 1).check("mutual_units", mutual_units)
        FRACTION.check("dropout_rate", dropout_rate)
        Number(float, 0, 10).check("residual_weight", residual_weight)
        self.mutual_units = mutual_units
        self.residual_weight = residual_weight
        self.dropout_rate = dropout_rate
        self.seed = seed
        self.dropout = keras.layers.Dropout(
            dropout_rate, seed=seed, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, x1_shape: Shape, x2_shape: Shape | None = None) -> None:
        """Creates the MLP for features with `x1_shape[-1]` channels."""
        self._check(x1_shape, x2_shape)
        channels = int(x1_shape[-1] or 0)
        # One kernel for [x_1; x_2], as in Eq. 1: the upper half is W_a, the lower W_b.
        self.hidden_kernel = self.add_weight(
            name="hidden_kernel",
            shape=(2 * channels, self.mutual_units),
            initializer="glorot_uniform",
        )
        self.hidden_bias = self.add_weight(
            name="hidden_bias", shape=(self.mutual_units,), initializer="zeros"
        )
        self.mutual_kernel = self.add_weight(
            name="mutual_kernel",
            shape=(self.mutual_units, channels),
            initializer="glorot_uniform",
        )
        self.mutual_bias = self.add_weight(
            name="mutual_bias", shape=(channels,), initializer="zeros"
        )
        self.dropout.build((None, self.mutual_units))
        self.built = True

    def _check(self, x1_shape: Shape, x2_shape: Shape | None) -> None:
        ranks = [len(s) for s in (x1_shape, x2_shape) if s is not None]
        same = x2_shape is None or x1_shape[-1] == x2_shape[-1]
        if any(rank != 2 for rank in ranks) or x1_shape[-1] is None or not same:
            came = f"x1.shape={tuple(x1_shape)}" + (
                f" and x2.shape={tuple(x2_shape)}" if x2_shape is not None else ""
            )
            raise APINetError(
                f"The interaction needs features [P, D] of equal width; got {came}."
            )

    def call(
        self,
        x1: Tensor,
        x2: Tensor | None = None,
        pairs: tuple[Tensor, Tensor] | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Compares pairs of features; see the class."""
        if (x2 is None) == (pairs is None):
            raise APINetError(
                "The interaction needs either x2 or pairs=(anchors, partners); got "
                + ("neither." if x2 is None else "both.")
            )
        self._check(x1.shape, None if x2 is None else x2.shape)
        channels = x1.shape[-1]
        first = ops.matmul(x1, self.hidden_kernel[:channels])
        if pairs is None:
            second = ops.matmul(x2, self.hidden_kernel[channels:])
        else:
            anchors, partners = pairs
            second = ops.matmul(x1, self.hidden_kernel[channels:])
            first = ops.take(first, anchors, axis=0)
            second = ops.take(second, partners, axis=0)
            x1, x2 = ops.take(x1, anchors, axis=0), ops.take(x1, partners, axis=0)
        hidden = self.dropout(first + second + self.hidden_bias, training=training)
        mutual = ops.matmul(hidden, self.mutual_kernel) + self.mutual_bias
        return interact(x1, x2, mutual, self.residual_weight)

    def compute_output_spec(
        self,
        x1: Tensor,
        x2: Tensor | None = None,
        pairs: tuple[Tensor, Tensor] | None = None,
        training: bool | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns four symbolic outputs `[P, D]` in the compute dtype."""
        rows = x1.shape[0] if pairs is None else pairs[0].shape[0]
        shape = (rows, x1.shape[-1])
        a, b, c, d = (keras.KerasTensor(shape, self.compute_dtype) for _ in range(4))
        return a, b, c, d

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "mutual_units": self.mutual_units,
            "dropout_rate": self.dropout_rate,
            "seed": self.seed,
            "residual_weight": self.residual_weight,
        }
