"""Data sets for fine-grained classification, in class-balanced batches.

Names are imported on first use, so `import keras_apinet.data` loads neither TensorFlow
nor Pillow.
"""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.data.batch_plan import (
        CLASS_SAMPLING as CLASS_SAMPLING,
        BatchPlan as BatchPlan,
    )
    from keras_apinet.data.batches import (
        balanced_batches as balanced_batches,
        evaluation_batches as evaluation_batches,
    )
    from keras_apinet.data.image_data import ImageData as ImageData, Split as Split
    from keras_apinet.data.loading import load as load
    from keras_apinet.data.photos.augmentation import (
        AUGMENTATIONS as AUGMENTATIONS,
        RESIZES as RESIZES,
    )
    from keras_apinet.data.photos.preprocessing import (
        prepare as prepare,
        read_photo as read_photo,
    )
    from keras_apinet.data.reading_report import ReadingReport as ReadingReport
    from keras_apinet.data.sources.arrays import as_split as as_split

__getattr__, __dir__, __all__ = lazily()
