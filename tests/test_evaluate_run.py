import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from evaluate_runs import NAMES, make_run, photos
from PIL import Image

import keras_apinet
from keras_apinet import APINetError, data
from keras_apinet.cli import main
from keras_apinet.evaluate import evaluate_run
from keras_apinet.evaluate.calibration import log_softmax
from keras_apinet.evaluate.predictions import five_crop, predict_split
from keras_apinet.runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photos of three classes, one with HTML in its name, one with a long name."""
    return photos(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folder):
    names = data.load(folder).class_names
    return make_run(tmp_path_factory.mktemp("runs") / "run", folder, names)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def arrays(split, size=32):
    pixels = [data.prepare(split.read(i), size) for i in range(len(split))]
    return np.stack(pixels), split.labels


def test_batch_size_changes_nothing_and_keras_agrees(run, folder):
    test = data.load(folder).splits["test"]
    model = Run.open(run).model()
    seen = [
        predict_split(model, test, image_size=32, batch_size=size)
        for size in (1, 4, 64)
    ]
    for other in seen[1:]:
        np.testing.assert_allclose(seen[0].logits, other.logits, atol=1e-4)
        np.testing.assert_array_equal(seen[0].labels, other.labels)
    images, labels = arrays(test)
    np.testing.assert_allclose(
        seen[0].logits, model.predict(images, verbose=0), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        seen[0].features,
        keras.ops.convert_to_numpy(model.features(images)),
        rtol=1e-3,
        atol=1e-4,
    )
    assert seen[0].positions.tolist() == list(range(9))
    expected = (model.predict(images, verbose=0).argmax(1) == labels).mean()
    result = evaluate_run(run, bootstrap=0, batch_size=4)
    assert result["metrics"]["top1"]["value"] == pytest.approx(expected)


@pytest.mark.one_backend
def test_what_is_written_is_what_is_returned(run):
    result = evaluate_run(run, bootstrap=20, tta="flip")
    written = json.loads((run / "evaluation_test.json").read_text("utf-8"))
    assert written == result
    assert result["images"] == 9
    assert {row["class"] for row in result["per_class"]} == set(NAMES)
    assert result["tta"]["views"] == "flip"
    calibration = json.loads((run / "calibration.json").read_text("utf-8"))
    assert calibration["images"] == 6
    assert calibration["nll_after"] <= calibration["nll_before"]
    assert result["calibrated"]["temperature"] == calibration["temperature"]


@pytest.mark.one_backend
def test_a_temperature_is_fitted_once_and_kept(run):
    evaluate_run(run, bootstrap=0)
    file = run / "calibration.json"
    known = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(known | {"temperature": 3.5}), "utf-8")
    assert evaluate_run(run, bootstrap=0)["calibrated"]["temperature"] == 3.5


@pytest.mark.one_backend
def test_flip_is_the_mean_of_both_ways_round(run, folder):
    test = data.load(folder).splits["test"]
    model = Run.open(run).model()
    seen = predict_split(model, test, image_size=32, tta="flip")
    images, _ = arrays(test)
    both = [model.predict(x, verbose=0) for x in (images, images[:, :, ::-1])]
    mean = np.mean([np.exp(log_softmax(x)) for x in both], axis=0)
    np.testing.assert_allclose(seen.probabilities(), mean, atol=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("resize", ["fit", "squash"])
def test_five_crops_are_the_centre_and_the_corners(resize, rng):
    photo = rng.integers(0, 256, (40, 64, 3)).astype("uint8")
    views = five_crop(photo, 35, resize)
    centre = data.prepare(photo, 35, resize=resize)
    np.testing.assert_allclose(views[0].astype(int), centre, atol=1)
    if resize == "fit":  # 7/8 of 40 is 35 px: nothing is resized
        np.testing.assert_array_equal(views[1], photo[:35, :35])
        np.testing.assert_array_equal(views[2], photo[:35, -35:])
        np.testing.assert_array_equal(views[3], photo[-35:, :35])
        np.testing.assert_array_equal(views[4], photo[-35:, -35:])


@pytest.mark.one_backend
def test_five_crops_of_a_split(run):
    result = evaluate_run(run, bootstrap=0, tta="five_crop", batch_size=7)
    assert 0 <= result["tta"]["metrics"]["top1"]["value"] <= 1
    with pytest.raises(APINetError, match="tta='ten'"):
        evaluate_run(run, tta="ten")


@pytest.mark.one_backend
def test_classes_are_matched_by_name(run, folder):
    images = data.load(folder)
    order = [2, 0, 1]
    turned = replace(
        images,
        class_names=tuple(images.class_names[c] for c in order),
        splits={
            name: replace(s, labels=np.argsort(order).astype("int32")[s.labels])
            for name, s in images.splits.items()
        },
    )
    straight = evaluate_run(run, bootstrap=0)
    assert evaluate_run(run, data=turned, bootstrap=0)["metrics"] == straight["metrics"]


@pytest.mark.one_backend
def test_classes_that_the_model_does_not_know(run, folder):
    images = data.load(folder)
    strange = replace(images, class_names=("kiwi", *images.class_names[1:]))
    with pytest.raises(APINetError, match=r"1 classes.*\('kiwi'\).*--ignore-unknown"):
        evaluate_run(run, data=strange)
    result = evaluate_run(run, data=strange, bootstrap=0, ignore_unknown=True)
    assert (result["images"], result["left_out"]) == (6, 3)
    assert result["classes_without_images"] == [images.class_names[0]]
    assert len(result["per_class"]) == 2
    nothing = replace(images, class_names=("x", "y", "z"))
    with pytest.raises(APINetError, match="3 classes"):
        evaluate_run(run, data=nothing, ignore_unknown=True)


@pytest.mark.one_backend
def test_data_without_one_of_the_classes(run, folder):
    """The model knows three classes, the data two; the groups of the third, none."""
    images = data.load(folder)
    gone = images.class_names[1]
    splits = {}
    for name, split in images.splits.items():
        part = split.take(split.labels != 1)
        splits[name] = replace(part, labels=np.where(part.labels == 2, 1, 0))
    fewer = replace(
        images,
        class_names=(images.class_names[0], images.class_names[2]),
        splits=splits,
        groups={"kind": ("fruit", "fruit")},
    )
    whole = evaluate_run(run, bootstrap=0)
    result = evaluate_run(run, data=fewer, bootstrap=0)
    assert (result["images"], result["classes"]) == (6, 3)
    assert result["classes_without_images"] == [gone]
    accuracy = {row["class"]: row["accuracy"] for row in whole["per_class"]}
    for row in result["per_class"]:
        assert row["accuracy"] == accuracy[row["class"]]
    assert [g["group"] for g in result["groups"]["kind"]["groups"]] == ["fruit"]


@pytest.mark.one_backend
def test_splits_that_cannot_be_judged(run, folder):
    images = data.load(folder)
    with pytest.raises(APINetError, match=r"no split 'exam'.*'test'"):
        evaluate_run(run, "exam", data=images)
    blind = replace(
        images.splits["test"], labels=np.full(9, -1, "int32")
    )  # as TFDS marks hidden labels
    unlabelled = replace(images, splits={**images.splits, "test": blind})
    with pytest.raises(APINetError, match="images without labels"):
        evaluate_run(run, data=unlabelled)


@pytest.mark.one_backend
def test_one_image(run, folder):
    images = data.load(folder)
    single = images.splits["test"].take(np.array([4]))
    one = replace(images, splits={**images.splits, "test": single})
    result = evaluate_run(run, data=one)
    assert result["images"] == 1
    assert result["metrics"]["top1"]["low"] is None
    assert len(result["classes_without_images"]) == 2


@pytest.mark.one_backend
def test_predictions_that_are_all_equal(run):
    model = Run.open(run).model()
    model.classifier.set_weights([np.zeros_like(w) for w in model.classifier.weights])
    model.save(run / "best.keras")
    result = evaluate_run(run, bootstrap=10)
    assert result["metrics"]["top1"]["value"] == pytest.approx(1 / 3)
    assert result["calibrated"]["temperature"] == 1
    assert result["metrics"]["ece"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.one_backend
def test_scores_that_are_not_finite(run):
    model = Run.open(run).model()
    kernel, bias = model.classifier.get_weights()
    model.classifier.set_weights([kernel * np.nan, bias])
    model.save(run / "best.keras")
    with pytest.raises(APINetError, match="not finite"):
        evaluate_run(run)


@pytest.mark.one_backend
def test_data_that_moved(run, folder, tmp_path, capsys):
    description = json.loads((run / "run.json").read_text("utf-8"))
    description["data"]["load"]["name"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(description), "utf-8")
    assert main(["evaluate", str(run)]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "gone") in message
    assert "--data" in message
    assert main(["evaluate", str(run), "--data", str(folder), "--bootstrap", "0"]) == 0
    assert "top-1 accuracy" in capsys.readouterr().out


@pytest.mark.one_backend
def test_without_a_validation_split_nothing_is_calibrated(run, folder):
    images = data.load(folder)
    splits = {name: s for name, s in images.splits.items() if name != "val"}
    result = evaluate_run(run, data=replace(images, splits=splits), bootstrap=0)
    assert result["calibrated"] is None
    assert not (run / "calibration.json").exists()


@pytest.mark.one_backend
def test_tables_for_people_and_json_for_machines(run, capsys):
    options = ["--bootstrap", "10", "--tta", "flip"]
    assert main(["evaluate", str(run), *options]) == 0
    shown = capsys.readouterr().out
    for words in ("9 images", "mean per-class accuracy", "(flip)", "to 100.0%"):
        assert words in shown
    assert main(["evaluate", str(run), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 9


@pytest.mark.one_backend
def test_pixels_do_not_pile_up(run):
    """More images may take the room of their features, not that of their pixels."""
    import tracemalloc

    model = Run.open(run).model()

    def peak(count):
        images = np.zeros((count, 32, 32, 3), "uint8")
        split = data.as_split((images, np.zeros(count, int)))
        tracemalloc.start()
        predict_split(model, split, image_size=32, batch_size=16)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(32)
    grown = peak(288) - peak(32)
    assert grown < 0.5 * 256 * 32 * 32 * 3


@pytest.mark.one_backend
@pytest.mark.parametrize("tta", [None, "flip", "five_crop"])
def test_one_unreadable_photo_is_left_out_and_two_of_ten_are_too_many(tta, tmp_path):
    for i in range(10):
        Image.fromarray(np.full((32, 32, 3), 20 * i, "uint8")).save(
            tmp_path / f"{i}.png"
        )
    (tmp_path / "3.png").write_bytes(b"no image")
    paths = [str(tmp_path / f"{i}.png") for i in range(10)]
    split = keras_apinet.data.Split.of_files(paths, np.arange(10) % 2)
    model = keras_apinet.build("tiny", 2, 32, None, mutual_units=4)
    seen = predict_split(model, split, image_size=32, batch_size=10, tta=tta)
    assert seen.positions.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(seen.logits) == 9
    assert [*seen.unreadable] == [str(tmp_path / "3.png")]
    (tmp_path / "5.png").write_bytes(b"no image")
    with pytest.raises(APINetError, match="2 of 10 images cannot be read"):
        predict_split(model, split, image_size=32, batch_size=10, tta=tta)
