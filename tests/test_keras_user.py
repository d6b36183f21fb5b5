"""What a Keras user tries first, with the model as with any other Keras model."""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import ops

import keras_apinet
from keras_apinet import APINet, APINetError
from keras_apinet.data import as_split
from keras_apinet.losses import PairwiseLoss
from keras_apinet.optimizers import LayerwiseAdamW

LABELS = np.arange(12) % 3
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (12, 8, 8, 3), np.uint8)


def untrained(**options):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Rescaling(1 / 255, dtype="float32")(inputs)
    x = keras.layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    return APINet(
        keras.Model(inputs, x), 3, **{"mutual_units": 4, "dropout_rate": 0.0} | options
    )


def compiled(**options):
    model = untrained()
    model.compile(keras.optimizers.SGD(0.01), **options)
    return model


def fit(model, *args, **options):
    return model.fit(*args, batch_size=12, verbose=0, **options).history


def as_numpy(x):
    return ops.convert_to_numpy(x)


def cross_entropy(model, images):
    logits = as_numpy(model.predict(images, verbose=0)).astype("float64")
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return -np.log((p / p.sum(-1, keepdims=True))[np.arange(12), LABELS]).mean()


def test_callbacks_know_which_way_is_better(images, tmp_path):
    callbacks = [
        keras.callbacks.EarlyStopping("val_accuracy", patience=9),
        keras.callbacks.ReduceLROnPlateau("val_accuracy"),
        keras.callbacks.EarlyStopping("cross_entropy", patience=9),
        keras.callbacks.EarlyStopping("valid_pairs", patience=9),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "m.keras", monitor="val_accuracy", save_best_only=True
        ),
    ]
    fit(
        compiled(),
        images,
        LABELS,
        validation_data=(images, LABELS),
        epochs=2,
        callbacks=callbacks,
    )
    ups = [bool(as_numpy(c.monitor_op(1.0, 0.0))) for c in callbacks]
    assert ups == [True, True, False, True, True]
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    logs = loaded.evaluate(images, LABELS, verbose=0, return_dict=True)
    assert sorted(logs) == ["accuracy", "loss"]


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("sparse_categorical_crossentropy", LABELS),
        ("categorical_crossentropy", ONE_HOT),
        (keras.losses.SparseCategoricalCrossentropy(), LABELS),
        (keras.losses.categorical_crossentropy, ONE_HOT),
        (["ce"], LABELS),
        (["ce"], ONE_HOT),
    ],
)
def test_a_loss_of_probabilities_gets_logits(images, loss, labels):
    model = compiled(loss=loss)
    found = model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(cross_entropy(model, images), abs=1e-5)


def on_probabilities(y, p):
    return keras.losses.sparse_categorical_crossentropy(y, p)


def on_logits(y, z):
    return keras.losses.sparse_categorical_crossentropy(y, z, from_logits=True)


def test_other_losses_are_refused_unless_they_take_logits():
    for loss in (on_probabilities, "mse", "binary_crossentropy", "kl_divergence"):
        with pytest.raises(APINetError, match="expects probabilities"):
            compiled(loss=loss)
    with pytest.raises(APINetError, match="2 losses"):
        compiled(loss=["ce", "ce"])
    assert compiled(loss=on_logits).loss is on_logits


def test_labels_of_the_form_that_a_loss_misreads_are_refused(images):
    for loss, labels in (("sparse", ONE_HOT), ("", LABELS)):
        model = compiled(loss=f"{loss}_categorical_crossentropy".strip("_"))
        with pytest.raises(APINetError, match="labels, but"):
            fit(model, images, labels)


def test_metrics_of_probabilities_get_probabilities(images, tmp_path):
    given = [keras.metrics.AUC(multi_label=True, num_labels=3, name="auc"), "accuracy"]
    weighted = [
        keras.metrics.CategoricalCrossentropy(name="nll"),
        keras.metrics.TopKCategoricalAccuracy(2, name="top2"),
    ]
    model = compiled(metrics=given, weighted_metrics=weighted)
    fit(model, images, ONE_HOT)
    model.save(tmp_path / "m.keras")
    expected = keras.metrics.AUC(multi_label=True, num_labels=3)
    expected.update_state(ONE_HOT, model.classifier_model().predict(images, verbose=0))
    for one in (model, keras.saving.load_model(tmp_path / "m.keras")):
        logs = one.evaluate(images, ONE_HOT, verbose=0, return_dict=True)
        assert sorted(logs) == ["accuracy", "auc", "loss", "nll", "top2"]
        assert logs["auc"] == pytest.approx(
            float(as_numpy(expected.result())), abs=0.01
        )
        assert logs["nll"] == pytest.approx(cross_entropy(model, images), abs=1e-5)


class Sureness(keras.metrics.Metric):
    """The mean largest probability; it cannot be made anew from its config."""

    def __init__(self, what):
        super().__init__(name="sureness")
        self.what = what
        self.total = self.add_variable((), "zeros")
        self.count = self.add_variable((), "zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.sum(ops.max(y_pred, axis=-1)))
        self.count.assign_add(ops.cast(ops.shape(y_pred)[0], "float32"))

    def result(self):
        return self.total / self.count


def test_a_metric_that_cannot_be_copied_gets_probabilities(images):
    model = compiled(metrics=[Sureness("probability")])
    found = model.evaluate(images, LABELS, verbose=0, return_dict=True)["sureness"]
    p = model.classifier_model().predict(images, verbose=0)
    assert found == pytest.approx(p.max(axis=1).mean(), abs=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_labels_keep_all_their_bits(policy, rng):
    """bfloat16 holds whole numbers to 256, float16 to 2048; Keras casts float input."""
    first = {"mixed_bfloat16": 257, "mixed_float16": 2049}[policy]
    classes = first + 2 * np.arange(3)
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(inputs)
    model = APINet(
        keras.Model(inputs, x),
        first + 9,
        dtype=policy,
        mutual_units=4,
        dropout_rate=0.0,
    )
    model.compile(keras.optimizers.SGD(5.0))
    images = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
    model.fit(images, classes[LABELS].astype("float32"), batch_size=12, verbose=0)
    bias = as_numpy(model.classifier.bias)
    assert np.flatnonzero(bias > 0).tolist() == classes.tolist()


# That of the saved model had made no variables yet, which Keras tells.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
@pytest.mark.parametrize("before", ["loaded", "set"])
def test_averages_are_of_the_weights_that_came_last(images, tmp_path, before):
    """Made with the optimizer, before the weights of a file are in the model."""
    model = untrained()
    made = LayerwiseAdamW(0.0, weight_decay=0.0, use_ema=True, ema_momentum=0.9)
    model.compile(made)
    model.save(tmp_path / "m.keras")
    if before == "loaded":
        other = keras.saving.load_model(tmp_path / "m.keras")
    else:
        other = untrained()
        other.compile(LayerwiseAdamW.from_config(made.get_config()))
        other.optimizer.build(other.trainable_variables)
        other.set_weights(model.get_weights())
    fit(other, images, LABELS)
    kernel = as_numpy(other.classifier.kernel)
    np.testing.assert_allclose(kernel, as_numpy(model.classifier.kernel), atol=1e-6)


def test_what_was_frozen_stays_frozen(images):
    model = untrained(freeze_fraction=0.5)
    frozen = [as_numpy(w) for w in model.frozen_model().weights]
    model.backbone.trainable = False
    model.backbone.trainable = True  # as when a head was trained first
    model.interaction.trainable = False
    model.compile(keras.optimizers.SGD(0.1))
    assert not model.interaction.trainable_variables
    fit(model, images, LABELS)
    for old, new in zip(frozen, model.frozen_model().weights, strict=True):
        np.testing.assert_array_equal(old, as_numpy(new))
    # A baseline has no use for the interaction; pairs have, if the user did not say so.
    other = untrained()
    other.compile("sgd", loss="sparse_categorical_crossentropy")
    assert not other.interaction.trainable_variables
    other.compile("sgd")
    assert other.interaction.trainable_variables


def test_quantizing_says_the_way_to_8_bits():
    with pytest.raises(APINetError, match="export it with precision='int8'"):
        untrained().quantize("int8")


def sources(x, y):
    """The same three batches as every kind of data set."""
    import tensorflow as tf

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, i):
            return x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]

    yield tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    yield Batches()
    yield ((x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8) * 3)
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    yield torch.utils.data.DataLoader(pairs, batch_size=4)


def weights(model):
    return np.concatenate([as_numpy(w).ravel() for w in model.trainable_weights])


WRONG = [
    (lambda x: x, lambda y: np.where(np.arange(12) == 7, 7, y), "label is 7, but num"),
    (lambda x: (x / 255).astype("float32"), lambda y: y, "multiply by 255"),
]


# The kinds come through the same code on every backend: elsewhere each fault takes one.
CASES = [
    (kind, *wrong)
    for i, wrong in enumerate(WRONG)
    for kind in (range(4) if keras.backend.backend() == "tensorflow" else [i % 4])
]


@pytest.mark.parametrize(("kind", "change", "relabel", "words"), CASES)
def test_faults_of_data_sets_are_told_and_nothing_is_lost(
    images, kind, change, relabel, words
):
    x, y = change(images), relabel(LABELS)
    model = compiled(loss="ce" if kind % 2 else None)
    with pytest.raises(APINetError, match=words):
        model.fit(
            list(sources(x, y))[kind], steps_per_epoch=3, verbose=0, shuffle=False
        )
    assert np.isfinite(weights(model)).all()
    if kind == 0:
        with pytest.raises(APINetError, match=words):
            model.evaluate(list(sources(x, y))[kind], verbose=0)
        if x is not images:
            with pytest.raises(APINetError, match=words):
                model.predict(list(sources(x, y))[kind], verbose=0)


def test_faults_of_arrays_are_told_before_the_first_step(images):
    model = compiled()
    before = weights(model)
    scaled = (images / 255).astype("float32")
    for x, y, words in (
        (scaled, LABELS, "multiply by 255"),
        (scaled * 2 - 1, LABELS, "down to -1"),
        (images.astype("uint16") * 257, LABELS, "to 65535"),
        (np.where(images < 9, np.nan, images), LABELS, "nan or infinite"),
        (images > 9, LABELS, "dtype=bool"),
        (images, LABELS - 1, "label is -1"),
        (images, LABELS + 0.5, "label is 0.5"),
        (images, [np.nan] * 12, "label is nan"),
        (images, list("abcabcabcabc"), "label is 'a'"),
        (images, np.eye(4)[LABELS], r"shape=\(12, 4\)"),
        (images[0], LABELS[:1], r"image\[None\]"),
        (images[:, :7], LABELS, "resize to 8 x 8"),
        (list(images), LABELS, "numpy.stack"),
        ("bird.jpg", None, "load_classifier"),
    ):
        for entry in (model.fit, model.evaluate, model.train_on_batch):
            with pytest.raises(APINetError, match=words):
                entry(x, y)
        if not isinstance(y, list) and y is LABELS:
            for predict in (model.predict, model.predict_on_batch):
                with pytest.raises(APINetError, match=words):
                    predict(x)
    np.testing.assert_array_equal(before, weights(model))


def test_black_images_are_images(images):
    black = np.zeros_like(images, "float32")
    model = compiled()
    assert np.isfinite(fit(model, black, LABELS)["loss"]).all()
    assert np.isfinite(as_numpy(model.predict(black, verbose=0))).all()
    assert len(as_split((black, LABELS))) == 12


@pytest.mark.one_backend
def test_scaled_pixels_are_refused_where_data_sets_begin(images):
    scaled = images / 255
    for source in ((scaled, LABELS), list(zip(scaled, LABELS)), zip(scaled, LABELS)):
        with pytest.raises(APINetError, match="multiply by 255"):
            as_split(source)


@pytest.mark.parametrize(("labels", "kind"), [([0, 1, 2], "same"), ([1] * 3, "other")])
def test_batches_without_pairs_are_told_once(images, labels, kind):
    model = compiled()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, images[:3], np.array(labels), epochs=2)
    (told,) = [str(w.message) for w in caught if "pairs" in str(w.message)]
    assert f"of the {kind} class" in told
    assert "balanced_batches" in told


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_outputs_are_float32_under_any_policy(images, policy):
    model = untrained(dtype=policy)
    assert model.predict(images, verbose=0).dtype == "float32"
    for plain in (
        model.classifier_model(),
        model.classifier_model(probabilities=False),
        model.feature_model(),
    ):
        assert plain.outputs[0].dtype == "float32"


@pytest.mark.slow
def test_weights_of_classes_and_images_and_arguments_by_position(images):
    model = compiled(weighted_metrics=["accuracy"])
    history = model.fit(images, LABELS, 12, 1, 0, None, 0.0, (images, LABELS), False)
    assert "val_accuracy" in history.history
    logs = fit(model, images, LABELS, class_weight={0: 1.0, 1: 2.0, 2: 3.0})
    assert np.isfinite(logs["loss"]).all()
    one = model.test_on_batch(images, LABELS, return_dict=True)
    assert sorted(one) == ["accuracy", "loss", "weighted_accuracy"]


def test_copies(images):
    model = compiled()
    clone = keras.models.clone_model(model)
    assert len(clone.weights) == len(untrained().weights)
    assert not {id(w) for w in clone.weights} & {id(w) for w in model.weights}
    outer = keras.Sequential([keras.Input((8, 8, 3)), model])
    np.testing.assert_allclose(
        outer.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
    )


LOAD = """
import sys
{imports}
model = keras.saving.load_model(sys.argv[1])
print(type(model).__name__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import keras_apinet; assert 'keras' not in sys.modules; import keras",
        "from keras_apinet import APINetError; from keras import layers; import keras",
        "from keras_apinet.losses import CrossEntropy; import keras",
    ],
)
def test_imports_in_any_order(tmp_path, imports):
    model = compiled()
    model.save(tmp_path / "m.keras")
    result = subprocess.run(
        [sys.executable, "-c", LOAD.format(imports=imports), str(tmp_path / "m.keras")],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "APINet", result.stderr[-2000:]


FIRST = """
import importlib, pkgutil, sys
import keras, tensorflow
import keras_apinet
names = [m.name for m in pkgutil.walk_packages(keras_apinet.__path__, "keras_apinet.")]
finders = [*sys.meta_path]
for name in names:
    # As if nothing had been imported; what Keras itself is made of may stay.
    for other in [*sys.modules]:
        if other == "keras" or other.split(".")[0] == "keras_apinet":
            del sys.modules[other]
    sys.meta_path[:] = finders
    if not name.endswith("__main__"):
        importlib.import_module(name)
        import keras
        assert keras.saving.get_registered_object("keras_apinet>APINet")
print(len(names))
"""


@pytest.mark.slow
@pytest.mark.one_backend
def test_any_module_can_be_imported_first():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 100


@pytest.mark.one_backend
def test_exporting_without_class_names_warns():
    from keras_apinet.export.sources import open_source

    with pytest.warns(UserWarning, match="no class names"):
        open_source(untrained())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_source(untrained(class_names=list("abc")))


@pytest.mark.one_backend
def test_loaded_classifiers_refuse_scaled_pixels(images, tmp_path):
    untrained(class_names=list("abc")).save(tmp_path / "m.keras")
    classifier = keras_apinet.load_classifier(tmp_path / "m.keras")
    for entry in (classifier.predict, classifier.probabilities):
        with pytest.raises(APINetError, match="multiply by 255"):
            entry(images / 255)


@pytest.mark.slow
def test_a_model_that_was_quantized_in_part_is_not_written(tmp_path):
    model = untrained()
    with warnings.catch_warnings(action="ignore"):  # of layers that have no 8 bits
        model.classifier_model().quantize("int8")
    with pytest.raises(APINetError, match="'classifier' was quantized"):
        model.save(tmp_path / "a.keras")


def test_no_images_have_no_answers():
    found = untrained().predict(np.zeros((0, 8, 8, 3), "uint8"), verbose=0)
    assert (found.shape, found.dtype) == ((0, 3), np.float32)


def test_weights_of_losses_that_would_weigh_one_part_are_refused():
    model = untrained()
    with pytest.raises(APINetError, match=r"loss_weights=0\.5 .*ranking_weight"):
        model.compile(loss=PairwiseLoss(single_image_weight=1.0), loss_weights=0.5)
    model.compile(loss_weights=0.5)


@pytest.mark.parametrize("labels", [LABELS, ONE_HOT], ids=["integer", "one-hot"])
def test_cross_entropy_is_a_metric_too(images, labels, tmp_path):
    model = compiled(metrics=["ce"])
    model.fit(images, labels, verbose=0)
    model.save(tmp_path / "a.keras")
    for each in (model, keras.saving.load_model(tmp_path / "a.keras")):
        found = each.evaluate(images, labels, batch_size=5, verbose=0, return_dict=True)
        assert found["ce"] == pytest.approx(cross_entropy(model, images), abs=1e-4)


@pytest.mark.parametrize("name", ["pool", "classifier", "image", "probabilities"])
def test_names_that_a_classifier_needs_are_refused_at_once(name):
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(2, 3)(inputs)
    with pytest.raises(APINetError, match=f"The name '{name}' of the backbone"):
        APINet(keras.Model(inputs, maps, name=name), 3)


def test_feature_maps_have_their_channels_last_whatever_keras_is_told(images):
    before = untrained().pool(np.arange(24.0).reshape(1, 2, 2, 6))
    keras.config.set_image_data_format("channels_first")
    try:
        after = untrained_last().pool(np.arange(24.0).reshape(1, 2, 2, 6))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_array_equal(as_numpy(before), as_numpy(after))


def untrained_last():
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(6, 3, strides=2, data_format="channels_last")(inputs)
    return APINet(keras.Model(inputs, maps), 3, mutual_units=4)


@pytest.mark.parametrize("part", ["classifier", "interaction"])
def test_what_was_frozen_is_frozen_in_a_copy(images, part, tmp_path):
    model = compiled()
    getattr(model, part).trainable = False
    model.compile("sgd")
    count = len(model.trainable_variables)
    model.save(tmp_path / "a.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "a.keras"),
        keras.models.clone_model(model),
    ):
        assert len(copy.trainable_variables) == count
        assert not getattr(copy, part).trainable
    # The baseline leaves the interaction out by itself, not because somebody asked.
    model = compiled(loss="ce")
    model.save(tmp_path / "b.keras")
    loaded = keras.saving.load_model(tmp_path / "b.keras")
    loaded.compile("sgd")
    assert loaded.interaction.trainable


def test_what_does_not_decay_is_known_after_saving(images, tmp_path):
    model = untrained()
    model.compile(
        LayerwiseAdamW(0.01, weight_decay=0.1, undecayed=["bias", "gamma", "beta"])
    )
    model.fit(images, LABELS, verbose=0)
    model.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    for each in (model, loaded):
        decays = {v.name for v in each.trainable_variables if each.optimizer.decays(v)}
        assert decays == {"kernel", "hidden_kernel", "mutual_kernel"}
