"""Compares prediction and exported files with a plain classifier, same backbone.

    python -m benchmarks.inference [--backbones NAME ...] [--image-size 128]

Measures `predict` on a batch of 32, and SavedModel, TFLite and ONNX on one image with
one thread. Our files are written by `export_classifier`, those of the plain classifier
by Keras's own export. Prints the ratios of the sizes and of the times, measured in
turns so that fluctuations of the machine cancel out; the plain classifier against
itself shows the remaining noise. TensorFlow only, because Keras's exports need it.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np

from benchmarks.results import record
from benchmarks.turns import in_turns, medians

CLASSES = 81
# File name extension, and Keras's name of the format.
FORMATS = {"TFLite": (".tflite", "litert"), "ONNX": (".onnx", "onnx")}
FORMATS |= {"SavedModel": ("", "tf_saved_model")}


class NotRunnableError(Exception):
    """Raised for a file written by Keras that its runtime cannot run."""


def plain_model(name: str, side: int) -> Any:
    """Scaling, backbone, pooling and classifier, as usually built by hand."""
    import keras

    from keras_apinet import backbones

    backbone = backbones.create(name, side, None)
    image = keras.Input((side, side, 3))
    pixels = image if backbone.scaling is None else backbone.scaling(image)
    features = backbone.model(pixels)
    if len(features.shape) == 4:
        features = keras.layers.GlobalAveragePooling2D()(features)
    outputs = keras.layers.Dense(CLASSES, activation="softmax")(features)
    return keras.Model(image, outputs)


def opened(path: Path, side: int) -> Callable[[], Any]:
    """A function that runs a file on one image, with one thread."""
    image = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3))
    image = image.astype("float32")
    if path.suffix == ".tflite":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        return interpreter.invoke
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options)
        first, *more = [each.name for each in session.get_inputs()]
        if more:
            raise NotRunnableError(f"requires {len(more)} inputs besides the image")
        inputs = {first: image}
        return lambda: session.run(None, inputs)
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    serve, tensor = loaded.signatures["serve"], tf.constant(image)
    (name,) = serve.structured_input_signature[1]
    # The default arguments keep the loaded object alive.
    return lambda loaded=loaded: serve(**{name: tensor})


def size_of(path: Path) -> int:
    """The size in bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def operations(path: Path) -> list[tuple[int, bytes | None]]:
    """The built-in and custom codes of a TFLite file's operations, in order."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    codes = [(code.builtinCode, code.customCode) for code in model.operatorCodes]
    found = [o.opcodeIndex for graph in model.subgraphs for o in graph.operators]
    return [codes[index] for index in found]


def ratios(
    ours: Callable[[], Any], plain: Callable[[], Any], again: Callable[[], Any], n: int
) -> list[str]:
    """Our median time / the plain one's, and that of a second plain one / the first."""
    found = medians(in_turns({"ours": ours, "plain": plain, "again": again}, n))
    return [
        f"{found['ours'] / found['plain']:.3f}",
        f"{found['again'] / found['plain']:.3f}",
    ]


def measure(name: str, side: int, rounds: int, folder: Path) -> list[list[str]]:
    """Measures one backbone and returns its rows."""
    import keras

    import keras_apinet
    from keras_apinet.export import export_classifier

    model = keras_apinet.build(name, CLASSES, image_size=side, weights=None)
    plain = plain_model(name, side)
    images = np.random.default_rng(0).integers(0, 256, (32, side, side, 3), "uint8")
    times = ratios(
        lambda: model.predict(images, verbose=0),
        lambda: plain.predict(images, verbose=0),
        lambda: plain.predict(images, verbose=0),
        max(3, rounds // 5),
    )
    rows = [[name, "predict", "", "", *times]]
    for title, (ending, kind) in FORMATS.items():
        files = [folder / f"{name}-{who}{ending}" for who in ("ours", "plain")]
        options = {} if ending else {"format": "saved_model"}
        export_classifier(model, files[0], verify=False, **options)
        shape = (1 if ending == ".tflite" else None, side, side, 3)
        signature = [keras.InputSpec(shape=shape, dtype="float32")]
        plain.export(
            str(files[1]), format=kind, input_signature=signature, verbose=False
        )
        ours = opened(files[0], side)
        try:
            plains = [opened(files[1], side) for _ in range(2)]
        except NotRunnableError as fault:
            rows.append([name, title, f"the plain file {fault}", "", "", ""])
            continue
        sizes = f"{size_of(files[0]) / size_of(files[1]):.4f}"
        same = ""
        if ending == ".tflite":
            lists = [operations(file) for file in files]
            same = (
                f"{len(lists[0])}, {'equal' if lists[0] == lists[1] else 'DIFFERENT'}"
            )
        rows.append([name, title, same, sizes, *ratios(ours, *plains, rounds)])
    return rows


def main() -> None:
    """Prints and records one line per backbone and format."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False
    )
    known = ["mobilenet_v2", "efficientnetv2b0", "resnet50"]
    parser.add_argument("--backbones", nargs="+", default=known)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=150)
    args = parser.parse_args()
    columns = ["backbone", "format", "operations", "size ratio", "time ratio"]
    columns.append("plain against itself")
    rows = []
    for name in args.backbones:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, args.image_size, args.rounds, Path(folder))
        rows += found
        for row in found:
            print(" | ".join(row), flush=True)
    headline = {}
    for title in ("predict", *FORMATS):
        ran = [row for row in rows if row[1] == title and row[4]]
        if ran:
            *_, ratio, itself = max(ran, key=lambda row: float(row[4]))
            key = f"inference time / plain classifier, {title}, largest"
            headline[key] = f"{ratio} (plain against itself {itself})"
    record(
        "inference",
        "Prediction and exported files, compared with a plain classifier",
        columns,
        rows,
        f"{args.image_size} px, {CLASSES} classes, {args.rounds} rounds, one thread "
        "for the files; target 1.02.",
        headline=headline,
    )


if __name__ == "__main__":
    main()
