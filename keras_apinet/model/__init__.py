"""APINet: an image backbone that learns from pairs and predicts from single images."""

from keras_apinet.model.apinet import APINet

__all__ = ["APINet"]
