"""Schedules and optimizers, against figures worked out by hand."""

import contextlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_apinet
from keras_apinet import APINetError
from keras_apinet.optimizers import LayerwiseAdamW, LayerwiseSGD
from keras_apinet.train.optimization import (
    layer_shares,
    optimizer,
    peak_rate,
    schedule,
    suggested_rate,
    try_rates,
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
    found = rates(schedule=kind, warmup_fraction=0.2)
    x = np.arange(81) / 80
    fall = {"cosine": 0.5 * (1 + np.cos(np.pi * x)), "linear": 1 - x}
    np.testing.assert_allclose(found[:20], 0.5 * np.arange(20) / 20, atol=1e-6)
    np.testing.assert_allclose(found[20:], 0.5 * fall.get(kind, np.ones(81)), atol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_without_a_rise_it_starts_at_the_peak(kind):
    found = rates(schedule=kind, warmup_fraction=0.0)
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
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-6)


def falling(kind, rising, total):
    """The rate of every batch of a run, from the words of the recipe; the peak is 1."""
    found = []
    first = round(rising * total)
    for step in range(total):
        if kind == "one_cycle":
            low, last = 1 / 25, 1 / 25e4
            place = step / total
            start, end, x = (
                (low, 1, place / 0.3) if place < 0.3 else (1, last, (place - 0.3) / 0.7)
            )
            found.append(end + (start - end) * 0.5 * (1 + np.cos(np.pi * x)))
        elif step < first:
            found.append(step / first)
        else:
            x = (step - first) / (total - first)
            fall = {"cosine": 0.5 * (1 + np.cos(np.pi * x)), "linear": 1 - x}
            found.append(fall.get(kind, 1.0))
    return np.array(found)


@pytest.mark.parametrize(
    "accumulate", [1, 2, 3] if keras.backend.backend() == "tensorflow" else [3]
)
@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "one_cycle"])
def test_the_rate_lasts_for_the_whole_run_however_many_batches_make_an_update(
    kind, accumulate
):
    """20 batches, of which every `accumulate`-th moves the weight by its own rate."""
    total, rising = 20, 0.25
    recipe = Recipe(
        schedule=kind,
        warmup_fraction=rising,
        gradient_accumulation_steps=accumulate,
        optimizer="sgd",
        weight_decay=0.0,
        clipnorm=1e9,
    )
    # Only layer-wise rates look at the model.
    made = optimizer(recipe, None, schedule(recipe, 1.0, total))
    made.momentum = 0.0
    variable = keras.Variable(np.zeros(1, "float32"), name="w")
    made.build([variable])
    expected = falling(kind, rising, total)
    seen, moved, before = [], [], 0.0
    for _ in range(total):
        seen.append(float(keras.ops.convert_to_numpy(made.learning_rate)))
        made.apply([keras.ops.ones(1)], [variable])
        now = float(keras.ops.convert_to_numpy(variable)[0])
        moved.append(before - now)
        before = now
    np.testing.assert_allclose(seen, expected, atol=1e-5)
    # An incomplete last group is dropped: 20 batches are 6 groups of three.
    updates = (np.arange(total) + 1) % accumulate == 0
    np.testing.assert_allclose(moved, np.where(updates, expected, 0.0), atol=1e-5)
    peak = {"one_cycle": 6}.get(kind, 5)
    assert np.argmax(seen) == peak
    end = float(keras.ops.convert_to_numpy(made.learning_rate))
    assert end == pytest.approx({"constant": 1.0, "one_cycle": 4e-6}.get(kind, 0.0))


def torch_sgd(start, gradients, rates, decay, largest=np.inf, decays=(True, True)):
    """`torch.optim.SGD(momentum=0.9, weight_decay=decay)` as its page defines it.

    `clip_grad_norm_` comes before the step, and so before the L2 term.
    """
    values = [v.astype("float64") for v in start]
    buffers = [np.zeros_like(v) for v in values]
    for step, (both, rate) in enumerate(zip(gradients, rates, strict=True)):
        norm = np.sqrt(sum((g.astype("float64") ** 2).sum() for g in both))
        scale = min(1.0, largest / norm)
        for i, gradient in enumerate(both):
            g = gradient * scale + (decay * values[i] if decays[i] else 0.0)
            buffers[i] = g if step == 0 else 0.9 * buffers[i] + g
            values[i] = values[i] - rate[i] * buffers[i]
    return values


@pytest.mark.parametrize(
    ("accumulate", "largest", "everything", "share"),
    [(1, 1e9, True, 1.0), (1, 1.5, False, 1.0), (2, 1.5, True, 0.25)],
)
def test_ten_steps_of_sgd_are_those_of_torch(
    accumulate, largest, everything, share, rng
):
    """With a falling rate, clipping, biases that do not decay, a slower first layer."""
    start = [rng.normal(size=s).astype("float32") for s in ((4, 3), (3,))]
    batches = [
        [rng.normal(size=v.shape).astype("float32") for v in start]
        for _ in range(10 * accumulate)
    ]
    rate = keras.optimizers.schedules.PolynomialDecay(0.1, 10 * accumulate, 0.02)
    variables = [
        keras.Variable(v, name=n)
        for v, n in zip(start, ("kernel", "bias"), strict=True)
    ]
    made = LayerwiseSGD(
        rate,
        momentum=0.9,
        weight_decay=0.05,
        weight_decay_mode="l2",
        global_clipnorm=largest,
        gradient_accumulation_steps=accumulate if accumulate > 1 else None,
        layer_shares={variables[0].path: share},
    )
    if not everything:
        made.exclude_from_weight_decay(var_names=["bias"])
    made = LayerwiseSGD.from_config(made.get_config()) if everything else made
    made.build(variables)
    for gradients in batches:
        made.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)

    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    means = [
        [np.mean([g[i] for g in group], axis=0) for i in range(2)] for group in groups
    ]
    steps = accumulate * np.arange(1, 11) - 1
    now = 0.02 + 0.08 * (1 - steps / (10 * accumulate))
    rates = [(r * share, r) for r in now]
    expected = torch_sgd(start, means, rates, 0.05, largest, (True, everything))
    for variable, values in zip(variables, expected, strict=True):
        found = keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(found, values, rtol=0, atol=1e-6)


@pytest.mark.one_backend
def test_the_formula_is_torchs(rng):
    torch = pytest.importorskip("torch")
    start = [rng.normal(size=s).astype("float32") for s in ((4, 3), (3,))]
    batches = [
        [rng.normal(size=v.shape).astype("float32") for v in start] for _ in range(10)
    ]
    rates = [(0.1 - 0.008 * i, 0.05) for i in range(10)]
    parameters = [torch.nn.Parameter(torch.tensor(v)) for v in start]
    theirs = torch.optim.SGD(
        [{"params": [p]} for p in parameters], lr=0.1, momentum=0.9, weight_decay=0.05
    )
    for gradients, rate in zip(batches, rates, strict=True):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        torch.nn.utils.clip_grad_norm_(parameters, 1.5)
        for group, r in zip(theirs.param_groups, rate, strict=True):
            group["lr"] = r
        theirs.step()
    expected = torch_sgd(start, batches, rates, 0.05, 1.5)
    for parameter, values in zip(parameters, expected, strict=True):
        # torch divides by the norm plus 1e-6.
        np.testing.assert_allclose(parameter.detach().numpy(), values, atol=2e-6)


@pytest.mark.parametrize("kind", [LayerwiseAdamW, LayerwiseSGD])
def test_a_decoupled_decay_is_scaled_by_the_rate_of_its_layer(kind):
    """Without a gradient, w becomes w (1 - rate share decay), as in torch's AdamW."""
    values = {"first": np.ones(3, "float32"), "head": np.ones(3, "float32")}
    made = kind(learning_rate=0.1, weight_decay=0.5, layer_shares={"first": 0.25})
    found = stepped(made, [np.zeros(3, "float32")] * 2, values)
    np.testing.assert_allclose(found["first"], 1 - 0.1 * 0.25 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(found["head"], 1 - 0.1 * 0.5, rtol=1e-6)


def test_an_l2_term_is_part_of_the_gradient_that_the_rate_scales():
    """The term is 0.5 for both; the rate of the first layer is 0.1 * 0.25."""
    values = {"first": np.ones(3, "float32"), "head": np.ones(3, "float32")}
    made = LayerwiseSGD(
        0.1,
        momentum=0.9,
        weight_decay=0.5,
        weight_decay_mode="l2",
        layer_shares={"first": 0.25},
    )
    found = stepped(made, [np.zeros(3, "float32")] * 2, values)
    np.testing.assert_allclose(found["first"], 1 - 0.1 * 0.25 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(found["head"], 1 - 0.1 * 0.5, rtol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight_decay_mode": "L2"}, "weight_decay_mode='L2' is not one of"),
        ({"weight_decay_mode": "l2", "nesterov": True}, "nesterov=True"),
    ],
)
def test_sgd_names_what_does_not_fit(options, words):
    with pytest.raises(APINetError, match=words):
        LayerwiseSGD(0.1, momentum=0.9, **options)


def test_averages_follow_the_changes_of_the_weights():
    """Weights 0, then -1 after two batches and -2 after four; averaged with 0.5.

    The first change is copied, as in Keras.
    """
    variable = keras.Variable(np.zeros(1, "float32"), name="w")
    made = LayerwiseSGD(
        1.0, use_ema=True, ema_momentum=0.5, gradient_accumulation_steps=2
    )
    made.build([variable])
    found = []
    for _ in range(4):
        made.apply([keras.ops.ones(1)], [variable])
        average = made._model_variables_moving_average[0]
        found.append(float(keras.ops.convert_to_numpy(average)[0]))
    assert found == [0.0, -1.0, -1.0, -1.5]


def test_the_suggested_rate_is_a_tenth_of_the_best():
    rates = np.geomspace(1e-6, 1, 601)
    losses = (np.log10(rates) + 2) ** 2  # lowest at 0.01
    assert suggested_rate(rates, losses) == pytest.approx(1e-3)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_rates_are_tried_from_small_to_where_the_loss_explodes():
    """Plain SGD on `w^2`: steps of a rate above 1 / curvature make it grow.

    With `x = 4` the loss is `(4 w)^2`: its gradient is `32 w`, so `w` grows in each
    step whose rate is above `1 / 16 = 0.0625`, and shrinks in those below.
    """
    inputs = keras.Input((1,))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, dense(inputs))
    recipe = Recipe(optimizer="sgd", clipnorm=1e30, weight_decay=0.0)
    x = np.full((8, 1), 4, "float32")

    class Batches(keras.utils.PyDataset):
        report = contextlib.nullcontext()
        scale = 1.0

        def __len__(self):
            return 100

        def __getitem__(self, i):
            return self.scale * x, 0 * x

    setup = SimpleNamespace(
        recipe=recipe,
        model=model,
        placement=SimpleNamespace(scope=contextlib.nullcontext),
        loss=lambda: "mse",
        batches=Batches,
    )
    tried, losses = try_rates(setup)
    assert tried[0] == pytest.approx(1e-6)
    assert losses[0] == pytest.approx(16, rel=1e-3)
    assert len(tried) == len(losses) < 100  # it exploded, and ended
    # Momentum carries it on a little; the lowest is near the edge, the end beyond it.
    assert 0.01 < tried[np.argmin(losses)] < 0.2
    assert tried[-1] > 0.0625
    Batches.scale = np.nan
    with pytest.raises(
        APINetError, match="NaN or infinite even at a learning rate of 1e-06"
    ):
        try_rates(setup)
