"""A map of the features in two dimensions, and where photos fit on it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def _umap(features: NDArray[np.float32]) -> Any:
    """UMAP, if it is installed and there are enough images for it."""
    if len(features) <= 15:
        return None
    try:
        import umap
    except ImportError:
        return None
    return umap


def method(features: NDArray[np.float32]) -> str:
    """What `flat_map` uses for these features, in words."""
    return "UMAP" if _umap(features) else "principal components"


def flat_map(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Features `[n, D]` in two dimensions, by UMAP if it is installed, else PCA."""
    umap = _umap(features)
    if umap:
        # With a seed UMAP uses one job, and warns unless that is said.
        found = umap.UMAP(random_state=0, n_jobs=1).fit_transform(features)
        return np.asarray(found, np.float64)
    x = features.astype(np.float64) - features.mean(axis=0)
    _, axes = np.linalg.eigh(x.T @ x)
    places = np.zeros((len(x), 2))
    found = x @ axes[:, ::-1][:, :2]
    places[:, : found.shape[1]] = found
    return places


def spread(places: NDArray[np.float64], cells: int = 13) -> list[int]:
    """One point of each used cell of a grid over the map: images do not overlap."""
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    grid = (places - low) / np.maximum(extent, 1e-9) * (cells - 1e-6)
    cell = grid.astype(int)
    distance = np.abs(grid - cell - 0.5).max(axis=1)
    best: dict[tuple[int, ...], int] = {}
    for i in np.argsort(distance, kind="stable").tolist():
        best.setdefault(tuple(cell[i].tolist()), i)
    return sorted(best.values())
