import numpy as np
import pytest
from keras import ops
from layer_checks import check_layer
from reference import interact, numeric_gradient

from keras_apinet.errors import APINetError
from keras_apinet.layers import AttentivePairwiseInteraction


def layer_and_weights(rng, channels=5, units=3, **options):
    layer = AttentivePairwiseInteraction(units, **options)
    layer.build((None, channels), (None, channels))
    values = [rng.normal(size=w.shape).astype("float32") for w in layer.weights[:4]]
    for weight, value in zip(layer.weights, values):
        weight.assign(value)
    w1, b1, w2, b2 = values
    return layer, (w1, b1, w2, b2)


@pytest.mark.parametrize("residual", [1.0, 0.5, 0.0])
def test_features_equal_the_paper(rng, residual):
    layer, weights = layer_and_weights(rng, residual_weight=residual)
    x1, x2 = rng.normal(size=(2, 6, 5)).astype("float32")
    for ours, theirs in zip(layer(x1, x2), interact(x1, x2, *weights, residual)):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), theirs, atol=1e-5)


def test_pairs_by_index_equal_pairs_by_value(rng):
    layer, weights = layer_and_weights(rng)
    x = rng.normal(size=(4, 5)).astype("float32")
    anchors, partners = np.array([0, 1, 2, 3, 0, 2]), np.array([1, 0, 3, 2, 3, 0])
    theirs = interact(x[anchors], x[partners], *weights)
    for ours, expected in zip(layer(x, pairs=(anchors, partners)), theirs):
        np.testing.assert_allclose(ops.convert_to_numpy(ours), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["values", "indices"])
def test_gradient_equals_the_paper(rng, gradient, form):
    layer, weights = layer_and_weights(rng, channels=4, units=2)
    x = rng.normal(size=(3, 4)).astype("float32")
    anchors, partners = np.array([0, 1, 2]), np.array([1, 2, 0])
    mix = rng.normal(size=(4, 3, 4)).astype("float32")

    def ours(x):
        if form == "indices":
            outputs = layer(x, pairs=(anchors, partners))
        else:
            outputs = layer(ops.take(x, anchors, axis=0), ops.take(x, partners, axis=0))
        return sum(
            ops.sum(ops.multiply(o, m)) for o, m in zip(outputs, mix, strict=True)
        )

    def theirs(x):
        outputs = interact(x[anchors], x[partners], *weights)
        return sum(float((o * m).sum()) for o, m in zip(outputs, mix))

    np.testing.assert_allclose(
        gradient(ours, x), numeric_gradient(theirs, x), atol=1e-4, rtol=1e-4
    )


def test_dropout_acts_on_the_hidden_layer_in_training_only(rng):
    layer, _ = layer_and_weights(rng, units=64, dropout_rate=0.5, seed=1)
    x1, x2 = rng.normal(size=(2, 4, 5)).astype("float32")
    calm = [ops.convert_to_numpy(o) for o in layer(x1, x2, training=False)]
    noisy = [ops.convert_to_numpy(o) for o in layer(x1, x2, training=True)]
    assert max(abs(a - b).max() for a, b in zip(calm, noisy)) > 1e-3
    # Gates lie in (0, 1) whatever is dropped, so the features keep their sign.
    for features, outputs in zip((x1, x1, x2, x2), noisy):
        ratio = outputs / features
        assert (ratio >= 1 - 1e-6).all()
        assert (ratio <= 2 + 1e-6).all()


def test_half_precision_is_close(rng):
    full, weights = layer_and_weights(rng)
    half = AttentivePairwiseInteraction(3, dtype="mixed_float16")
    half.build((None, 5), (None, 5))
    for a, b in zip(half.weights, weights):
        a.assign(b)
    x1, x2 = rng.normal(size=(2, 6, 5)).astype("float32")
    for ours, theirs in zip(half(x1, x2), full(x1, x2)):
        assert "float16" in str(ours.dtype)
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), atol=3e-2
        )


def test_layer_contract(rng, tmp_path):
    x1, x2 = rng.normal(size=(2, 6, 5)).astype("float32")
    check_layer(AttentivePairwiseInteraction(7, 0.2, seed=4), (x1, x2), tmp_path)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda n: n(np.zeros((2, 3)), np.zeros((2, 4))), r"\(2, 4\)"),
        (lambda n: n(np.zeros((2, 3, 3)), np.zeros((2, 3, 3))), r"\(2, 3, 3\)"),
        (lambda n: n(np.zeros((2, 3))), "neither"),
        (lambda n: n(np.zeros((2, 3)), np.zeros((2, 3)), pairs=([0], [1])), "both"),
    ],
)
def test_bad_shapes_are_named(call, value):
    with pytest.raises(APINetError, match=value):
        call(AttentivePairwiseInteraction())


@pytest.mark.parametrize(
    "options", [{"mutual_units": 0}, {"dropout_rate": 1.0}, {"residual_weight": -0.1}]
)
def test_bad_options_are_named(options):
    (name,) = options
    with pytest.raises(APINetError, match=name):
        AttentivePairwiseInteraction(**options)
