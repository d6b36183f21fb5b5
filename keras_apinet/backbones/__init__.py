"""Backbones by name: feature extractors, input scaling, pretrained weights."""

from keras_apinet.backbones.catalogue import BackboneInfo, available
from keras_apinet.backbones.creation import Backbone, create
from keras_apinet.backbones.scaling import PixelScaling

__all__ = ["Backbone", "BackboneInfo", "PixelScaling", "available", "create"]
