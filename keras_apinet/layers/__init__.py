"""The package's own Keras layers."""

from keras_apinet.layers.interaction import AttentivePairwiseInteraction
from keras_apinet.layers.memory import FeatureMemory
from keras_apinet.layers.mining import PairMiner

__all__ = ["AttentivePairwiseInteraction", "FeatureMemory", "PairMiner"]
