"""One batch over several replicas: everybody sees all of it."""

import sys
from typing import Any

import keras

from keras_apinet.types import Tensor


def whole_batch(rows: Tensor) -> Tensor:
    """The rows `[n, ...]` of every replica, in order, under `tf.distribute`.

    Each replica then computes the loss of the whole batch, of which Keras takes the
    1/R-th part: summed over R replicas the gradients are those of one device. On JAX an
    array is global already, and nothing is to be done.
    """
    context = _replicas()
    if context is None:
        return rows
    count = context.num_replicas_in_sync
    length = None if rows.shape[0] is None else count * rows.shape[0]
    gathered = context.all_gather(rows, axis=0)
    # Gathering forgets the sizes.
    return sys.modules["tensorflow"].ensure_shape(gathered, [length, *rows.shape[1:]])


def whole_gradients(gradients: list[Any]) -> tuple[list[Any], int]:
    """Gradients summed over the replicas, and how many replicas there are."""
    context = _replicas()
    if context is None:
        return gradients, 1
    present = [g for g in gradients if g is not None]
    summed = iter(context.all_reduce("SUM", present))
    whole = [None if g is None else next(summed) for g in gradients]
    return whole, context.num_replicas_in_sync


def _replicas() -> Any:
    """TensorFlow's replica context, if there are several replicas."""
    # Keras has imported TensorFlow if it is the backend; nothing is imported here.
    if keras.backend.backend() != "tensorflow" or "tensorflow" not in sys.modules:
        return None
    context = sys.modules["tensorflow"].distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None
