"""TFLite Metadata, which lets MediaPipe and ML Kit use a model without custom code.

The metadata consists of an extra buffer in the model's FlatBuffer, with the schema of
`metadata_schema.fbs` (file identifier M001), followed by a ZIP archive with the label
file. The few tables that an image classifier needs are written slot by slot, because
the packages with the generated classes would add half a gigabyte of dependencies.
"""

import hashlib
import io
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from keras_apinet.export.runtime.classifier_info import (
    CHECKSUM_FILE,
    INFO_FILE,
    LABELS_FILE,
    ClassifierInfo,
)

_METADATA_NAME = "TFLITE_METADATA"
_IMAGE_PROPERTIES, _FEATURE_PROPERTIES = 2, 1  # union ContentProperties
_NORMALIZATION = 1  # union ProcessUnitOptions
_RGB = 1
_TENSOR_AXIS_LABELS = 2


def with_metadata(model: bytes, info: ClassifierInfo) -> bytes:
    """Adds a description, a label file and `classifier.json` to a TFLite model."""
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(model), 0))
    content.description = _description(info)
    entry, buffer = schema.MetadataT(), schema.BufferT()
    entry.name, entry.buffer = _METADATA_NAME, len(content.buffers)
    buffer.data = np.frombuffer(_metadata(info), np.uint8)
    content.buffers.append(buffer)
    content.metadata = [*(content.metadata or []), entry]
    builder = _CompactBuilder(len(model) + 65536)
    builder.Finish(content.Pack(builder), b"TFL3")
    output = bytes(builder.Output())
    parts = {
        LABELS_FILE: info.labels,
        INFO_FILE: info.to_json(),
        # Interpreters silently run with damaged weights.
        CHECKSUM_FILE: hashlib.sha256(output).hexdigest(),
    }
    file = io.BytesIO()
    file.write(output)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in parts.items():
            # A fixed date makes equal models equal files.
            archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


class _CompactBuilder(flatbuffers.Builder):
    """Aligns weights and writes equal vectors once.

    Generated `Pack` methods ignore the schema's `force_align` of 16 bytes, but kernels
    are slower on unaligned data. The thousands of per-channel zero points of an int8
    model are all zero, so sharing them saves a tenth of the file.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.written: dict[tuple[str, bytes], int] = {}

    def StartVector(self, size: int, count: int, alignment: int) -> Any:  # noqa: N802
        return super().StartVector(size, count, 16 if size == 1 else alignment)

    def CreateNumpyVector(self, values: NDArray[Any]) -> int:  # noqa: N802
        key = (values.dtype.str, values.tobytes())
        if key not in self.written:
            self.written[key] = super().CreateNumpyVector(values)
        return self.written[key]


def _description(info: ClassifierInfo) -> str:
    return (
        f"{info.backbone or 'image'} classifier, {len(info.class_names)} classes, "
        f"{info.image_size} px, by keras-apinet {info.version}"
    )


def _metadata(info: ClassifierInfo) -> bytes:
    """Creates the FlatBuffer of `ModelMetadata`."""
    size = {0: ("Uint32", info.image_size), 1: ("Uint32", info.image_size)}
    image = {
        0: "image",
        1: f"photo, {info.pixels}",
        3: {0: ("Uint8", _IMAGE_PROPERTIES), 1: {0: ("Int8", _RGB), 1: size}},
        # Pixels are not normalized, because the scaling is part of the model.
        4: [{0: ("Uint8", _NORMALIZATION), 1: {0: [0.0], 1: [1.0]}}],
        5: {0: [255.0], 1: [0.0]},
    }
    labels = {
        0: LABELS_FILE,
        1: "names of the classes",
        2: ("Int8", _TENSOR_AXIS_LABELS),
    }
    scores = {
        0: "probability",
        1: "probabilities of the classes",
        3: {0: ("Uint8", _FEATURE_PROPERTIES), 1: {}},
        5: {0: [1.0], 1: [0.0]},
        6: [labels],
    }
    model = {
        0: "ImageClassifier",
        1: _description(info),
        2: info.version,
        3: [{2: [image], 3: [scores]}],
        4: "keras-apinet",
        5: info.license or "not stated",
        6: [{0: INFO_FILE, 1: "origin of the model, as JSON"}],
        7: "1.0.0",
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_written(builder, model), b"M001")
    return bytes(builder.Output())


def _written(builder: Any, value: Any) -> int:
    """Writes a text, list or table `{slot: value}`; a number is `(kind, number)`."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, list) and isinstance(value[0], float):
        return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
    if isinstance(value, list):
        tables = [_written(builder, table) for table in value]
        builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            builder.PrependUOffsetTRelative(table)
        return int(builder.EndVector())
    # Everything that a table points to must be written before the table.
    fields = {
        slot: field if isinstance(field, tuple) else _written(builder, field)
        for slot, field in value.items()
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, field in fields.items():
        if isinstance(field, tuple):
            getattr(builder, f"Prepend{field[0]}Slot")(slot, field[1], 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, field, 0)
    return int(builder.EndObject())
