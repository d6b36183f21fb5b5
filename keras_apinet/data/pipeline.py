"""The pipeline behind the batches, which turns a step into a batch of decoded images.

A batch is loaded by TensorFlow alone. If anything fails, the same step is loaded again
in Python, one image at a time, so that an error has a file name and a reason.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_apinet.data.image_data import Split, pack
from keras_apinet.data.photos.files import check_file
from keras_apinet.data.photos.graph_preprocessing import decode
from keras_apinet.data.reading_report import ReadingReport
from keras_apinet.errors import APINetError
from keras_apinet.types import Dataset, Tensor

# pixels, box or None, step, place in the batch -> the finished image
Finish = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
Draw = Callable[[NDArray[np.int64]], NDArray[np.int64]]


class BatchLoader:
    """Turns step numbers into batches of preprocessed images.

    Args:
        split: The source.
        draw: Returns the positions in `split` of a step's images, avoiding those known
            to be unreadable.
        finish: Crops, resizes and augments one image.
        report: Receives unreadable images.
        box_crop: Whether `finish` gets the object's box.
    """

    def __init__(
        self,
        split: Split,
        draw: Draw,
        finish: Finish,
        report: ReadingReport,
        box_crop: bool,
    ) -> None:
        self._split, self._draw, self._finish = split, draw, finish
        self._report, self._boxes = report, split.boxes if box_crop else None

    def in_order(self, steps: Dataset, shape: tuple[int | None, ...]) -> Dataset:
        """Loads two steps at a time and returns them in order.

        Args:
            steps: int64 scalars.
            shape: Shape of a step's images, `[N, image_size, image_size, 3]`.

        Returns:
            uint8 images of that shape, int32 labels `[N]`, and the step number.
        """
        options = tf.data.Options()
        options.deterministic = True
        # Every process already draws its own part of a batch.
        options.experimental_distribute.auto_shard_policy = (
            tf.data.experimental.AutoShardPolicy.OFF
        )

        def shaped(images: Tensor, labels: Tensor, step: Tensor) -> tuple[Tensor, ...]:
            labels = tf.ensure_shape(labels, shape[:1])
            return tf.ensure_shape(images, shape), labels, step

        batches = steps.interleave(
            tf.autograph.experimental.do_not_convert(self._load),
            cycle_length=2,
            num_parallel_calls=2,
            deterministic=True,
        )
        return batches.with_options(options).map(shaped).prefetch(1)

    def _load(self, step: Tensor) -> Dataset:
        """Creates one element: the images, the labels and the number of a step."""
        fast = self._loaded(step, self._fetch, self._split.reader.kind).ignore_errors()
        slow = self._loaded(step, self._fetch_one_by_one, "raw")
        return fast.concatenate(slow).take(1)

    def _fetch(self, step: NDArray[np.int64]) -> tuple[Any, ...]:
        self._report.check()
        indices = self._draw(step)
        contents, sizes = self._split.reader.fetch(self._split.rows[indices])
        if self._split.reader.kind == "file":
            for path in contents:  # TensorFlow would block on a pipe
                check_file(path)
        return (contents, sizes, *self._facts(indices))

    def _fetch_one_by_one(self, step: NDArray[np.int64]) -> tuple[Any, ...]:
        images: dict[int, NDArray[np.uint8]] = {}
        while True:
            self._report.check()
            indices = self._draw(step)
            try:
                for index in indices.tolist():
                    if index not in images:
                        images[index] = self._split.read(index)
            except APINetError as error:
                self._report.add(index, error)
                continue
            contents = pack([images[i] for i in indices.tolist()])
            return (*contents, *self._facts(indices))

    def _facts(self, indices: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        none = np.zeros((len(indices), 4), np.float32)
        boxes = none if self._boxes is None else self._boxes[indices]
        return self._split.labels[indices], boxes

    def _loaded(self, step: Tensor, fetch: Any, kind: str) -> Dataset:
        def one(content: Tensor, size: Tensor, box: Tensor, i: Tensor) -> Tensor:
            if kind == "raw":
                pixels = tf.io.decode_raw(content, tf.uint8)
                pixels = tf.reshape(pixels, [size[0], size[1], 3])
            else:
                pixels = decode(tf.io.read_file(content) if kind == "file" else content)
            if self._split.boxes_are_fractions:
                sides = tf.cast(tf.shape(pixels)[1::-1], tf.float32)
                box *= tf.concat([sides, sides], 0)
            return self._finish(pixels, None if self._boxes is None else box, step, i)

        def many(
            contents: Tensor, sizes: Tensor, labels: Tensor, boxes: Tensor
        ) -> Dataset:
            count = tf.size(contents, tf.int64)
            images = tf.data.Dataset.from_tensor_slices(
                (contents, tf.ensure_shape(sizes, [None, 2]), boxes, tf.range(count))
            )
            images = images.map(one, num_parallel_calls=_cores(), deterministic=True)
            images = images.batch(tf.maximum(count, 1))
            return images.map(lambda images: (images, labels, step))

        types = (tf.string, tf.int32, tf.int32, tf.float32)
        return (
            tf.data.Dataset.from_tensors(step)
            .map(lambda step: tf.numpy_function(fetch, [step], types))
            .flat_map(many)
        )


class EpochClock:
    """Counts the epochs that were completed.

    `start_step` is counted over all epochs; `rest` is the number of steps in the first
    pass, up to the end of the epoch.
    """

    def __init__(
        self, epoch_steps: int, start_step: int, report: ReadingReport
    ) -> None:
        if start_step < 0:
            raise APINetError(f"start_step={start_step} must be at least 0.")
        self.epoch_steps, self._report = epoch_steps, report
        self.start_step = self.next_step = start_step
        self.rest = epoch_steps - start_step % epoch_steps

    def steps(self, repeat: bool) -> Dataset:
        """Yields the step numbers of the next epoch, or of all from there on."""

        def bounds() -> NDArray[np.int64]:
            if repeat:  # every pass starts at the beginning, even after Keras peeked
                return np.array([self.start_step, np.iinfo(np.int64).max], np.int64)
            if self.rest < self.epoch_steps and self.next_step > self.start_step:
                self._report.stop(
                    APINetError(
                        f"Batches with start_step={self.start_step}, within an epoch, "
                        "end with that epoch; create new ones with "
                        f"start_step={self.next_step} to continue."
                    )
                )
            end = (self.next_step // self.epoch_steps + 1) * self.epoch_steps
            return np.array([self.next_step, end], np.int64)

        def count(_: Tensor) -> Dataset:
            limits = tf.numpy_function(bounds, [], tf.int64)
            return tf.data.Dataset.range(limits[0], limits[1])

        return tf.data.Dataset.range(1).flat_map(count)

    def delivered(
        self, images: Tensor, labels: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns a batch; after the last one of an epoch, moves on to the next."""

        def note(step: NDArray[np.int64]) -> NDArray[np.bool_]:
            if (int(step) + 1) % self.epoch_steps == 0:
                self.next_step = int(step) + 1
                self._report.tell()
            return np.array(True)

        with tf.control_dependencies([tf.numpy_function(note, [step], tf.bool)]):
            return tf.identity(images), tf.identity(labels)


def with_account(dataset: Dataset, **attributes: Any) -> Dataset:
    """Attaches its plan and report to a data set."""
    # Nothing here needs autotuning, and deleting an iterator waits for the autotuning
    # thread, which sleeps for up to a minute.
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def _cores() -> int:
    """Number of processors that this process may use, possibly fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
