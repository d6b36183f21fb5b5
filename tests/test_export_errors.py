"""Bad input to export: a clear message, nothing half-written, exit code 2."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from factories import clear_classifier, patterns

import keras_apinet
from keras_apinet.cli import main
from keras_apinet.errors import APINetError
from keras_apinet.export import Exporter, export_classifier, load_classifier
from keras_apinet.export.formats import Target

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def model():
    return clear_classifier(*patterns(), list("abcde"), weights=None)


@pytest.fixture(scope="module")
def good(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "good.tflite"
    export_classifier(model, path)
    return path


def refuses(words, *args, **options):
    with pytest.raises(APINetError, match=re.escape(words)) as caught:
        export_classifier(*args, **options)
    assert "\n" not in str(caught.value)


def test_misspelt_formats_and_precisions(model, tmp_path):
    refuses("did you mean 'tflite'?", model, tmp_path / "x", format="tflit")
    refuses("is not that of a format", model, tmp_path / "x.pb")
    refuses("did you mean 'int8'?", model, tmp_path / "x.tflite", precision="int-8")
    refuses(
        "is supported for tflite and web only",
        model,
        tmp_path / "m.onnx",
        precision="int8",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_target_that_exists_needs_force(model, tmp_path):
    path = tmp_path / "birds.tflite"
    export_classifier(model, path, verify=False)
    before = path.read_bytes()
    refuses("--force", model, path)
    assert path.read_bytes() == before
    export_classifier(model, path, force=True)
    assert load_classifier(path).class_names == list("abcde")


def test_force_never_replaces_what_is_no_export(model, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("precious")
    refuses("something other", model, tmp_path / "folder", force=True)
    refuses("is a folder", model, tmp_path / "folder", format="tflite", force=True)
    (tmp_path / "file").write_text("precious")
    refuses("is a file", model, tmp_path / "file", force=True)


def test_wrong_class_counts_temperatures_and_sizes(model, tmp_path):
    path = tmp_path / "x.tflite"
    refuses("2 class names for a model of 5", model, path, class_names=["a", "b"])
    refuses("1 and 3 are both called 'b'", model, path, class_names=list("abcbe"))
    refuses("temperature=0", model, path, temperature=0.0)
    refuses("image_size=64 does not match", model, path, image_size=64)
    refuses("A dict cannot be exported", {}, path)


def test_int8_without_photos(model, tmp_path):
    refuses("representative photos", model, tmp_path / "x.tflite", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_model(tmp_path):
    description = {"settings": {}, "class_names": ["a", "b"], "image_size": 32}
    (tmp_path / "run.json").write_text(json.dumps(description))
    refuses("no model", tmp_path, tmp_path / "x.tflite")
    refuses("no run in", tmp_path.parent, tmp_path / "x.tflite")


@pytest.mark.slow
def test_a_file_that_loses_too_much_is_not_handed_over(model, tmp_path, monkeypatch):
    from keras_apinet.export import exporter as exporting

    def worse(runtime, images, expected, labels):
        return {"difference": 2e-5, "agreement": 1.0, "photos": 9}

    monkeypatch.setattr(exporting, "measure", worse)
    refuses("probabilities within 1e-05", model, tmp_path / "x.tflite")
    measured = {"difference": 0.5, "agreement": 0.9, "photos": 100, "decided": 60}
    measured |= {"largest_logit": 10.0, "undecided_difference": 0.5}
    measured |= {"decided_agreement": 0.97}
    monkeypatch.setattr(exporting, "measure", lambda *_: measured)
    photos = patterns()[0]
    options = {"precision": "int8", "photos": photos}
    said = "97.0% of the 60 photos on which its first class leads by 0.1, and on 90.0%"
    refuses(said, model, tmp_path / "x.tflite", **options)
    assert list(tmp_path.iterdir()) == []
    export_classifier(
        model, tmp_path / "x.tflite", min_agreement=0.9, max_difference=1, **options
    )


def test_decisions_count_where_there_is_one_and_logits_elsewhere():
    """By hand: two photos are decided, one of them otherwise; the third is even."""
    from keras_apinet.export.runtime.runtimes import Runtime, softmax
    from keras_apinet.export.verification import ExportReport, check, measure

    expected = np.array([[2, 0, 0], [0, 3, 0], [0, 0.1, 0]], "float32")
    logits = np.array([[0, 2, 0], [0, 3, 1], [0, 0.1, 0.6]], "float32")
    runtime = Runtime(None, lambda x: softmax(logits[x]), lambda: lambda x: logits[x])
    # Photos are their own numbers; the latency asks for one at a time.
    found = measure(runtime, np.arange(3), expected, None)
    assert (found["decided"], found["decided_agreement"]) == (2, 0.5)
    assert found["agreement"] == pytest.approx(1 / 3)
    assert found["undecided_difference"] == pytest.approx(0.6 / 3**0.5)
    found |= {"decided_agreement": 1.0, "largest_logit": 10.0}
    report = ExportReport(Path("x.tflite"), "tflite", "int8", 1, **found)
    check(report, "tiny")
    worse = dataclasses.replace(report, undecided_difference=3.0)
    with pytest.raises(APINetError, match=r"\(0.3 of the largest, 10\) where no class"):
        check(worse, "tiny")
    check(worse, "tiny", max_logit_difference=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.tflite", "x.onnx", "x"])
def test_a_damaged_conversion_of_a_model_that_is_always_sure(
    name, tmp_path, monkeypatch
):
    """Every probability is 0 or 1, before and after the damage: only logits tell."""
    from keras_apinet.export import child, conversion

    images, labels = patterns()
    sure = clear_classifier(images, labels, list("abcde"), weights=None)
    sure.classifier.set_weights([100 * w for w in sure.classifier.get_weights()])
    given = keras.ops.softmax(sure.predict(images, verbose=0))
    given = keras.ops.convert_to_numpy(given)
    assert (np.abs(given - 0.5) > 0.499999).mean() > 0.99  # not exact everywhere
    attempt = child.attempt

    def damaged(folder):
        logits = keras.saving.load_model(folder / conversion.MODEL)
        head = logits.layers[-1]
        kernel, bias = head.get_weights()
        head.set_weights([kernel, bias + np.array([0, 0, 9, 0, 0], "f4")])
        logits.save(folder / conversion.MODEL)
        attempt(folder)

    monkeypatch.setattr(child, "attempt", damaged)
    options = {"photos": images}
    refuses("in a logit (0.0", sure, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []
    report = export_classifier(
        sure, tmp_path / name, max_logit_difference=0.1, **options
    )
    assert report.difference < 1e-5
    assert report.logit_difference == pytest.approx(9, abs=0.1)
    table = report.table()
    for words in ("same top-1 class", "difference of a prob", "difference of a logit"):
        assert words in table


@keras.saving.register_keras_serializable(package="export_errors")
class Sorted(keras.layers.Layer):
    """Holds an operation that phones do not have."""

    def call(self, inputs):
        import tensorflow as tf

        return tf.raw_ops.Betainc(a=inputs * 0 + 0.5, b=inputs * 0 + 0.5, x=inputs * 0)


def test_an_operation_that_the_converter_refuses_is_named(tmp_path):
    image = keras.Input((32, 32, 3))
    backbone = keras.Model(
        image, Sorted()(keras.layers.Conv2D(4, 8, 8)(image)), name="odd_backbone"
    )
    odd = keras_apinet.build(backbone, 2, class_names=["a", "b"])
    with pytest.raises(APINetError, match="Betainc") as caught:
        export_classifier(odd, tmp_path / "x.tflite")
    assert "odd_backbone" in str(caught.value)
    assert "saved_model" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_that_would_run_code_is_refused(tmp_path):
    image = keras.Input((32, 32, 3))
    features = keras.layers.Lambda(lambda x: x * 2)(keras.layers.Conv2D(4, 8, 8)(image))
    evil = keras_apinet.build(keras.Model(image, features), 2)
    evil.save(tmp_path / "evil.keras")
    refuses("evil.keras", tmp_path / "evil.keras", tmp_path / "x.tflite")
    with pytest.raises(APINetError, match=r"evil\.keras"):
        load_classifier(tmp_path / "evil.keras")


def test_the_command_exits_with_2(model, tmp_path, capsys):
    model.save(tmp_path / "model.keras")
    arguments = ["export", str(tmp_path / "model.keras")]
    assert main([*arguments, "--format", "tfilte"]) == 2
    assert "did you mean 'tflite'?" in capsys.readouterr().err
    assert main([*arguments, "--precision", "int8"]) == 2
    assert "representative photos" in capsys.readouterr().err
    both = ["--format", "tflite", "onnx", "--out", "x"]
    assert main([*arguments, *both]) == 2
    assert "one target" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.slow
def test_the_command_writes_beside_the_model_and_prints_the_table(
    model, tmp_path, capsys
):
    model.save(tmp_path / "birds.keras")
    assert main(["export", str(tmp_path / "birds.keras"), "--license", "MIT"]) == 0
    printed = capsys.readouterr()
    name, _, form, *_ = printed.out.splitlines()
    assert [cell.strip() for cell in name.split("|")] == ["", "", "birds.tflite", ""]
    assert re.fullmatch(r"\| format, precision +\| tflite, float32 +\|", form)
    assert "Comparing birds.tflite" in printed.err
    assert "birds.tflite" in (tmp_path / "birds.tflite.report.md").read_text()
    assert load_classifier(tmp_path / "birds.tflite").info.license == "MIT"


@pytest.mark.slow
def test_predictor_input(good):
    classifier = load_classifier(good)
    photo = np.full((50, 40, 3), 90, "uint8")
    (answer,) = classifier.predict(photo, top=3)
    assert len(answer) == 3
    assert [p for _, p in answer] == sorted((p for _, p in answer), reverse=True)
    assert len(classifier.predict([photo, photo[:32, :32]])) == 2
    assert len(classifier.predict(np.zeros((3, 32, 32, 3)))) == 3
    assert classifier.predict([]) == []
    with pytest.raises(APINetError, match="top=0"):
        classifier.predict(photo, top=0)
    with pytest.raises(APINetError, match=r"shape=\(1, 50, 40, 3\)"):
        classifier.probabilities(photo[None])


def test_tflite_needs_no_keras_and_no_tensorflow(good):
    script = (
        "import importlib.abc, sys\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name in ('keras', 'tensorflow', 'jax', 'torch', 'onnx', 'rich'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import keras_apinet, numpy\n"
        f"c = keras_apinet.load_classifier({str(good)!r})\n"
        "print(len(c.predict(numpy.zeros((9, 9, 3), 'uint8'))[0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout.strip() == "5", done.stderr


def test_a_missing_runtime_is_named(good, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(APINetError, match="pip install ai-edge-litert"):
        load_classifier(good)


@pytest.mark.slow
def test_a_model_of_16_bits_is_exported_in_32(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = clear_classifier(*patterns(), list("abcde"), weights=None)
    finally:
        keras.config.set_dtype_policy("float32")
    report = export_classifier(half, tmp_path / "x.tflite", photos=patterns()[0])
    assert report.difference <= 1e-5


@pytest.mark.slow
def test_several_exports_keep_what_was_good(model, tmp_path, monkeypatch):
    from keras_apinet.export import exporter as exporting

    real = exporting.open_runtime
    opened = []

    def second_fails(path, **options):
        opened.append(path)
        if len(opened) == 2:
            raise APINetError("damaged on the way")
        return real(path)

    monkeypatch.setattr(exporting, "open_runtime", second_fails)
    targets = [Target.of(tmp_path / name) for name in ("a.tflite", "b.tflite")]
    with pytest.raises(APINetError, match="damaged"):
        Exporter(model).write(targets)
    assert {p.name for p in tmp_path.iterdir()} == {"a.tflite", "a.tflite.report.md"}


def test_limits_that_are_none_are_refused(model):
    for limit in (float("nan"), -1.0):
        with pytest.raises(APINetError, match="max_logit_difference"):
            Exporter(model, max_logit_difference=limit)
