"""`synthetic_birds`: look-alike birds, drawn at run time, every part's place known."""

from keras_apinet.data.birds.drawing import Box, Drawing, draw
from keras_apinet.data.birds.species import SPECIES, Species, distinguishing_parts

__all__ = ["SPECIES", "Box", "Drawing", "Species", "distinguishing_parts", "draw"]
