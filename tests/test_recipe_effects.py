"""Every setting of a recipe reaches the training: one table with all of them."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_apinet
from keras_apinet import APINetError
from keras_apinet.runs import Run
from keras_apinet.train import Devices, Recipe, train
from keras_apinet.train.devices import place
from keras_apinet.train.optimization import optimizer, peak_rate, schedule
from keras_apinet.train.progress import Console
from keras_apinet.train.setup import own_globals, prepare

pytestmark = pytest.mark.one_backend

BASE = {
    "data": "nowhere",
    "backbone": "tiny",
    "image_size": 32,
    "epochs": 4,
    "mutual_units": 8,
    "augmentation": "none",
    "classes_per_batch": 2,
    "images_per_class": 2,
}


@pytest.fixture
def asked(monkeypatch):
    """What `data.load` was asked for; it gives small arrays with boxes."""
    asked = []
    rng = np.random.default_rng(0)

    def part(each, first):
        labels = np.repeat(np.arange(4), each).astype("int32")
        pixels = rng.integers(0, 256, (len(labels), 40, 56, 3)).astype("uint8")
        split = keras_apinet.data.as_split((pixels, labels))
        boxes = np.tile(np.array([first, 5, 30, 35], "float32"), (len(labels), 1))
        return dataclasses.replace(split, boxes=boxes)

    splits = {"train": part(6, 8), "val": part(2, 9)}

    def load(**options):
        asked.append(options)
        names = ("a", "b", "c", "d")
        return keras_apinet.data.ImageData(options["name"], names, splits)

    monkeypatch.setattr(keras_apinet.data, "load", load)
    return asked


class Seen:
    """What a recipe makes, piece by piece."""

    def __init__(self, asked, settings):
        self.recipe = Recipe(**{**BASE, **settings})
        with own_globals(), place(Devices()) as placement:
            self.setup = prepare(self.recipe, placement, Console("quiet"))
        self.asked, self.model = asked[-1], self.setup.model

    @property
    def batch(self):
        images, labels = next(iter(self.setup.batches()))
        return np.asarray(images), np.asarray(labels)

    @property
    def judged(self):
        return np.asarray(next(iter(self.setup.validation()))[0])

    @property
    def loss(self):
        return self.setup.loss().get_config()

    @property
    def optimizer(self):
        rate = schedule(self.recipe, peak_rate(self.recipe, self.model), 100)
        return optimizer(self.recipe, self.model, rate)

    def rate(self, step):
        peak = peak_rate(self.recipe, self.model)
        return float(schedule(self.recipe, peak, 100)(step))

    @property
    def compiled(self):
        self.setup.compile(1e-3)
        return self.model

    @property
    def decayed(self):
        made = self.optimizer
        made.build(self.model.trainable_variables)
        variables = self.model.trainable_variables
        return sum(made._use_weight_decay(v) for v in variables) == len(variables)


def norms(seen):
    kinds = keras.layers.BatchNormalization
    return {x.momentum for x in seen.model.backbone.layers if isinstance(x, kinds)}


# setting: value, what is looked at, what is expected there ("other": than by default).
TABLE = {
    "data": ("somewhere", lambda s: s.asked["name"], "somewhere"),
    "data_dir": ("there", lambda s: s.asked["data_dir"], "there"),
    "level": ("family", lambda s: s.asked["level"], "family"),
    "download": (True, lambda s: s.asked["download"], True),
    "exclude": ("poor.csv", lambda s: Path(s.asked["exclude"]).name, "poor.csv"),
    "relabel": ("right.csv", lambda s: Path(s.asked["relabel"]).name, "right.csv"),
    "validation": (0.25, lambda s: s.asked["validation"], 0.25),
    "box_crop": (True, lambda s: (s.batch[0].tolist(), s.judged.tolist()), "other"),
    "backbone": ("mobilenet_v2", lambda s: "mobilenet" in s.model.backbone.name, True),
    "image_size": (64, lambda s: s.batch[0].shape[1:3], (64, 64)),
    "pooling": ("token", lambda s: s.model.pooling, "token"),
    "batch_norm": ("inference", lambda s: s.model.batch_norm, "inference"),
    "batch_norm_momentum": (0.7, norms, {0.7}),
    "method": ("baseline", lambda s: type(s.setup.loss()).__name__, "CrossEntropy"),
    "classes_per_batch": (3, lambda s: len(set(s.batch[1].tolist())), 3),
    "images_per_class": (5, lambda s: len(s.batch[1]), 10),
    "class_sampling": (
        "sqrt",
        lambda s: s.setup.batches().plan.class_sampling,
        "sqrt",
    ),
    "intra": ("farthest", lambda s: s.model.miner.strategies[0], "farthest"),
    "inter": ("random", lambda s: s.model.miner.strategies[1], "random"),
    "distance": ("euclidean", lambda s: s.model.miner.distance, "euclidean"),
    "memory_size": (16, lambda s: s.model.memory.size, 16),
    "mutual_units": (9, lambda s: s.model.interaction.mutual_units, 9),
    "dropout_rate": (0.3, lambda s: s.model.dropout.rate, 0.3),
    "residual_weight": (0.7, lambda s: s.model.interaction.residual_weight, 0.7),
    "margin": (0.2, lambda s: s.loss["margin"], 0.2),
    "ranking_weight": (2.0, lambda s: s.loss["ranking_weight"], 2.0),
    "single_image_weight": (0.5, lambda s: s.loss["single_image_weight"], 0.5),
    "label_smoothing": (0.1, lambda s: s.loss["label_smoothing"], 0.1),
    "steps_per_epoch": (3, lambda s: s.setup.batches().plan.epoch_steps, 3),
    "augmentation": ("strong", lambda s: s.batch[0].tolist(), "other"),
    "resize": ("squash", lambda s: (s.batch[0].tolist(), s.judged.tolist()), "other"),
    "optimizer": ("sgd", lambda s: s.optimizer.momentum, 0.9),
    "learning_rate": (0.5, lambda s: s.rate(5), 0.5),
    "schedule": ("constant", lambda s: s.rate(90), 2e-3),
    "warmup_fraction": (0.5, lambda s: s.rate(25), 1e-3),
    "layer_decay": (0.1, lambda s: min(s.optimizer.layer_shares.values()), 0.1),
    "weight_decay": (0.3, lambda s: s.optimizer.weight_decay, 0.3),
    "weight_decay_mode": (
        {"optimizer": "sgd", "weight_decay_mode": "l2"},
        lambda s: s.optimizer.weight_decay_mode,
        "l2",
    ),
    "decay_all": (True, lambda s: s.decayed, True),
    "clipnorm": (7.0, lambda s: s.optimizer.global_clipnorm, 7.0),
    "gradient_accumulation_steps": (
        3,
        lambda s: s.optimizer.gradient_accumulation_steps,
        3,
    ),
    "ema_momentum": (0.8, lambda s: s.optimizer.ema_momentum, 0.8),
    "steps_per_execution": (2, lambda s: s.compiled.steps_per_execution, 2),
    "jit_compile": (False, lambda s: s.compiled.jit_compile, False),
    "dtype": ("mixed_bfloat16", lambda s: s.model.compute_dtype, "bfloat16"),
    "seed": (5, lambda s: s.batch[0].tolist(), "other"),
}
# Settings that a whole run shows: below, or in the tests of their topic.
RUNS = {"head_epochs", "cached_head_features", "epochs", "head_learning_rate"}
RUNS |= {"checkpoint_minutes", "keep_checkpoints", "patience"}
OTHER_FILES = {"backend": "recipe", "weights": "frozen", "freeze_fraction": "frozen"}
OTHER_FILES |= {
    "group_by": "data_splits",
    "unknown_keep": "open_world",
    "cached_views": "frozen",
    "cached_views_dir": "frozen",
    "tracker": "cli",
}


def test_no_setting_is_forgotten():
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert names == {*TABLE, *RUNS, *OTHER_FILES}


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_a_setting_reaches_the_training(name, asked):
    value, look, expected = TABLE[name]
    settings = value if isinstance(value, dict) else {name: value}
    if name == "backbone":
        settings["weights"] = "none"
    found = look(Seen(asked, settings))
    if expected == "other":
        plain = look(Seen(asked, {}))
        pairs = zip(found, plain) if isinstance(found, tuple) else [(found, plain)]
        assert all(a != b for a, b in pairs)
    else:
        if isinstance(expected, float):
            expected = pytest.approx(expected)
        assert found == expected


@pytest.mark.slow
def test_a_run_does_what_its_recipe_says_of_its_phases(asked, tmp_path, monkeypatch):
    """Both phases as they are compiled and fitted, and what is left in the folder."""
    compiled, fitted = [], []
    compile_, fit = keras_apinet.APINet.compile, keras_apinet.APINet.fit

    def watched_compile(self, optimizer="rmsprop", loss=None, **options):
        compiled.append((optimizer, options))
        return compile_(self, optimizer, loss, **options)

    def watched_fit(self, x, *args, **options):
        fitted.append((x, options))
        return fit(self, x, *args, **options)

    monkeypatch.setattr(keras_apinet.APINet, "compile", watched_compile)
    monkeypatch.setattr(keras_apinet.APINet, "fit", watched_fit)
    settings = {
        "head_epochs": 2,
        "cached_head_features": False,
        "head_learning_rate": 0.02,
        "epochs": 2,
        "steps_per_epoch": 4,
        "checkpoint_minutes": 1e-9,
        "keep_checkpoints": 3,
        "steps_per_execution": 2,
        "gradient_accumulation_steps": 3,
        "jit_compile": False,
        "dtype": "mixed_bfloat16",
    }
    before = np.random.get_state()[1].tolist()
    run = train(Recipe(**{**BASE, **settings}), tmp_path / "run", "quiet")
    assert keras.config.dtype_policy().name == "float32"
    assert np.random.get_state()[1].tolist() == before
    (head, first), (whole, second) = compiled[:2]
    assert first == second == {"steps_per_execution": 2, "jit_compile": False}
    assert float(head._learning_rate(0)) == pytest.approx(0.02)
    assert head.gradient_accumulation_steps is None
    assert (fitted[0][1]["epochs"], fitted[0][1]["steps_per_epoch"]) == (2, 4)
    assert hasattr(fitted[0][0], "plan")  # images, not stored features
    assert int(whole._iterations) == 2 * 4
    rows = (run.folder / "log.csv").read_text().splitlines()
    rate = rows[0].split(",").index("learning_rate")
    found = [float(row.split(",")[rate]) for row in rows[1:]]
    # Cosine without a rise: 0.05 of 8 batches round to none.
    assert found == pytest.approx([2e-3 * 0.5, 0.0], abs=1e-9)
    names = sorted(path.name for path in (run.folder / "checkpoints").iterdir())
    assert names == [f"{name}.npz" for name in CHECKPOINTS]


# After two batches of each epoch, and at its end: the three newest.
CHECKPOINTS = ("00001-0000000", "00001-0000002", "00002-0000000")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"steps_per_epoch": 4, "steps_per_execution": 3},
            "steps_per_execution=3 does not divide the 4 batches .*execution 2",
        ),
        (
            {"steps_per_epoch": 1, "gradient_accumulation_steps": 5},
            "gradient_accumulation_steps=5: .* has only 4 batches",
        ),
        ({"patience": 2}, "patience=2 requires a validation split"),
    ],
)
def test_a_run_that_could_not_do_what_it_says_does_not_begin(
    settings, words, asked, tmp_path, monkeypatch
):
    if "patience" in settings:
        load = keras_apinet.data.load

        def without_validation(**options):
            images = load(**options)
            return dataclasses.replace(images, splits={"train": images.splits["train"]})

        monkeypatch.setattr(keras_apinet.data, "load", without_validation)
    with pytest.raises(APINetError, match=words):
        train(Recipe(**{**BASE, **settings}), tmp_path / "run", "quiet")
    assert not (tmp_path / "run" / "best.keras").exists()
    assert Run.open(tmp_path / "run").settings["epochs"] == 4
