"""From a trained model to one file that a phone, a server or a browser runs as it is.

Names are imported when they are first used: `import keras_apinet.export` loads neither
Keras nor any runtime.
"""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.export.exporter import Exporter, export_classifier
    from keras_apinet.export.formats import FORMATS, PRECISIONS
    from keras_apinet.export.runtime.classifier import Classifier, load_classifier
    from keras_apinet.export.runtime.classifier_info import ClassifierInfo
    from keras_apinet.export.verification import ExportReport

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

__getattr__ = lazily(
    __name__,
    {
        "FORMATS": "formats",
        "PRECISIONS": "formats",
        "Classifier": "runtime.classifier",
        "ClassifierInfo": "runtime.classifier_info",
        "ExportReport": "verification",
        "Exporter": "exporter",
        "export_classifier": "exporter",
        "load_classifier": "runtime.classifier",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
