"""Schedules and optimizers, against figures worked out by hand."""

import keras
import numpy as np
import pytest

import keras_apinet
from keras_apinet.optimizers import LayerwiseAdamW, LayerwiseSGD
from keras_apinet.train.optimization import (
    layer_shares,
    optimizer,
    peak_rate,
    schedule,
)
from keras_apinet.train.recipe import Recipe


def rates(steps=100, **settings):
    made = schedule(Recipe(**settings), 0.5, steps)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(made)
    )
    found = [[float(s(step)) for step in range(steps + 1)] for s in (made, again)]
    assert found[0] == found[1]
    return np.array(found[0])


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_the_rate_rises_and_then_falls_as_asked(kind):
    found = rates(schedule=kind, rising=0.2)
    x = np.arange(81) / 80
    fall = {"cosine": 0.5 * (1 + np.cos(np.pi * x)), "linear": 1 - x}
    np.testing.assert_allclose(found[:20], 0.5 * np.arange(20) / 20, atol=1e-6)
    np.testing.assert_allclose(found[20:], 0.5 * fall.get(kind, np.ones(81)), atol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_without_a_rise_it_starts_at_the_peak(kind):
    found = rates(schedule=kind, rising=0.0)
    assert found[0] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.5 if kind == "constant" else 0.0, abs=1e-6)


def test_the_peak_is_the_asked_one_or_suits_weights_and_layers():
    """VGG has no layer that normalises; the tiny backbone has batch-norm."""
    plain = keras_apinet.build("vgg16", 2, image_size=32, weights=None)
    normalised = keras_apinet.build("tiny", 2, image_size=32)
    assert peak_rate(Recipe(backbone="tiny"), normalised) == 2e-3
    assert peak_rate(Recipe(backbone="vgg16", weights="none"), plain) == 1e-4
    assert peak_rate(Recipe(backbone="tiny", weights="a.h5"), normalised) == 3e-4
    assert peak_rate(Recipe(backbone="vgg16", learning_rate=0.1), plain) == 0.1


def test_one_cycle():
    found = rates(schedule="one_cycle")
    # fastai's: from a 25th to the peak at 30 %, then to a 10,000th of the start.
    assert found[0] == pytest.approx(0.02)
    assert found.argmax() == 30
    assert found[30] == pytest.approx(0.5)
    assert found[15] == pytest.approx((0.02 + 0.5) / 2)
    assert found[65] == pytest.approx((0.5 + 2e-6) / 2, rel=1e-5)
    assert found[100] == pytest.approx(2e-6, abs=1e-7)


def stepped(made, gradients, values):
    variables = [keras.Variable(v, name=n) for n, v in values.items()]
    made.build(variables)
    made.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    return {
        name: keras.ops.convert_to_numpy(v)
        for name, v in zip(values, variables, strict=True)
    }


def test_each_layer_gets_its_share_of_the_rate():
    values = {"first": np.ones(3, "float32"), "head": np.ones(3, "float32")}
    made = LayerwiseSGD(learning_rate=0.1, layer_shares={"first": 0.25})
    found = stepped(made, [np.ones(3, "float32")] * 2, values)
    np.testing.assert_allclose(found["first"], 1 - 0.1 * 0.25, rtol=1e-6)
    np.testing.assert_allclose(found["head"], 1 - 0.1, rtol=1e-6)


def test_the_whole_gradient_is_clipped_at_once():
    values = {"a": np.zeros(1, "float32"), "b": np.zeros(1, "float32")}
    made = LayerwiseSGD(learning_rate=1.0, global_clipnorm=1.0)
    gradients = [np.array([3.0], "float32"), np.array([4.0], "float32")]
    found = stepped(made, gradients, values)
    np.testing.assert_allclose([found["a"], found["b"]], [[-0.6], [-0.8]], rtol=1e-6)


@pytest.mark.parametrize("everything", [False, True])
def test_biases_and_norms_do_not_decay_unless_asked(everything):
    model = keras_apinet.build("tiny", 3, 32, None, mutual_units=4)
    recipe = Recipe(weight_decay=0.5, decay_all=everything)
    made = optimizer(recipe, model, 0.1)
    model.compile(made)
    made.build(model.trainable_variables)
    before = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
    zeros = [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    made.apply(zeros)
    kept = []
    for old, variable in zip(before, model.trainable_variables, strict=True):
        new = keras.ops.convert_to_numpy(variable)
        plain = variable.name in ("bias", "gamma", "beta")
        share = 0.95 if everything or not plain else 1.0
        np.testing.assert_allclose(new, old * share, rtol=1e-5, atol=1e-8)
        kept.append(plain)
    assert any(kept)
    assert not all(kept)


def test_rates_rise_geometrically_to_the_head():
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(2, 3, name="a")(image)
    x = keras.layers.BatchNormalization(name="b")(x)
    x = keras.layers.Activation("relu")(x)
    x = keras.layers.Conv2D(2, 3, name="c")(x)
    model = keras_apinet.build(keras.Model(image, x), 2)
    shares = layer_shares(model, 0.001)
    by_layer = {path.split("/")[-2]: round(s, 6) for path, s in shares.items()}
    # Three layers with weights, the head being the fourth: 0.001^(3/3), ^(2/3), ^(1/3).
    assert by_layer == {"a": 0.001, "b": 0.01, "c": 0.1}
    assert len(shares) == 6
    heads = [v.path for v in model.trainable_variables if v.path not in shares]
    assert len(heads) == len(model.trainable_variables) - 6


def test_adamw_without_shares_is_keras_own(rng):
    values = {"w": rng.normal(size=(4, 3)).astype("float32")}
    gradients = [rng.normal(size=(4, 3)).astype("float32")]
    options = {"learning_rate": 0.01, "weight_decay": 0.1}
    ours = stepped(LayerwiseAdamW(**options), gradients, values)
    theirs = stepped(keras.optimizers.AdamW(**options), gradients, values)
    np.testing.assert_array_equal(ours["w"], theirs["w"])
