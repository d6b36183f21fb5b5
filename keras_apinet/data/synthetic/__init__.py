"""`synthetic_birds`: look-alike birds, drawn at run time, every part's place known."""

from keras_apinet.data.synthetic.drawing import Box, Drawing, draw
from keras_apinet.data.synthetic.species import (
    SPECIES,
    Species,
    distinguishing_parts,
)

__all__ = ["SPECIES", "Box", "Drawing", "Species", "distinguishing_parts", "draw"]
