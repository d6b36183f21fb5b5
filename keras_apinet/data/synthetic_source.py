"""`synthetic_birds` as a data set: drawn when first needed, then kept."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from keras_apinet.data.image_data import ImageData, Split
from keras_apinet.data.readers import Contents, pack
from keras_apinet.data.synthetic import SPECIES, Drawing, draw

_PER_SPECIES = {"train": 100, "val": 20, "test": 30}
# Room for the pictures of one split below the next split's first seed.
_SEEDS_PER_SPLIT = 1_000_000


class SyntheticReader:
    """Pictures of `synthetic_birds`, each a pure function of its species and seed.

    Args:
        species: `[n]` class of every picture.
        first_seed: seed of the first picture; each has its own.
        name: what a reference starts with.
    """

    kind: Literal["raw"] = "raw"

    def __init__(self, species: NDArray[np.int32], first_seed: int, name: str) -> None:
        self._species, self._first_seed, self._name = species, first_seed, name
        self._pictures: dict[int, NDArray[np.uint8]] = {}

    def reference(self, index: int) -> str:
        """The split, the number and the seed of a picture."""
        return f"{self._name}#{index} (seed {self._first_seed + index})"

    def drawing(self, index: int) -> Drawing:
        """A picture with the place of every part, drawn anew."""
        return draw(int(self._species[index]), self._first_seed + int(index))

    def fetch(self, indices: NDArray[np.int64]) -> Contents:
        """The pixels."""
        for index in indices.tolist():
            if index not in self._pictures:
                self._pictures[index] = self.drawing(index).pixels
        return pack([self._pictures[i] for i in indices.tolist()])


def load_synthetic(seed: int) -> ImageData:
    """The data set of invented birds: 100, 20 and 30 pictures of every species.

    Args:
        seed: of all pictures; another seed gives other pictures.
    """
    splits = {}
    for number, (name, count) in enumerate(_PER_SPECIES.items()):
        species = np.repeat(np.arange(len(SPECIES), dtype=np.int32), count)
        first_seed = (seed * len(_PER_SPECIES) + number) * _SEEDS_PER_SPLIT
        reader = SyntheticReader(species, first_seed, f"synthetic_birds/{name}")
        splits[name] = Split.of(reader, species)
    return ImageData(
        "synthetic_birds",
        tuple(species.name for species in SPECIES),
        splits,
        groups={"family": tuple(species.family for species in SPECIES)},
        description="invented birds in look-alike families, drawn at run time",
    )
