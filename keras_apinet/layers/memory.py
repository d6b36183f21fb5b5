"""Features of recent batches, so that partners are found beyond the batch."""

from typing import Any

import keras
from keras import ops

from keras_apinet.layers.mining import class_indices, is_one_hot
from keras_apinet.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_apinet")
class FeatureMemory(keras.layers.Layer):
    """Keeps the features of the last images that were trained on, newest first.

    A small batch offers few look-alikes, and accumulating gradients does not change
    that; a memory does. Its features are up to `size / N` steps old and carry no
    gradient. Keep `size` below the images of an epoch, or an image meets its own past.

    Args:
        size: Features kept, M.

    Call arguments:
        features: `[N, D]` float, of the batch.
        labels: `[N]` or `[N, 1]` integer classes, or `[N, C]` one-hot.
        training: Whether the batch is remembered.

    Returns:
        `(features [N + M, D], labels [N + M] or [N + M, C])`: the batch's, then those
        that the memory held before.

    Example:
    >>> memory = FeatureMemory(4)
    >>> _ = memory(np.ones((2, 3), "float32"), np.array([5, 6]), training=True)
    >>> print(ops.convert_to_numpy(memory.recent()[1]))
    [ 5  6 -1 -1]

    Reference:
        Wang, Zhang, Huang, Scott: Cross-Batch Memory for Embedding Learning, CVPR 2020
        (arXiv 1912.06798).
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})  # labels need all their bits
        self.size = size

    def build(self, features_shape: Shape, labels_shape: Shape | None = None) -> None:
        """Makes room for features of `features_shape[-1]` channels."""
        # All replicas see the whole batch, and so remember the same.
        self.features = self.add_weight(
            name="features",
            shape=(self.size, features_shape[-1]),
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.classes = self.add_weight(
            name="classes",
            shape=(self.size,),
            initializer=keras.initializers.Constant(-1),
            dtype="int32",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.built = True

    def recent(self) -> tuple[Tensor, Tensor]:
        """What it holds: features `[M, D]`, classes `[M]`; -1 is an empty place."""
        # Copies: TensorFlow would read the variables only where they are used, and
        # torch would hand out what `assign` writes into.
        return ops.copy(self.features), ops.copy(self.classes)

    def call(
        self,
        features: Tensor,
        labels: Tensor,
        training: bool | None = None,
        wrong: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Puts batch and memory together; see the class.

        Of images that are `wrong`, bool `[N]`, no class is remembered.
        """
        recent, classes = self.recent()
        if training:
            newest = ops.cast(ops.stop_gradient(features), recent.dtype)
            together = ops.concatenate([newest, recent])
            self.features.assign(together[: self.size])
            newest = class_indices(labels)
            newest = newest if wrong is None else ops.where(wrong, -1, newest)
            together = ops.concatenate([newest, classes])
            self.classes.assign(together[: self.size])
        # An empty place is nobody's partner; its class only has to exist.
        classes = ops.maximum(classes, 0)
        if is_one_hot(labels):
            classes = ops.one_hot(classes, labels.shape[-1], dtype=labels.dtype)
        else:
            labels = ops.reshape(labels, (-1,))
        return (
            ops.concatenate([features, ops.cast(recent, features.dtype)]),
            ops.concatenate([labels, ops.cast(classes, labels.dtype)]),
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "size": self.size}
