"""The package's own Keras layers."""

from keras_apinet.interaction import AttentivePairwiseInteraction
from keras_apinet.memory import FeatureMemory
from keras_apinet.mining import PairMiner

__all__ = ["AttentivePairwiseInteraction", "FeatureMemory", "PairMiner"]
