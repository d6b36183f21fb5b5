"""Data sets for fine-grained classification, in class-balanced batches.

Names are imported when they are first used: `import keras_apinet.data` loads neither
TensorFlow nor Pillow.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_apinet.data.augmentation import AUGMENTATIONS, RESIZES
    from keras_apinet.data.batches import balanced_batches, evaluation_batches
    from keras_apinet.data.image_data import ImageData, Split
    from keras_apinet.data.loading import load
    from keras_apinet.data.preprocessing import prepare, read_photo
    from keras_apinet.data.python_sources import as_split
    from keras_apinet.data.reading_report import ReadingReport
    from keras_apinet.data.sampling import CLASS_SAMPLING, BatchPlan

_HOME = {
    "AUGMENTATIONS": "augmentation",
    "CLASS_SAMPLING": "sampling",
    "RESIZES": "augmentation",
    "BatchPlan": "sampling",
    "ImageData": "image_data",
    "ReadingReport": "reading_report",
    "Split": "image_data",
    "as_split": "python_sources",
    "balanced_batches": "batches",
    "evaluation_batches": "batches",
    "load": "loading",
    "prepare": "preprocessing",
    "read_photo": "preprocessing",
}

__all__ = [
    "AUGMENTATIONS",
    "CLASS_SAMPLING",
    "RESIZES",
    "BatchPlan",
    "ImageData",
    "ReadingReport",
    "Split",
    "as_split",
    "balanced_batches",
    "evaluation_batches",
    "load",
    "prepare",
    "read_photo",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
