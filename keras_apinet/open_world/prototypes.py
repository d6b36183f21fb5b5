"""Class prototypes: how alike features are to those of each class."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Less shrinkage makes 8-bit files lose decisions, see benchmarks/unknown.py.
LARGEST_RANK, SHRINKAGE = 256, 0.5


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Cosine similarity to class prototypes, in a space where classes are round.

    Features are centred and projected so that photos of one class vary alike in all
    directions (the within-class covariance, shrunk towards a multiple of the identity,
    becomes the identity), then scaled to length 1: `z = (x - m) W / |(x - m) W|`. A
    prototype is the mean of the z of a class's training photos, scaled to length 1.

    Attributes:
        centre: `[D]` float32, m.
        projection: `[D, r]` float32, W.
        directions: `[C, r]` float32, the prototypes; 0 for a class without photos.
    """

    centre: NDArray[np.float32]
    projection: NDArray[np.float32]
    directions: NDArray[np.float32]

    @classmethod
    def fit(
        cls, features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
    ) -> "Prototypes":
        """Prototypes of training features.

        Args:
            features: `[n, D]`.
            labels: `[n]`, the class of each.
            num_classes: C. Default: one more than the largest label.
        """
        x, y = np.asarray(features, np.float64), np.asarray(labels)
        count = int(y.max()) + 1 if num_classes is None else num_classes
        centre = x.mean(axis=0)
        x = x - centre
        rank = min(LARGEST_RANK, x.shape[1], len(x))
        # The directions in which photos differ most.
        _, _, axes = np.linalg.svd(x.T @ x, hermitian=True)
        x = x @ axes[:rank].T
        within = x - class_means(x, y, count)[y]
        values, vectors = np.linalg.eigh(within.T @ within / len(x))
        shrunk = (1 - SHRINKAGE) * values + SHRINKAGE * values.mean()
        whitening = vectors / np.sqrt(np.maximum(shrunk, 1e-12 * (1 + values.max())))
        projection = axes[:rank].T @ whitening
        directions = unit(class_means(unit(x @ whitening), y, count))
        small = (part.astype(np.float32) for part in (centre, projection, directions))
        return cls(*small)

    def similarities(self, features: ArrayLike) -> NDArray[np.float32]:
        """How alike photos are to each class.

        Args:
            features: `[n, D]`.

        Returns:
            `[n, C]` float32, cosine similarities to the prototypes.
        """
        x = np.asarray(features, np.float32) - self.centre
        return unit(x @ self.projection) @ self.directions.T


def class_means(x: NDArray[Any], y: NDArray[Any], count: int) -> NDArray[Any]:
    """Means `[C, D]` of the rows of each class; 0 for a class without rows."""
    sums = np.zeros((count, x.shape[1]), x.dtype)
    np.add.at(sums, y, x)
    means: NDArray[Any] = sums / np.maximum(np.bincount(y, minlength=count), 1)[:, None]
    return means


def unit(x: NDArray[Any]) -> NDArray[Any]:
    """Rows scaled to length 1; rows of zeros stay."""
    length = np.linalg.norm(x, axis=1, keepdims=True)
    scaled: NDArray[Any] = x / np.maximum(length, 1e-6)
    return scaled
