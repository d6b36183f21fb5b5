"""Private Keras names: these tests fail when Keras renames one."""

import keras
import numpy as np
import pytest

from keras_apinet.compat import (
    OptimizerSteps,
    better_when,
    compiled_metrics,
    flatten_layers,
    own_trainable_variables,
    set_better_when,
)


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


class Counted(OptimizerSteps, keras.optimizers.SGD):
    """Plain SGD that notes which of its parts ran, with which learning rate."""

    def __init__(self, **options):
        super().__init__(**options)
        self.ran = []

    def update_all(self, gradients, variables, rate):
        self.ran.append(f"update {len(gradients)} {len(variables)}")
        super().update_all(gradients, variables, 2 * rate)

    def update_averages(self, variables):
        self.ran.append("averages")
        super().update_averages(variables)

    def decay_all(self, variables):
        self.ran.append("decay")

    def clip(self, gradients):
        self.ran.append("clip")
        return super().clip(gradients)


def one_step(**options):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    optimizer = Counted(learning_rate=0.1, **options)
    model.compile(optimizer, loss="mse")
    model.train_on_batch(np.ones((2, 1)), np.zeros((2, 1)))
    return model, optimizer


def test_each_part_of_an_update_runs_through_its_hook():
    # Loss w^2 at w = 1: gradient 2, clipped to 1 over kernel and bias (2, 2); the rate
    # 0.1 is doubled, so each falls by 0.2 / sqrt(2).
    options = {"weight_decay": 0.5, "use_ema": True, "ema_momentum": 0.9}
    model, optimizer = one_step(global_clipnorm=1.0, **options)
    assert {*optimizer.ran} == {"update 2 2", "averages", "decay", "clip"}
    kernel, bias = (w.item() for w in model.get_weights())
    assert kernel == pytest.approx(1 - 0.2 / np.sqrt(2), abs=1e-6)
    assert bias == pytest.approx(-0.2 / np.sqrt(2), abs=1e-6)


def test_batches_count_while_gradients_accumulate():
    _, optimizer = one_step(gradient_accumulation_steps=3)
    assert int(keras.ops.convert_to_numpy(optimizer.batches)) == 1
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == 0


def test_averages_decays_and_slots_follow_the_variables():
    model, optimizer = one_step(use_ema=True, momentum=0.9)
    assert [a.shape for a in optimizer.averages] == [(1, 1), (1,)]
    bias = model.trainable_variables[1]
    optimizer.exclude_from_weight_decay(var_list=[bias])
    assert [optimizer.decays(v) for v in model.trainable_variables] == [True, False]
    assert optimizer.slot(optimizer.momentums, bias) is optimizer.momentums[1]


def test_compiled_metrics_are_those_of_compile():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse", metrics=["mae"])
    metrics = compiled_metrics(model)
    assert not metrics.built
    metrics.build(keras.KerasTensor((None, 1)), keras.KerasTensor((None, 1)))
    assert [m.name for m in metrics.metrics] == ["mae"]


@pytest.mark.parametrize(
    ("direction", "first", "second"), [("up", 0.0, 1.0), ("down", 1.0, 0.0)]
)
def test_callbacks_read_the_direction_of_a_metric(direction, first, second):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    # Of a function that is not Keras's own, of which it would know the direction.
    metric = keras.metrics.MeanMetricWrapper(lambda y, x: x, name="own")
    assert better_when(metric) is None
    set_better_when(metric, direction)
    assert better_when(metric) == direction
    model.compile(loss="mse", metrics=[metric])
    model.train_on_batch(np.ones((2, 1)), np.ones((2, 1)))
    stop = keras.callbacks.EarlyStopping("own", patience=1)
    stop.set_model(model)
    stop.on_train_begin()
    for value in (first, second, second):
        stop.on_epoch_end(0, {"own": value})
        assert not model.stop_training or value == second
    assert stop.best == second
