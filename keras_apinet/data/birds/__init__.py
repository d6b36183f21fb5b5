"""`synthetic_birds`: look-alike birds, drawn at run time, every part's place known."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.birds.drawing import Box, Drawing, draw
from keras_apinet.data.birds.species import SPECIES, Species, distinguishing_parts
from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.data.readers import Contents, pack

__all__ = [
    "SPECIES",
    "Box",
    "Drawing",
    "Species",
    "distinguishing_parts",
    "draw",
    "load_birds",
]

# Pictures of each species.
PER_SPECIES = {"train": 100, "val": 20, "test": 30}
# Room for the pictures of one split below the next split's first seed.
_SEEDS_PER_SPLIT = 1_000_000


@dataclass
class BirdReader:
    """Pictures of the species `[n]`, drawn when they are first needed, then kept."""

    name: str
    species: NDArray[np.int32]
    first_seed: int
    pictures: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    kind: Literal["raw"] = "raw"

    def reference(self, index: int) -> str:
        """The split, the number and the seed of a picture."""
        return f"{self.name}#{index} (seed {self.first_seed + index})"

    def drawing(self, index: int) -> Drawing:
        """A picture with the place of every part, drawn anew."""
        return draw(int(self.species[index]), self.first_seed + int(index))

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """The pixels."""
        for index in set(indices.tolist()) - self.pictures.keys():
            self.pictures[index] = self.drawing(index).pixels
        return pack([self.pictures[index] for index in indices.tolist()])


def load_birds(seed: int) -> ImageData:
    """The data set of invented birds; another seed gives other pictures."""
    splits = {}
    for number, (name, count) in enumerate(PER_SPECIES.items()):
        species = np.repeat(np.arange(len(SPECIES), dtype=np.int32), count)
        first_seed = (seed * len(PER_SPECIES) + number) * _SEEDS_PER_SPLIT
        reader = BirdReader(f"synthetic_birds/{name}", species, first_seed)
        splits[name] = Split.of(reader, species)
    return ImageData(
        "synthetic_birds",
        tuple(species.name for species in SPECIES),
        splits,
        groups={"family": tuple(species.family for species in SPECIES)},
        description="invented birds in look-alike families, drawn at run time",
    )
