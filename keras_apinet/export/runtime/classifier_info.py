"""Metadata of exported files."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_apinet.errors import APINetError, distinct_names
from keras_apinet.files import schema
from keras_apinet.files.bounds import COUNT, IMAGE_SIZE, SHARE, TEMPERATURE
from keras_apinet.files.schema import with_new_names
from keras_apinet.version import __version__

# Names of the two parts inside TFLite files, SavedModel folders, ONNX properties and
# web pages.
INFO_FILE = "classifier.json"
LABELS_FILE = "labels.txt"
# In TFLite files only: SHA-256 of the model that precedes the archive.
CHECKSUM_FILE = "sha256.txt"
_SHAPE = {
    "class_names": schema.names_of_classes,
    "image_size": IMAGE_SIZE,
    "resize?": ("fit", "squash"),
    "pixels?": str,
    "backbone?": str,
    "temperature?": TEMPERATURE,
    "precision?": ("float32", "float16", "dynamic", "int8"),
    "recipe_hash?": (None, str),
    "accuracy?": (None, {"top1": SHARE, "photos": COUNT, "of": str}),
    "license?": (None, str),
    "unknown?": bool,
    "families?": (None, [str]),
    "version?": str,
}


@dataclass(frozen=True)
class ClassifierInfo:
    """Everything a program needs to use a classifier, and where it came from.

    Attributes:
        class_names: Names of the classes, in the order of the probabilities; see
            `keras_apinet.errors.printable` for the treatment of line breaks in them.
        image_size: Height and width of the images, px.
        resize: How photos are resized: `"fit"` or `"squash"`; see
            `keras_apinet.data.prepare`.
        pixels: Format of the pixels.
        backbone: Name of the backbone.
        temperature: Value by which the logits were divided before the softmax; 1 if the
            run was not calibrated.
        precision: Numeric precision of the file: `"float32"`, `"float16"`, `"dynamic"`
            or `"int8"`.
        recipe_hash: 16 hexadecimal digits that change with any training setting.
        accuracy: Top-1 accuracy of the Keras model before conversion, with the split
            and the number of photos.
        license: License of the trained model.
        unknown: Whether the last class is `unknown`, for photos of none of the others.
        families: Family of each class, the answer if no class is confident enough.
        version: Version of this package.
    """

    class_names: tuple[str, ...]
    image_size: int
    resize: str = "fit"
    pixels: str = "RGB 0..255"
    backbone: str = ""
    temperature: float = 1.0
    precision: str = "float32"
    recipe_hash: str | None = None
    accuracy: Mapping[str, Any] | None = None
    license: str | None = None
    unknown: bool = False
    families: tuple[str, ...] | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        names = distinct_names(self.class_names)
        object.__setattr__(self, "class_names", names)

    def to_json(self) -> str:
        """Converts the metadata to JSON text."""
        return schema.to_json(dataclasses.asdict(self), indent=1)

    @property
    def labels(self) -> str:
        """Returns the class names, one per line; no line is empty, so none is lost."""
        names = (name if name.strip() else "(no name)" for name in self.class_names)
        return "\n".join(names) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "ClassifierInfo":
        """Reads the output of `to_json`; ignores unknown keys of later versions.

        Args:
            text: The JSON.
            where: The file it came from, for the error.

        Raises:
            APINetError: If the text is invalid, with the reason.
        """
        content = with_new_names(schema.parse_json(text, _SHAPE, where))
        schema.check(content, _SHAPE, where)
        families, classes = content.get("families"), len(content["class_names"])
        if families is not None and len(families) != classes:
            raise APINetError(
                f"{where!r} cannot be used: it has {len(families)} families for "
                f"{classes} classes; it is damaged."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in content.items() if k in known})


def recipe_hash(settings: Mapping[str, Any]) -> str:
    """Hashes the settings of a run to 16 hexadecimal digits."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
