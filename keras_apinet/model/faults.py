"""Faults of the data that only a training step sees: found on the device, then told.

Images and labels of a data set pass through Keras straight into the compiled step, on
each backend in another way. The step looks at them there: a batch with a fault gets the
loss NaN, but no gradient, so that the weights stay finite (momentum, weight decay and
batch norm act once more); what was wrong is kept in a metric, and a callback turns it
into an error before the next step.
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
    """The worst pixel of a batch, float32, 0 if all is well; see `pixels.wrong_pixels`.

    Images are `[N, H, W, 3]` of any dtype; uint8 costs nothing.
    """
    dtype = keras.backend.standardize_dtype(images.dtype)
    if dtype == "bool":
        raise not_numbers(dtype)
    if dtype == "uint8":
        return ops.zeros((), "float32")
    pixels = ops.cast(images, "float32")
    finite = ops.all(ops.isfinite(pixels))
    low, high = ops.min(pixels), ops.max(pixels)
    # `floor` has no gradient, and none is wanted.
    scaled = ops.logical_and(high <= 1, ops.any(pixels != ops.floor(pixels)))
    fault = ops.where(ops.logical_or(scaled, high > 255 + MARGIN), high, 0.0)
    dark = ops.logical_and(low < 0, high <= DARK)
    fault = ops.where(ops.logical_or(low < -MARGIN, dark), low, fault)
    return ops.stop_gradient(ops.where(finite, fault, float("inf")))


def outside(labels: Tensor, num_classes: int) -> Tensor:
    """Which labels are no class, bool `[N]`; none of one-hot rows."""
    if is_one_hot(labels):
        return ops.zeros_like(labels[:, 0], dtype="bool")
    values = ops.cast(ops.reshape(labels, (-1,)), "float32")
    inside = ops.logical_and(values >= 0, values <= num_classes - 1)
    return ops.logical_not(ops.logical_and(inside, values == ops.floor(values)))


def wrong_label(value: float, num_classes: int) -> APINetError:
    """The error for a label that is no class."""
    if value != value or value != int(value):
        return APINetError(
            f"A label is {value:g}, but labels are whole numbers from 0 to "
            f"{num_classes - 1}, or one-hot rows."
        )
    return APINetError(
        f"A label is {value:g}, but num_classes={num_classes} allows 0 to "
        f"{num_classes - 1}; number the classes from 0, or raise it."
    )


class Faults(keras.metrics.Metric):
    """Counts the faults of an epoch, with an example of each; it is not logged."""

    def __init__(self) -> None:
        super().__init__(name=NAME, dtype="float32")
        # Batches, those without a pair of the same and of another class, with a wrong
        # label, with wrong pixels.
        self.counts = self.add_variable((5,), "zeros", name="counts")
        # Values of two replicas cannot be added up.
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
        """Looks at a batch: images `[N, H, W, 3]` or `None`, labels as they came.

        `wrong`: see `outside`. `lacks`: whether no image has a partner of its class,
        and of another.
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
        """The counts."""
        return self.counts.value

    def tell(self, num_classes: int) -> tuple[int, int, int]:
        """Raises what is wrong with labels or pixels.

        Returns the number of batches, and of those without a pair of the same and of
        another class.
        """
        counts = [int(n) for n in ops.convert_to_numpy(self.counts.value)]
        label, pixel = (float(x) for x in ops.convert_to_numpy(self.examples.value))
        if counts[3]:
            raise wrong_label(label, num_classes)
        if counts[4]:
            raise wrong_pixels(pixel)
        return counts[0], counts[1], counts[2]


class Watch(keras.callbacks.Callback):
    """Tells faults soon after they happened, at no cost while there are none."""

    async_safe = True  # Keras need not wait for the figures of each step

    def __init__(self, faults: Faults, num_classes: int) -> None:
        super().__init__()
        self.faults, self.num_classes = faults, num_classes
        self.steps = 0
        self.training = self.is_nan = self.warned = False

    def on_train_begin(self, logs: Logs = None) -> None:
        """A fit begins."""
        self.training = True

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        """Notes a loss of NaN; JAX may call this from another thread."""
        loss = float((logs or {}).get("loss", 0.0))
        self.is_nan = self.is_nan or loss != loss

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Looks when the loss was NaN, and after the very first step."""
        if self.is_nan or self.steps == 1:
            self.look()
        self.is_nan = False
        self.steps += 1

    def on_test_begin(self, logs: Logs = None) -> None:
        """Looks before Keras empties the metrics for a validation."""
        if self.training:
            self.look()

    def on_test_end(self, logs: Logs = None) -> None:
        """Looks at what was evaluated."""
        self.look()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Looks at what an epoch brought."""
        self.look()

    def look(self) -> None:
        """Raises faults, and warns once of batches without pairs."""
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
