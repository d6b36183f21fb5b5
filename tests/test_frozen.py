"""Layers that stay as they came, and training on what they give for stored views."""

import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from factories import photos_and_weights
from PIL import Image

import keras_apinet
from keras_apinet import APINetError
from keras_apinet.data.batches import stored_batches
from keras_apinet.model.backbone import split
from keras_apinet.train import Devices, Recipe, cached_views as frozen, resume, train
from keras_apinet.train.devices import place
from keras_apinet.train.progress import Console
from keras_apinet.train.setup import prepare


def backbone(size=16):
    """Convolutions with batch-norm; a branch that only the fourth layer joins again."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="one")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.Conv2D(4, 3, padding="same", name="two")(x)
    x = keras.layers.Add(name="joined")([x, y])
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", name="three")(x)
    x = keras.layers.BatchNormalization(name="last")(x)
    return keras.Model(inputs, x, name="small")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("share", "name"),
    # Seven layers, the input counted; past "two" flows what "norm" gives.
    [
        (2 / 7, "one"),
        (3 / 7, "norm"),
        (4 / 7, "norm"),
        (5 / 7, "joined"),
        (0.9, "three"),
    ],
)
def test_the_cut_is_where_everything_flows_through(share, name, rng):
    network = backbone()
    parts = split(network, share)
    assert parts.frozen.layers[-1].name == name
    images = rng.normal(size=(2, 16, 16, 3)).astype("float32")
    np.testing.assert_allclose(
        parts.tail.predict(parts.frozen.predict(images, verbose=0), verbose=0),
        network.predict(images, verbose=0),
        atol=1e-6,
    )


@pytest.mark.one_backend
@pytest.mark.parametrize("share", [-0.1, 1.0, 0.1])
def test_a_share_that_does_not_fit_is_named(share):
    with pytest.raises(APINetError, match=f"freeze_fraction={share}"):
        split(backbone(), share)


def test_frozen_layers_stay_and_the_others_learn(rng, tmp_path):
    model = keras_apinet.APINet(backbone(), 3, freeze_fraction=5 / 7, mutual_units=4)
    model.compile(keras.optimizers.Adam(0.01))
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.backbone.weights}
    images = rng.integers(0, 256, (8, 16, 16, 3)).astype("float32")
    labels = np.arange(8) % 3
    model.train_backbone(False)
    assert not model.backbone.trainable_variables
    model.train_backbone(True)
    model.compile(keras.optimizers.Adam(0.01))
    model.fit(images, labels, epochs=2, verbose=0)
    for weight in model.backbone.weights:
        moved = keras.ops.convert_to_numpy(weight) - before[weight.path]
        learns = weight.path.split("/")[-2] in ("three", "last")
        assert bool(abs(moved).max() > 0) == learns, weight.path

    stored = model.frozen_model().predict(images, verbose=0)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(model({"frozen": stored})), expected, atol=1e-5
    )
    logits = model.classifier_model(probabilities=False).predict(images, verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    model.save(tmp_path / "m.keras")
    again = keras_apinet.load(tmp_path / "m.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), expected, atol=1e-5)
    count = len(model.trainable_variables)
    assert len(again.trainable_variables) == count < len(model.variables)


@pytest.fixture
def early():
    """A model cut before the first stride: its frozen output looks like an image."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="one")(inputs)
    x = keras.layers.Conv2D(4, 3, strides=2, name="two")(x)
    scaling = keras_apinet.backbones.PixelScaling(1 / 127.5, -1.0)
    return keras_apinet.APINet(
        keras.Model(inputs, x), 3, scaling=scaling, freeze_fraction=0.7, mutual_units=4
    )


@pytest.mark.slow
def test_a_frozen_output_is_what_it_is_said_to_be_and_not_what_it_looks_like(
    early, rng, tmp_path
):
    images = rng.integers(0, 256, (6, 8, 8, 3)).astype("float32")
    jit = keras.backend.backend() != "torch"  # torch.compile warns about itself
    early.compile(keras.optimizers.SGD(0.01), jit_compile=jit)
    parts = early.frozen_model()
    assert parts.output_shape == (None, 8, 8, 3)
    stored = parts.predict(images, verbose=0)
    # By hand: scaled pixels, both layers, the mean over all places, W x + b.
    maps = keras.ops.convert_to_numpy(early.backbone(images / 127.5 - 1))
    pooled = maps.mean((1, 2))
    kernel, bias = (keras.ops.convert_to_numpy(w) for w in early.classifier.weights)
    expected = pooled @ kernel + bias

    def check(model):
        plain = model.classifier_model(probabilities=False)
        for found in (
            model.predict(images, verbose=0),
            model.predict({"frozen": stored}, verbose=0),
            model.predict({"features": pooled}, verbose=0),
            plain.predict(images, verbose=0),
        ):
            np.testing.assert_allclose(found, expected, atol=1e-5)

    check(early)
    early.save(tmp_path / "m.keras")
    check(keras_apinet.load(tmp_path / "m.keras"))
    history = early.fit(
        {"frozen": stored},
        np.arange(6) % 3,
        validation_data=(images, np.arange(6) % 3),
        batch_size=6,
        epochs=1,
        verbose=0,
    )
    # Dropout aside, both saw the same images; validation is after the only step.
    loss = early.evaluate({"frozen": stored}, np.arange(6) % 3, verbose=0)[0]
    assert history.history["val_loss"][0] == pytest.approx(loss, rel=1e-4)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"frozen": np.zeros((2, 8, 8, 4))}, r"got shape=\(2, 8, 8, 4\)"),
        ({"features": np.zeros((2, 5))}, r"x \[N, 4\]; got shape=\(2, 5\)"),
        ({"pixels": np.zeros((2, 8, 8, 3))}, r"dictionary with keys \['pixels'\]"),
        (np.zeros((2, 4)), r"images \[N, 8, 8, 3\] with pixels 0..255"),
    ],
)
def test_inputs_that_are_not_what_they_are_said_to_be(early, given, words):
    with pytest.raises(APINetError, match=words):
        early.features(given)


@pytest.mark.one_backend
def test_without_frozen_layers_there_is_no_frozen_output():
    model = keras_apinet.build("tiny", 3, 32, None, mutual_units=4)
    with pytest.raises(APINetError, match="freeze_fraction=0; pass images"):
        model.features({"frozen": np.zeros((2, 32, 32, 3))})


def test_without_frozen_layers_there_is_no_such_model():
    with pytest.raises(APINetError, match="No layer is frozen"):
        keras_apinet.build("tiny", 3, 32, None).frozen_model()


@pytest.mark.one_backend
def test_stored_batches_draw_a_view_of_each_image():
    """Each stored number names its view and its image."""
    labels = np.repeat([0, 1, 2], 4).astype("int32")
    views = np.arange(5)[:, None, None] * 100 + np.arange(12)[None, :, None]
    plan = keras_apinet.data.BatchPlan(labels, 2, 3, seed=4)
    batches = stored_batches(views.astype("float16"), labels, plan, None)
    found = [(x.numpy()[:, 0], y.numpy()) for x, y in batches.take(40)]
    for step, (numbers, classes) in enumerate(found):
        images = plan.indices(0, step)
        np.testing.assert_array_equal(numbers % 100, images)
        np.testing.assert_array_equal(classes, labels[images])
    assert {n // 100 for numbers, _ in found for n in numbers} == set(range(5))
    later = stored_batches(views.astype("float16"), labels, plan, None, start_step=7)
    numbers, _ = next(iter(later))
    np.testing.assert_array_equal(numbers[:, 0], found[7][0])


QUICK = {
    "image_size": 32,
    "group_by": "none",
    "epochs": 2,
    "head_epochs": 1,
    "classes_per_batch": 3,
    "images_per_class": 2,
    "mutual_units": 8,
    "freeze_fraction": 0.5,
    "cached_views": 3,
    "augmentation": "paper",
    "ema_momentum": 0.9,
}


@pytest.fixture
def settings(tmp_path, rng):
    return {**QUICK, **photos_and_weights(tmp_path, rng)}


def all_weights(run, which="last"):
    return run.model(which).get_weights()


@pytest.mark.slow
def test_a_training_on_views(settings, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "views"
    recipe = Recipe(**settings, cached_views_dir=str(kept))
    run = train(recipe, tmp_path / "run", "plain")
    assert "Computing views: 3 views of 108 images" in capsys.readouterr().out
    assert not list(run.folder.glob("views*"))
    (file,) = kept.glob("*.npy")
    model = run.model()
    stored = np.load(file)
    assert stored.shape == (3, 108, *model.frozen_model().output_shape[1:])
    assert stored.dtype == np.float16
    # View 1 of the first image, through data and model as anybody would get it.
    images = keras_apinet.data.evaluation_batches(
        run.data().splits["train"],
        image_size=32,
        augmentation="paper",
        batch_size=16,
        views=3,
    )
    pixels, _ = next(iter(images))
    expected = model.frozen_model().predict(np.asarray(pixels)[:4, 1], verbose=0)
    np.testing.assert_allclose(stored[1, :4], expected, rtol=2e-3, atol=2e-3)

    # Another run takes the same file, and ends with the same weights.
    monkeypatch.setattr(frozen, "replacing", None)
    again = train(recipe, tmp_path / "again", "quiet")
    for a, b in zip(all_weights(run), all_weights(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # What the views depend on makes another file, be it one photo.
    with pytest.raises(TypeError):
        train(
            Recipe(**{**settings, "freeze_fraction": 0.7}), tmp_path / "other", "quiet"
        )
    photo = run.data().splits["train"].reference(0)
    Image.fromarray(np.full((40, 40, 3), 9, "uint8")).save(photo)
    with pytest.raises(TypeError):
        train(recipe, tmp_path / "replaced", "quiet")


def test_validation_sees_what_the_frozen_layers_give(settings):
    with place(Devices()) as placement:
        setup = prepare(Recipe(**settings), placement, Console("quiet"))
        validation = setup.validation()
        split = setup.images.splits["val"]
        images = keras_apinet.data.evaluation_batches(split, image_size=32)
        expected = setup.model.predict(images, verbose=0)
        found = [
            setup.model.predict_on_batch(validation[i][0])
            for i in range(len(validation))
        ]
        labels = np.concatenate([validation[i][1] for i in range(len(validation))])
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)
        np.testing.assert_array_equal(labels, split.labels)
        # What takes over a GiB is computed anew each time.
        wide = SimpleNamespace(output_shape=(None, 2**28, 1))
        setup.model.frozen_model = lambda: wide
        assert not hasattr(setup.validation(), "batches")


@pytest.mark.slow
@pytest.mark.one_backend
def test_views_that_were_damaged_are_computed_anew(settings, tmp_path, capsys):
    kept = tmp_path / "views"
    with place(Devices()) as placement:
        setup = prepare(Recipe(**settings), placement, Console("plain"))
        first = np.array(frozen.stored_views(setup, kept).arrays)
        (file,) = kept.glob("*.npy")
        notes = file.with_suffix(".json")
        whole, told = file.read_bytes(), notes.read_text()
        flipped = bytearray(whole)
        flipped[-9] ^= 1
        damages = [
            (file, bytes(flipped)),
            (file, whole[:-1]),
            (file, b""),
            (notes, b""),
            (notes, b"[" * 100_000),
            (notes, told.replace('"rows": [0', '"rows": [0.5').encode()),
            (notes, told.replace('"rows": [0,', '"rows": [').encode()),
        ]
        capsys.readouterr()
        for damaged, content in damages:
            damaged.write_bytes(content)
            again = frozen.stored_views(setup, kept)
            assert "damaged; recomputing them" in capsys.readouterr().out
            np.testing.assert_allclose(again.arrays, first, atol=1e-3)
        frozen.stored_views(setup, kept)
        assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_views_are_gone_when_the_training_has_ended_and_not_before(
    settings, tmp_path, monkeypatch
):
    from keras_apinet.train.callbacks import RunCheckpoint

    whole = train(Recipe(**settings), tmp_path / "whole", "quiet")
    assert not list(whole.folder.glob("views*"))
    end = RunCheckpoint.on_epoch_end

    def killed(self, epoch, logs=None):
        end(self, epoch, logs)
        raise RuntimeError("killed")

    monkeypatch.setattr(RunCheckpoint, "on_epoch_end", killed)
    with pytest.raises(RuntimeError, match="killed"):
        train(Recipe(**settings), tmp_path / "run", "quiet")
    assert len(list((tmp_path / "run").glob("views*.npy"))) == 1
    monkeypatch.setattr(RunCheckpoint, "on_epoch_end", end)
    monkeypatch.setattr(frozen, "replacing", None)  # nothing is computed again
    run = resume(tmp_path / "run", verbose="quiet")
    for a, b in zip(all_weights(whole), all_weights(run), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not list(run.folder.glob("views*"))


@pytest.mark.slow
@pytest.mark.one_backend
def test_unreadable_images_are_left_out_of_the_views(settings, tmp_path):
    broken = tmp_path / "photos" / "b" / "7.png"
    broken.write_bytes(b"no image")
    recipe = Recipe(**settings, cached_views_dir=str(tmp_path / "views"))
    run = train(recipe, tmp_path / "run", "quiet")
    (notes,) = (tmp_path / "views").glob("*.json")
    found = json.loads(notes.read_text())
    split = run.data().splits["train"]
    references = [split.reference(i) for i in range(len(split))]
    bad = [i for i, name in enumerate(references) if name.endswith("b/7.png")]
    assert found["rows"] == [i for i in range(len(split)) if i not in bad]
    assert len(found["failed"]) == len(bad)
    assert np.load(notes.with_suffix(".npy")).shape[1] == len(split) - len(bad)
    assert run.read("training.json")["unreadable"].keys() == found["failed"].keys()


def test_a_full_disk_and_too_large_values_are_said(settings, tmp_path, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(
        APINetError, match=r"lower --cached-views, or set --cached-views 0"
    ):
        train(Recipe(**settings), tmp_path / "run", "quiet")
    assert not list((tmp_path / "run").glob("views*"))
    with pytest.raises(APINetError, match=r"up to 7e\+04, which overflow float16"):
        frozen.half(np.array([1.0, 7e4]))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"freeze_fraction": 0.0}, "cached_views=3 requires frozen layers"),
        ({"weights": None}, "would freeze layers with random weights"),
        ({"freeze_fraction": 1.0}, "freeze_fraction=1.0"),
        ({"cached_views": -1}, "cached_views=-1"),
    ],
)
def test_settings_that_contradict_each_other(changes, words):
    with pytest.raises(APINetError, match=words):
        Recipe(**{**QUICK, "weights": "w.h5", **changes})


@pytest.mark.slow
def test_what_is_kept_after_the_head_phase_is_its_model(settings, tmp_path):
    """With averaged weights, which Keras starts at zero."""
    changes = {
        "learning_rate": 1e-12,
        "weight_decay": 0.0,
        "epochs": 1,
        "cached_views": 0,
    }
    recipe = Recipe(**{**settings, **changes})
    run = train(recipe, tmp_path / "run", "quiet")
    for which in ("best", "last"):
        kernel = run.model(which).interaction.hidden_kernel
        assert abs(keras.ops.convert_to_numpy(kernel)).max() > 1e-3


def test_averages_begin_at_the_weights():
    from keras_apinet.optimizers import LayerwiseAdamW

    variable = keras.Variable([2.0, 3.0])
    made = LayerwiseAdamW(use_ema=True, ema_momentum=0.9)
    made.build([variable])
    (average,) = made._model_variables_moving_average
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(average), [2.0, 3.0])
