"""Data sets for fine-grained classification, in class-balanced batches.

Names are imported when they are first used: `import keras_apinet.data` loads neither
TensorFlow nor Pillow.
"""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.data.batch_plan import CLASS_SAMPLING, BatchPlan
    from keras_apinet.data.batches import balanced_batches, evaluation_batches
    from keras_apinet.data.image_data import ImageData, Split
    from keras_apinet.data.loading import load
    from keras_apinet.data.photos.augmentation import AUGMENTATIONS, RESIZES
    from keras_apinet.data.photos.preprocessing import prepare, read_photo
    from keras_apinet.data.reading_report import ReadingReport
    from keras_apinet.data.sources.arrays import as_split

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

__getattr__ = lazily(
    __name__,
    {
        "AUGMENTATIONS": "photos.augmentation",
        "CLASS_SAMPLING": "batch_plan",
        "RESIZES": "photos.augmentation",
        "BatchPlan": "batch_plan",
        "ImageData": "image_data",
        "ReadingReport": "reading_report",
        "Split": "image_data",
        "as_split": "sources.arrays",
        "balanced_batches": "batches",
        "evaluation_batches": "batches",
        "load": "loading",
        "prepare": "photos.preprocessing",
        "read_photo": "photos.preprocessing",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
