"""What an exported file says about itself."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_apinet.errors import APINetError
from keras_apinet.version import __version__

# Names of the two parts inside TFLite files, SavedModel folders, ONNX properties and
# web pages.
INFO_FILE = "classifier.json"
LABELS_FILE = "labels.txt"
# TFLite files only: SHA-256 of the model before the archive.
CHECKSUM_FILE = "sha256.txt"


@dataclass(frozen=True)
class ClassifierInfo:
    """Everything a program needs to use a classifier, and where it came from.

    Attributes:
        class_names: Names of the classes, in the order of the probabilities.
        image_size: Height and width of the images, px.
        resize: How a photo becomes such an image: `"fit"` or `"squash"`, see
            `keras_apinet.data.prepare`.
        pixels: What the pixels are.
        backbone: Name of the backbone.
        temperature: What the logits were divided by before the softmax; 1 if the run
            was not calibrated.
        precision: Of the file's numbers: `"float32"`, `"float16"`, `"dynamic"` or
            `"int8"`.
        recipe_hash: 16 hexadecimal digits that change with any setting of the training.
        accuracy: Top-1 accuracy of the Keras model before conversion, with the split
            and the number of photos.
        licence: Of the trained model.
        version: Of this package.
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
    licence: str | None = None
    version: str = __version__

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @property
    def labels(self) -> str:
        """The class names, one on each line."""
        return "\n".join(self.class_names) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> "ClassifierInfo":
        """Reads what `to_json` wrote; unknown keys of later versions are left out.

        Args:
            text: The JSON.
            where: The file it came from, for the error.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            content = json.loads(text)
            names = tuple(str(name) for name in content.pop("class_names"))
            return cls(names, **{k: v for k, v in content.items() if k in known})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise APINetError(
                f"The description inside {where!r} cannot be read ({error}); the file "
                "is damaged, export it again."
            ) from error


def recipe_hash(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a run's settings."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
