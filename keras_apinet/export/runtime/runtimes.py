"""The runtime of each format, which turns images into probabilities."""

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_apinet.errors import APINetError, reason
from keras_apinet.export.runtime.classifier_info import (
    CHECKSUM_FILE,
    INFO_FILE,
    ClassifierInfo,
)
from keras_apinet.files.schema import LARGEST_FILE, read_content
from keras_apinet.files.sealing import check_members

Answer = Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class Runtime:
    """An opened file.

    Attributes:
        info: Metadata of the file.
        probabilities: Maps images `[N, S, S, 3]`, pixels 0..255, to float32 `[N, C]`.
        open_logits: Opens the same file so that it returns its softmax's input, for
            verification, because a confident model's probabilities are all 0 or 1.
    """

    info: ClassifierInfo
    probabilities: Answer
    open_logits: Callable[[], Answer]


def open_runtime(path: Path, trust: bool = False) -> Runtime:
    """Opens a file or folder in the runtime of its format.

    Raises:
        APINetError: If the path is missing, damaged or of unknown format, the runtime
            is not installed, or the graph cannot be trusted.
    """
    advice = "give a .tflite, .onnx or .keras file, a SavedModel folder or a run folder"
    if not path.exists():
        raise APINetError(f"There is no model at {str(path)!r}; {advice}.")
    if path.is_dir():
        saved = (path / "saved_model.pb").is_file()
        opener = _open_saved_model if saved else _open_keras
    else:
        openers = {".tflite": _open_tflite, ".onnx": _open_onnx, ".keras": _open_keras}
        if path.suffix.lower() not in openers or not path.is_file():
            raise APINetError(f"{str(path)!r} is of no known format; {advice}.")
        opener = openers[path.suffix.lower()]
    try:
        if opener is _open_saved_model and not trust:
            from keras_apinet.export.runtime.trust import check_saved_model

            check_saved_model(path)
        runtime = opener(path)
    except (APINetError, MemoryError):
        raise
    except ImportError as error:
        package = str(error.name).partition(".")[0].replace("_", "-")
        raise APINetError(
            f"{str(path)!r} needs the package {error.name!r}, which is not installed: "
            f"pip install {package}"
        ) from error
    except Exception as error:
        raise _damaged(path, reason(error)) from error
    return replace(runtime, probabilities=_answering(path, runtime))


def _damaged(path: Path, why: str) -> APINetError:
    return APINetError(
        f"{str(path)!r} cannot be opened ({why}); it is damaged or not what its name "
        "says, so export it again."
    )


def _answering(path: Path, runtime: Runtime) -> Answer:
    """Makes errors of a file that opens, but fails when it runs, name the file."""

    def probabilities(images: NDArray[Any]) -> NDArray[np.float32]:
        expected = (len(images), len(runtime.info.class_names))
        try:
            found = np.asarray(runtime.probabilities(images))
        except (APINetError, MemoryError):
            raise
        except Exception as error:
            raise APINetError(
                f"{str(path)!r} fails when it runs ({type(error).__name__}: "
                f"{reason(error)}); export it again."
            ) from error
        if found.shape != expected or found.dtype.kind != "f":
            raise APINetError(
                f"{str(path)!r} returns {found.dtype} {list(found.shape)} instead of "
                f"float32 {list(expected)}; export it again."
            )
        if not np.isfinite(found).all():
            raise APINetError(
                f"{str(path)!r} returns values that are NaN or infinite: its weights "
                "are damaged, or the training diverged; train or export it again."
            )
        return found.astype(np.float32, copy=False)

    return probabilities


def _foreign(path: Path) -> APINetError:
    return APINetError(
        f"{str(path)!r} does not contain its class names; export it with "
        "`keras-apinet export`."
    )


def _open_tflite(path: Path) -> Runtime:
    content = path.read_bytes()
    # A truncated file, which has no archive at its end, could crash the interpreter.
    if content[4:8] != b"TFL3":
        raise _damaged(path, "it is not a TFLite file")
    if b"PK\x05\x06" not in content[-65558:]:
        raise APINetError(
            f"{str(path)!r} is cut off, or was not written by `keras-apinet export`: "
            "the class names at its end are missing; export it again."
        )
    with zipfile.ZipFile(path) as archive:
        check_members(archive, len(content))
        if INFO_FILE not in archive.namelist():
            raise _foreign(path)
        for name in (INFO_FILE, CHECKSUM_FILE):
            if archive.getinfo(name).file_size > LARGEST_FILE:
                raise _damaged(path, f"{name!r} in it is too large")
        info = ClassifierInfo.from_json(archive.read(INFO_FILE), str(path))
        model = content[: archive.infolist()[0].header_offset]
        if archive.read(CHECKSUM_FILE).decode() != hashlib.sha256(model).hexdigest():
            raise _damaged(path, "its checksum does not match")
    answer, sizes = _interpreted(content)
    _check_shape(path, info, *sizes)
    return Runtime(info, answer, lambda: _interpreted(_without_softmax(model))[0])


def _without_softmax(model: bytes) -> bytes:
    """Creates a TFLite model that ends before its softmax."""
    from ai_edge_litert import schema_py_generated as schema
    from flatbuffers import Builder

    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(model), 0))
    graph = content.subgraphs[0]
    codes = [code.builtinCode for code in content.operatorCodes]
    kinds = [codes[operator.opcodeIndex] for operator in graph.operators]
    last = len(kinds) - 1 - kinds[::-1].index(schema.BuiltinOperator.SOFTMAX)
    graph.outputs = graph.operators[last].inputs[:1]
    graph.operators = graph.operators[:last]
    content.signatureDefs, content.metadata = None, None
    builder = Builder(len(model) + 65536)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _interpreted(content: bytes) -> tuple[Answer, tuple[Any, Any]]:
    """Opens a TFLite model; returns it as a function, and its in- and output shapes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(
        model_content=content, num_threads=min(4, os.cpu_count() or 1)
    )
    interpreter.allocate_tensors()
    (taken,) = interpreter.get_input_details()
    (given,) = interpreter.get_output_details()

    def answer(images: NDArray[Any]) -> NDArray[np.float32]:
        rows = []
        for image in images:
            if taken["dtype"] == np.uint8 and image.dtype != np.uint8:
                image = np.clip(np.round(image), 0, 255)
            interpreter.set_tensor(taken["index"], image[None].astype(taken["dtype"]))
            interpreter.invoke()
            row = interpreter.get_tensor(given["index"])[0].astype(np.float32)
            scale, zero = given["quantization"]
            rows.append((row - zero) * np.float32(scale) if scale else row)
        return np.stack(rows)

    return answer, (taken["shape"][1:], given["shape"][-1])


def _open_onnx(path: Path) -> Runtime:
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    # External weights would be read from any path that the file names.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    started: dict[str, Any] = {"sess_options": options}
    started["providers"] = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path.read_bytes(), **started)
    properties = session.get_modelmeta().custom_metadata_map
    if INFO_FILE not in properties:
        raise _foreign(path)
    info = ClassifierInfo.from_json(properties[INFO_FILE], str(path))
    if len(session.get_inputs()) != 1:
        raise _damaged(path, "it takes more than one input")
    taken, given = session.get_inputs()[0], session.get_outputs()[0]
    _check_shape(path, info, taken.shape[1:], given.shape[-1])

    def answer(opened: Any, name: str) -> Answer:
        return lambda images: np.asarray(
            opened.run([name], {taken.name: images.astype(np.float32)})[0]
        )

    def open_logits() -> Answer:
        import onnx

        content = onnx.load(str(path))
        last = [node for node in content.graph.node if node.op_type == "Softmax"][-1]
        logits = onnx.helper.make_tensor_value_info(
            last.input[0], onnx.TensorProto.FLOAT, None
        )
        content.graph.output.append(logits)
        opened = onnxruntime.InferenceSession(content.SerializeToString(), **started)
        return answer(opened, logits.name)

    return Runtime(info, answer(session, given.name), open_logits)


def _open_saved_model(path: Path) -> Runtime:
    description = path / "assets.extra" / INFO_FILE
    if not description.exists():
        raise _foreign(path)
    info = ClassifierInfo.from_json(read_content(description), str(path))
    import tensorflow as tf

    with tf.device("cpu"):
        model = tf.saved_model.load(str(path))
    serve = model.signatures["serve"]
    taken = next(iter(serve.structured_input_signature[1].values()))
    given = next(iter(serve.structured_outputs.values()))
    _check_shape(path, info, taken.shape[1:], given.shape[-1])

    def answer(endpoint: str) -> Answer:
        def of_images(images: NDArray[Any]) -> NDArray[np.float32]:
            with tf.device("cpu"):
                batch = tf.constant(images, tf.float32)
                # Called by keyword. The closure keeps the model object alive.
                given = model.signatures[endpoint](**{taken.name: batch})
            return np.asarray(next(iter(given.values())))

        return of_images

    return Runtime(info, answer("serve"), lambda: answer("logits"))


def _open_keras(path: Path) -> Runtime:
    from keras_apinet.export.sources import open_source

    source = open_source(path, unknown=None)
    model = source.logits_model()

    def logits(images: NDArray[Any]) -> NDArray[np.float32]:
        given = np.asarray(model.predict(images, verbose=0), np.float32)
        return given / np.float32(source.info.temperature)

    return Runtime(source.info, lambda images: softmax(logits(images)), lambda: logits)


def softmax(logits: Any) -> NDArray[np.float32]:
    """Converts logits `[N, C]` to probabilities, computed in float64."""
    from scipy import special  # exported files run without it

    shares = special.softmax(np.asarray(logits, np.float64), axis=-1)
    return np.asarray(shares, np.float32)


def _check_shape(path: Path, info: ClassifierInfo, image: Any, classes: Any) -> None:
    if [int(side) for side in image] != [info.image_size, info.image_size, 3] or (
        int(classes) != len(info.class_names)
    ):
        raise APINetError(
            f"{str(path)!r} returns {classes} classes for images {list(image)}, but "
            f"its metadata says {len(info.class_names)} classes and image_size="
            f"{info.image_size}; export it again."
        )
