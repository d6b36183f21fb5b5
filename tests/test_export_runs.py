"""A run folder as a file: its photos, temperature and recipe go along."""

import json
import shutil

import numpy as np
import pytest
from factories import clear_classifier, patterns
from PIL import Image

import keras_apinet
from keras_apinet import APINetError
from keras_apinet.cli import main
from keras_apinet.export import export_classifier, load_classifier

pytestmark = pytest.mark.one_backend
NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture
def run(tmp_path):
    """A run of five classes whose second validation photo bears a wrong name."""
    images, labels = patterns(60)
    data = tmp_path / "data"
    for i, (image, label) in enumerate(zip(images, labels)):
        split, name = ("train", "val")[i >= 40], NAMES[label]
        if i == 41:
            name = NAMES[(label + 1) % 5]
        path = data / split / name / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Evaluation keeps the inner 7/8, 224 of 256 px, which is 7 px for each of 32.
        large = image.repeat(7, axis=0).repeat(7, axis=1)
        large = np.pad(large, ((16, 16), (16, 16), (0, 0)), "edge")
        Image.fromarray(large).save(path)
    folder = tmp_path / "run"
    folder.mkdir()
    model = clear_classifier(images[:40], labels[:40], NAMES, weights=None)
    model.save(folder / "best.keras")
    description = {
        "settings": {"data": str(data), "backbone": "tiny", "seed": 3},
        "class_names": NAMES,
        "image_size": 32,
        "data": {"load": {"name": str(data)}},
    }
    (folder / "run.json").write_text(json.dumps(description))
    (folder / "calibration.json").write_text(json.dumps({"temperature": 2.5}))
    return folder


@pytest.mark.slow
def test_the_file_says_where_it_comes_from(run):
    report = export_classifier(run, run / "x.tflite", precision="int8")
    # One of the twenty validation photos bears a wrong name.
    assert report.photos == 20
    assert report.accuracy == pytest.approx(0.95)
    assert report.accuracy_drop == 0
    assert report.agreement == 1
    info = load_classifier(run / "x.tflite").info
    assert info.accuracy["top1"] == pytest.approx(0.95)
    assert info.accuracy["photos"] == 20
    assert info.accuracy["of"] == "20 of the 'val' split of data"  # no path
    assert (info.temperature, info.backbone) == (2.5, "tiny")
    assert len(info.recipe_hash) == 16
    settings = json.loads((run / "run.json").read_text())
    settings["settings"]["seed"] = 4
    (run / "run.json").write_text(json.dumps(settings))
    export_classifier(run, run / "y.tflite")
    assert load_classifier(run / "y.tflite").info.recipe_hash != info.recipe_hash


def test_the_temperature_belongs_to_the_model(run):
    """Each model of a run has its own, and that of other weights is left out."""
    from keras_apinet.export.sources import open_source
    from keras_apinet.files.features import weights_fingerprint

    def temperature(which):
        return open_source(run, which=which).info.temperature

    shutil.copy(run / "best.keras", run / "last.keras")
    assert (temperature("best"), temperature("last")) == (2.5, 1.0)
    own = weights_fingerprint(keras_apinet.load(run))
    content = {"temperature": 1.7, "weights": own}
    (run / "calibration_last.json").write_text(json.dumps(content))
    (run / "calibration.json").write_text(json.dumps(content | {"temperature": 2.2}))
    assert (temperature("best"), temperature("last")) == (2.2, 1.7)
    assert load_classifier(run).info.temperature == 2.2
    model = keras_apinet.load(run)
    model.classifier.set_weights([2 * w for w in model.classifier.get_weights()])
    model.save(run / "best.keras")
    assert (temperature("best"), temperature("last")) == (1.0, 1.7)


@pytest.mark.parametrize("text", ["{", "[]", '{"temperature": -1}', '{"x": 1}'])
def test_a_damaged_calibration(run, text):
    (run / "calibration.json").write_text(text)
    with pytest.raises(APINetError, match=r"calibration\.json.*remove"):
        load_classifier(run)


@pytest.mark.slow
def test_one_command_writes_several_and_predict_reads_them(run, capsys):
    assert main(["export", str(run), "--precision", "float32", "int8"]) == 0
    printed = capsys.readouterr().out
    for word in ("best.tflite", "best-int8.tflite", "+0.00 points", "100.00%"):
        assert word in printed or word.replace("best", "run") in printed
    (phone,) = run.glob("*-int8.tflite")
    photo = next((run.parent / "data" / "val" / "d").glob("*.png"))
    assert main(["predict", str(phone), str(photo), "--json", "--top", "2"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    first, _ = answer["top"]
    assert first["class"] == "d"


@pytest.mark.slow
def test_the_file_of_a_runs_model_answers_as_the_run_does(run, rng):
    description = json.loads((run / "run.json").read_text())
    description["settings"]["resize"] = "squash"
    (run / "run.json").write_text(json.dumps(description))
    wide = rng.integers(0, 256, (40, 90, 3), np.uint8)
    of_run, of_file = (load_classifier(p) for p in (run, run / "best.keras"))
    assert (of_file.info.resize, of_file.info.temperature) == ("squash", 2.5)
    assert of_file.predict(wide) == of_run.predict(wide)
    # Without the run's photos it is compared on drawn ones, as any model's file is.
    (run.parent / "data").rename(run.parent / "gone")
    report = export_classifier(run / "best.keras", run / "x.tflite")
    assert (report.photos, report.accuracy) == (16, None)
    with pytest.raises(APINetError, match="neither a folder nor"):
        export_classifier(run, run / "y.tflite")


@pytest.mark.slow
def test_files_tell_no_paths_of_photos_that_cannot_be_read(run):
    broken = sorted((run.parent / "data/val").rglob("*.png"))[0]
    broken.write_bytes(b"no image")
    report = export_classifier(run, run / "x.tflite")
    assert report.photos == 19
    info = load_classifier(run / "x.tflite").info
    assert info.accuracy["of"] == "19 of the 'val' split of data (1 could not be read)"
