import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from evaluate_runs import COLOURS, NAMES, make_run, photos
from factories import class_folders
from PIL import Image

import keras_apinet
from keras_apinet import APINetError, data
from keras_apinet.cli import main
from keras_apinet.evaluate import evaluate_run
from keras_apinet.evaluate.calibration import log_softmax
from keras_apinet.evaluate.evaluation import open_judged_data
from keras_apinet.evaluate.pages import write_card
from keras_apinet.evaluate.predictions import Predictions, five_crop, predict_split
from keras_apinet.evaluate.report import surest, write_report
from keras_apinet.runs import Run
from keras_apinet.train.recipe_files import differences


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
    batches = data.evaluation_batches(split, image_size=size, batch_size=len(split))
    ((images, labels),) = batches.as_numpy_iterator()
    return images, labels


@pytest.mark.slow
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
    assert calibration["temperature"] == 1
    assert "6 validation images are too few" in calibration["reason"]
    assert calibration["right"] <= 6
    assert calibration["weights"]
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
    assert result["metrics"]["nll"]["low"] is None
    top1 = result["metrics"]["top1"]
    assert top1["high"] - top1["low"] == pytest.approx(0.793, abs=1e-3)  # Wilson
    assert len(result["classes_without_images"]) == 2


@pytest.mark.slow
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
    assert "Top-1 accuracy" in capsys.readouterr().out


@pytest.mark.one_backend
def test_a_run_that_says_nothing_of_its_data(run, folder, capsys):
    """Data and versions may be absent from `run.json`."""
    description = json.loads((run / "run.json").read_text("utf-8"))
    del description["versions"], description["data"]["load"]
    for _ in range(2):
        (run / "run.json").write_text(json.dumps(description), "utf-8")
        assert main(["evaluate", str(run)]) == 2
        assert "does not say where the data" in capsys.readouterr().err
        result = evaluate_run(run, data=str(folder), bootstrap=0)
        assert (result["images"], result["split"]) == (9, "test")
        assert result["given"]  # nobody knows, so no temperature is fitted on it
        assert not (run / "calibration.json").exists()
        description.pop("data", None)
    both = [Run.open(run).description] * 2
    assert not any(told.startswith("version") for told in differences(*both))


@pytest.mark.one_backend
def test_without_a_validation_split_nothing_is_calibrated(run, folder):
    images = data.load(folder)
    splits = {name: s for name, s in images.splits.items() if name != "val"}
    result = evaluate_run(run, data=replace(images, splits=splits), bootstrap=0)
    assert result["calibrated"] is None
    assert not (run / "calibration.json").exists()


@pytest.mark.slow
@pytest.mark.one_backend
def test_tables_for_people_and_json_for_machines(run, capsys):
    options = ["--bootstrap", "10", "--tta", "flip"]
    assert main(["evaluate", str(run), *options]) == 0
    shown = capsys.readouterr().out
    for words in (
        *("9 images", "Mean per-class accuracy", "(flip)", "95 % interval"),
        *("Only 9 images", "±27 points", "Top-1 accuracy", "too few to fit"),
    ):
        assert words in shown
    assert main(["evaluate", str(run), *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 9


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run whose class names can be folders."""
    folder = tmp_path_factory.mktemp("plain")
    own = folder / "own"
    for name, colour in zip("abc", COLOURS):
        (own / name).mkdir(parents=True)
        for i in range(20):
            pixels = np.full((40, 48, 3), colour, "uint8")
            pixels[0, 0] = i
            Image.fromarray(pixels).save(own / name / f"{i}.png")
    images = data.load(own, group_by="none")
    run = make_run(folder / "run", own, images.class_names)
    description = json.loads((run / "run.json").read_text("utf-8"))
    description["data"]["fingerprint"] = images.fingerprint()
    (run / "run.json").write_text(json.dumps(description), "utf-8")
    return run, own


def judged(run, given, *options):
    arguments = ["evaluate", str(run), "--data", str(given), "--bootstrap", "0"]
    assert main([*arguments, *options]) == 0
    return json.loads((run / "evaluation_test.json").read_text("utf-8"))


def copied(own, target, split=""):
    """The photos of a run, each with another first pixel: other photos, same names."""
    for path in sorted(own.glob("*/*.png")):
        with Image.open(path) as photo:
            pixels = np.asarray(photo).copy()
        pixels[0, 0] = 255 - pixels[0, 0]
        to = target / split / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(to)
    return target


@pytest.mark.one_backend
@pytest.mark.parametrize("layout", ["classes", "table", "test only"])
def test_a_set_given_to_test_on_is_judged_whole(plain, tmp_path, layout, capsys):
    run, own = plain
    split = "test" if layout == "test only" else ""
    given = copied(own, tmp_path / "others", split)
    if layout == "table":
        rows = [f"{p.relative_to(given)},{p.parent.name}" for p in given.glob("*/*")]
        given = given / "table.csv"
        given.write_text("\n".join(["path,label", *rows]))
    result = judged(run, given)
    assert (result["images"], result["split"], result["given"]) == (60, "test", True)
    assert result["metrics"]["top1"]["images"] == 60
    assert "all of it as a test set: 60 images" in " ".join(
        capsys.readouterr().out.split()
    )
    with pytest.raises(APINetError, match="no split 'val'"):
        evaluate_run(run, "val", data=given)


@pytest.mark.one_backend
def test_a_set_with_splits_keeps_them(plain, tmp_path, capsys):
    run, own = plain
    given = copied(own, tmp_path / "others", "train")
    copied(own, given, "test")
    shutil.rmtree(given / "test" / "a")
    assert judged(run, given)["images"] == 40
    assert "its test split: 40 images" in " ".join(capsys.readouterr().out.split())
    assert evaluate_run(run, "train", data=str(given), bootstrap=0)["images"] == 60


@pytest.mark.one_backend
def test_the_runs_own_data_stays_what_it_is(plain, tmp_path):
    """Given by its path, or as a copy elsewhere: only what was held out is judged."""
    run, own = plain
    for place in (own, shutil.copytree(own, tmp_path / "copy")):
        result = evaluate_run(run, data=str(place), bootstrap=0)
        assert (result["images"], result["split"], result["given"]) == (6, "val", False)
        assert any(
            "selected on these validation images" in w for w in result["warnings"]
        )


@pytest.mark.slow
@pytest.mark.one_backend
def test_validation_and_test_that_disagree_are_said_to(plain, tmp_path, capsys):
    run, own = plain
    copy = shutil.copytree(run, tmp_path / "run")
    evaluate_run(copy, bootstrap=0)
    file = copy / "calibration.json"
    known = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(known | {"images": 400, "right": 400}), "utf-8")
    given = copied(own, tmp_path / "others")
    assert judged(copy, given)["metrics"]["top1"]["value"] < 0.9
    shown = " ".join(capsys.readouterr().out.split())
    assert "Warning: The validation accuracy is 100.0% on 400 images" in shown
    assert "--group-by" in shown
    card = write_card(copy).read_text("utf-8")
    assert "The validation accuracy is 100.0% on 400 images" in card
    html = write_report(copy, data=str(given), bootstrap=5).read_text("utf-8")
    assert "The validation accuracy is 100.0% on 400 images" in html
    assert "all 60 images of a separate test set" in html


@pytest.mark.slow
@pytest.mark.one_backend
def test_other_weights_get_another_temperature(run):
    evaluate_run(run, bootstrap=0)
    file = run / "calibration.json"
    known = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(known | {"temperature": 3.5}), "utf-8")
    last = evaluate_run(run, which="last", bootstrap=0)
    assert last["calibrated"]["temperature"] == 1
    model = Run.open(run).model()
    model.classifier.set_weights([w + 1 for w in model.classifier.get_weights()])
    model.save(run / "best.keras")
    assert evaluate_run(run, bootstrap=0)["calibrated"]["temperature"] == 1
    assert json.loads(file.read_text("utf-8"))["weights"] != known["weights"]


@pytest.mark.one_backend
def test_the_surest_errors_are_told_by_their_logits():
    """Probabilities of all three are 1; the margins are 60, 90 and 75."""
    logits = np.array([[60, 0, 0], [90, 0, 0], [75, 0, 0], [0, 9, 0]], "f4")
    seen = Predictions(np.array([1, 1, 2, 1]), logits, logits, np.arange(4))
    assert (seen.probabilities()[:3].max(axis=1) == 1).all()
    photos = np.zeros((4, 32, 32, 3), "uint8")
    split = data.as_split((photos, seen.labels))
    order = surest(seen, split, np.flatnonzero(seen.wrong))
    assert order.tolist() == [1, 2, 0]


@pytest.mark.one_backend
def test_equal_margins_do_not_follow_the_files():
    logits = np.tile([50.0, 0], (40, 1)).astype("f4")
    seen = Predictions(np.ones(40, int), logits, logits, np.arange(40))
    split = data.as_split((np.zeros((40, 8, 8, 3), "uint8"), seen.labels))
    order = surest(seen, split, np.arange(40)).tolist()
    assert sorted(order) == list(range(40))
    assert np.corrcoef(order, np.arange(40))[0, 1] < 0.5
    assert order == surest(seen, split, np.arange(40)).tolist()


@pytest.mark.slow
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


@pytest.mark.one_backend
def test_words_of_a_strangers_run_steer_no_terminal(run, capsys):
    known = {"temperature": 1.0, "reason": "\x1b]0;title\x07\x1b[31mred", "images": 4}
    (run / "calibration.json").write_text(json.dumps(known))
    assert main(["evaluate", str(run), "--bootstrap", "0"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.one_backend
def test_a_copy_is_known_though_its_first_photo_cannot_be_read(tmp_path):
    class_folders(tmp_path / "a", "xyz", 6, lambda c, i: np.full((8, 8, 3), 40 * c + i))
    (tmp_path / "a" / "x" / "0.png").write_bytes(b"no picture")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    load = {"name": str(tmp_path / "a"), "validation": 0.2, "group_by": "none"}
    images = data.load(load["name"], validation=0.2, group_by="none")
    described = {"load": load, "fingerprint": images.fingerprint()}
    folder = make_run(tmp_path / "run", tmp_path / "a", "xyz")
    run = Run.open(folder)
    run.write("run.json", {**run.description, "data": described})
    assert not open_judged_data(Run.open(folder), str(tmp_path / "b"))[1]


@pytest.mark.one_backend
def test_a_run_of_photos_whose_path_is_not_utf8(tmp_path):
    path = str(tmp_path / "p_\udcff")
    described = {"settings": {"data": path}, "class_names": ["a", "b"], "image_size": 8}
    Run.create(tmp_path / "run", described)
    assert Run.open(tmp_path / "run").settings["data"] == path
