"""Every format, written from the active backend and run in its own runtime."""

import json
import zipfile

import keras
import numpy as np
import pytest
from factories import clear_classifier, patterns

from keras_apinet.export import Exporter, load_classifier
from keras_apinet.export.formats import Target
from keras_apinet.export.runtime.runtimes import open_runtime

NAMES = ["wren", "tit", "blåmes", "robin", "owl"]
TEMPERATURE = 1.3
FILES = {
    "plain.tflite": ("tflite", "float32"),
    "half.tflite": ("tflite", "float16"),
    "dynamic.tflite": ("tflite", "dynamic"),
    "whole.tflite": ("tflite", "int8"),
    "plain.onnx": ("onnx", "float32"),
    "saved": ("saved_model", "float32"),
}
# Largest difference of a probability; int8 answers in steps of 1/256.
LIMITS = {"float32": 1e-5, "float16": 1e-2, "dynamic": 0.1, "int8": 0.1}


@pytest.fixture(scope="module")
def photos():
    return patterns()


@pytest.fixture(scope="module")
def model(photos):
    keras.utils.set_random_seed(0)
    return clear_classifier(*photos, NAMES, weights=None)


@pytest.fixture(scope="module")
def expected(model, photos):
    """Calibrated probabilities, from the logits by hand."""
    logits = np.asarray(model.predict(photos[0], verbose=0), "float64") / TEMPERATURE
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def exported(model, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    exporter = Exporter(
        model, photos=photos[0], temperature=TEMPERATURE, license="CC0-1.0"
    )
    weights = [w.copy() for w in model.get_weights()]
    targets = [Target.of(folder / name, *kind) for name, kind in FILES.items()]
    reports = exporter.write(targets)
    for before, after in zip(weights, model.get_weights()):
        np.testing.assert_array_equal(before, after)
    return folder, dict(zip(FILES, reports))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_probabilities_agree_with_keras(name, exported, photos, expected):
    folder, reports = exported
    precision = FILES[name][1]
    classifier = load_classifier(folder / name)
    given = classifier.probabilities(photos[0])
    assert given.shape == expected.shape
    assert given.dtype == np.float32
    assert np.abs(given - expected).max() <= LIMITS[precision]
    same = given.argmax(-1) == expected.argmax(-1)
    assert same.mean() >= 0.98
    assert reports[name].agreement == pytest.approx(same[::2].mean())
    # What sets the ranges of int8 proves no file of the same call: each second photo.
    assert reports[name].photos == len(photos[0][::2])
    assert reports[name].difference == pytest.approx(
        np.abs(given - expected)[::2].max(), abs=1e-5
    )


@pytest.mark.parametrize("name", FILES)
def test_the_logits_that_a_file_is_proven_by_are_its_own(name, exported, model, photos):
    folder, reports = exported
    logits = np.asarray(model.predict(photos[0], verbose=0)) / TEMPERATURE
    opened = open_runtime(folder / name)
    given = opened.open_logits()(photos[0])
    found = np.abs(given - logits)[::2].max()  # those of the proof, see above
    precision = FILES[name][1]
    assert found <= {"float32": 1e-4, "float16": 0.05}.get(precision, 1.0)
    assert reports[name].logit_difference == pytest.approx(found, abs=1e-4)
    largest = np.abs(logits)[::2].max()
    assert reports[name].largest_logit == pytest.approx(largest, rel=1e-4)
    # They are what the same file's softmax is given.
    powers = np.exp(given - given.max(-1, keepdims=True))
    np.testing.assert_allclose(
        opened.probabilities(photos[0]),
        powers / powers.sum(-1, keepdims=True),
        atol=5e-3 if precision == "int8" else 1e-6,
    )


@pytest.mark.parametrize("name", FILES)
def test_the_file_explains_itself(name, exported):
    info = load_classifier(exported[0] / name).info
    assert info.class_names == tuple(NAMES)
    assert (info.image_size, info.resize) == (32, "fit")
    assert (info.temperature, info.license) == (TEMPERATURE, "CC0-1.0")
    assert info.precision == FILES[name][1]


def test_nothing_but_the_exports_and_their_reports_is_left(exported):
    folder, reports = exported
    names = {path.name for path in folder.iterdir()}
    assert names == {*FILES, *(f"{name}.report.md" for name in FILES)}
    table = (folder / "whole.tflite.report.md").read_text()
    assert f"{reports['whole.tflite'].agreement:.2%}" in table


def test_sizes_shrink_with_the_precision(exported):
    _, reports = exported
    whole = reports["plain.tflite"].size
    assert reports["half.tflite"].size < 0.52 * whole
    assert reports["whole.tflite"].size < 0.30 * whole


@pytest.mark.one_backend
def test_int8_is_integers_throughout(exported):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(exported[0] / "whole.tflite"))
    taken = interpreter.get_input_details()[0]
    given = interpreter.get_output_details()[0]
    assert (taken["dtype"], given["dtype"]) == (np.uint8, np.uint8)
    # Phones feed pixels as they are.
    assert taken["quantization"] == (1.0, 0)
    kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert not kinds & {np.float32, np.float16}


@pytest.mark.one_backend
def test_tflite_holds_labels_that_any_zip_reader_finds(exported):
    with zipfile.ZipFile(exported[0] / "plain.tflite") as archive:
        labels = archive.read("labels.txt").decode().split("\n")
        assert labels == [*NAMES, ""]
        assert json.loads(archive.read("classifier.json"))["class_names"] == NAMES


@pytest.mark.one_backend
def test_tflite_keeps_its_weights_aligned(exported):
    from tensorflow.lite.python import schema_py_generated as schema

    content = (exported[0] / "plain.tflite").read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    big = 0
    for i in range(model.BuffersLength()):
        if model.Buffers(i).DataLength() >= 64:
            data = model.Buffers(i).DataAsNumpy()
            start = data.__array_interface__["data"][0]
            origin = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
            assert (start - origin) % 16 == 0
            big += 1
    assert big > 5


@pytest.mark.one_backend
def test_onnx_takes_any_batch_and_names_its_classes(exported):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported[0] / "plain.onnx")
    (taken,) = session.get_inputs()
    assert not isinstance(taken.shape[0], int)
    assert taken.shape[1:] == [32, 32, 3]
    properties = session.get_modelmeta().custom_metadata_map
    assert properties["labels.txt"].splitlines() == NAMES


@pytest.mark.one_backend
def test_saved_model_signatures(exported, model, photos, expected, tmp_path, rng):
    import tensorflow as tf
    from PIL import Image

    import keras_apinet

    loaded = tf.saved_model.load(str(exported[0] / "saved"))
    assert set(loaded.signatures) == {
        *("serve", "serving_default", "serve_encoded", "features", "logits"),
    }
    serving = loaded.signatures["serving_default"]
    ready = serving(images=tf.constant(photos[0]))["probabilities"]
    np.testing.assert_allclose(ready, expected, atol=1e-5)
    features = loaded.signatures["features"](images=tf.constant(photos[0]))["features"]
    np.testing.assert_allclose(
        features, keras.ops.convert_to_numpy(model.features(photos[0])), atol=1e-3
    )
    # A photo of another size is seen as in evaluation, as pixels and as a file. At
    # simple ratios many sums end in .5 exactly, and float32 rounds either way.
    photo = np.kron(photos[0][3], np.ones((4, 3, 1))).astype("uint8")[5:102, 7:]
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    seen = keras_apinet.data.prepare(photo, 32)
    answer = load_classifier(exported[0] / "saved").probabilities(seen[None])
    pixels = serving(images=tf.constant(photo[None]))["probabilities"]
    np.testing.assert_allclose(pixels, answer, atol=1e-5)
    encoded = tf.constant([path.read_bytes(), path.read_bytes()])
    files = loaded.signatures["serve_encoded"](encoded=encoded)["probabilities"]
    np.testing.assert_allclose(files, np.repeat(answer, 2, 0), atol=1e-5)


def op_names(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return [detail["op_name"] for detail in interpreter._get_ops_details()]


@pytest.mark.slow
@pytest.mark.one_backend
def test_the_interaction_costs_nothing(exported, tmp_path):
    """Same operations and size as backbone, pooling and classifier by themselves."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    from keras_apinet import backbones

    backbone = backbones.create("tiny", 32, None)
    image = keras.Input((32, 32, 3))
    features = keras.layers.GlobalAveragePooling2D()(
        backbone.model(backbone.scaling(image))
    )
    plain = keras.Model(image, keras.layers.Dense(5, activation="softmax")(features))
    path = tmp_path / "plain.tflite"
    signature = [keras.InputSpec(shape=(1, 32, 32, 3), dtype="float32")]
    plain.export(str(path), format="litert", input_signature=signature, verbose=False)
    ours = exported[0] / "plain.tflite"
    assert op_names(ours) == op_names(path)
    assert ours.stat().st_size <= path.stat().st_size + 4096

    def operations(folder):
        loaded = tf.saved_model.load(str(folder))
        graph = convert_variables_to_constants_v2(loaded.signatures["serve"]).graph
        kinds = [operation.type for operation in graph.get_operations()]
        return sorted(kind for kind in kinds if kind != "NoOp")

    plain.export(tmp_path / "saved", verbose=False)
    assert operations(exported[0] / "saved") == operations(tmp_path / "saved")


@pytest.mark.one_backend
def test_onnx_of_a_backbone_that_keeps_constants_as_tensors(photos, tmp_path):
    """As EfficientNetV2 does, whose first layer is a `Normalization`."""
    import keras_apinet

    image = keras.Input((32, 32, 3))
    scaled = keras.layers.Normalization(mean=[120.0] * 3, variance=[900.0] * 3)(image)
    maps = keras.layers.Conv2D(8, 3, activation="relu")(scaled)
    model = keras_apinet.build(keras.Model(image, maps), 3, class_names=list("abc"))
    keras_apinet.export.export_classifier(model, tmp_path / "a.onnx")
    given = load_classifier(tmp_path / "a.onnx").probabilities(photos[0])
    logits = np.asarray(model.predict(photos[0], verbose=0))
    np.testing.assert_allclose(given, np.asarray(keras.ops.softmax(logits)), atol=1e-5)
