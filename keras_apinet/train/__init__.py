"""Training: from a recipe to a run folder with a trained model."""

from typing import TYPE_CHECKING

from keras_apinet import lazily

if TYPE_CHECKING:
    from keras_apinet.train.budget.choice import Budget as Budget
    from keras_apinet.train.devices import Devices as Devices
    from keras_apinet.train.loop import resume as resume, train as train
    from keras_apinet.train.recipe import Recipe as Recipe

__getattr__, __dir__, __all__ = lazily()
