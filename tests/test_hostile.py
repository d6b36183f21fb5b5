"""Hostile inputs: one sentence that names what is wrong, and never a traceback."""

import contextlib
import csv
import json
import os
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from factories import clear_classifier, patterns
from PIL import Image

import keras_apinet
from benchmarks import hostile
from keras_apinet.cli import main
from keras_apinet.errors import APINetError, printable
from keras_apinet.export import Exporter, load_classifier
from keras_apinet.export.formats import Target
from keras_apinet.export.runtime.classifier_info import ClassifierInfo
from keras_apinet.files.schema import to_json
from keras_apinet.runs import Run

pytestmark = pytest.mark.one_backend

# Every character at which Python, JavaScript, Java, Swift or a terminal ends a line.
BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff]"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A classifier in every format, and a run."""
    folder = tmp_path_factory.mktemp("world")
    model = clear_classifier(*patterns(), list("abcde"), weights=None)
    names = ("m.tflite", "m.onnx", "saved")
    Exporter(model, verify=False).write([Target.of(folder / name) for name in names])
    model.save(folder / "m.keras")
    for i in range(2):
        Image.fromarray(patterns()[0][i]).save(folder / f"{i}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        hostile.run_files,
        hostile.recipes,
        hostile.options,
        hostile.descriptions,
        hostile.calls,
    ],
)
def test_every_hostile_input_is_one_sentence(source, tmp_path):
    found = {}
    for i, case in enumerate(source()):
        (tmp_path / str(i)).mkdir()
        wrong = hostile.trouble(case, tmp_path / str(i))
        if wrong:
            found[case.name] = wrong
    assert not found


def test_there_are_many_distinct_ones():
    names = [case.name for case in hostile.everything()]
    assert len(set(names)) == len(names) > 1000


@pytest.mark.parametrize("kind", hostile.NAMES)
def test_names_stay_in_their_line(kind):
    name = hostile.NAMES[kind]
    info = ClassifierInfo((name, "b", name + "2"), 32)
    lines = re.split(f"[{BREAKS}]", info.labels.removesuffix("\n"))
    assert len(lines) == 3
    assert lines[1] == "b"
    assert not any(STEERING.search(line) for line in lines)
    assert all(line.strip() for line in lines)
    info.labels.encode("utf-8")
    again = ClassifierInfo.from_json(info.to_json().encode("utf-8"), "x")
    assert again.class_names == info.class_names
    assert not STEERING.search(printable(name))
    assert printable(printable(name)) == printable(name)
    # JSON gives back exactly what came.
    text = to_json({"photo": name})
    assert not STEERING.search(text)
    assert json.loads(text.encode("utf-8")) == {"photo": name}


def test_names_that_are_words_of_a_language_stay_as_they_are():
    for name in (
        "Grünspecht",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "カワセミ",
        "\U0001f469\u200d\U0001f52c",
    ):
        assert printable(name) == name


def test_pages_and_cards_show_no_control_codes(tmp_path):
    names = list(hostile.NAMES.values())
    run = {**hostile.RUN, "class_names": names}
    arguments = hostile.write_run(tmp_path, run=json.dumps(run).encode())
    assert main(arguments) == 0
    text = (tmp_path / "MODEL_CARD.md").read_text("utf-8")
    assert not STEERING.search(text)
    assert "<script>" not in text


@pytest.mark.slow
def test_a_label_file_inside_an_export_has_a_line_for_each_class(tmp_path):
    names = [f"{name}{i}" for i, name in enumerate(hostile.NAMES.values())][:20]
    images = (
        np.zeros((40, 32, 32, 3), "uint8")
        + np.arange(40, dtype="uint8")[:, None, None, None]
    )
    model = clear_classifier(images, np.arange(40) % 20, names, weights=None)
    path = tmp_path / "m.tflite"
    Exporter(model, verify=False).write([Target.of(path)])
    with zipfile.ZipFile(path) as archive:
        labels = archive.read("labels.txt").decode("utf-8")
    assert len(labels.splitlines()) == 20
    assert load_classifier(path).class_names == labels.splitlines()


@pytest.mark.slow
def test_predict_answers_every_photo_once_in_order(world, tmp_path, capsys):
    odd = tmp_path / os.fsdecode(b"a\xff\x1b[31m\n.png")
    odd.write_bytes((world / "0.png").read_bytes())
    (tmp_path / "broken.png").write_bytes((world / "0.png").read_bytes()[:40])
    gone = tmp_path / "gone.png"
    photos = [world / "0.png", odd, tmp_path / "broken.png", world / "0.png", gone]
    photos = [str(photo) for photo in photos]
    command = ["predict", str(world / "m.tflite"), *photos]
    assert main([*command, "--json"]) == 2
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [row["photo"] for row in rows] == photos
    assert ["error" in row for row in rows] == [False, False, True, False, True]
    assert rows[0]["top"] == rows[1]["top"] == rows[3]["top"]
    assert said.err == "keras-apinet: error: 2 of 5 photos cannot be read.\n"
    assert main([*command, "--top", "1"]) == 2
    said = capsys.readouterr()
    assert not STEERING.search(said.out)
    heads = [line for line in said.out.splitlines() if not line.startswith(" ")]
    assert heads == [printable(photo) for photo in photos]
    assert main([*command, "--top", "1", "--csv"]) == 2
    said = capsys.readouterr()
    assert not STEERING.search(said.out)
    table = list(csv.DictReader(said.out.splitlines()))
    assert [row["photo"] for row in table] == [printable(photo) for photo in photos]
    assert [bool(row["error"]) for row in table] == [False, False, True, False, True]
    assert table[0]["class"] == rows[0]["top"][0]["class"]
    assert main(command[:3]) == 0


def cli(*arguments, environment=None, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, "-m", "keras_apinet", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        **options,
    )


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams(closed, tmp_path):
    def close():
        for number in closed:
            os.close(number)

    arguments = hostile.write_run(tmp_path)
    result = cli(*arguments, preexec_fn=close)
    assert result.returncode == 0
    # What would have been printed went into no file that was opened meanwhile.
    text = (tmp_path / "MODEL_CARD.md").read_text("utf-8")
    assert text.startswith("---")
    assert str(tmp_path) not in text.splitlines()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["train", "--print-recipe"], 2), (["card", "x"], 2), (["--version"], 2)],
)
def test_a_full_device_and_a_pipe_that_ended(arguments, code):
    with open("/dev/full", "wb") as full:
        result = cli(*arguments, stdout=full)
        assert result.returncode == code
        assert result.stderr.count(b"\n") == 1
        assert cli(*arguments, stdout=full, stderr=full).returncode == code
    read, write = os.pipe()
    os.close(read)
    result = cli("train", "--print-recipe", stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (141, b"")


def test_an_output_without_letters(tmp_path):
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = cli("train", "--print-recipe", "--data", "é😀", environment=environment)
    assert result.returncode == 0
    assert rb'data = "\xe9\U0001f600"' in result.stdout
    (tmp_path / "é").mkdir()
    arguments = hostile.write_run(tmp_path / "é")
    assert cli(*arguments, environment=environment).returncode == 0


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("tensorflwo", "did you mean 'tensorflow'?"),
        ("numpy", "not one of"),
        ("jax\x1b[31m", "not one of"),
        ("torch", "cannot start the backend"),
    ],
)
def test_a_wrong_backend(backend, said, tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('broken\\ninstall')")
    environment = {"KERAS_BACKEND": backend, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    result = cli("data", "synthetic_birds", environment=environment)
    error = result.stderr.decode()
    assert result.returncode == 2
    assert said in error
    assert error.count("\n") == 1
    assert not STEERING.search(error)


def test_what_nobody_foresaw_is_one_line(tmp_path, monkeypatch, capsys):
    def broken(*args, **options):
        raise ZeroDivisionError("deep\ninside")

    monkeypatch.setattr(Run, "open", broken)
    assert main(["card", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: deep" in error
    assert "report it" in error
    assert error.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        main(["card", str(tmp_path), "--debug"])
    monkeypatch.setattr(Run, "open", lambda folder: (_ for _ in ()).throw(MemoryError))
    assert main(["card", str(tmp_path)]) == 2
    assert "not enough memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["a" * 300, "a" * 5000, "loop", "folder/x/y", "\ud800"]
)
def test_errors_of_the_file_system(name, tmp_path, capsys):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").write_text("a file")
    for command in (["card"], ["train"], ["predict"], ["export"]):
        arguments = [*command, str(tmp_path / name)]
        arguments += {"predict": ["x"], "train": ["--out", "x"]}.get(command[0], [])
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "fault of" not in error


def evil(folder, world, write):
    """A SavedModel with the description of a good one."""
    import tensorflow as tf

    class Model(tf.Module):
        @tf.function(
            input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32, name="image")]
        )
        def serve(self, image):
            write()
            rows = tf.ones([tf.shape(image)[0], 5]) / 5.0
            return {"probabilities": rows + 0.0 * tf.reduce_mean(image)}

    model = Model()
    tf.saved_model.save(model, str(folder), signatures={"serve": model.serve})
    (folder / "assets.extra").mkdir()
    for name in ("classifier.json", "labels.txt"):
        text = (world / "saved" / "assets.extra" / name).read_bytes()
        (folder / "assets.extra" / name).write_bytes(text)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["write", "inner", "mapped", "python", "print", "table"]
)
def test_a_saved_model_that_does_more_than_classify(kind, world, tmp_path, capsys):
    import tensorflow as tf

    mark = tmp_path / "written"
    write = {
        "write": lambda: tf.io.write_file(str(mark), "x"),
        "inner": lambda: tf.cond(
            tf.constant(True),
            lambda: (tf.io.write_file(str(mark), "x"), tf.constant(0))[1],
            lambda: tf.constant(1),
        ),
        "mapped": lambda: (
            tf.data.Dataset.range(1)
            .map(lambda i: (tf.io.write_file(str(mark), "x"), i)[1])
            .reduce(tf.constant(0, tf.int64), tf.add)
        ),
        "python": lambda: tf.numpy_function(lambda: np.float32(0), [], tf.float32),
        "print": lambda: tf.print("x", output_stream=f"file://{mark}"),
        "table": lambda: tf.io.matching_files(f"{tmp_path}/*"),
    }[kind]
    folder = tmp_path / "evil"
    evil(folder, world, write)
    with pytest.raises(APINetError, match=r"evil.*trust=True"):
        load_classifier(folder)
    assert main(["predict", str(folder), str(world / "0.png")]) == 2
    assert "--trust" in capsys.readouterr().err
    assert not mark.exists()
    if kind == "write":
        assert main(["predict", str(folder), str(world / "0.png"), "--trust"]) == 0
        assert mark.read_text() == "x"


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_that_only_classifies_needs_no_trust(world, tmp_path):
    evil(tmp_path / "good", world, lambda: None)
    assert len(load_classifier(tmp_path / "good").predict(world / "0.png")[0]) == 5
    assert load_classifier(world / "saved").predict(world / "0.png")


def test_an_onnx_file_with_weights_elsewhere(world, tmp_path, monkeypatch):
    import onnx

    monkeypatch.chdir(tmp_path)
    for place in ("weights.bin", str(tmp_path / "weights.bin"), "../weights.bin"):
        content = onnx.load(world / "m.onnx")
        weights = max(content.graph.initializer, key=lambda w: len(w.raw_data))
        for path in (tmp_path / "weights.bin", tmp_path.parent / "weights.bin"):
            path.write_bytes(weights.raw_data)
        size = str(len(weights.raw_data))
        weights.ClearField("raw_data")
        weights.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": place, "length": size}.items():
            entry = weights.external_data.add()
            entry.key, entry.value = key, value
        (tmp_path / "outside.onnx").write_bytes(content.SerializeToString())
        with pytest.raises(APINetError, match=r"outside\.onnx"):
            load_classifier(tmp_path / "outside.onnx")


def test_files_that_open_and_then_fail(world, tmp_path):
    import onnx

    content = onnx.load(world / "m.onnx")
    for weights in content.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and weights.raw_data:
            size = len(weights.raw_data) // 4
            weights.raw_data = np.full(size, np.nan, "float32").tobytes()
    onnx.save(content, tmp_path / "nan.onnx")
    with pytest.raises(APINetError, match=r"nan\.onnx.*NaN or infinite"):
        load_classifier(tmp_path / "nan.onnx").predict(world / "0.png")
    node = onnx.helper.make_node("Reshape", ["x", "s"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 32, 32, 3])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 5])],
        [onnx.helper.make_tensor("s", 7, [2], [-1, 7])],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8
    )
    info = onnx.load(world / "m.onnx").metadata_props
    model.metadata_props.extend(info)
    (tmp_path / "shape.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(APINetError, match=r"shape\.onnx"):
        load_classifier(tmp_path / "shape.onnx").predict(world / "0.png")


def test_a_model_that_has_diverged(world, tmp_path):
    model = keras.saving.load_model(world / "m.keras")
    model.classifier.set_weights([w * np.nan for w in model.classifier.get_weights()])
    model.save(tmp_path / "nan.keras")
    with pytest.raises(APINetError, match=r"nan\.keras.*NaN or infinite"):
        load_classifier(tmp_path / "nan.keras").predict(world / "0.png")


@pytest.mark.parametrize("name", ["x.tflite", "x.onnx", "x.keras"])
def test_models_that_are_no_files(name, tmp_path):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(tmp_path / name) if (tmp_path / name).is_dir() else os.unlink(
                tmp_path / name
            )
        make(tmp_path / name)
        with pytest.raises(APINetError, match=re.escape(name)):
            keras_apinet.load_classifier(tmp_path / name)
