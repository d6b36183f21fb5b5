"""The machinery under the batches: one step in, one batch of decoded images out.

A batch is loaded by TensorFlow alone. If anything in it fails, the same step is loaded
again one image at a time in Python, where an error has a file name and a reason.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import Split
from keras_apinet.data.photos.files import check_file
from keras_apinet.data.photos.graph_preprocessing import decode
from keras_apinet.data.readers import Contents, pack
from keras_apinet.data.reading_report import ReadingReport
from keras_apinet.errors import APINetError
from keras_apinet.types import Dataset, Tensor

# pixels, box or None, step, place in the batch -> the finished image
Finish = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
Draw = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def load_batch(
    split: Split,
    step: Tensor,
    draw: Draw,
    finish: Finish,
    report: ReadingReport,
    box_crop: bool,
) -> Dataset:
    """A data set of one element: the images, the labels and the number of a step.

    Args:
        split: the source.
        step: int64 scalar.
        draw: gives the positions in `split` of the step's images, as far as they are
            not known to be unreadable.
        finish: crops, resizes and augments one image.
        report: told about unreadable images.
        box_crop: whether `finish` gets the object's box.
    """
    import tensorflow as tf

    def fetch(step: NDArray[np.int64]) -> tuple[Any, ...]:
        report.check()
        indices = draw(step)
        contents, sizes = split.reader.fetch(split.rows[indices])
        if split.reader.kind == "file":
            for path in contents:  # TensorFlow would wait for a pipe
                check_file(path)
        return (contents, sizes, *facts(indices))

    def fetch_one_by_one(step: NDArray[np.int64]) -> tuple[Any, ...]:
        images: dict[int, NDArray[np.uint8]] = {}
        while True:
            report.check()
            indices = draw(step)
            try:
                for index in indices.tolist():
                    if index not in images:
                        images[index] = split.read(index)
            except APINetError as error:
                report.add(index, error)
                continue
            contents: Contents = pack([images[i] for i in indices.tolist()])
            return (*contents, *facts(indices))

    def facts(indices: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        boxes = split.boxes if box_crop else None
        chosen = np.zeros((len(indices), 4), np.float32)
        return split.labels[indices], chosen if boxes is None else boxes[indices]

    def load(fetch: Callable[[NDArray[np.int64]], Any], kind: str) -> Dataset:
        def one(content: Tensor, size: Tensor, box: Tensor, i: Tensor) -> Tensor:
            if kind == "raw":
                pixels = tf.reshape(
                    tf.io.decode_raw(content, tf.uint8), [size[0], size[1], 3]
                )
            else:
                file = tf.io.read_file(content) if kind == "file" else content
                pixels = decode(file)
            return finish(pixels, _in_pixels(box, pixels), step, i)

        def _in_pixels(box: Tensor, pixels: Tensor) -> Tensor | None:
            if not box_crop or split.boxes is None:
                return None
            if split.boxes_are_fractions:
                size = tf.cast(tf.shape(pixels)[1::-1], tf.float32)
                return box * tf.concat([size, size], 0)
            return box

        def many(
            contents: Tensor, sizes: Tensor, labels: Tensor, boxes: Tensor
        ) -> Dataset:
            count = tf.size(contents, tf.int64)
            places = tf.range(count)
            images = tf.data.Dataset.from_tensor_slices(
                (contents, tf.ensure_shape(sizes, [None, 2]), boxes, places)
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

    fast = load(fetch, split.reader.kind).ignore_errors()
    return fast.concatenate(load(fetch_one_by_one, "raw")).take(1)


def in_order(steps: Dataset, load: Callable[[Tensor], Dataset]) -> Dataset:
    """Loads two steps at a time and hands them out in order."""
    import tensorflow as tf

    options = tf.data.Options()
    options.deterministic = True
    # Every process draws its own part of a batch already.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.OFF
    )
    load = tf.autograph.experimental.do_not_convert(load)
    return steps.interleave(
        load, cycle_length=2, num_parallel_calls=2, deterministic=True
    ).with_options(options)


class EpochClock:
    """Counts the epochs that were handed out whole.

    Args:
        epoch_steps: steps in an epoch.
        start_step: the step to begin with, counted over all epochs.
        report: told about the end of every epoch.

    Attributes:
        rest: steps of the first pass, to the end of the epoch.
    """

    def __init__(
        self, epoch_steps: int, start_step: int, report: ReadingReport
    ) -> None:
        if start_step < 0:
            raise APINetError(f"start_step={start_step} must not be negative.")
        self.epoch_steps, self._report = epoch_steps, report
        self.start_step = self.next_step = start_step
        self.rest = epoch_steps - start_step % epoch_steps

    def steps(self, repeat: bool) -> Dataset:
        """The numbers of the steps of the epoch that is next, or of all from there."""
        import tensorflow as tf

        def bounds() -> NDArray[np.int64]:
            if repeat:  # every pass is the same one, whoever looked in before
                return np.array([self.start_step, np.iinfo(np.int64).max], np.int64)
            if self.rest < self.epoch_steps and self.next_step > self.start_step:
                self._report.stop(
                    APINetError(
                        f"Batches with start_step={self.start_step}, within an epoch, "
                        "end with that epoch: make others with "
                        f"start_step={self.next_step} for what follows."
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
        """Hands out a batch; after the last of an epoch, the next one is due."""
        import tensorflow as tf

        def note(step: NDArray[np.int64]) -> NDArray[np.bool_]:
            if (int(step) + 1) % self.epoch_steps == 0:
                self.next_step = int(step) + 1
                self._report.tell()
            return np.array(True)

        with tf.control_dependencies([tf.numpy_function(note, [step], tf.bool)]):
            return tf.identity(images), tf.identity(labels)


def with_account(dataset: Dataset, **attributes: Any) -> Dataset:
    """Lets a data set carry the plan and the report that belong to it."""
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def _cores() -> int:
    """Processors that this process may use, which can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
