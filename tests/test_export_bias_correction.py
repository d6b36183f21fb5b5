"""Bias correction: the means that rounding moves come back."""

import keras
import numpy as np
import pytest

from keras_apinet.export.photos import round_and_correct

pytestmark = pytest.mark.one_backend


def test_means_are_those_of_the_model_before_rounding(rng):
    image = keras.Input((16, 16, 3))
    x = image
    for i in range(3):
        x = keras.layers.Conv2D(8, 3, name=f"conv{i}")(x)
        x = keras.layers.BatchNormalization(name=f"norm{i}")(x)
        x = keras.layers.ReLU()(x)
    model = keras.Model(image, x)
    for i in range(3):
        kernel, bias = model.get_layer(f"conv{i}").get_weights()
        # One large weight makes the steps of its channel coarse.
        kernel[0, 0, 0] *= 40
        model.get_layer(f"conv{i}").set_weights([kernel, bias])
    outputs = keras.Model(image, [model.get_layer(f"norm{i}").output for i in range(3)])
    photos = rng.integers(0, 256, (6, 16, 16, 3)).astype("uint8")

    def means():
        found = outputs(photos.astype("float32"), training=False)
        return [np.mean(np.asarray(o), (0, 1, 2)) for o in found]

    before = means()
    moving = [model.get_layer(f"norm{i}").moving_mean.numpy() for i in range(3)]
    round_and_correct(model, photos)
    for wanted, given in zip(before, means()):
        np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=2e-3)
    for i in range(3):
        conv, norm = model.get_layer(f"conv{i}"), model.get_layer(f"norm{i}")
        kernel = conv.kernel.numpy()
        steps = kernel / (np.abs(kernel).max((0, 1, 2)) / 127)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        norm.moving_mean.assign(moving[i])
    # Without the correction the last means are off by more than a hundred times that.
    assert np.abs(means()[-1] - before[-1]).max() > 0.2


def test_a_model_without_batch_norm_stays_as_it_is(rng):
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    before = model.get_weights()[0].copy()
    round_and_correct(model, rng.integers(0, 256, (2, 16, 16, 3)).astype("uint8"))
    np.testing.assert_array_equal(model.get_weights()[0], before)
