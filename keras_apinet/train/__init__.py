"""From a recipe to a run folder with a trained model."""

from typing import TYPE_CHECKING

from keras_apinet import lazily
from keras_apinet.train.recipe import Recipe

if TYPE_CHECKING:
    from keras_apinet.train.devices import Devices
    from keras_apinet.train.loop import resume, train

__all__ = ["Devices", "Recipe", "resume", "train"]

# The loop needs Keras; the command line reads the recipe's settings without it.
__getattr__ = lazily(
    __name__, {"Devices": "devices", "resume": "loop", "train": "loop"}
)


def __dir__() -> list[str]:
    return sorted(__all__)
