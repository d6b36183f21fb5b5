"""Photos of none of the classes, in a run and in exported files; families."""

import json
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from factories import clear_classifier, media_pipe_names, patterns, save

from keras_apinet import APINetError
from keras_apinet.cli import main
from keras_apinet.data import prepare
from keras_apinet.evaluate import write_card, write_report
from keras_apinet.evaluate.measures import detection
from keras_apinet.evaluate.pages import unknown_words
from keras_apinet.export import Exporter, load_classifier
from keras_apinet.export.formats import Target
from keras_apinet.export.runtime.classifier_info import ClassifierInfo
from keras_apinet.files.features import Features
from keras_apinet.open_world import fitting
from keras_apinet.open_world.families import answer, confused_families, family_figures
from keras_apinet.open_world.fitting import (
    fit_after_training,
    fit_unknown,
    measure_open,
)
from keras_apinet.open_world.unknown import (
    Prototypes,
    Unknown,
    open_unknown,
    outstanding,
)
from keras_apinet.runs import Run
from keras_apinet.train import loop
from keras_apinet.train.recipe import Recipe

NAMES = ["ant", "bee", "cod", "doe"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of four of six patterns, with its threshold, and photos of the others."""
    root = tmp_path_factory.mktemp("open")
    images, labels = patterns(360, classes=6)
    rng = np.random.default_rng(1)
    # Some photos are hard: faint patterns.
    faint = rng.uniform(0.1, 1, (len(images), 1, 1, 1))
    images = (128 + (images - 128.0) * faint).clip(0, 255).astype("uint8")
    for i, (image, label) in enumerate(zip(images, labels)):
        split = ("train", "val", "test")[i // 120]
        folder = "data" if label < 4 else "foreign"
        place = root / folder / (split if label < 4 else "")
        save(place / (*NAMES, "elk", "fox")[label] / f"{i}.png", image)
    # As evaluation sees them, without their margins.
    images = np.stack([prepare(image, 32) for image in images])
    known = labels < 4
    train = known & (np.arange(360) < 120)
    keras.utils.set_random_seed(0)  # the seed of each test comes after this
    model = clear_classifier(images[train], labels[train], NAMES, weights=None)
    folder = root / "run"
    folder.mkdir()
    model.save(folder / "best.keras")
    description = {
        "settings": {"backbone": "tiny"},
        "class_names": NAMES,
        "image_size": 32,
        "data": {"load": {"name": str(root / "data")}},
    }
    (folder / "run.json").write_text(json.dumps(description), "utf-8")
    run, said = Run.open(folder), []
    fit_after_training(run, run.data(), 0.9, said.append)
    return root, run, images[240:], said


@pytest.mark.slow
def test_training_leaves_a_threshold_that_keeps_the_share(made):
    _, run, _, said = made
    model = run.model()
    unknown = open_unknown(run, model)
    assert "Threshold for unknown, which accepts 90% of known photos" in said
    held_out = run.data().splits["val"]
    assert len(held_out) == 80
    with np.load(run.folder / "features.npz") as file:
        features = file["val.features"]
    kernel, bias = model.classifier.get_weights()
    margins = unknown.margins(features, features @ kernel + bias)
    assert (margins >= 0).sum() in (72, 73)  # 90 % of 80, and what equals the quantile
    model.classifier.set_weights([kernel + 1, bias])
    assert open_unknown(run, model) is None  # of other weights


@pytest.mark.one_backend
def test_the_share_is_the_recipes(monkeypatch):
    asked = []
    monkeypatch.setattr(fitting, "fit_after_training", lambda *args: asked.append(args))
    setup = SimpleNamespace(
        placement=SimpleNamespace(is_first=True),
        images=SimpleNamespace(splits={"val": range(50)}),
        recipe=Recipe(unknown_keep=0.8),
        say=SimpleNamespace(bar=False),
    )
    loop._calibrated(setup, "run")
    assert asked == [("run", setup.images, 0.8, setup.say)]


@pytest.mark.one_backend
def test_families_of_a_file_fit_its_classes():
    info = ClassifierInfo(("a", "b"), 32, families=("x", "x"))
    assert ClassifierInfo.from_json(info.to_json(), "file").families == ["x", "x"]
    text = info.to_json().replace('"x",', "", 1)
    with pytest.raises(APINetError, match="1 families for 2 classes"):
        ClassifierInfo.from_json(text, "file")


@pytest.mark.slow
def test_python_says_unknown(made, capsys, tmp_path_factory):
    root, run, _, _ = made
    classifier = load_classifier(run.folder)
    assert classifier.class_names == [*NAMES, "unknown"]
    foreign = sorted(map(str, (root / "foreign").rglob("*.png")))[:60]
    known = sorted(map(str, (root / "data" / "test").rglob("*.png")))
    rejected, kept = (
        np.mean([classifier.verdict(a)[0] == "unknown" for a in classifier.predict(p)])
        for p in (foreign, known)
    )
    told = measure_open(run, foreign=root / "foreign")["foreign"]
    assert kept < 0.3 < 0.5 < rejected
    assert kept == pytest.approx(1 - told["known_kept"]["value"], abs=0.02)
    assert told["foreign"] == 120
    # All of a folder's photos, also if it has splits.
    split = tmp_path_factory.mktemp("split")
    for i, photo in enumerate(sorted((root / "foreign").rglob("*.png"))):
        to = split / ("train", "test")[i % 4 == 0] / photo.parent.name / photo.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, to)
    assert measure_open(run, foreign=split)["foreign"]["foreign"] == 120
    auroc = told["auroc"]
    assert 0.9 < auroc["low"] <= auroc["value"] <= auroc["high"] <= 1
    strange = next(
        photo
        for photo, a in zip(foreign, classifier.predict(foreign))
        if classifier.verdict(a)[0] == "unknown"
    )
    assert main(["predict", str(run.folder), strange, "--top", "1"]) == 0
    assert "looks like none of these (nearest: " in capsys.readouterr().out
    assert main(["evaluate", str(run.folder), "--foreign", str(root / "foreign")]) == 0
    assert "of foreign photos are rejected" in " ".join(capsys.readouterr().out.split())
    # Report and card tell it, too, and not of a model that was not measured.
    share, keep = f"AUROC {auroc['value']:.3f}", run.read("unknown.json")["keep"]
    told = (write_report(run).read_text("utf-8"), write_card(run).read_text("utf-8"))
    for text in told:
        assert f"looks like none of these: the thresholds keep {keep:.0%}" in text
        assert share in text.replace("\\", "")
        assert "even if it shows none" not in text
    run.write("open_test.json", {"model": "last", "sentences": ["of another model"]})
    assert "of another model" not in write_card(run).read_text("utf-8")


@pytest.mark.slow
@pytest.mark.one_backend
def test_files_decide_as_python_does(made, tmp_path):
    mediapipe = pytest.importorskip("mediapipe")
    _, run, images, _ = made
    names = [("tflite", "float32"), ("tflite", "float16")]
    names += [("onnx", "float32"), ("saved_model", "float32")]
    ending = {"tflite": ".tflite", "onnx": ".onnx", "saved_model": ""}
    targets = [
        Target.of(tmp_path / f"{form}-{number}{ending[form]}", form, number)
        for form, number in names
    ]
    exporter = Exporter(run, unknown=True)
    reports = exporter.write(targets)
    assert all(report.accuracy > 0.5 for report in reports)
    expected = load_classifier(run.folder).probabilities(images).argmax(axis=1)
    assert 20 < (expected == 4).sum() < 110
    for target in targets:
        ours = load_classifier(target.path, trust=True)
        assert ours.info.unknown
        assert ours.class_names[-1] == "unknown"
        found = ours.probabilities(images).argmax(axis=1)
        assert np.mean(found == expected) >= 0.99, target
        if target.format == "tflite" and target.precision != "float16":
            theirs = _media_pipe(mediapipe, target.path, images)
            assert np.mean(theirs == expected) >= 0.99, target
    # Faint patterns on a tiny network are hard for 8 bits. How hard depends on the
    # processor that trained it, so the proof's own verdict is no part of this test.
    path = tmp_path / "8.tflite"
    Exporter(run, unknown=True, verify=False).write([Target.of(path, precision="int8")])
    found = load_classifier(path).probabilities(images).argmax(axis=1)
    assert np.mean(found == expected) >= 0.85
    assert np.mean(_media_pipe(mediapipe, path, images) == found) >= 0.99


def _media_pipe(mediapipe, path, images):
    names = [*NAMES, "unknown"]
    best = media_pipe_names(mediapipe, path, images)
    return np.array([names.index(name) for name in best])


def test_files_are_plain_unless_asked(made):
    _, run, images, _ = made
    exporter = Exporter(run, verify=False)
    assert exporter.info.class_names == tuple(NAMES)
    plain = keras.ops.convert_to_numpy(exporter._logits(images[:8]))
    asked = Exporter(run, verify=False, unknown=True)
    logits = keras.ops.convert_to_numpy(asked._logits(images[:8]))
    np.testing.assert_allclose(logits[:, :4], plain, atol=1e-4)
    features = run.model().feature_model().predict(images[:8], verbose=0)
    margins = open_unknown(run, run.model()).margins(features, plain)
    assert ((logits[:, 4] > plain.max(axis=1)) == (margins < 0)).all()


@pytest.mark.one_backend
def test_prototypes_and_margins_by_hand():
    # Two classes along two axes about (1, 1), equally wide: whitening only scales.
    x = np.array([[4, 1], [2, 1], [1, 4], [1, 2], [-2, 1], [0, 1], [1, -2], [1, 0.0]])
    y = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    fitted = Prototypes.fit(x, y)
    expected = np.array([[1, 0, -1, 0], [0, 1, 0, -1]])
    points = np.array([[9.0, 1], [1, 1.5]])
    np.testing.assert_allclose(fitted.similarities(points), expected, atol=1e-5)
    # Four classes: where one alone stands out it is 1; where two do, 1 / sqrt(3) each.
    logits = np.array([[5.0, 1, 1, 1], [9, 9, 7, 7]])
    stands = np.array([[1, -1 / 3, -1 / 3, -1 / 3], np.array([1, 1, -1, -1]) / 3**0.5])
    np.testing.assert_allclose(outstanding(logits), stands, atol=1e-6)
    np.testing.assert_allclose(outstanding(2 - 3 * logits), -stands, atol=1e-6)
    thresholds = np.full(4, 0.25, "float32")
    margins = Unknown(fitted, thresholds, 1.0, 0.95).margins(points, logits)
    np.testing.assert_allclose(margins, [1.75, 0.75 + 3**-0.5], atol=1e-5)
    # As earlier versions did, whose thresholds are for that.
    earlier = Unknown(fitted, thresholds, 1.0, 0.95, by_logits=False)
    np.testing.assert_allclose(earlier.margins(points, logits), [0.75, 0.75], atol=1e-5)


@pytest.mark.one_backend
def test_classes_with_photos_have_thresholds_of_their_own():
    rng = np.random.default_rng(0)
    centres = 6 * np.eye(3, 8)
    labels = np.arange(900) % 3
    noise = rng.normal(size=(900, 8)) * np.array([0.3, 1, 3])[labels][:, None]
    x = (centres[labels] + noise).astype("float32")
    train, held_out = (
        Features(x[rows], labels[rows], np.arange(450))
        for rows in (slice(0, 450), slice(450, 900))
    )
    logits = x @ centres.T.astype("float32") / 6
    unknown = Unknown.fit(train, held_out, logits[450:], keep=0.8)
    assert unknown.thresholds[0] > unknown.thresholds[1] > unknown.thresholds[2]
    margins = unknown.margins(held_out.features, logits[450:])
    assert (margins >= 0).mean() == pytest.approx(0.8, abs=0.01)
    # A class without training photos accepts nothing.
    more = np.c_[logits, logits[:, 0] + 1]
    absent = Unknown.fit(train, held_out, more[450:], keep=0.8)
    best = absent.prototypes.similarities(x) + outstanding(more) - absent.thresholds
    assert (best[:, 3] < 0).all()
    known = best[:, :3].max(axis=1) >= 0
    np.testing.assert_array_equal(absent.margins(x, more) >= 0, known)


@pytest.mark.one_backend
def test_detection_counts_pairs():
    rng = np.random.default_rng(0)
    known, foreign = rng.normal(1, 1, 60).round(1), rng.normal(0, 1, 40).round(1)
    pairs = [(a > b) + 0.5 * (a == b) for a in known for b in foreign]
    found = detection(known, foreign, keep=0.9, repeats=200)
    assert found["auroc"]["value"] == pytest.approx(np.mean(pairs))
    limit = np.quantile(known, 0.1)
    assert found["rejected"]["value"] == sum(b < limit for b in foreign) / 40
    assert found["auroc"]["low"] < found["auroc"]["value"] < found["auroc"]["high"]


FAMILIES = ("fruit", "fruit", "milk", "milk")


@pytest.mark.slow
@pytest.mark.one_backend
def test_another_set_is_judged_by_the_runs_own_threshold(made, tmp_path, capsys):
    """Folders without splits: a test set, which no threshold may be fitted on."""
    root, run, _, _ = made
    copy = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    (copy.folder / "unknown.json").unlink()
    features = (copy.folder / "features.npz").read_bytes()
    given = shutil.copytree(root / "data" / "test", tmp_path / "given")
    odd = next(path for path in (given / "ant").iterdir())
    save(odd, np.full((40, 40, 3), 7, "uint8"))  # not the run's own photos again
    others = ["--data", str(given), "--foreign", str(root / "foreign")]
    assert main(["evaluate", str(copy.folder), *others, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["given"]
    assert found["foreign"]["known"] == 80
    assert (copy.folder / "features.npz").read_bytes() == features
    model = run.model()
    other = Run.open(shutil.copytree(run.folder, tmp_path / "other"))
    expected = fit_unknown(other, model, run.data(), keep=0.95)
    np.testing.assert_allclose(
        open_unknown(copy, model).thresholds, expected.thresholds, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.one_backend
def test_one_measurement_leaves_the_other_in_the_run(made, tmp_path):
    root, run, _, _ = made
    copy = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    table = tmp_path / "families.csv"
    table.write_text("class,family\nant,a\nbee,a\ncod,b\ndoe,b\n")
    measure_open(copy, foreign=root / "foreign")
    measure_open(copy, families=table)
    measure_open(copy, confidence=0.8)
    given = shutil.copytree(root / "data" / "test", tmp_path / "given")
    save(next((given / "ant").iterdir()), np.full((40, 40, 3), 7, "uint8"))
    told = copy.read("open_test.json")["sentences"]
    assert told["foreign"].startswith("120 foreign against 80 known photos")
    assert told["families"].startswith("At a confidence of 80%")
    # What is measured on other photos takes its place, and is told of those alone.
    measure_open(copy, data=str(given), confidence=0.6)
    again = copy.read("open_test.json")
    assert list(again["sentences"]) == ["families"]
    told = unknown_words(copy, {"split": "test", "data": str(given)})
    assert any("confidence of 60%" in sentence for sentence in told)
    told = unknown_words(copy, {"split": "test", "data": str(root / "data")})
    assert not any("confidence of 60%" in sentence for sentence in told)
    # A figure of families that are no longer the run's is not told.
    table.write_text("class,family\nant,c\nbee,c\ncod,b\ndoe,b\n")
    measure_open(copy, data=str(given), families=table)
    told = unknown_words(copy, {"split": "test", "data": str(given)})
    assert not any("confidence" in sentence for sentence in told)
    before = copy.read("families.json")
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",b", ",c"))
    with pytest.raises(APINetError, match="no split 'holdout'"):
        measure_open(copy, split="holdout", families=other)
    assert copy.read("families.json") == before


@pytest.mark.one_backend
def test_families_by_hand():
    p = np.array(
        [
            [0.95, 0.03, 0.01, 0.01],  # a class
            [0.50, 0.45, 0.03, 0.02],  # a family
            [0.30, 0.20, 0.40, 0.10],  # neither
            [0.05, 0.04, 0.30, 0.61],  # milk, and the truth is fruit
        ]
    )
    best, is_class, is_family = answer(p, FAMILIES, 0.9)
    assert best.tolist() == [0, 0, 2, 3]
    assert is_class.tolist() == [True, False, False, False]
    assert is_family.tolist() == [False, True, False, True]
    found = family_figures([0, 1, 2, 0], p, FAMILIES, 0.9)
    assert found["accuracy"]["value"] == pytest.approx(2 / 3)
    shares = [found[name]["value"] for name in ("class", "family", "neither")]
    assert shares == [0.25, 0.5, 0.25]
    # A family of two among four classes tells half of what a class tells.
    assert found["depth"] == pytest.approx((1 + 0.5 + 0 + 0.5) / 4)


@pytest.mark.one_backend
def test_confused_classes_are_a_family():
    p = np.eye(4)[[0, 1, 2, 3]] * 0.98 + 0.005
    p[0, :2] = p[1, :2] = 0.495
    found = confused_families([0, 1, 2, 3], p, ["a", "b", "c", "d"])
    assert found == ("a/b", "a/b", "c", "d")


@pytest.mark.one_backend
def test_a_family_where_no_class_is_sure(made, capsys, tmp_path):
    _, run, _, _ = made
    copy = Run.open(shutil.copytree(run.folder, tmp_path / "run"))
    table = tmp_path / "families.csv"
    table.write_text("class,family\nant,insect\nbee,insect\ncod,animal\ndoe,animal\n")
    arguments = ["evaluate", str(copy.folder), "--families", str(table)]
    assert main([*arguments, "--confidence", "0.9", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["families"]
    shares = [found[name]["value"] for name in ("class", "family", "neither")]
    assert sum(shares) == pytest.approx(1)
    assert found["accuracy"]["images"] > 0
    classifier = load_classifier(copy.folder)
    assert classifier.info.families == (
        "insect",
        "insect",
        "animal",
        "animal",
        "unknown",
    )
    even = [
        ("ant", 0.5),
        ("bee", 0.45),
        ("cod", 0.03),
        ("doe", 0.01),
        ("unknown", 0.01),
    ]
    assert classifier.verdict(even, 0.9) == ("family", "insect")
    assert classifier.verdict(even, 0.5) == ("class", "ant")
    assert classifier.verdict(even, 0.99) == ("unsure", "ant")


@pytest.mark.slow
@pytest.mark.one_backend
def test_mistakes_are_one_sentence(made, tmp_path, capsys):
    root, run, _, _ = made
    folder = str(run.folder)
    for arguments, expected in (
        (["--foreign", str(root / "none")], "is missing; check --foreign"),
        (["--foreign", str(root / "data")], "classes that the model knows ('ant'"),
        (["--families", str(root / "none.csv")], "cannot be read"),
    ):
        assert main(["evaluate", folder, *arguments]) == 2
        assert expected in capsys.readouterr().err
    table = tmp_path / "families.csv"
    for text, expected in (
        ("class;family", "need"),
        ("class,family\nat,x", "'at'"),
        (f"class,family\nant,{'x' * 200_000}", "cannot be read"),
    ):
        table.write_text(text)
        with pytest.raises(APINetError, match=expected):
            measure_open(run, families=table)
    copy = shutil.copytree(run.folder, tmp_path / "run")
    (copy / "unknown.npz").write_bytes(b"damaged")
    with pytest.raises(APINetError, match="remove it and"):
        load_classifier(copy)
    (copy / "unknown.json").unlink()
    with pytest.raises(APINetError, match="no threshold for unknown photos"):
        Exporter(copy, unknown=True)
    model, images = run.model(), run.data()
    without = type(images)(
        **{**vars(images), "splits": {"train": images.splits["train"]}}
    )
    with pytest.raises(APINetError, match="at least 40 validation photos"):
        fit_unknown(run, model, without)
