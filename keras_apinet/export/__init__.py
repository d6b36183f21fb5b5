"""Export of a trained model to a single file for a phone, a server or a browser.

Names are imported on first use, so `import keras_apinet.export` loads neither Keras nor
any runtime.
"""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.export.exporter import (
        Exporter as Exporter,
        export_classifier as export_classifier,
    )
    from keras_apinet.export.formats import FORMATS as FORMATS, PRECISIONS as PRECISIONS
    from keras_apinet.export.runtime.classifier import (
        Classifier as Classifier,
        load_classifier as load_classifier,
    )
    from keras_apinet.export.runtime.classifier_info import (
        ClassifierInfo as ClassifierInfo,
    )
    from keras_apinet.export.verification import ExportReport as ExportReport

__getattr__, __dir__, __all__ = lazily()
