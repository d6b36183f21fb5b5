"""The whole way on real photos: train, evaluate, export, agree."""

import shutil

import numpy as np
import pytest
from factories import media_pipe_names
from PIL import Image

from keras_apinet.cli import main

pytestmark = pytest.mark.one_backend

CLASSES = ("Banana", "Granny-Smith", "Golden-Delicious", "Arla-Standard-Milk", "Lemon")


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    """Five classes of the Grocery Store photos, official training and test photos."""
    root = tmp_path_factory.mktemp("grocery")
    for split in ("train", "test"):
        for name in CLASSES:
            source = shared / "data/grocery_store" / split / name
            if source.is_dir():
                shutil.copytree(source, root / split / name)
    return root


@pytest.fixture(scope="module")
def run(photos, shared, tmp_path_factory):
    """A run on them, in less than a minute."""
    weights = shared / "weights/efficientnet_lite0_imagenet_notop.weights.h5"
    run = tmp_path_factory.mktemp("runs") / "run"
    trained = main(
        [
            *("train", "--data", str(photos), "--out", str(run), "--image-size", "96"),
            *("--backbone", "efficientnet_lite0", "--weights", str(weights), "--quiet"),
            *("--classes-per-batch", "5", "--images-per-class", "4"),
            *("--validation", "0.3", "--group-by", "none", "--head-epochs", "40"),
            # Enough steps for clear answers: 8 bits change the doubtful ones.
            *("--epochs", "1", "--steps-per-epoch", "12", "--batch-norm", "inference"),
        ]
    )
    assert trained == 0
    return run


@pytest.mark.slow
def test_it_learns_real_classes_and_the_phone_agrees(photos, run, tmp_path, capsys):
    import keras_apinet
    from keras_apinet import data
    from keras_apinet.runs import Run

    file = tmp_path / "grocery.tflite"
    capsys.readouterr()
    assert main(["evaluate", str(run), "--bootstrap", "0", "--json"]) == 0
    assert main(["export", str(run), "--format", "tflite", "--out", str(file)]) == 0

    model = keras_apinet.load(run)
    test = data.load(str(photos)).splits["test"]
    batches = data.evaluation_batches(test, image_size=96)
    # Exported probabilities are calibrated by the temperature that evaluate fitted.
    temperature = Run.open(run).read("calibration.json")["temperature"]
    logits = model.predict(batches, verbose=0) / temperature
    ours = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    phone = keras_apinet.load_classifier(file)
    theirs = np.concatenate([phone.probabilities(images) for images, _ in batches])
    # Five classes, two of them look-alikes: three times chance.
    assert (ours.argmax(-1) == test.labels).mean() > 0.6
    np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # The same from the files themselves, through each side's own photo reader.
    answers = phone.predict([test.reference(i) for i in range(5)], top=1)
    names = [answer[0][0] for answer in answers]
    assert names == [phone.class_names[i] for i in theirs[:5].argmax(-1)]


@pytest.mark.slow
def test_eight_bits_decide_as_python_does_on_what_is_unknown(
    photos, run, shared, tmp_path
):
    mediapipe = pytest.importorskip("mediapipe")
    import keras_apinet
    from keras_apinet import data

    path = tmp_path / "unknown.tflite"
    asked = ["--format", "tflite", "--precision", "int8", "--unknown"]
    assert main(["export", str(run), *asked, "--out", str(path)]) == 0
    files = [p for name in CLASSES for p in (photos / "test" / name).glob("*.jpg")]
    foreign = shared / "data/grocery_store/test"
    for name in ("Mango", "Leek", "Ginger", "Bravo-Apple-Juice", "Zucchini"):
        files += list((foreign / name).glob("*.jpg"))
    opened = (np.asarray(Image.open(file).convert("RGB")) for file in files)
    images = np.stack([data.prepare(pixels, 96) for pixels in opened])
    python = keras_apinet.load_classifier(run)
    expected = python.probabilities(images).argmax(axis=1)
    unknown = len(CLASSES)
    assert 0.1 < (expected == unknown).mean() < 0.9
    phone = keras_apinet.load_classifier(path)
    found = phone.probabilities(images).argmax(axis=1)
    assert np.mean(found == expected) >= 0.97
    best = media_pipe_names(mediapipe, path, images)
    theirs = np.array([phone.class_names.index(name) for name in best])
    assert np.mean(theirs == expected) >= 0.97
