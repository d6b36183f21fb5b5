"""Features of recent batches, so that partners are found beyond the batch."""

from typing import Any

import keras
from keras import ops

from keras_apinet.layers.mining import class_indices, is_one_hot
from keras_apinet.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_apinet")
class FeatureMemory(keras.layers.Layer):
    """Keeps the features of the most recent training images, newest first.

    A small batch contains few look-alikes. Accumulating gradients does not help, but a
    memory does. Its features are up to `size / N` steps old and carry no gradient. Keep
    `size` below the number of images per epoch, or images meet their own past features.

    Args:
        size: Number M of features to keep.

    Call arguments:
        features: `[N, D]` float, the features of the batch.
        labels: `[N]` or `[N, 1]` integer classes, or `[N, C]` one-hot.
        training: Whether to store the batch.

    Returns:
        `(features [N + M, D], labels [N + M] or [N + M, C])`: first the batch, then the
        previous content of the memory.

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
        """Allocates storage for features with `features_shape[-1]` channels."""
        # All replicas see the global batch, so they store the same.
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
        """Returns features `[M, D]` and classes `[M]`; -1 marks an empty slot."""
        # Copies: TensorFlow would read the variables only where they are used, and
        # torch would return the storage that `assign` overwrites.
        return ops.copy(self.features), ops.copy(self.classes)

    def call(
        self,
        features: Tensor,
        labels: Tensor,
        training: bool | None = None,
        wrong: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Concatenates batch and memory; see the class.

        For images marked in `wrong`, bool `[N]`, no class is stored.
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
        # An empty slot is never a partner; its class only has to be valid.
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
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size}
