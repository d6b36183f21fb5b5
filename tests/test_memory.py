import contextlib

import keras
import numpy as np
import pytest

import keras_apinet
from keras_apinet.layers.memory import FeatureMemory
from keras_apinet.layers.mining import PairMiner


def numpy(*tensors):
    return [keras.ops.convert_to_numpy(t) for t in tensors]


def rows(*numbers):
    return np.array([[n, -n] for n in numbers], "float32")


def test_the_newest_features_come_first_and_the_oldest_leave():
    memory = FeatureMemory(5)
    memory(rows(1, 2), np.array([1, 2]), training=True)
    memory(rows(3, 4), np.array([3, 4]), training=True)
    features, classes = numpy(*memory(rows(5, 6), np.array([5, 6]), training=True))
    # What is given back is what it held before this batch.
    np.testing.assert_array_equal(features[:, 0], [5, 6, 3, 4, 1, 2, 0])
    np.testing.assert_array_equal(classes, [5, 6, 3, 4, 1, 2, 0])
    held = numpy(*memory.recent())
    np.testing.assert_array_equal(held[0][:, 0], [5, 6, 3, 4, 1])
    np.testing.assert_array_equal(held[1], [5, 6, 3, 4, 1])


def test_it_remembers_only_in_training():
    memory = FeatureMemory(2)
    memory(rows(1, 2), np.array([1, 2]))
    np.testing.assert_array_equal(numpy(memory.recent()[1])[0], [-1, -1])


def test_one_hot_labels():
    memory = FeatureMemory(3)
    labels = np.eye(4, dtype="float32")[[3, 1]]
    memory(rows(1, 2), labels, training=True)
    _, found = numpy(*memory(rows(5, 6), labels, training=True))
    np.testing.assert_array_equal(found[:4], np.eye(4)[[3, 1, 3, 1]])
    assert found.shape == (5, 4)


def test_a_partner_is_sought_in_batch_and_memory(rng):
    """The nearest over both, by a loop; only the batch's images are anchors."""
    features = rng.normal(size=(4, 3)).astype("float32")
    classes = np.array([0, 0, 1, 1])
    recent = rng.normal(size=(6, 3)).astype("float32")
    of = np.array([0, 1, 1, 2, -1, -1])
    anchors, partners, valid = numpy(
        *PairMiner()(features, classes, memory=(recent, of))
    )
    everything, all_classes = np.r_[features, recent], np.r_[classes, of]
    expected = []
    for same in (True, False):
        for i in range(4):
            best, nearest = np.inf, None
            for j in range(10):
                fits = (all_classes[j] == classes[i]) == same
                if j == i or not fits or all_classes[j] < 0:
                    continue
                distance = ((everything[j] - features[i]) ** 2).sum()
                if distance < best:
                    best, nearest = distance, j
            expected.append((i, nearest))
    assert valid.all()
    assert sorted(zip(anchors.tolist(), partners.tolist())) == sorted(expected)
    assert max(partners) > 3


def test_what_is_no_class_is_not_remembered():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    model = keras_apinet.build("tiny", 3, 32, None, memory_size=6, mutual_units=4)
    outputs = model((images, np.array([0, 7, 2, -2])), training=True)
    classes = keras.ops.convert_to_numpy(model.memory.recent()[1])
    assert classes.tolist() == [0, -1, 2, -1, -1, -1]
    # The step itself sees them, to tell of them.
    labels = keras.ops.convert_to_numpy(outputs["labels"])
    assert labels[:4].tolist() == [0, 7, 2, -2]


def test_a_model_with_a_memory_learns_from_single_images_of_a_class():
    """No class repeats in any batch: only the memory has partners of the same class."""
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).uniform(0, 255, (12, 32, 32, 3))
    images, labels = images.astype("uint8"), np.arange(12) % 4
    shares = {}
    for size in (0, 8):
        model = keras_apinet.build(
            "tiny", 4, 32, None, memory_size=size, mutual_units=4
        )
        model.compile("sgd")
        told = pytest.warns(UserWarning, match="no image had a partner of the same")
        with contextlib.nullcontext() if size else told:
            history = model.fit(
                images, labels, batch_size=4, epochs=2, shuffle=False, verbose=0
            )
        shares[size] = history.history["valid_pairs"][-1]
    assert shares[0] == pytest.approx(0.5)
    assert shares[8] == pytest.approx(1.0)


def test_what_is_remembered_carries_no_gradient(gradient):
    memory = FeatureMemory(2)
    memory(rows(1, 2), np.array([0, 1]), training=True)

    def of(features):
        together, _ = memory(features, np.array([0, 1]))
        return keras.ops.sum(together * together)

    found = gradient(of, rows(3, 4))
    np.testing.assert_allclose(found, 2 * rows(3, 4), rtol=1e-6)


def test_a_saved_model_keeps_its_memory(tmp_path):
    model = keras_apinet.build("tiny", 3, 32, None, memory_size=4, mutual_units=4)
    model.compile("sgd")
    images = np.zeros((4, 32, 32, 3), "uint8")
    model.fit(images, np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
    held = numpy(*model.memory.recent())
    model.save(tmp_path / "m.keras")
    again = keras_apinet.load(tmp_path / "m.keras").memory
    assert again.size == 4
    for a, b in zip(held, numpy(*again.recent())):
        np.testing.assert_array_equal(a, b)
