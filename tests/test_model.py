import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import ops
from reference import cross_entropy, interact, mine, pairwise_loss

import keras_apinet
from keras_apinet import APINet, APINetError
from keras_apinet.layers import PairMiner
from keras_apinet.losses import PairwiseLoss


def small_backbone(regularizer=None, size=8):
    """Deterministic: no batch-norm, no dropout."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(
        6, 3, strides=2, activation="relu", kernel_regularizer=regularizer
    )(x)
    return keras.Model(inputs, x)


def small_model(num_classes=3, backbone=None, **options):
    options = {"mutual_units": 4, "dropout_rate": 0.0, **options}
    return APINet(backbone or small_backbone(), num_classes, **options)


def batch(rng, n=8, classes=3, size=8):
    images = rng.integers(0, 256, (n, size, size, 3)).astype("float32")
    return images, np.arange(n) % classes


def as_numpy(x):
    return ops.convert_to_numpy(x)


def paper_loss(model, images, labels):
    """The whole loss of one batch from the paper's loops and the model's weights."""
    x = as_numpy(model.features(images)).astype("float64")
    anchors, partners, valid = mine(x, labels)
    weights = [as_numpy(w) for w in model.interaction.weights[:4]]
    x1_self, x1_other, x2_self, x2_other = interact(x[anchors], x[partners], *weights)
    kernel, bias = (as_numpy(w) for w in model.classifier.weights)
    rows = np.concatenate([anchors, partners])
    return pairwise_loss(
        labels[rows],
        np.concatenate([x1_self, x2_self]) @ kernel + bias,
        np.concatenate([x1_other, x2_other]) @ kernel + bias,
        np.concatenate([valid, valid]),
    )


def test_training_loss_equals_the_paper(rng):
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0))
    images, labels = batch(rng)
    logs = model.fit(images, labels, batch_size=8, verbose=0).history
    total, cross, ranking = paper_loss(model, images, labels)
    assert logs["loss"] == [pytest.approx(total, abs=1e-5)]
    assert logs["cross_entropy"] == [pytest.approx(cross, abs=1e-5)]
    assert logs["ranking_loss"] == [pytest.approx(ranking, abs=1e-5)]
    assert logs["valid_pairs"] == [1.0]
    top = as_numpy(model.predict(images, verbose=0)).argmax(-1)
    assert logs["accuracy"] == [pytest.approx((top == labels).mean())]


@pytest.mark.parametrize("memory_size", [0, 16])
@pytest.mark.parametrize("one_hot", [False, True])
def test_single_images_count_beside_the_pairs(rng, memory_size, one_hot, monkeypatch):
    """By their weight, from the features that the pairs have, too."""
    model = small_model(memory_size=memory_size)
    images, labels = batch(rng)
    given = np.eye(3, dtype="float32")[labels] if one_hot else labels
    single = as_numpy(model(images))
    pairs = paper_loss(model, images, labels)[0]
    model.compile(keras.optimizers.SGD(0.0), PairwiseLoss(single_image_weight=0.7))
    loss = model.train_on_batch(images, given, return_dict=True)["loss"]
    expected = pairs + 0.7 * cross_entropy(labels, single)
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    forwards = []
    features = model.features
    monkeypatch.setattr(
        model, "features", lambda *a, **k: forwards.append(1) or features(*a, **k)
    )
    assert "single_logits" in model((images, labels), training=True)
    assert forwards == [1]


def test_sample_weights_weigh_single_images(rng):
    model = small_model()
    images, labels = batch(rng)
    weights = np.arange(8) / 4.0
    single, losses = as_numpy(model(images)), []
    for own in (0.0, 2.0):
        loss = PairwiseLoss(single_image_weight=own)
        model.compile(keras.optimizers.SGD(0.0), loss)
        losses.append(float(model.train_on_batch(images, labels, weights)[0]))
    expected = 2.0 * cross_entropy(labels, single, weights)
    assert losses[1] - losses[0] == pytest.approx(expected, abs=1e-4)


def test_without_pairs_the_step_is_that_of_single_images(rng):
    """One image has no partner: what is left is the plain cross-entropy."""
    images, labels = batch(rng, 1)
    model = small_model()
    weights = model.get_weights()
    ends = []
    for loss in (
        PairwiseLoss(single_image_weight=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ):
        model.set_weights(weights)
        model.compile(keras.optimizers.SGD(0.1), loss)
        model.train_on_batch(images, labels)
        ends.append(model.get_weights())
    for ours, plain in zip(*ends):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(weights, ends[0]))


def test_only_existing_pairs_count(rng):
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0))
    images, _ = batch(rng, 5)
    labels = np.array([0, 0, 0, 1, 2])
    logs = model.fit(images, labels, batch_size=5, verbose=0).history
    assert logs["loss"] == [
        pytest.approx(paper_loss(model, images, labels)[0], abs=1e-5)
    ]
    assert logs["valid_pairs"] == [pytest.approx(0.8)]


@pytest.mark.parametrize("n", [1, 3])
def test_one_image_and_one_class_train(rng, n):
    model = small_model()
    model.compile("sgd")
    images, _ = batch(rng, n)
    # Once, however many epochs: no image has a partner of both kinds.
    with pytest.warns(UserWarning, match="balanced_batches"):
        logs = model.fit(images, np.zeros(n, "int32"), verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    assert logs["valid_pairs"] == [0.0 if n == 1 else 0.5]
    if n == 1:
        assert logs["loss"] == [0.0]
    assert all(np.isfinite(as_numpy(w)).all() for w in model.weights)


def test_one_hot_labels_give_the_same_step(rng):
    images, labels = batch(rng)
    losses = []
    for form in (labels, labels[:, None], np.eye(3, dtype="float32")[labels]):
        keras.utils.set_random_seed(1)
        model = small_model()
        model.compile("sgd")
        logs = model.fit(
            images,
            form,
            batch_size=4,
            shuffle=False,
            epochs=2,
            verbose=0,
            validation_data=(images, form),
        ).history
        losses.append(logs["loss"] + logs["val_loss"] + logs["val_accuracy"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-5)


def test_sample_weights_weigh_images(rng):
    """Weight 2 on every image doubles the loss; weight 0 silences an image's rows."""
    images, labels = batch(rng)
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0))
    rows_of = lambda w: model.fit(  # noqa: E731
        images, labels, sample_weight=w, batch_size=8, verbose=0
    ).history["loss"][0]
    plain = rows_of(np.ones(8, "float32"))
    assert rows_of(np.full(8, 2.0, "float32")) == pytest.approx(2 * plain, rel=1e-5)
    alone = [rows_of(np.eye(8, dtype="float32")[i]) for i in range(8)]
    assert sum(alone) == pytest.approx(plain, rel=1e-4)
    assert min(alone) > 0


def test_regularisation_losses_are_added(rng):
    images, labels = batch(rng)
    model = small_model(backbone=small_backbone(keras.regularizers.L2(0.5)))
    model.compile(keras.optimizers.SGD(0.0))
    logs = model.fit(images, labels, batch_size=8, verbose=0).history
    kernel = as_numpy(model.backbone.trainable_weights[0])
    extra = 0.5 * (kernel**2).sum()
    total = paper_loss(model, images, labels)[0] + extra
    assert logs["loss"] == [pytest.approx(total, rel=1e-5)]
    assert logs["cross_entropy"][0] < total


def test_label_smoothing_reaches_the_step(rng):
    images, labels = batch(rng)
    model = small_model()
    model.compile(keras.optimizers.SGD(0.0), loss=PairwiseLoss(label_smoothing=0.5))
    smooth = model.fit(images, labels, verbose=0).history["loss"][0]
    assert abs(smooth - paper_loss(model, images, labels)[0]) > 1e-4


@pytest.mark.parametrize("own", [0.0, 0.7])
def test_accumulated_gradients_act_every_second_step(rng, own):
    images, labels = batch(rng, 4)
    model = small_model()
    model.compile(
        keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        PairwiseLoss(single_image_weight=own),
    )
    before = as_numpy(model.classifier.kernel)
    model.fit(images, labels, batch_size=4, verbose=0)
    np.testing.assert_array_equal(before, as_numpy(model.classifier.kernel))
    model.fit(images, labels, batch_size=4, verbose=0)
    assert abs(before - as_numpy(model.classifier.kernel)).max() > 0


@pytest.mark.skipif(BACKEND == "torch", reason="torch has no steps_per_execution")
def test_steps_per_execution_and_jit_do_not_change_the_steps(rng):
    images, labels = batch(rng, 16)
    results = []
    for options in ({}, {"steps_per_execution": 2}, {"jit_compile": True}):
        keras.utils.set_random_seed(2)
        model = small_model()
        model.compile("sgd", **options)
        logs = model.fit(images, labels, batch_size=4, shuffle=False, verbose=0).history
        results.append([*logs["loss"], *as_numpy(model.classifier.kernel).ravel()])
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    np.testing.assert_allclose(results[0], results[2], atol=1e-5)


@pytest.mark.parametrize("own", [0.0, 0.7])
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_trains(rng, policy, own):
    images, labels = batch(rng)
    backbone = small_backbone()
    keras.utils.set_random_seed(3)
    full = small_model(backbone=backbone)
    full.compile(keras.optimizers.SGD(0.0), PairwiseLoss(single_image_weight=own))
    expected = full.fit(images, labels, verbose=0).history["loss"][0]
    half = small_model(backbone=backbone, dtype=policy)
    half.set_weights(full.get_weights())
    half.compile(keras.optimizers.SGD(0.01), PairwiseLoss(single_image_weight=own))
    logs = half.fit(images, labels, verbose=0).history
    assert logs["loss"] == [pytest.approx(expected, rel=0.05)]
    assert all(np.isfinite(as_numpy(w)).all() for w in half.weights)
    assert half.predict(images, verbose=0).shape == (8, 3)


def test_evaluation_is_exact_over_a_padded_last_batch(rng):
    images, labels = batch(rng, 7)
    model = small_model()
    model.compile("sgd")
    logs = model.evaluate(images, labels, batch_size=4, verbose=0, return_dict=True)
    assert sorted(logs) == ["accuracy", "loss"]
    logits = as_numpy(model.predict(images, verbose=0)).astype("float64")
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert logs["loss"] == pytest.approx(
        -np.log(p[np.arange(7), labels]).mean(), abs=1e-5
    )
    assert logs["accuracy"] == pytest.approx((p.argmax(-1) == labels).mean())


def test_metrics_given_to_compile_see_single_images(rng):
    images, labels = batch(rng)
    model = small_model()
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile(keras.optimizers.SGD(0.0), metrics=[top2])
    logs = model.fit(
        images, labels, verbose=0, validation_data=(images, labels)
    ).history
    order = as_numpy(model.predict(images, verbose=0)).argsort(-1)[:, -2:]
    expected = (order == labels[:, None]).any(-1).mean()
    assert logs["top2"] == logs["val_top2"] == [pytest.approx(expected)]


def test_another_loss_trains_the_baseline_without_pairs(rng):
    images, labels = batch(rng)
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss=loss)
    untouched = [as_numpy(w) for w in model.interaction.weights[:4]]
    logs = model.fit(images, labels, epochs=2, verbose=0).history
    assert sorted(logs) == ["accuracy", "loss"]
    assert logs["loss"][1] < logs["loss"][0]
    for before, after in zip(untouched, model.interaction.weights[:4]):
        np.testing.assert_array_equal(before, as_numpy(after))


def test_it_learns(rng):
    """Four flat colours, one class each, from random weights."""
    labels = np.tile(np.arange(4), 8)
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0]])
    images = np.broadcast_to(colours[labels][:, None, None], (32, 8, 8, 3))
    images = images + rng.normal(0, 5, images.shape)
    model = small_model(4)
    model.compile(keras.optimizers.Adam(0.05))
    logs = model.fit(images, labels, batch_size=16, epochs=12, verbose=0).history
    assert logs["loss"][-1] < 0.5 * logs["loss"][0]
    assert (
        model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] == 1.0
    )


def test_a_frozen_backbone_keeps_its_weights_and_statistics(rng):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    backbone = keras.Model(inputs, keras.layers.BatchNormalization()(x))
    images, labels = batch(rng)
    for options, moved in (({}, True), ({"batch_norm": "inference"}, False)):
        model = small_model(backbone=backbone, **options)
        model.compile("sgd")
        before = as_numpy(backbone.non_trainable_weights[0])
        model.fit(images, labels, verbose=0)
        changed = abs(before - as_numpy(backbone.non_trainable_weights[0])).max() > 0
        assert bool(changed) == moved
    backbone.trainable = False
    model = small_model(backbone=backbone)
    model.compile("sgd")
    before = [as_numpy(w) for w in backbone.weights]
    model.fit(images, labels, verbose=0)
    for a, b in zip(before, backbone.weights):
        np.testing.assert_array_equal(a, as_numpy(b))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 2, 5)])
def test_vectors_tokens_and_maps_are_pooled(rng, shape):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Reshape(shape)(keras.layers.Dense(int(np.prod(shape)))(x))
    backbone = keras.Model(inputs, x)
    images, _ = batch(rng, 3)
    raw = as_numpy(backbone(images)).reshape(3, -1, 5)
    model = small_model(backbone=backbone)
    np.testing.assert_allclose(as_numpy(model.features(images)), raw.mean(1), atol=1e-5)
    if len(shape) == 2:
        token = small_model(backbone=backbone, pooling="token")
        np.testing.assert_allclose(
            as_numpy(token.features(images)), raw[:, 0], atol=1e-5
        )


def test_classifier_model_is_the_model_without_pairs(rng):
    images, _ = batch(rng)
    model = small_model()
    logits = model.predict(images, verbose=0)
    plain = model.classifier_model(probabilities=False)
    np.testing.assert_allclose(plain.predict(images, verbose=0), logits, atol=1e-5)
    p = model.classifier_model().predict(images, verbose=0)
    np.testing.assert_allclose(
        p, np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), atol=1e-5
    )
    assert not [x for x in plain.layers if isinstance(x, PairMiner)]


RELOAD = """
import sys, json, keras, numpy as np, keras_apinet
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras")
assert type(model).__name__ == "APINet" and model.optimizer.built
twin = keras_apinet.APINet.from_config(model.get_config())
twin.load_weights(folder + "/model.weights.h5")
images = np.load(folder + "/images.npy")
for m in (model, twin):
    for index, weight in enumerate(m.weights):
        stored = np.load(f"{folder}/{index}.npy")
        assert stored.tobytes() == keras.ops.convert_to_numpy(weight).tobytes()
    output = m.predict(images, verbose=0)
    np.testing.assert_allclose(output, np.load(folder + "/out.npy"), atol=1e-5)
print(len(model.weights), model.class_names, model.loss.margin)
"""


@pytest.mark.slow
def test_every_weight_reloads_in_a_new_process_on_another_backend(rng, tmp_path):
    """Each backend writes for the next: all of them write, and all of them read."""
    other = {"tensorflow": "jax", "jax": "torch", "torch": "tensorflow"}[BACKEND]
    if importlib.util.find_spec(other) is None:
        other = "tensorflow"
    images, labels = batch(rng)
    model = keras_apinet.build(
        "tiny", 3, 32, None, class_names=["a", "b", "c"], mutual_units=8
    )
    images, labels = batch(rng, size=32)
    model.compile("adam", loss=PairwiseLoss(margin=0.2))
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "out.npy", model.predict(images, verbose=0))
    for index, weight in enumerate(model.weights):
        np.save(tmp_path / f"{index}.npy", as_numpy(weight))
    result = subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path)],
        env={**os.environ, "KERAS_BACKEND": other},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.split("\n")[-2] == f"{len(model.weights)} ['a', 'b', 'c'] 0.2"


STEP = """
import json, os, sys
if os.environ["KERAS_BACKEND"] == "torch": import torch
import keras, numpy as np, keras_apinet
folder = sys.argv[1]
model = keras.saving.load_model(folder + "/model.keras")
data = np.load(folder + "/data.npz")
logs = model.train_on_batch(data["x"], data["y"], return_dict=True)
print(json.dumps({name: float(value) for name, value in logs.items()}))
"""


@pytest.mark.slow
@pytest.mark.one_backend
def test_one_step_from_equal_weights_is_equal_on_every_backend(rng, tmp_path):
    model = keras_apinet.build("tiny", 5, 32, None, mutual_units=16, dropout_rate=0)
    model.compile(keras.optimizers.SGD(0.01))
    model.save(tmp_path / "model.keras")
    images, labels = batch(rng, 16, 5, 32)
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    logs = {BACKEND: model.train_on_batch(images, labels, return_dict=True)}
    for backend in {"tensorflow", "jax", "torch"} - {BACKEND}:
        if importlib.util.find_spec(backend) is None:
            continue
        result = subprocess.run(
            [sys.executable, "-c", STEP, str(tmp_path)],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        logs[backend] = json.loads(result.stdout.strip().split("\n")[-1])
    for log in logs.values():
        assert set(log) == {
            "loss",
            "cross_entropy",
            "ranking_loss",
            "accuracy",
            "valid_pairs",
        }
        for key, value in log.items():
            assert value == pytest.approx(float(logs[BACKEND][key]), abs=1e-4)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: small_model(1), "num_classes=1"),
        (lambda: small_model(2.0), "num_classes=2.0"),
        (lambda: small_model(batch_norm="frozen"), "batch_norm='frozen'"),
        (lambda: small_model(pooling="max"), "pooling='max'"),
        (lambda: small_model(class_names=["a"]), "1 class_names"),
        (lambda: small_model(class_names=["a", "b", "a"]), "0 and 2 are both called"),
        (lambda: keras_apinet.build("tiny", 0), "num_classes=0"),
        (lambda: small_model().features(np.zeros((1, 9, 8, 3))), r"\(1, 9, 8, 3\)"),
        (lambda: small_model()(np.zeros((1, 8, 8, 1))), r"\(1, 8, 8, 1\)"),
    ],
)
def test_what_does_not_fit_is_named(make, value):
    with pytest.raises(APINetError, match=value):
        make()


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(rng, label):
    images, labels = batch(rng)
    labels[2] = label
    model = small_model()
    model.compile("sgd")
    with pytest.raises(APINetError, match=f"label is {label}, but num_classes=3"):
        model.fit(images, labels, verbose=0)


def test_a_data_set_trains_without_a_warning(rng):
    import tensorflow as tf

    model = small_model()
    model.compile("sgd")
    data = tf.data.Dataset.from_tensor_slices(batch(rng)).batch(4)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


def test_fit_without_labels_says_so(rng):
    model = small_model()
    model.compile("sgd")
    with pytest.raises(APINetError, match="need labels"):
        model.fit(batch(rng)[0], verbose=0)
