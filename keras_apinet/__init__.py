"""Fine-grained image classification by attentive pairwise interaction, for Keras 3.

Names are imported when they are first used, so that the command line answers at once
and nothing loads a backend that is not needed.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from keras_apinet.errors import APINetError
from keras_apinet.version import __version__

if TYPE_CHECKING:
    from keras_apinet import backbones, data, evaluate, export, layers, losses, train
    from keras_apinet.building import build
    from keras_apinet.export.classifier import load_classifier
    from keras_apinet.loading import load
    from keras_apinet.model import APINet

_HOME = {
    "APINet": "keras_apinet.model",
    "build": "keras_apinet.building",
    "load": "keras_apinet.loading",
    "load_classifier": "keras_apinet.export.classifier",
}
_ROOMS = ("backbones", "data", "evaluate", "export", "layers", "losses", "train")

__all__ = [
    "APINet",
    "APINetError",
    "__version__",
    "backbones",
    "build",
    "data",
    "evaluate",
    "export",
    "layers",
    "load",
    "load_classifier",
    "losses",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"keras_apinet.{name}")
    raise AttributeError(f"module 'keras_apinet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Registers the package's classes as soon as somebody imports Keras.

    `keras.saving.load_model` finds only classes that are registered, and importing
    Keras here would load a backend for those who read one `.tflite` file.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                importlib.import_module("keras_apinet.registered")

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "keras" in sys.modules:
    importlib.import_module("keras_apinet.registered")
else:
    sys.meta_path.insert(0, _AfterKeras())
