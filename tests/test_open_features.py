"""The features of a run's photos, and the file that keeps them."""

import os

import numpy as np
import pytest
from evaluate_runs import NAMES, make_run, photos

from keras_apinet.data import prepare
from keras_apinet.evaluate import predictions
from keras_apinet.files.features import FEATURES
from keras_apinet.open_world import features as room
from keras_apinet.open_world.features import run_features
from keras_apinet.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    return Run.open(make_run(root / "run", photos(root), NAMES))


@pytest.fixture
def passes(monkeypatch):
    """Counts the passes of a model over a split."""
    seen = []

    def counted(model, split, **options):
        seen.append(len(split))
        return predictions.predict_split(model, split, **options)

    monkeypatch.setattr(room, "predict_split", counted)
    return seen


@pytest.mark.slow
def test_one_pass_for_each_split_until_model_or_file_change(run, passes):
    model, images = run.model(), run.data()
    first = run_features(run, model, images)
    assert passes == [12, 6]
    # The features are those of the plain model on the photos, in their order.
    split = images.splits["val"]
    pixels = np.stack([prepare(split.read(i), 32) for i in range(6)])
    expected = model.feature_model().predict(pixels, verbose=0)
    np.testing.assert_allclose(first["val"].features, expected, atol=5e-3)
    named = [images.class_names[label] for label in split.labels]
    assert [run.class_names[label] for label in first["val"].labels] == named
    assert first["val"].names == tuple(split.reference(i) for i in range(6))

    again = run_features(run, model, images, splits=("val", "test", "none"))
    assert passes == [12, 6, 9]  # the test split alone is new
    assert [*again] == ["val", "test"]
    np.testing.assert_array_equal(again["val"].features, first["val"].features)

    kernel, bias = model.classifier.get_weights()
    model.classifier.set_weights([kernel + 1, bias])  # no feature depends on it
    run_features(run, model, images)
    assert passes == [12, 6, 9]
    weight = model.backbone.weights[0]
    weight.assign(weight + 1)
    changed = run_features(run, model, images, splits=("val",))
    assert passes == [12, 6, 9, 6]
    assert np.abs(changed["val"].features - first["val"].features).max() > 1e-3


def test_a_photo_that_was_replaced_is_looked_at_again(run, passes):
    model, images = run.model(), run.data()
    run_features(run, model, images)
    passes.clear()
    os.utime(images.splits["train"].reference(3), (0, 0))
    run_features(run, model, images, splits=("val",))
    assert passes == [6]


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "narrow"])
def test_a_damaged_file_is_made_again(run, passes, damage):
    model, images = run.model(), run.data()
    good = run_features(run, model, images, splits=("val",))["val"]
    path = run.folder / FEATURES
    with np.load(path) as file:
        arrays = dict(file)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no archive")
    else:
        wrong = {"pickle": np.array([{}]), "narrow": good.features[:, :-1]}[damage]
        np.savez(path, **{**arrays, "val.features": wrong})
    passes.clear()
    again = run_features(run, model, images, splits=("val",))["val"]
    assert passes == [6]
    np.testing.assert_allclose(again.features, good.features, atol=1e-5)
