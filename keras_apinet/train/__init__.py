"""From a recipe to a run folder with a trained model."""

from typing import TYPE_CHECKING, Any

from keras_apinet.train.recipe import Recipe

if TYPE_CHECKING:
    from keras_apinet.train.fitting import train

__all__ = ["Recipe", "train"]


def __getattr__(name: str) -> Any:
    # Fitting needs Keras; the command line reads the recipe's settings without it.
    if name == "train":
        from keras_apinet.train.fitting import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
