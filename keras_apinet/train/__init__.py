"""From a recipe to a run folder with a trained model."""

from typing import TYPE_CHECKING, Any

from keras_apinet.train.recipe import Recipe

if TYPE_CHECKING:
    from keras_apinet.train.devices import Devices
    from keras_apinet.train.fitting import resume, train

__all__ = ["Devices", "Recipe", "resume", "train"]

_HOMES = {"Devices": "devices", "resume": "fitting", "train": "fitting"}


def __getattr__(name: str) -> Any:
    # Fitting needs Keras; the command line reads the recipe's settings without it.
    if name in _HOMES:
        import importlib

        module = importlib.import_module(f"keras_apinet.train.{_HOMES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
