"""Fine-grained image classification by attentive pairwise interaction, for Keras 3.

Names are imported when they are first used, so that the command line answers at once
and nothing loads a backend that is not needed.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_apinet.errors import APINetError
from keras_apinet.version import __version__

if TYPE_CHECKING:
    from keras_apinet import backbones, data, evaluate, export, layers, losses, train
    from keras_apinet.export.exporter import export_classifier
    from keras_apinet.export.runtime.classifier import load_classifier
    from keras_apinet.loading import build, load
    from keras_apinet.model import APINet

__all__ = [
    "APINet",
    "APINetError",
    "__version__",
    "backbones",
    "build",
    "data",
    "evaluate",
    "export",
    "export_classifier",
    "layers",
    "load",
    "load_classifier",
    "losses",
    "train",
]


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`, which imports each name when it is first used.

    Args:
        package: The package's `__name__`.
        homes: Where each name is, below the package; `""` if it is a module itself.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if not homes[name]:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return get


__getattr__ = lazily(
    __name__,
    {
        "APINet": "model",
        "build": "loading",
        "export_classifier": "export.exporter",
        "load": "loading",
        "load_classifier": "export.runtime.classifier",
        **dict.fromkeys(
            ("backbones", "data", "evaluate", "export", "layers", "losses", "train"), ""
        ),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Registration(importlib.abc.MetaPathFinder):
    """Registers the package's classes as soon as somebody has imported Keras.

    `keras.saving.load_model` finds only classes that are registered, and importing
    Keras here would load a backend for those who read one `.tflite` file. A module of
    the package that imports Keras has to end first, as others import from it.
    """

    def __init__(self) -> None:
        self.running = 0  # modules of the package that are being imported

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        own = name.startswith("keras_apinet.")
        if not own and name != "keras":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                self.running += own
                try:
                    run(module)
                finally:
                    self.running -= own
                self.register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def register(self) -> None:
        """Does it, if Keras is there and no module of the package is being imported."""
        if "keras" in sys.modules and not self.running and self in sys.meta_path:
            sys.meta_path.remove(self)
            importlib.import_module("keras_apinet.loading")


if "keras" in sys.modules:
    importlib.import_module("keras_apinet.loading")
else:
    sys.meta_path.insert(0, _Registration())
