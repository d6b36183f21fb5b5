"""The pipelines: pure functions of seed and step, in step with evaluation."""

import colorsys

import keras
import numpy as np
import pytest

from keras_apinet.data import balanced_batches, evaluation_batches, load, prepare
from keras_apinet.errors import APINetError

one_backend = pytest.mark.one_backend
OPTIONS = {"classes_per_batch": 3, "images_per_class": 2, "image_size": 16}


@pytest.fixture(scope="module")
def pair():
    """36 images of 6 classes, whose red channel is the label and green the number."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (36, 24, 30, 3), np.uint8)
    labels = np.arange(36, dtype=np.int32) % 6
    images[..., 0] = labels[:, None, None] * 40
    images[..., 1] = np.arange(36)[:, None, None] * 7
    return images, labels


def collect(batches):
    return [(np.array(x), np.array(y)) for x, y in batches]


def assert_same(first, second):
    assert len(first) == len(second) > 0
    for (x, y), (u, v) in zip(first, second, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["paper", "light", "strong"])
def test_any_step_is_drawn_again_without_the_ones_before(pair, augmentation):
    """On every backend: two epochs in one run, and from step 7 of 12 in another."""
    options = OPTIONS | {"augmentation": augmentation, "seed": 3}
    batches = balanced_batches(pair, **options)
    assert len(batches) == batches.plan.epoch_steps == 6
    run = collect(batches) + collect(batches)
    again = balanced_batches(pair, start_step=7, **options)
    assert_same(run[7:], collect(again))
    other = balanced_batches(pair, **options | {"seed": 4})
    assert not np.array_equal(run[0][0], collect(other.take(1))[0][0])
    for images, labels in run:
        assert images.dtype == np.uint8
        assert images.shape == (6, 16, 16, 3)
        assert len(set(labels)) == 3


@one_backend
def test_a_pass_that_is_not_finished_does_not_count(pair):
    batches = balanced_batches(pair, **OPTIONS)
    first = collect(batches.take(1))
    assert_same(first, collect(batches)[:1])


@pytest.mark.slow
@one_backend
def test_batches_without_end_begin_where_they_are_told(pair):
    options = OPTIONS | {"start_step": 4, "repeat": True}
    batches = balanced_batches(pair, **options)
    run = collect(batches.take(9))
    assert_same(run, collect(batches.take(9)))
    epochs = balanced_batches(pair, **OPTIONS)
    assert_same(run, (collect(epochs) + collect(epochs) + collect(epochs))[4:13])


@one_backend
def test_a_start_within_an_epoch_ends_with_it(pair):
    """Keras would take the length of the first pass for that of every epoch."""
    batches = balanced_batches(pair, start_step=8, **OPTIONS)
    assert len(batches) == 4
    collect(batches.take(1))  # a look does not count
    assert len(collect(batches)) == 4
    with pytest.raises(APINetError, match="start_step=12 to"), batches.report:
        collect(batches)


@one_backend
def test_a_small_class_is_filled_with_other_views_of_its_images(rng):
    images = rng.integers(0, 255, (5, 40, 40, 3), np.uint8)
    batches = balanced_batches(
        (images, [0, 0, 1, 1, 1]),
        classes_per_batch=2,
        images_per_class=6,
        image_size=16,
    )
    for views, labels in collect(batches):
        assert np.bincount(labels).tolist() == [6, 6]
        assert len({view.tobytes() for view in views}) == 12


@one_backend
def test_images_are_augmented_afresh_and_labels_belong(pair):
    batches = balanced_batches(pair, **OPTIONS)
    blue = {}
    for images, labels in collect(batches) + collect(batches):
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels * 40)
        for image in images:
            blue.setdefault(int(image[0, 0, 1]), set()).add(image.tobytes())
    assert len(blue) == 36
    assert all(len(views) == 2 for views in blue.values())


@one_backend
def test_evaluation_is_every_image_once_in_order(pair):
    images, labels = pair
    batches = evaluation_batches(pair, image_size=16, batch_size=10)
    found = collect(batches)
    assert [len(y) for _, y in found] == [10, 10, 10, 6]
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), labels)
    # Two libraries resize: a sum that ends at a half may be rounded either way.
    prepared = np.array([prepare(i, 16) for i in images], int)
    apart = np.abs(np.concatenate([x for x, _ in found]) - prepared)
    assert apart.max() <= 1
    assert np.mean(apart > 0) < 1e-3


@pytest.mark.slow
@one_backend
def test_several_views_of_each_image(pair):
    images, labels = pair
    options = {"image_size": 16, "batch_size": 10, "augmentation": "paper", "seed": 3}
    found = collect(evaluation_batches(pair, views=4, **options))
    assert_same(found, collect(evaluation_batches(pair, views=4, **options)))
    views = np.concatenate([x for x, _ in found])
    assert views.shape == (36, 4, 16, 16, 3)
    np.testing.assert_array_equal(np.concatenate([y for _, y in found]), labels)
    for image, own in zip(images, views, strict=True):
        # Two channels of the fixture tell the class and the image; crops keep them.
        np.testing.assert_array_equal(
            own[..., :2], np.broadcast_to(image[0, 0, :2], own[..., :2].shape)
        )
    different = sum(len({view.tobytes() for view in own}) for own in views)
    assert different > 100  # of 144; a small image has few crops
    fewer = collect(evaluation_batches(pair, views=2, **options))
    np.testing.assert_array_equal(np.concatenate([x for x, _ in fewer]), views[:, :2])


@one_backend
def test_colours_are_jittered_within_their_ranges(rng):
    """`colorsys` tells luminance and colour of what comes out."""
    import tensorflow as tf

    from keras_apinet.data.photos.augmentation import _colours, _step_seeds

    image = rng.uniform(80, 170, (8, 8, 3)).astype("float32")
    yiq = np.array([colorsys.rgb_to_yiq(*p) for p in image.reshape(-1, 3)])
    drawn = []
    for number in range(200):
        changed = _colours(tf.constant(image), _step_seeds(tf.constant([1, number])))
        pixels = changed.numpy().reshape(-1, 3)
        other = np.array([colorsys.rgb_to_yiq(*p) for p in pixels])
        contrast, _ = np.polyfit(yiq[:, 0], other[:, 0], 1)
        # Colours as complex numbers: one factor for all pixels, but for their mean.
        before, after = ((x[:, 1] + 1j * x[:, 2]) for x in (yiq, other))
        before, after = before - before.mean(), after - after.mean()
        factor = np.vdot(before, after) / np.vdot(before, before)
        np.testing.assert_allclose(after, factor * before, atol=0.5)
        drawn.append(
            (
                (pixels.mean(0) - image.mean((0, 1))) @ [0.3, 0.59, 0.11] / 255,
                contrast,
                abs(factor) / contrast,
                np.angle(factor) / (2 * np.pi),
            )
        )
    ranges = [(-0.2, 0.2), (0.8, 1.2), (2 / 3, 3 / 2), (-0.01, 0.01)]
    for values, (low, high) in zip(np.transpose(drawn), ranges, strict=True):
        slack = 0.02 * (high - low)
        assert low - slack <= values.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < values.max() <= high + slack


@one_backend
@pytest.mark.parametrize("source", ["batched", "single", "PyDataset", "map", "stream"])
def test_sources_given_in_python_give_the_same_batches(pair, source):
    import tensorflow as tf

    images, labels = pair

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return images[9 * i : 9 * i + 9], keras.utils.to_categorical(
                labels[9 * i : 9 * i + 9], 6
            )

    single = tf.data.Dataset.from_tensor_slices(pair)
    made = {
        "batched": lambda: single.batch(8),
        "single": lambda: single,
        "PyDataset": Batches,
        "map": lambda: [
            {"image": i, "label": n} for i, n in zip(images, labels, strict=True)
        ],
        "stream": lambda: zip(images.astype("float32"), labels, strict=True),
    }[source]()
    assert_same(
        collect(balanced_batches(pair, **OPTIONS)),
        collect(balanced_batches(made, **OPTIONS)),
    )


@pytest.mark.slow
@one_backend
def test_grain(pair):
    grain = pytest.importorskip("grain")
    pairs = list(zip(*pair, strict=True))
    want = collect(balanced_batches(pair, **OPTIONS))
    data = grain.MapDataset.source(pairs)
    assert_same(want, collect(balanced_batches(data, **OPTIONS)))
    stream = data.to_iter_dataset()
    assert_same(want, collect(balanced_batches(stream, **OPTIONS)))


@pytest.mark.slow
def test_fit_takes_them_as_they_are(pair):
    """An epoch of Keras is an epoch of the plan, on every backend."""
    model = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(6),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = balanced_batches(pair, **OPTIONS)
    with batches.report:
        history = model.fit(batches, epochs=2, shuffle=False, verbose=0)
    assert len(history.history["loss"]) == 2
    assert int(model.optimizer.iterations) == 12
    following = balanced_batches(pair, start_step=12, **OPTIONS)
    assert_same(collect(following), collect(batches))
    rest = balanced_batches(pair, start_step=20, **OPTIONS)
    with rest.report:
        model.fit(rest, epochs=1, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == 16


@one_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augmentation": "wild"}, "augmentation='wild'"),
        ({"resize": "crop"}, "resize='crop'"),
        ({"image_size": 0}, "image_size=0"),
        ({"start_step": -1}, "start_step=-1"),
        ({"process_count": 2, "num_replicas": 3}, "num_replicas=3"),
        ({"process_count": 2, "process_index": 2}, "2 processes, .* number 2"),
    ],
)
def test_wrong_options_are_named(pair, options, message):
    with pytest.raises(APINetError, match=message):
        balanced_batches(pair, **OPTIONS | options)


def tf_forever():
    import tensorflow as tf

    return tf.data.Dataset.from_tensors((np.zeros((4, 4, 3)), 0)).repeat()


def grain_forever():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source([(np.zeros((4, 4, 3)), 0)]).repeat()


@one_backend
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (7, "source=7 is not a data set"),
        ((np.zeros((2, 4, 4, 3)), np.zeros(3)), "2 images came with 3 labels"),
        ((np.zeros((2, 4, 4, 3)), np.array([0, -1])), "whole numbers from 0"),
        ([(np.zeros((4, 4, 3)) - 1, 0)] * 2, r"pixels must lie in 0\.\.255"),
        (iter([1, 2]), "not \\(image, label\\)"),
        (tf_forever, "never ends"),
        (grain_forever, "never ends"),
    ],
)
def test_wrong_sources_are_named(source, message):
    source = source() if callable(source) else source

    def deliver():
        batches = balanced_batches(source, **OPTIONS | {"classes_per_batch": 1})
        with batches.report:
            collect(batches)

    with pytest.raises(APINetError, match=message):
        deliver()


@pytest.mark.slow
@one_backend
def test_same_photos_in_a_folder_and_in_tfds_give_the_same_batches(shared, tmp_path):
    """12 classes of the Grocery Store photos; TFDS keeps the files as they are."""
    import tensorflow_datasets as tfds

    folder = load(shared / "data/grocery_store", validation=0)
    keep = {n: np.flatnonzero(s.labels < 12) for n, s in folder.splits.items()}
    examples = {
        name: [
            (i, {"image": split.reference(i), "label": int(split.labels[i])})
            for i in keep[name].tolist()
        ]
        for name, split in folder.splits.items()
    }

    class Grocery(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(),
                        "label": tfds.features.ClassLabel(
                            names=list(folder.class_names)
                        ),
                    }
                ),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {name: iter(rows) for name, rows in examples.items()}

        def _generate_examples(self):
            yield from ()

    Grocery(data_dir=str(tmp_path)).download_and_prepare()
    stored = load("tfds:grocery", data_dir=tmp_path, validation=0)
    options = OPTIONS | {"image_size": 64, "classes_per_batch": 6}
    assert_same(
        collect(
            balanced_batches(folder.splits["train"].take(keep["train"]), **options)
        ),
        collect(balanced_batches(stored.splits["train"], **options)),
    )


@pytest.mark.one_backend
def test_no_pipeline_leaves_a_thread_that_tunes_it():
    # Dropping its iterator waits for that thread, up to a minute for each validation.
    from keras_apinet.data.batches import stored_batches

    pixels = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2
    options = {"image_size": 8, "classes_per_batch": 2, "images_per_class": 2}
    balanced = balanced_batches(pixels, **options)
    arrays = np.zeros((1, 8, 4), np.float16), pixels[1].astype(np.int32)
    for batches in (
        balanced,
        evaluation_batches(pixels, image_size=8),
        stored_batches(*arrays, balanced.plan, balanced.report),
    ):
        assert batches.options().autotune.enabled is False
