"""Input pipelines: balanced batches for training, ordered ones for evaluation."""

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
    """Creates batches of P classes x K images, in the order of a `BatchPlan`.

    Each pass over the result is one epoch, so it can be passed directly to `model.fit`.
    An unfinished pass does not count, which lets Keras peek at the first batch. The
    content of a step, including augmentation, depends only on `seed` and the step
    number.

    Args:
        source: A `Split`, a pair of NumPy arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, or anything else with images and labels that
            `as_split` takes.
        classes_per_batch: Number P of classes.
        images_per_class: Number K of images per class.
        image_size: Side of the square images, px.
        augmentation: `"paper"` (random crop and flip, default), `"light"`, `"strong"`
            or `"none"`.
        resize: `"fit"` (keep the aspect ratio, default) or `"squash"`.
        box_crop: Whether to crop to the object's box first, if the source has boxes.
            Default False.
        seed: Integer seed. Default 0.
        epoch_steps: Steps per epoch. Default: images // images per global batch.
        start_step: The step to start with, counted over all epochs: step s of epoch e
            is `e * plan.epoch_steps + s`. Default 0. Starting within an epoch yields
            only the rest of that epoch, because `model.fit` assumes that all epochs are
            as long as its first.
        repeat: Whether one pass runs through all epochs endlessly. Default False.
        class_sampling: `"uniform"` (default), `"sqrt"` or `"proportional"`.
        num_replicas: Blocks of P x K in the global batch. Default: `process_count`.
        process_index: Index of this process. Default 0.
        process_count: Number of processes that share the global batch; each gets
            `num_replicas / process_count` blocks. Default 1.
        on_error: How to handle unreadable images: `"skip"` (default) substitutes the
            next readable image of the class, records it in the result's `report`, and
            raises once more than 1 % are unreadable; `"raise"` raises immediately.

    Returns:
        A `tf.data.Dataset` of uint8 images `[N, image_size, image_size, 3]` and int32
        labels `[N]`, with `.plan` (the `BatchPlan`) and `.report` (a `ReadingReport`).

    Raises:
        APINetError: If an option is unknown or conflicts with another.

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
    """Creates batches with every image exactly once, in order and center-cropped.

    Args:
        source: As for `balanced_batches`.
        image_size: Side of the square images, px.
        batch_size: Images per batch; the last batch may be smaller. Default 64.
        resize: `"fit"` (keep the aspect ratio, default) or `"squash"`.
        box_crop: Whether to crop to the object's box first, if the source has boxes.
            Default False.
        augmentation: As for `balanced_batches`; yields one random but reproducible
            view of each image. Default `"none"`.
        views: Number V of random views per image, which is decoded only once. Default
            `None`: one view, without an axis for it.
        seed: Seed for the augmentation. Default 0.
        on_error: How to handle unreadable images: `"raise"` (default), or `"skip"`,
            which leaves them out, lists them in the result's `report`, and raises once
            more than one image and more than 1 % of them are unreadable.

    Returns:
        A `tf.data.Dataset` of uint8 images `[n, image_size, image_size, 3]`, or
        `[n, V, image_size, image_size, 3]` with `views`, and int32 labels `[n]`, with
        `.report` (a `ReadingReport`).

    Raises:
        APINetError: If an option is unknown.
    """
    check_options(image_size, augmentation, resize)
    BATCH_SIZE.check("batch_size", batch_size)
    split = as_split(source)
    # A small split, such as a held-out one, may lack one image.
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
    """Creates balanced batches of precomputed arrays, several for each image.

    In each step, one of its arrays is drawn for each image. The draw depends only on
    the plan's seed and the step number.

    Args:
        stored: `[V, n, ...]` floats, V for each of n images; may be memory-mapped.
        labels: `[n]`, the classes that `plan` was created from.
        plan: Which images form each step.
        report: The known unreadable images.
        start_step: The step to start with, counted over all epochs. Default 0.

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
    """Returns a function that crops, resizes and augments; see `balanced_batches`.

    `first` is the position of the batch's first image within its step. `views` of each
    photo are created along a new first axis; by default, there is one without it.
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
    """Returns `index`, or the next image of its class not known to be unreadable."""
    if not report.is_bad(index):
        return index
    same = np.flatnonzero(split.labels == split.labels[index])
    for other in np.roll(same, -np.searchsorted(same, index)).tolist():
        if not report.is_bad(other):
            return int(other)
    report.stop(
        APINetError(
            f"No image of class {split.labels[index]} can be read; one of them: "
            f"{report.failed[split.reference(index)]}"
        )
    )
