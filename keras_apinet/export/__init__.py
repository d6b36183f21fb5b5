"""From a trained model to one file that a phone, a server or a browser runs as it is.

Names are imported when they are first used: `import keras_apinet.export` loads neither
Keras nor any runtime.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_apinet.export.classifier import Classifier, load_classifier
    from keras_apinet.export.classifier_info import ClassifierInfo
    from keras_apinet.export.exporting import Exporter, export_classifier
    from keras_apinet.export.formats import FORMATS, PRECISIONS
    from keras_apinet.export.verification import ExportReport

_HOME = {
    "FORMATS": "formats",
    "PRECISIONS": "formats",
    "Classifier": "classifier",
    "ClassifierInfo": "classifier_info",
    "ExportReport": "verification",
    "Exporter": "exporting",
    "export_classifier": "exporting",
    "load_classifier": "classifier",
}

__all__ = [
    "FORMATS",
    "PRECISIONS",
    "Classifier",
    "ClassifierInfo",
    "ExportReport",
    "Exporter",
    "export_classifier",
    "load_classifier",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
