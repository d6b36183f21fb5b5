import keras
import numpy as np
import pytest

from keras_apinet import APINet, APINetError, build
from keras_apinet.evaluate.contrast_maps import class_activation, contrast
from keras_apinet.evaluate.feature_maps import FeatureMaps, as_grid


def painted(*squares):
    """A black image with coloured squares: (channel, top, left)."""
    image = np.zeros((32, 32, 3), "uint8")
    for channel, top, left in squares:
        image[top : top + 4, left : left + 4, channel] = 255
    return image


@pytest.fixture
def detector():
    """Class 0 is blue, class 1 green, class 2 red; two poolings of exact channels."""
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.AveragePooling2D(4)(inputs)
    x = keras.layers.ReLU()(x)
    x = keras.layers.AveragePooling2D(2)(x)
    model = APINet(keras.Model(inputs, x), 3, mutual_units=4)
    kernel = np.array([[0, 0, 1.0], [0, 1, 0], [1, 0, 0]], "float32")
    model.classifier.set_weights([kernel, np.zeros(3, "float32")])
    return model


def inside(values, top, left):
    y, x = np.unravel_index(values.argmax(), values.shape)
    return top <= y < top + 4 and left <= x < left + 4


def test_the_peak_is_where_the_classes_differ(detector):
    """Both photos have red at the top left; a green, b blue mark elsewhere."""
    a = painted((0, 0, 0), (1, 20, 8))
    b = painted((0, 0, 0), (2, 4, 24))
    found = contrast(detector, a, b, classes=(1, 0))
    assert inside(found.where[0], 20, 8)
    assert inside(found.where[1], 4, 24)
    assert found.difference[0, 22, 10] > 0.5
    assert abs(found.difference[0, 2, 2]) < 0.1
    # For the other class green says nothing.
    assert abs(found.other[0]).max() < 0.1
    assert found.own[0, 22, 10] > 0.5
    assert found.distinguishing[:, 0].tolist() == [1, 2]


def test_shapes_and_ranges(rng):
    model = build("tiny", 4, image_size=64)
    a, b = rng.integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    found = contrast(model, a, b, channels=3)
    depth = model.feature_size
    assert found.images.dtype == np.uint8
    np.testing.assert_array_equal(found.images, [a, b])
    for values, low in (
        (found.own, -1),
        (found.other, -1),
        (found.difference, -1),
        (found.where, 0),
    ):
        assert values.shape == (2, 64, 64)
        assert values.dtype == np.float32
        assert values.min() >= low
        assert values.max() <= 1
    assert found.where.max(axis=(1, 2)) == pytest.approx([1, 1])
    assert found.gates.shape == (2, depth)
    assert found.gates.min() >= 0
    assert found.gates.max() <= 1
    assert found.probabilities.shape == (2, 4)
    assert found.probabilities.sum(axis=1) == pytest.approx([1, 1])
    assert found.distinguishing.shape == (2, 3)
    assert found.shared.shape == (3,)
    assert found.classes[0] != found.classes[1]


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_gates_are_those_of_the_interaction(weight, rng):
    """sigmoid(m * x_i), m of both photos' features, whatever the residual weight."""
    model = build("tiny", 4, image_size=64, residual_weight=weight, dropout_rate=0.0)
    a, b = rng.integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    found = contrast(model, a, b)
    x = keras.ops.convert_to_numpy(model.features(np.stack([a, b]))).astype(float)
    w1, b1, w2, b2 = model.interaction.get_weights()
    mutual = (np.concatenate(x)[None] @ w1 + b1) @ w2 + b2
    expected = 1 / (1 + np.exp(-mutual * x))
    np.testing.assert_allclose(found.gates, expected, atol=1e-3)


def test_evidence_adds_up_to_the_score_difference(rng):
    """On the last map, and the channels' parts too: as the pairwise model says."""
    model = build("tiny", 4, image_size=64)
    images = rng.integers(0, 256, (2, 64, 64, 3)).astype("uint8")
    found = contrast(model, *images, classes=(2, 3))
    x = model.features(images.astype("float32"))
    own, _, other, _ = model.interaction(x[:1], x[1:])
    bias = np.asarray(model.classifier.get_weights()[1])
    scores = [
        keras.ops.convert_to_numpy(model.classifier(gated))[0] - bias
        for gated in (own, other)
    ]
    expected = [scores[0][2] - scores[0][3], scores[1][3] - scores[1][2]]
    np.testing.assert_allclose(found.contributions.sum(axis=1), expected, rtol=1e-3)


def test_finer_maps_carry_the_same_evidence(detector):
    """The detector is linear: on every map the evidence adds up to the score."""
    feature_maps = FeatureMaps(detector)
    image = painted((1, 20, 8), (0, 4, 4))[None].astype("float32")
    maps = feature_maps.activations(keras.ops.convert_to_tensor(image))
    weights = np.array([[0.5, 2, 1]], "float32")
    score = float(
        (keras.ops.convert_to_numpy(detector.features(image)) * weights).sum()
    )
    evidence = feature_maps.evidence(maps, weights)
    assert [e.shape for e in evidence] == [(1, 8, 8), (1, 4, 4)]
    for maps in evidence:
        assert maps.sum() == pytest.approx(score, rel=1e-4)


def test_class_activation_peaks_on_the_class(detector):
    image = painted((1, 20, 8), (2, 4, 24))
    green = class_activation(detector, image, 1)
    assert green.shape == (32, 32)
    assert (green.min(), green.max()) == (0, 1)
    assert inside(green, 20, 8)
    assert inside(class_activation(detector, image, 0), 4, 24)
    # A black photo has no place that speaks for anything.
    assert class_activation(detector, painted(), 1).max() == 0


def test_photos_taken_for_one_class_are_told_from_the_runner_up(detector):
    a = painted((1, 20, 8), (1, 8, 8), (0, 0, 0))
    found = contrast(detector, a, a)
    assert found.classes == (1, 2)


def test_photos_of_another_size_are_prepared(detector):
    big = np.kron(painted((1, 16, 16)), np.ones((4, 4, 1), "uint8"))
    assert contrast(detector, big, big).images.shape == (2, 32, 32, 3)


@pytest.mark.parametrize("classes", [(1, 1), (0, 3), (-1, 2)])
def test_two_classes_must_be_two(detector, classes):
    with pytest.raises(APINetError, match="classes="):
        contrast(detector, painted(), painted(), classes=classes)


def test_a_photo_must_be_a_photo(detector):
    with pytest.raises(APINetError, match=r"shape=\(32, 32\)"):
        contrast(detector, np.zeros((32, 32)), painted())


def test_features_without_places_are_refused():
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    with pytest.raises(APINetError, match="have no spatial positions"):
        FeatureMaps(APINet(keras.Model(inputs, pooled), 2))


@pytest.mark.one_backend
def test_tokens_are_laid_out_as_a_square():
    tokens = np.arange(10.0).reshape(1, 10, 1)  # a class token and 3 x 3 places
    assert as_grid(tokens)[0, :, :, 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
