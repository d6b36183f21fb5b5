"""Global batches and gradients over several replicas."""

import sys
from typing import Any

import keras

from keras_apinet.types import Tensor


def whole_batch(rows: Tensor) -> Tensor:
    """Gathers the rows `[n, ...]` of all replicas, in order, under `tf.distribute`.

    Each replica then computes the loss of the whole batch, which Keras divides by R.
    Summed over R replicas, the gradients equal those of one device. On JAX, arrays are
    already global, so nothing is done.
    """
    context = _replicas()
    if context is None:
        return rows
    count = context.num_replicas_in_sync
    length = None if rows.shape[0] is None else count * rows.shape[0]
    gathered = context.all_gather(rows, axis=0)
    # Gathering loses the static shape.
    return sys.modules["tensorflow"].ensure_shape(gathered, [length, *rows.shape[1:]])


def whole_gradients(gradients: list[Any]) -> tuple[list[Any], int]:
    """Gradients summed over the replicas, and the number of replicas."""
    context = _replicas()
    if context is None:
        return gradients, 1
    present = [g for g in gradients if g is not None]
    summed = iter(context.all_reduce("SUM", present))
    whole = [None if g is None else next(summed) for g in gradients]
    return whole, context.num_replicas_in_sync


def _replicas() -> Any:
    """TensorFlow's replica context, if there are several replicas."""
    # If TensorFlow is the backend, Keras has already imported it.
    if keras.backend.backend() != "tensorflow" or "tensorflow" not in sys.modules:
        return None
    context = sys.modules["tensorflow"].distribute.get_replica_context()
    several = context is not None and context.num_replicas_in_sync > 1
    return context if several else None
