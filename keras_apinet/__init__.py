"""Fine-grained image classification with attentive pairwise interaction, for Keras 3.

Names are imported on first use, so that the command line responds immediately and no
backend is loaded unless it is needed.
"""

import dis
import importlib
import importlib.abc
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_apinet import (
        backbones as backbones,
        data as data,
        evaluate as evaluate,
        export as export,
        layers as layers,
        losses as losses,
        train as train,
    )
    from keras_apinet.errors import APINetError as APINetError
    from keras_apinet.export.exporter import export_classifier as export_classifier
    from keras_apinet.export.runtime.classifier import (
        load_classifier as load_classifier,
    )
    from keras_apinet.loading import build as build, load as load
    from keras_apinet.model import APINet as APINet
    from keras_apinet.version import __version__ as __version__


def lazily() -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns `__getattr__`, `__dir__` and `__all__` for the calling package.

    Its public names are those that it imports for type checkers; each is imported on
    first use. They are read from the compiled code, which exists even without sources.
    """
    frame = inspect.currentframe()
    frame = frame and frame.f_back
    assert frame is not None
    package, homes, module = frame.f_globals["__name__"], dict[str, str](), ""
    for step in dis.get_instructions(frame.f_code):
        if step.opname == "IMPORT_NAME":
            module = step.argval
        elif step.opname == "IMPORT_FROM" and module.startswith(__name__):
            homes[step.argval] = module
    homes.pop("lazily", None)  # of packages below, which import this function

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(homes[name]), name)

    return get, lambda: sorted(homes), sorted(homes)


__getattr__, __dir__, __all__ = lazily()


class _Registration(importlib.abc.MetaPathFinder):
    """Registers the package's classes as soon as Keras has been imported.

    `keras.saving.load_model` only finds registered classes, but importing Keras here
    would load a backend even for reading a `.tflite` file. A module of the package that
    imports Keras has to finish first, because others import from it.
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
        """Registers them if Keras is loaded and no module of ours is being imported."""
        if "keras" in sys.modules and not self.running and self in sys.meta_path:
            sys.meta_path.remove(self)
            importlib.import_module("keras_apinet.loading")


if "keras" in sys.modules:
    importlib.import_module("keras_apinet.loading")
else:
    sys.meta_path.insert(0, _Registration())
