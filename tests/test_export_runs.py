"""A run folder as a file: its photos, temperature and recipe go along."""

import json

import numpy as np
import pytest
from export_models import clear_classifier, patterns
from PIL import Image

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
    assert "val" in info.accuracy["of"]
    assert (info.temperature, info.backbone) == (2.5, "tiny")
    assert len(info.recipe_hash) == 16
    settings = json.loads((run / "run.json").read_text())
    settings["settings"]["seed"] = 4
    (run / "run.json").write_text(json.dumps(settings))
    export_classifier(run, run / "y.tflite")
    assert load_classifier(run / "y.tflite").info.recipe_hash != info.recipe_hash


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
