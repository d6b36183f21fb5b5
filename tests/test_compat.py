"""Private Keras names: these tests fail when Keras renames one."""

import keras

from keras_apinet.compat import flatten_layers, own_trainable_variables


class Pair(keras.layers.Layer):
    """A layer that is not a model, with layers inside it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.first = keras.layers.Dense(2, name="first")
        self.second = keras.layers.Dense(2, name="second")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], 2))

    def call(self, x):
        return self.second(self.first(x))


def test_flatten_layers_looks_into_models_and_layers():
    inner = keras.Sequential([keras.Input((3,)), Pair(name="pair")], name="inner")
    model = keras.Sequential([keras.Input((3,)), inner], name="outer")
    names = [layer.name for layer in flatten_layers(model)]
    assert names[0] == "outer"
    assert {"inner", "pair", "first", "second"} < {*names}
    assert "outer" not in [x.name for x in flatten_layers(model, include_self=False)]


def test_own_trainable_variables_are_not_those_inside():
    pair = Pair()
    pair.build((None, 3))
    assert own_trainable_variables(pair) == []
    assert [v.name for v in own_trainable_variables(pair.first)] == ["kernel", "bias"]
