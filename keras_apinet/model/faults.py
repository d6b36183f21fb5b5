"""Invalid data that only a training step sees: found on the device, then reported.

Keras passes the images and labels of a data set straight to the compiled step, in a
different way on each backend, so they are checked there. A batch with invalid data gets
a loss of NaN but no gradient, so the weights stay finite (momentum, weight decay and
batch norm still apply once). The fault is kept in a metric, which a callback turns into
an error before the next step.
"""

import warnings
from typing import Any

import keras
from keras import ops

from keras_apinet.errors import APINetError
from keras_apinet.layers.mining import is_one_hot
from keras_apinet.pixels import DARK, MARGIN, not_numbers, wrong_pixels
from keras_apinet.types import Logs, Tensor

NAME = "faults"


def pixel_fault(images: Tensor) -> Tensor:
    """Finds a batch's worst pixel, float32, or 0 if valid; see `pixels.wrong_pixels`.

    Images are `[N, H, W, 3]` of any dtype; for uint8, the check is free.
    """
    dtype = keras.backend.standardize_dtype(images.dtype)
    if dtype == "bool":
        raise not_numbers(dtype)
    if dtype == "uint8":
        return ops.zeros((), "float32")
    pixels = ops.cast(images, "float32")
    finite = ops.all(ops.isfinite(pixels))
    low, high = ops.min(pixels), ops.max(pixels)
    # `floor` has no gradient, and none is needed.
    scaled = ops.logical_and(high <= 1, ops.any(pixels != ops.floor(pixels)))
    fault = ops.where(ops.logical_or(scaled, high > 255 + MARGIN), high, 0.0)
    dark = ops.logical_and(low < 0, high <= DARK)
    fault = ops.where(ops.logical_or(low < -MARGIN, dark), low, fault)
    return ops.stop_gradient(ops.where(finite, fault, float("inf")))


def outside(labels: Tensor, num_classes: int) -> Tensor:
    """Marks labels that are not a class, bool `[N]`; never one-hot rows."""
    if is_one_hot(labels):
        return ops.zeros_like(labels[:, 0], dtype="bool")
    values = ops.cast(ops.reshape(labels, (-1,)), "float32")
    inside = ops.logical_and(values >= 0, values <= num_classes - 1)
    return ops.logical_not(ops.logical_and(inside, values == ops.floor(values)))


def wrong_label(value: float, num_classes: int) -> APINetError:
    """Creates the error for a label that is not a class."""
    if value != value or value != int(value):
        return APINetError(
            f"A label is {value:g}, but labels must be whole numbers from 0 to "
            f"{num_classes - 1}, or one-hot rows."
        )
    return APINetError(
        f"A label is {value:g}, but num_classes={num_classes} allows 0 to "
        f"{num_classes - 1}; number the classes from 0, or increase num_classes."
    )


class Faults(keras.metrics.Metric):
    """Counts the faults of an epoch and keeps an example of each; never logged."""

    def __init__(self) -> None:
        super().__init__(name=NAME, dtype="float32")
        # Batches: all, without an intra pair, without an inter pair, with an invalid
        # label, with invalid pixels.
        self.counts = self.add_variable((5,), "zeros", name="counts")
        # Values from different replicas cannot be summed.
        self.examples = self.add_variable(
            (2,), "zeros", aggregation="only_first_replica", name="examples"
        )

    def update_state(
        self,
        images: Tensor | None,
        labels: Tensor,
        wrong: Tensor,
        lacks: Any = (False, False),
    ) -> None:
        """Adds a batch of images `[N, H, W, 3]` or `None`, and labels as given.

        For `wrong`, see `outside`. `lacks` says whether no image has a partner of its
        own class, and whether none has one of another class.
        """
        pixel = 0.0 if images is None else pixel_fault(images)
        values = labels[:, 0] if is_one_hot(labels) else labels
        values = ops.cast(values, "float32")
        label = ops.take(ops.reshape(values, (-1,)), ops.argmax(wrong), axis=0)
        found = [True, *lacks, ops.any(wrong), ops.not_equal(pixel, 0.0)]
        self.counts.assign_add(ops.stack([ops.cast(x, "float32") for x in found]))
        examples = ops.stack([label, ops.cast(pixel, "float32")])
        self.examples.assign(
            ops.where(ops.stack(found[3:]), examples, self.examples.value)
        )

    def result(self) -> Tensor:
        """Returns the counts."""
        return self.counts.value

    def tell(self, num_classes: int) -> tuple[int, int, int]:
        """Raises an error if labels or pixels were invalid.

        Returns the number of batches, and how many had no pair of the same class and
        of another class.
        """
        counts = [int(n) for n in ops.convert_to_numpy(self.counts.value)]
        label, pixel = (float(x) for x in ops.convert_to_numpy(self.examples.value))
        if counts[3]:
            raise wrong_label(label, num_classes)
        if counts[4]:
            raise wrong_pixels(pixel)
        return counts[0], counts[1], counts[2]


class Watch(keras.callbacks.Callback):
    """Reports faults soon after they occur, at no cost while there are none."""

    async_safe = True  # Keras need not wait for the logs of each step

    def __init__(self, faults: Faults, num_classes: int) -> None:
        super().__init__()
        self.faults, self.num_classes = faults, num_classes
        self.steps = 0
        self.training = self.is_nan = self.warned = False

    def on_train_begin(self, logs: Logs = None) -> None:
        """Prepares for a new `fit`."""
        self.training = True

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Records a NaN loss; JAX may call this from another thread."""
        loss = float((logs or {}).get("loss", 0.0))
        self.is_nan = self.is_nan or loss != loss

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Checks for faults after a NaN loss, and after the very first step."""
        if self.is_nan or self.steps == 1:
            self.look()
        self.is_nan = False
        self.steps += 1

    def on_test_begin(self, logs: Logs = None) -> None:
        """Checks for faults before Keras resets the metrics for validation."""
        if self.training:
            self.look()

    def on_test_end(self, logs: Logs = None) -> None:
        """Checks the evaluated batches for faults."""
        self.look()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Checks the batches of an epoch for faults."""
        self.look()

    def look(self) -> None:
        """Raises faults, and warns once about batches without pairs."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        batches, no_intra, no_inter = self.faults.tell(self.num_classes)
        if not self.warned and (no_intra or no_inter):
            self.warned = True
            count, kind = (
                (no_intra, "same") if no_intra >= no_inter else (no_inter, "other")
            )
            warnings.warn(
                f"In {count} of {batches} batches no image had a partner of the {kind} "
                "class, so that pairs taught nothing there; "
                "keras_apinet.data.balanced_batches gives batches in which classes "
                "repeat.",
                stacklevel=2,
            )
