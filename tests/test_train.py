import csv
import json
import shutil

import keras
import numpy as np
import pytest
from conftest import BACKEND
from factories import class_folders

import keras_apinet
from keras_apinet import APINet, APINetError, data
from keras_apinet.evaluate import evaluate_run
from keras_apinet.files.features import weights_fingerprint
from keras_apinet.runs import Run, write_atomically
from keras_apinet.train import Recipe, resume, train

QUICK = {
    "backbone": "tiny",
    "group_by": "none",
    "image_size": 32,
    "epochs": 2,
    "classes_per_batch": 3,
    "images_per_class": 2,
    "mutual_units": 8,
    "augmentation": "none",
}


@pytest.fixture
def photos(tmp_path):
    """Three classes of flat colours with noise, 8 images each."""
    rng = np.random.default_rng(0)
    colours = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}

    def noisy(label, i):
        colour = [*colours.values()][label]
        return np.clip(colour + rng.normal(0, 10, (40, 40, 3)), 0, 255)

    return class_folders(tmp_path / "photos", colours, 8, noisy)


@pytest.mark.slow
def test_a_run_tells_everything(photos, tmp_path, capsys):
    run = train(Recipe(data=str(photos), **QUICK), tmp_path / "run", verbose="plain")
    names = {p.name for p in run.folder.iterdir()}
    assert names == {
        *("run.json", "training.json", "log.csv", "curves.png", "curves.svg"),
        *("best.keras", "last.keras", "checkpoints", "tensorboard", "held_out.json"),
        *("calibration.json", "run.lock"),
    }
    description = json.loads((tmp_path / "run/run.json").read_text())
    assert description["class_names"] == ["blue", "green", "red"]
    assert description["settings"]["epochs"] == 2
    assert description["image_size"] == 32
    assert description["peak_learning_rate"] == 2e-3
    assert description["data"]["images"] == {"train": 21, "val": 3}
    assert description["versions"]["keras"] == keras.__version__
    assert description["versions"]["backend"] == BACKEND
    rows = list(csv.DictReader((tmp_path / "run/log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {"loss", "ranking_loss", "valid_pairs", "val_accuracy"} <= set(rows[0])
    best = max(float(row["val_accuracy"]) for row in rows)
    assert run.read("training.json")["val_accuracy"] == pytest.approx(best)
    printed = capsys.readouterr().out
    assert "3 classes, 21 train, 3 val images" in printed
    assert printed.count("images/s") == 2
    # Wilson's interval of 1 of 3 is 6.1 % to 79.2 %.
    assert printed.count("Validation: 3 images, accurate to ±37 points") == 1
    assert "on 3 images (" in printed
    assert "3 validation images are too few to fit a temperature" in printed
    again = Run.open(tmp_path / "run")
    assert again.settings == run.settings
    assert again.data().fingerprint() == description["data"]["fingerprint"]
    assert again.model().class_names == ["blue", "green", "red"]


@pytest.mark.slow
@pytest.mark.one_backend
def test_a_training_killed_before_its_last_words_says_them(photos, tmp_path, capsys):
    """After the last checkpoint: figures and curves are missing, views are left."""
    run = train(Recipe(data=str(photos), **QUICK), tmp_path / "run", verbose="plain")
    figures = run.read("training.json")
    for name in ("training.json", "curves.png", "curves.svg"):
        (run.folder / name).unlink()
    views = run.folder / f"views-{'0' * 16}.npy"
    views.touch()
    notes = {"sha256": "", "failed": {}, "rows": []}
    views.with_suffix(".json").write_text(json.dumps(notes))
    capsys.readouterr()
    resume(run.folder, verbose="plain")
    said = capsys.readouterr().out
    assert "already finished" in said
    assert "Best validation accuracy" in said
    assert run.read("training.json") == figures
    assert (run.folder / "curves.png").is_file()
    assert not views.exists()


@pytest.mark.slow
@pytest.mark.one_backend
def test_the_figures_of_an_earlier_end_are_gone_while_it_goes_on(
    photos, tmp_path, monkeypatch
):
    run = train(Recipe(data=str(photos), **QUICK), tmp_path / "run", verbose="quiet")

    def killed(*args, **options):
        raise RuntimeError("killed")

    monkeypatch.setattr(APINet, "fit", killed)
    with pytest.raises(RuntimeError, match="killed"):
        resume(run.folder, {"epochs": 3}, force=True, verbose="quiet")
    assert run.read("training.json") is None


@pytest.mark.slow
@pytest.mark.one_backend
def test_the_temperature_is_there_when_the_training_ends(photos, tmp_path, capsys):
    """Prediction uses it without `evaluate`, which keeps it; resuming fits it anew."""
    recipe = Recipe(data=str(photos), validation=0.99, **QUICK)
    for path in list(photos.glob("*/*.png")):
        for i in (1, 2):
            shutil.copy(path, path.with_stem(f"{path.stem}-{i}"))
    run = train(recipe, tmp_path / "run", verbose="plain")
    known = run.read("calibration.json")
    assert known["images"] == run.description["data"]["images"]["val"] > 30
    assert known["weights"] == weights_fingerprint(run.model())
    images, right = data.evaluation_batches(run.data().splits["val"], image_size=32), 0
    for batch, labels in images:
        logits = run.model().predict(np.asarray(batch), verbose=0)
        right += int((logits.argmax(1) == np.asarray(labels)).sum())
    assert known["right"] == right
    assert (known["reason"] or "Temperature ") in capsys.readouterr().out
    classifier = keras_apinet.load_classifier(run.folder)
    assert classifier.info.temperature == known["temperature"]
    assert (
        evaluate_run(run, bootstrap=0)["calibrated"]["temperature"]
        == (known["temperature"])
    )
    run.write("calibration.json", known | {"temperature": 3.3})
    resume(run.folder, {"epochs": 3}, force=True)
    assert run.read("calibration.json")["temperature"] != 3.3


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model(photos, tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        recipe = Recipe(data=str(photos), seed=seed, **QUICK)
        model = train(recipe, tmp_path / name, verbose="quiet").model("last")
        weights.append(np.concatenate([w.ravel() for w in model.get_weights()]))
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)
    assert abs(weights[0] - weights[2]).max() > 1e-3


@pytest.mark.slow
def test_the_head_phase_trains_the_head_and_nothing_else(photos, tmp_path, monkeypatch):
    traced, step = [], keras_apinet.APINet.train_step
    monkeypatch.setattr(
        keras_apinet.APINet,
        "train_step",
        lambda model, *given: traced.append(model) or step(model, *given),
    )
    settings = {**QUICK, "head_epochs": 20, "head_learning_rate": 0.01, "epochs": 0}
    run = train(Recipe(data=str(photos), **settings), tmp_path / "run", verbose="quiet")
    if BACKEND == "tensorflow":
        assert len(traced) == 1
    trained = run.model()
    keras.utils.set_random_seed(0)
    fresh = keras_apinet.build("tiny", 3, 32, None, mutual_units=8, seed=0)
    for a, b in zip(fresh.backbone.get_weights(), trained.backbone.get_weights()):
        np.testing.assert_array_equal(a, b)
    for part in ("classifier", "interaction"):
        before, after = (
            getattr(fresh, part).weights[0],
            getattr(trained, part).weights[0],
        )
        moved = keras.ops.convert_to_numpy(before) - keras.ops.convert_to_numpy(after)
        assert abs(moved).max() > 1e-3
    # Flat colours are separable in the features of any network.
    assert run.read("training.json")["val_accuracy"] == 1.0
    rows = list(csv.DictReader((run.folder / "log_head.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 21)]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    rates = [float(row["learning_rate"]) for row in rows]
    # The cosine falls over all batches; half of them are behind after epoch 10.
    assert rates[9] == pytest.approx(0.005)
    assert rates[19] == pytest.approx(0, abs=1e-9)
    assert [row["val_accuracy"] for row in rows] == [""] * 19 + ["1.0"]
    assert not (run.folder / "log.csv").exists()
    assert "head phase" in (run.folder / "curves.svg").read_text()


def test_the_best_model_is_kept_not_the_last(tmp_path):
    from keras_apinet.train.callbacks import RunCheckpoint
    from keras_apinet.train.checkpoints import Progress

    run = Run.create(tmp_path / "run", {"settings": {}})
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    progress = Progress()
    keep = RunCheckpoint(run, Recipe(), progress)
    keep.set_model(model)
    scores = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.6, 0.1)]
    for epoch, (accuracy, loss) in enumerate(scores):
        model.set_weights([np.array([[float(epoch)]])])
        progress.epoch = epoch
        keep.keep({"val_accuracy": accuracy, "val_loss": loss})
    stored = [
        keras.saving.load_model(run.folder / f"{name}.keras").get_weights()[0].item()
        for name in ("best", "last")
    ]
    assert stored == [2.0, 3.0]
    assert progress.best_epoch == 2


@pytest.mark.slow
def test_baseline_trains_without_pairs(photos, tmp_path):
    settings = {**QUICK, "method": "baseline", "label_smoothing": 0.1}
    run = train(Recipe(data=str(photos), **settings), tmp_path / "run", verbose="quiet")
    header = (run.folder / "log.csv").read_text().split("\n")[0]
    assert "ranking_loss" not in header
    assert "val_accuracy" in header


@pytest.mark.slow
def test_partners_are_those_of_the_recipe(photos, tmp_path):
    asked = {"intra": "farthest", "inter": "none", "distance": "cosine"}
    recipe = Recipe(data=str(photos), **QUICK | {"epochs": 1}, **asked)
    run = train(recipe, tmp_path / "run", verbose="quiet")
    miner = run.model("last").miner
    assert miner.strategies[0] == "farthest"
    assert miner.num_partners == (1, 0)
    assert miner.distance == "cosine"


def test_an_existing_run_is_never_overwritten(photos, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    with pytest.raises(APINetError, match="already contains a run"):
        train(Recipe(data=str(photos), **QUICK), tmp_path / "run", verbose="quiet")
    assert (tmp_path / "run/run.json").read_text() == "{}"


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_model(
    photos, tmp_path, monkeypatch
):
    settings = {**QUICK, "learning_rate": 1e30, "clipnorm": 1e30, "optimizer": "sgd"}
    settings |= {"head_epochs": 1, "epochs": 3}
    with pytest.raises(APINetError, match="loss became"):
        train(Recipe(data=str(photos), **settings), tmp_path / "run", verbose="quiet")
    model = Run.open(tmp_path / "run").model()
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a.txt", "old")
    monkeypatch.setattr(
        "os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "x"))
    )
    with pytest.raises(APINetError, match=r"a\.txt' cannot be written \(x\)"):
        write_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"method": "pairwize"}, "did you mean 'pairwise'"),
        ({"optimizer": "adam"}, "optimizer='adam'"),
        ({"epochs": -1}, "epochs=-1"),
        ({"epochs": 0}, "nothing to train"),  # tiny has no weights to warm up on
        ({"epochs": 0, "head_epochs": 0}, "nothing to train"),
        ({"images_per_class": 0}, "images_per_class=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"augmentation": "hard"}, "augmentation='hard'"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, value):
    with pytest.raises(APINetError, match=value):
        Recipe(**settings)


@pytest.fixture
def split_photos(tmp_path):
    """A folder with 60 training and 12 validation photos of three classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 4)):
        class_folders(
            tmp_path / "split" / split,
            "abc",
            count,
            lambda *_: rng.integers(0, 256, (36, 36, 3)),
        )
    return tmp_path / "split"


@pytest.mark.slow
@pytest.mark.one_backend
def test_an_unreadable_image_is_left_out_counted_and_listed(
    split_photos, tmp_path, caplog
):
    """Of the validation and, by the head's own features, of the training images."""
    (split_photos / "val/b/2.png").write_bytes(b"no image")
    (split_photos / "train/c/3.png").write_bytes(b"no image")
    recipe = Recipe(data=str(split_photos), **QUICK | {"head_epochs": 1, "epochs": 0})
    run = train(recipe, tmp_path / "run", "quiet")
    failed = run.read("training.json")["unreadable"]
    assert sorted(name[-11:] for name in failed) == ["ain/c/3.png", "val/b/2.png"]
    assert "1 of 12 images could not be read and were left out" in caplog.text
    assert "1 of 60 images could not be read and were left out" in caplog.text
    # 11 images were judged.
    right = run.read("training.json")["val_accuracy"] * 11
    assert right == pytest.approx(round(right), abs=1e-4)


@pytest.mark.one_backend
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("split", ["train", "val"])
def test_too_many_unreadable_images_are_one_sentence(
    split, cached, split_photos, tmp_path
):
    for i in (1, 2, 3):
        (split_photos / split / "a" / f"{i}.png").write_bytes(b"no image")
    settings = {**QUICK, "head_epochs": 1, "cached_head_features": cached, "epochs": 0}
    with pytest.raises(APINetError, match=r"images cannot be read, more than 1%"):
        train(Recipe(data=str(split_photos), **settings), tmp_path / "run", "quiet")


@pytest.fixture
def kept(tmp_path):
    """A run_checkpoint, with a model whose weights are averaged."""
    from keras_apinet.optimizers import LayerwiseSGD
    from keras_apinet.train.callbacks import RunCheckpoint
    from keras_apinet.train.checkpoints import Progress

    run = Run.create(tmp_path / "run", {"settings": {}})
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
    model.compile(LayerwiseSGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    run_checkpoint = RunCheckpoint(run, Recipe(ema_momentum=0.9, epochs=9), Progress())
    run_checkpoint.set_model(model)
    run_checkpoint.set_params({"steps": 3})
    run_checkpoint.on_epoch_end(0, {"loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5})
    return run_checkpoint


@pytest.mark.parametrize("what", ["val_loss", "weights", "averages"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_kept(what, value, kept, tmp_path):
    from keras_apinet.train import checkpoints

    def content():
        return {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}

    before, logs = content(), {"loss": 0.5, "val_loss": 0.5, "val_accuracy": 0.9}
    assert len(before) == 6  # run.json, the lock, the log, both models, a checkpoint
    bad = np.array([[value]], "float32")
    if what == "val_loss":
        logs["val_loss"] = value
    elif what == "weights":
        kept.model.set_weights([bad])
    else:
        kept.model.optimizer.averages[0].assign(bad)
    with pytest.raises(APINetError, match=r"became .* in epoch 2: .*--learning-rate"):
        kept.on_epoch_end(1, logs)
    assert content() == before
    assert next(checkpoints.readable(tmp_path / "run"))[0].epoch == 1
    if what != "val_loss":
        with pytest.raises(APINetError, match="Weights became"):
            kept.checkpoint()
        assert content() == before


@pytest.mark.one_backend
def test_nobody_goes_on_from_a_checkpoint_that_is_not_finite(tmp_path):
    from keras_apinet.train import checkpoints

    good, bad = [np.ones(3)], [np.array([1.0, np.nan, 1.0])]
    checkpoints.save(tmp_path, good, checkpoints.Progress(epoch=1), 9)
    checkpoints.save(tmp_path, bad, checkpoints.Progress(epoch=2), 9)
    assert next(checkpoints.readable(tmp_path))[0].epoch == 1
    checkpoints.everything(tmp_path)[0].unlink()
    with pytest.raises(APINetError, match=r"None of the 1 .*NaN or infinite values"):
        next(checkpoints.readable(tmp_path))
