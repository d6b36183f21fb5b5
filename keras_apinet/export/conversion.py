"""The converters, which run on Keras's TensorFlow backend.

A job is a folder that holds `job.json`, `model.keras` (pixels to logits) and, for int8,
`photos.npy`. Errors are handled in `child`.
"""

import contextlib
import errno
import importlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_apinet.compat import flatten_layers
from keras_apinet.errors import APINetError, reason
from keras_apinet.export.runtime.classifier_info import (
    INFO_FILE,
    LABELS_FILE,
    ClassifierInfo,
)
from keras_apinet.open_world.unknown import SLOPE

JOB, MODEL, PHOTOS, RESULT = "job.json", "model.keras", "photos.npy", "result"


def convert(folder: Path) -> None:
    """Runs the job in a folder in this process, whose backend is TensorFlow."""
    job = json.loads((folder / JOB).read_text("utf-8"))
    info = ClassifierInfo.from_json(json.dumps(job["info"]), JOB)
    for name in job["modules"]:
        # Registers layers of other packages; Keras names a class that is missing.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    logits = keras.saving.load_model(folder / MODEL, safe_mode=True, compile=False)
    if info.precision == "int8":
        from keras_apinet.export.photos import round_and_correct

        photos = np.load(folder / PHOTOS, allow_pickle=False)
        # At 224 px, the activations for this many photos take about 3 GB.
        round_and_correct(logits, photos[:: max(1, len(photos) // 32)][:32])
    # Dividing the classifier's weights divides its logits without an extra operation.
    for layer in logits.layers:
        if layer.name in ("classifier", SLOPE):
            layer.set_weights([w / info.temperature for w in layer.get_weights()])
    probabilities = keras.layers.Activation("softmax", name="probabilities")
    model = keras.Model(logits.inputs, probabilities(logits.outputs[0]))
    target = folder / RESULT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if job["format"] == "tflite":
                _to_tflite(model, info, target, folder / PHOTOS)
            elif job["format"] == "onnx":
                _to_onnx(model, info, target)
            else:
                _to_saved_model(model, info, target)
    except (OSError, MemoryError, APINetError):
        raise
    except Exception as error:
        raise _refused(error, job["format"], info) from error


def _refused(error: Exception, format: str, info: ClassifierInfo) -> APINetError:
    names = re.findall(r"'(?:tfl?\.)?(\w+)' op\b|\btf\.(\w+)[ (]", str(error))
    operations = sorted({name for pair in names for name in pair if name})
    what = f"{type(error).__name__}: {reason(error)}"
    if operations:
        what = f"the operation {', '.join(operations[:5])}"
    others = " or ".join(f for f in ("saved_model", "onnx", "tflite") if f != format)
    return APINetError(
        f"The {format} converter does not support the backbone {info.backbone!r} "
        f"(precision={info.precision!r}): {what}; export it as {others}, or train one "
        "of the backbones listed in docs/quantisation.md for this format."
    )


def _signature(info: ClassifierInfo, batch: int | None) -> list[Any]:
    shape = (batch, info.image_size, info.image_size, 3)
    return [keras.InputSpec(shape=shape, dtype="float32", name="image")]


def _to_tflite(model: Any, info: ClassifierInfo, target: Path, photos: Path) -> None:
    import tensorflow as tf

    from keras_apinet.export.tflite_metadata import with_metadata

    # Only built-in operations, because files with others do not run on phones.
    supported: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    options: dict[str, Any] = {"target_spec": supported}
    if info.precision != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if info.precision == "float16":
        supported["supported_types"] = [tf.float16]
    if info.precision == "int8":
        supported["supported_ops"] = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        images = np.load(photos, allow_pickle=False)

        def representative() -> Iterator[list[Any]]:
            for image in images:
                yield [image[None].astype(np.float32)]

        options |= {
            "representative_dataset": representative,
            "inference_input_type": tf.uint8,
            "inference_output_type": tf.uint8,
        }
    written = target.with_name("converted.tflite")
    # One image at a time, as on phones: a dynamic batch size rules out accelerators.
    model.export(
        str(written),
        format="litert",
        input_signature=_signature(info, 1),
        verbose=False,
        **options,
    )
    target.write_bytes(with_metadata(written.read_bytes(), info))


def _to_onnx(model: Any, info: ClassifierInfo, target: Path) -> None:
    try:
        import onnx

        importlib.import_module("tf2onnx")  # Keras calls it
    except ImportError as error:
        raise APINetError(
            f"ONNX needs the package {error.name!r}, which is not installed: "
            "pip install 'keras-apinet[onnx]'"
        ) from error
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            # As tensors, tf2onnx would make these constants inputs of the graph.
            layer.mean = np.asarray(layer.mean)
            layer.variance = np.asarray(layer.variance)
    model.export(
        str(target),
        format="onnx",
        input_signature=_signature(info, None),
        verbose=False,
    )
    content = onnx.load(str(target))
    inputs = [given.name for given in content.graph.input]
    if len(inputs) != 1:
        raise APINetError(
            f"The ONNX converter turned {inputs[1:]} into inputs besides the image, "
            f"because the backbone {info.backbone!r} stores constants as tensors; use "
            "NumPy arrays or weights, or export it as saved_model or tflite."
        )
    properties = {INFO_FILE: info.to_json(), LABELS_FILE: info.labels}
    onnx.helper.set_model_props(content, properties)
    content.producer_name, content.producer_version = "keras-apinet", info.version
    onnx.save(content, str(target))


def _to_saved_model(model: Any, info: ClassifierInfo, target: Path) -> None:
    import tensorflow as tf

    from keras_apinet.data.photos.graph_preprocessing import (
        crop_and_resize,
        prepare_or_blank,
        to_uint8,
    )

    size = info.image_size
    features = keras.Model(model.inputs, model.get_layer("classifier").input)

    def seen(photo: Any) -> Any:
        return to_uint8(crop_and_resize(photo, size, info.resize))

    def of_any_size(photos: Any) -> Any:
        # Preprocessed images are unchanged; photos are prepared as in evaluation.
        ready = tf.reduce_all(tf.shape(photos)[1:3] == size)
        spec = tf.TensorSpec([size, size, 3], tf.uint8)
        images = tf.cond(
            ready,
            lambda: photos,
            lambda: tf.map_fn(seen, photos, fn_output_signature=spec),
        )
        return tf.cast(tf.ensure_shape(images, [None, size, size, 3]), tf.float32)

    def serving_default(images: Any) -> Any:
        return {"probabilities": model(of_any_size(images), training=False)}

    # For verification, because confident probabilities are all 0 or 1.
    logits = keras.Model(model.inputs, model.layers[-2].output)

    def embeddings(images: Any) -> Any:
        return {"features": features(of_any_size(images), training=False)}

    def serve_encoded(encoded: Any) -> Any:
        images, problems = tf.map_fn(
            lambda content: prepare_or_blank(content, size, info.resize),
            encoded,
            fn_output_signature=(
                tf.TensorSpec([size, size, 3], tf.uint8),
                tf.TensorSpec([], tf.string),
            ),
        )
        images = tf.cast(tf.ensure_shape(images, [None, size, size, 3]), tf.float32)
        scores = model(images, training=False)
        read = tf.equal(problems, "")[:, None]
        scores = tf.where(read, scores, tf.constant(float("nan"), scores.dtype))
        return {"probabilities": scores, "problem": problems}

    def of_image(image: Any) -> Any:
        return model(image, training=False)

    def logits_of_image(image: Any) -> Any:
        return {"logits": logits(image, training=False)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    image = tf.TensorSpec([None, size, size, 3], tf.float32, name="image")
    # Keras's own endpoint: exactly the model, for preprocessed images.
    archive.add_endpoint("serve", of_image, [image])
    archive.add_endpoint("logits", logits_of_image, [image])
    photos = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    archive.add_endpoint("serving_default", serving_default, [photos])
    archive.add_endpoint("features", embeddings, [photos])
    encoded = tf.TensorSpec([None], tf.string, name="encoded")
    archive.add_endpoint("serve_encoded", serve_encoded, [encoded])
    try:
        archive.write_out(str(target), verbose=False)
    except tf.errors.ResourceExhaustedError as error:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    extra = target / "assets.extra"
    extra.mkdir()
    (extra / INFO_FILE).write_text(info.to_json(), "utf-8")
    (extra / LABELS_FILE).write_text(info.labels, "utf-8")
