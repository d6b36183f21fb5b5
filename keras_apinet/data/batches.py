"""The input pipelines: balanced batches to train on, ordered ones to evaluate on."""

from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keras_apinet.data.batch_plan import BatchPlan
from keras_apinet.data.image_data import Split
from keras_apinet.data.photos.augmentation import augmenter, check_options
from keras_apinet.data.photos.graph_preprocessing import crop_and_resize, to_uint8
from keras_apinet.data.pipeline import BatchLoader, EpochClock, Finish, with_account
from keras_apinet.data.reading_report import ReadingReport
from keras_apinet.data.sources.arrays import as_split
from keras_apinet.errors import APINetError
from keras_apinet.files.bounds import BATCH_SIZE
from keras_apinet.types import Dataset, Tensor


def balanced_batches(
    source: Any,
    *,
    classes_per_batch: int,
    images_per_class: int,
    image_size: int,
    augmentation: str = "paper",
    resize: str = "fit",
    box_crop: bool = False,
    seed: int = 0,
    epoch_steps: int | None = None,
    start_step: int = 0,
    repeat: bool = False,
    class_sampling: str = "uniform",
    num_replicas: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    on_error: Literal["skip", "raise"] = "skip",
) -> Dataset:
    """Batches of P classes x K images, in an order that `BatchPlan` describes.

    One pass over the result is one epoch, the next pass the next epoch: give it to
    `model.fit` as it is. A pass that is not finished does not count, so that Keras may
    peek at the first batch. What a step holds, augmentation included, follows from
    `seed` and the step's number alone.

    Args:
        source: A `Split`, a pair of NumPy arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or anything with images and labels that
            `as_split` takes.
        classes_per_batch: P.
        images_per_class: K.
        image_size: Side of the square images in px.
        augmentation: `"paper"` (random crop and flip, default), `"light"`, `"strong"`
            or `"none"`.
        resize: `"fit"` (keep the aspect ratio, default) or `"squash"`.
        box_crop: Crop to the object's box first, where the source has boxes. Default
            False.
        seed: Integer. Default 0.
        epoch_steps: Steps in an epoch. Default: images // images in a global batch.
        start_step: The step to begin with, counted over all epochs: step s of epoch e
            is `e * plan.epoch_steps + s`. Default 0. A start within an epoch gives the
            rest of that epoch and no other, because `model.fit` takes the length of its
            first epoch for that of all.
        repeat: Whether one pass goes on through all epochs without end. Default False.
        class_sampling: `"uniform"` (default), `"sqrt"` or `"proportional"`.
        num_replicas: Blocks of P x K in the global batch. Default: `process_count`.
        process_index: Which process this is. Default 0.
        process_count: Processes that share the global batch; each gets its own
            `num_replicas / process_count` blocks. Default 1.
        on_error: What to do about unreadable images: `"skip"` (default) puts the next
            readable image of the class in its place, keeps account in the result's
            `report`, and raises once more than 1 % are unreadable; `"raise"` raises.

    Returns:
        A `tf.data.Dataset` of uint8 images `[N, image_size, image_size, 3]` and int32
        labels `[N]`, with `.plan` (the `BatchPlan`) and `.report` (a `ReadingReport`).

    Raises:
        APINetError: For options that are not known or do not fit each other.

    ```python
    batches = balanced_batches(
        data.splits["train"], classes_per_batch=30, images_per_class=4, image_size=448
    )
    with batches.report:
        model.fit(batches, epochs=100)
    ```
    """
    check_options(image_size, augmentation, resize)
    split = as_split(source)
    plan = BatchPlan(
        split.labels,
        classes_per_batch,
        images_per_class,
        seed=seed,
        epoch_steps=epoch_steps,
        class_sampling=class_sampling,
        num_replicas=max(num_replicas, process_count),
    )
    batch_size = len(plan.indices(0, 0, process_index, process_count))
    first = process_index * batch_size
    report = ReadingReport(split, on_error)

    def draw(step: NDArray[np.int64]) -> NDArray[np.int64]:
        indices = plan.indices(0, int(step), process_index, process_count)
        return np.array([_readable(split, int(i), report) for i in indices])

    finish = _finisher(image_size, augmentation, resize, seed, first)

    clock = EpochClock(plan.epoch_steps, start_step, report)
    loader = BatchLoader(split, draw, finish, report, box_crop)
    shape = (batch_size, image_size, image_size, 3)
    batches = loader.in_order(clock.steps(repeat), shape).map(clock.delivered)
    if not repeat:
        batches = batches.apply(tf.data.experimental.assert_cardinality(clock.rest))
    return with_account(batches, plan=plan, report=report)


def evaluation_batches(
    source: Any,
    *,
    image_size: int,
    batch_size: int = 64,
    resize: str = "fit",
    box_crop: bool = False,
    augmentation: str = "none",
    views: int | None = None,
    seed: int = 0,
    on_error: Literal["skip", "raise"] = "raise",
) -> Dataset:
    """Every image exactly once, in order: the centre crop, nothing random.

    Args:
        source: As for `balanced_batches`.
        image_size: Side of the square images in px.
        batch_size: Images per batch; the last batch holds the rest. Default 64.
        resize: `"fit"` (keep the aspect ratio, default) or `"squash"`.
        box_crop: Crop to the object's box first, where the source has boxes. Default
            False.
        augmentation: As for `balanced_batches`, to get one random view of each image
            that is always the same. Default `"none"`.
        views: V, to get so many random views of each image, which is decoded once.
            Default `None`: one, without an axis for it.
        seed: Of what is random. Default 0.
        on_error: What to do about unreadable images: `"raise"` (default), or `"skip"`
            them, listed in the result's `report`, which raises once more than one of
            them and more than 1 % are unreadable.

    Returns:
        A `tf.data.Dataset` of uint8 images `[n, image_size, image_size, 3]`, or
        `[n, V, image_size, image_size, 3]` with `views`, and int32 labels `[n]`, with
        `.report` (a `ReadingReport`).

    Raises:
        APINetError: For options that are not known.
    """
    check_options(image_size, augmentation, resize)
    BATCH_SIZE.check("batch_size", batch_size)
    split = as_split(source)
    # A small split, as those held out are, may miss one image.
    report = ReadingReport(split, on_error, at_least=1)

    def draw(step: NDArray[np.int64]) -> NDArray[np.int64]:
        start = int(step) * batch_size
        indices = range(start, min(start + batch_size, len(split)))
        return np.array([i for i in indices if not report.is_bad(i)], np.int64)

    finish = _finisher(image_size, augmentation, resize, seed, views=views)

    count = -(-len(split) // batch_size)
    loader = BatchLoader(split, draw, finish, report, box_crop)
    several = () if views is None else (views,)
    shape = (None, *several, image_size, image_size, 3)
    batches = loader.in_order(tf.data.Dataset.range(count), shape)
    batches = batches.map(lambda images, labels, step: (images, labels))
    if on_error == "raise":
        batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return with_account(batches, report=report)


def stored_batches(
    stored: NDArray[Any],
    labels: NDArray[np.int32],
    plan: BatchPlan,
    report: ReadingReport,
    start_step: int = 0,
) -> Dataset:
    """Balanced batches of arrays that were computed before, several for each image.

    Which of its arrays stands for an image is drawn for each image of each step, and
    follows from the plan's seed and the step's number alone.

    Args:
        stored: `[V, n, ...]` floats, V for each of n images; may lie in a file.
        labels: `[n]`, the classes that `plan` was made of.
        plan: Which images meet in a step.
        report: What is known about unreadable images.
        start_step: The step to begin with, counted over all epochs. Default 0.

    Returns:
        An endless `tf.data.Dataset` of float32 arrays `[N, ...]` and int32 labels
        `[N]`, with `.plan` and `.report`.
    """

    def fetch(step: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        images = plan.indices(0, int(step))
        chance = np.random.default_rng([plan.seed, int(step)])
        views = chance.integers(0, len(stored), len(images))
        return stored[views, images].astype(np.float32), labels[images]

    def batch(step: Tensor) -> tuple[Tensor, Tensor]:
        arrays, classes = tf.numpy_function(fetch, [step], (tf.float32, tf.int32))
        shape = [plan.batch_size, *stored.shape[2:]]
        return tf.ensure_shape(arrays, shape), tf.ensure_shape(classes, shape[:1])

    steps = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    return with_account(steps.map(batch).prefetch(2), plan=plan, report=report)


def _finisher(
    image_size: int,
    augmentation: str,
    resize: str,
    seed: int,
    first: int = 0,
    views: int | None = None,
) -> Finish:
    """What makes a finished image of a photo; options as for `balanced_batches`.

    `first` is the place of the batch's first image among those of the same step;
    `views` are made of each photo, along a new first axis, one by default.
    """
    augment = augmenter(augmentation)
    root = np.random.SeedSequence(seed).generate_state(2).astype(np.int32)

    fold = tf.random.experimental.stateless_fold_in

    def view(pixels: Tensor, box: Tensor | None, seed: Tensor) -> Tensor:
        chance = None if augmentation == "none" else seed
        image = crop_and_resize(pixels, image_size, resize, chance, box)
        return to_uint8(augment(image, fold(seed, 0)))

    def finish(pixels: Tensor, box: Tensor | None, step: Tensor, i: Tensor) -> Tensor:
        own = fold(fold(tf.constant(root), step), i + first)
        if views is None:
            return view(pixels, box, own)
        return tf.map_fn(
            lambda number: view(pixels, box, fold(own, number)),
            tf.range(1, views + 1),
            fn_output_signature=tf.uint8,
        )

    return finish


def _readable(split: Split, index: int, report: ReadingReport) -> int:
    """`index`, or the next image of its class that is not known to be unreadable."""
    if not report.is_bad(index):
        return index
    same = np.flatnonzero(split.labels == split.labels[index])
    for other in np.roll(same, -np.searchsorted(same, index)).tolist():
        if not report.is_bad(other):
            return int(other)
    report.stop(
        APINetError(
            f"No image of class number {split.labels[index]} can be read; one of them: "
            f"{report.failed[split.reference(index)]}"
        )
    )
